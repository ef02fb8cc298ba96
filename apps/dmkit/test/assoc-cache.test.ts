/** A block cache smaller than what is kept on it, with real clients, and a server that is killed. */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { check } from "@dmkit/assoc-cache";
import { openFile } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { type Server, cleanUp, describeWith, run, serve, succeed, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;
/** Blocks of 4 KiB: 16 MiB. */
const BLOCKS = 4096;

const policies = [
  ["write-through", 0],
  ["write-back", 1],
] as const;

interface Disks {
  readonly source: string;
  readonly cache: string;
  /** The table line. @param persistence 0: a new cache, 1: the one that is there. */
  readonly table: (persistence: 0 | 1) => string;
}

function disks(folder: string, megabytes: number, policy: 0 | 1): Disks {
  const file = (name: string, size: number): string => {
    const path = join(folder, name);
    writeFileSync(path, "");
    truncateSync(path, size);
    return path;
  };
  const source = file("source.img", megabytes * MIB);
  const cache = file("cache.img", BLOCKS * 4096 + MIB);
  const sectors = (megabytes * MIB) / 512;
  const table = (persistence: 0 | 1): string =>
    `0 ${sectors} cache ${source} ${cache} ${persistence} 8 ${BLOCKS} 64 ${policy}`;
  return { source, cache, table };
}

interface Mounted {
  readonly folder: string;
  /** Orderly: everything is written. */
  unmount(): Promise<void>;
  /** For when the server is dead: nothing can be written any more. */
  abandon(): Promise<void>;
}

/** Attaches an export as a file; gives the file, and undoes it all after the test whatever happens. */
async function attach(server: Server, folder: string, name: string): Promise<{ file: string } & Mounted> {
  const [fuse, mount] = [join(folder, `${name}.fuse`), join(folder, `${name}.mount`)];
  mkdirSync(fuse);
  mkdirSync(mount);
  const nbdfuse: ChildProcess = spawn("nbdfuse", [fuse, server.uri], { stdio: "ignore" });
  const ended = new Promise<void>((resolve) => nbdfuse.on("close", () => resolve()));
  const abandon = async (): Promise<void> => {
    await run("umount", ["-l", mount]);
    await run("fusermount3", ["-u", "-z", fuse]);
    nbdfuse.kill("SIGKILL");
    await ended;
  };
  cleanUp(async () => {
    if (nbdfuse.exitCode === null && nbdfuse.signalCode === null) await abandon();
  });
  await until(() => existsSync(join(fuse, "nbd")), "nbdfuse");
  const unmount = async (): Promise<void> => {
    await succeed("umount", [mount]);
    await succeed("fusermount3", ["-u", fuse]);
    await ended;
  };
  return { file: join(fuse, "nbd"), folder: mount, unmount, abandon };
}

/** Contents that tell files, and places in a file, apart. */
function contents(file: number): Buffer {
  const bytes = Buffer.alloc((file % 16) * 25_000 + file * 11);
  for (let at = 0; at + 8 <= bytes.length; at += 512) {
    bytes.writeUInt32LE(file, at);
    bytes.writeUInt32LE(at, at + 4);
  }
  return bytes;
}

function writeFiles(folder: string, first: number, end: number): void {
  for (let file = first; file < end; file += 1) {
    const below = join(folder, `dir${file % 10}`);
    mkdirSync(below, { recursive: true });
    writeFileSync(join(below, `file${file}`), contents(file));
  }
}

function expectFiles(folder: string, first: number, end: number): void {
  for (let file = first; file < end; file += 1) {
    const found = readFileSync(join(folder, `dir${file % 10}`, `file${file}`));
    expect(found.equals(contents(file)), `file ${file}`).toBe(true);
  }
}

/** Dirty blocks of a cache that nobody is serving; there must be no problem with it. */
async function dirtyBlocks(path: string): Promise<number> {
  const device = await openFile(path, { readOnly: true });
  try {
    const checking = check(device);
    const { value, done } = await checking.next();
    if (!done) throw new Error(value.text);
    return value?.dirty ?? -1;
  } finally {
    await device.close();
  }
}

describeWith(["nbdfuse", "fusermount3", "mkfs.ext4", "mount", "losetup"], "a cached file system", () => {
  it.each(policies)("%s: what was synced survives the server's death", async (name, policy) => {
    const folder = tempFolder();
    const { source, cache, table } = disks(folder, 192, policy);
    const first = await serve(["--table", table(0)]);
    const before = await attach(first, folder, "before");
    await succeed("mkfs.ext4", ["-q", before.file]);
    await succeed("mount", ["-o", "loop", before.file, before.folder]);
    // 28 MiB: more than the cache.
    writeFiles(before.folder, 0, 150);
    await succeed("sync", ["-f", before.folder]);
    writeFiles(before.folder, 150, 180);
    expect(await first.stop("SIGKILL")).toBeNull();
    await before.abandon();
    const dirty = await dirtyBlocks(cache);
    if (name === "write-back") expect(dirty).toBeGreaterThan(100);
    else expect(dirty).toBe(0);

    const second = await serve(["--table", table(1)]);
    const after = await attach(second, folder, "after");
    // Mounting replays the journal.
    await succeed("mount", ["-o", "loop", after.file, after.folder]);
    expectFiles(after.folder, 0, 150);
    writeFiles(after.folder, 200, 250);
    await succeed("umount", [after.folder]);
    await succeed("fsck.ext4", ["-f", "-n", after.file]);
    await succeed("mount", ["-o", "loop,ro", after.file, after.folder]);
    expectFiles(after.folder, 200, 250);
    await after.unmount();
    expect(await second.stop()).toBe(0);

    // After an orderly end the source alone has it all.
    expect(await dirtyBlocks(cache)).toBe(0);
    await succeed("fsck.ext4", ["-f", "-n", source]);
    const alone = join(folder, "alone");
    mkdirSync(alone);
    await succeed("mount", ["-o", "loop,ro", source, alone]);
    cleanUp(async () => {
      await run("umount", [alone]);
    });
    expectFiles(alone, 0, 150);
    expectFiles(alone, 200, 250);
    expect(readdirSync(alone).length).toBe(11);
    await succeed("umount", [alone]);
  });
});

describeWith(["fio"], "fio on a cache", () => {
  it.each(policies)("%s: verifies random sizes at depth 16, also after a restart", async (_, policy) => {
    const { table } = disks(tempFolder(), 48, policy);
    const fio = async ({ uri }: Server, ...more: string[]): Promise<void> => {
      await succeed("fio", [
        "--name=verify",
        "--ioengine=nbd",
        `--uri=${uri}`,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--blockalign=512",
        "--iodepth=16",
        "--size=24m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--do_verify=1",
        "--randseed=9",
        ...more,
      ]);
    };
    const first = await serve(["--table", table(0)]);
    await fio(first);
    expect(await first.stop()).toBe(0);
    const second = await serve(["--table", table(1)]);
    await fio(second, "--verify_only=1");
    expect(await second.stop()).toBe(0);
  });
});
