/** Folders are made with those above them, and what cannot be made is an error, not a wait. */
import { mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { makeFolders, makeFoldersLater } from "../src/index.ts";

let folder: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
});

afterEach(() => rmSync(folder, { recursive: true, force: true }));

describe.each([
  ["at once", async (path: string, mode?: number) => makeFolders(path, mode)],
  ["without waiting", makeFoldersLater],
])("folders made %s", (_, make) => {
  it("come with those above them, and are left where they are", async () => {
    const path = join(folder, "a", "b", "c");
    expect(await make(path, 0o700)).toBe(join(folder, "a"));
    expect(statSync(path).mode & 0o777).toBe(0o700);
    expect(await make(path)).toBeUndefined();
    expect(await make(join(path, "d"))).toBe(join(path, "d"));
  });

  it("are refused by what the system says", async () => {
    const file = join(folder, "file");
    writeFileSync(file, "");
    await expect(make(file)).rejects.toMatchObject({ code: "EEXIST" });
    await expect(make(join(file, "a", "b"))).rejects.toMatchObject({ code: "ENOTDIR" });
    // No folder can be made there, though the one above is there.
    await expect(make("/proc/dmkit-test")).rejects.toMatchObject({ code: "ENOENT" });
    await expect(make("/proc/dmkit-test/a")).rejects.toMatchObject({ code: "ENOENT" });
  });
});
