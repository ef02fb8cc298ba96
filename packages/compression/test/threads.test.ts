/**
 * Two extents are compressed by two threads at once: with an algorithm that never returns otherwise. Worker threads
 * cannot load TypeScript sources on Node 20, so this runs on the build, in a process of its own.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";

const program = fileURLToPath(new URL("support/two-extents.mjs", import.meta.url));
const built = ["block-io", "compressor", "compression"].every((name) =>
  existsSync(fileURLToPath(new URL(`../../${name}/dist/index.js`, import.meta.url))),
);

describe.skipIf(!built && !process.env["CI"])("writes of 128 KiB, on the build", () => {
  it("keep two threads busy at once", () => {
    const folder = mkdtempSync(join(tmpdir(), "dmkit-rendezvous-"));
    try {
      const { status, stdout, stderr } = spawnSync(process.execPath, [program], {
        encoding: "utf8",
        env: { ...process.env, DMKIT_RENDEZVOUS: folder },
        timeout: 120_000,
      });
      expect([status, stderr]).toEqual([0, ""]);
      expect(stdout).toBe("Data Size 262144 Compressed Data Size 1024\n");
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  });
});
