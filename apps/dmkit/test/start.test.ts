/** `npm start`: the commands it prints work when they are pasted. */
import { spawn } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { cleanUp, describeWith, run, tempFolder, until } from "./support.ts";

const root = join(import.meta.dirname, "../../..");

describeWith(["nbdinfo", "nbdfuse", "fusermount3", "mkfs.ext4", "mount"], "npm start", () => {
  // A smaller one than is usual: its file system is sooner made.
  it("serves the default disk and prints commands that work", async () => {
    const folder = tempFolder();
    const child = spawn("npm", ["start", "--", "--data", join(folder, "data"), "--create", "1G"], {
      cwd: root,
      stdio: ["ignore", "ignore", "pipe"],
      detached: true,
    });
    let printed = "";
    child.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    const ended = new Promise((resolve) => child.on("close", resolve));
    cleanUp(async () => {
      // The whole group: npm, the script and the server.
      process.kill(-(child.pid as number), "SIGTERM");
      await ended;
    });
    await until(() => printed.includes("Ctrl-C"), "the printed commands");

    const look = /Look at it\s+(.*)/.exec(printed)?.[1] ?? "";
    expect(await run("/bin/sh", ["-c", look])).toMatchObject({ code: 0 });

    const fuse = join(folder, "fuse");
    const mount = join(folder, "mount");
    const fileSystem = (/File system\s+(.*)/.exec(printed)?.[1] ?? "")
      .replaceAll("/tmp/dmkit-nbd", fuse)
      .replaceAll("/tmp/dmkit-mnt", mount);
    cleanUp(async () => {
      await run("umount", [mount]);
      await run("fusermount3", ["-u", fuse]);
    });
    const { code, stderr } = await run("/bin/bash", ["-c", `{ ${fileSystem}; } >/dev/null 2>&1`]);
    expect({ code, stderr }).toMatchObject({ code: 0 });
    writeFileSync(join(mount, "hello"), "world");
    expect(existsSync(join(mount, "lost+found"))).toBe(true);
  });
});
