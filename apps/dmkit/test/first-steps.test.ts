/** What people type first, and what they are spared to work out. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { dmkit, main, tempFolder } from "./support.ts";

const verb = (...words: string[]): string => [process.execPath, main, ...words].join(" ");

function image(folder: string, name: string, size: number): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

describe("* for the length of a table's last line", () => {
  it("is what is left of the device below, for serve, create and reload", async () => {
    const folder = tempFolder();
    image(folder, "a*.img", 2 ** 20);
    image(folder, "b.img", 2 ** 20);
    const tables = ["-t", "0 8 linear a*.img 0", "-t", "'8 * linear b.img 1024'"];
    const script = [
      verb("table", "default"),
      verb("create", "c", "-t", "'0 * linear dm:default 16'"),
      verb("table", "c"),
      verb("reload", "c", "-t", "'0 * linear b.img 0'"),
      verb("table", "c", "--inactive"),
      verb("create", "z", "-t", "'0 * zero'"),
    ].join("; ");
    const given = tables.map((word) => word.replaceAll("'", ""));
    const { stdout, stderr, code } = await dmkit(["serve", "-r", ...given, "--run", script], { cwd: folder });
    expect(stdout.trim().split("\n")).toEqual([
      `0 8 linear ${folder}/a*.img 0`,
      `8 1024 linear ${folder}/b.img 1024`,
      "0 1016 linear dm:default 16",
      `0 2048 linear ${folder}/b.img 0`,
    ]);
    expect(stderr).toContain("zero needs a length");
    expect(code).toBe(2);
  });
});
