/** writeboost as a user has it: served by command line, with real clients, killed, and given the wrong devices. */
import { createHash } from "node:crypto";
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cli } from "./cli.ts";
import { cleanUp, describeWith, dmkit, run, serve, succeed, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;

function file(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

function writeAt(path: string, offset: number, bytes: Buffer): void {
  const fd = openSync(path, "r+");
  writeSync(fd, bytes, 0, bytes.length, offset);
  closeSync(fd);
}

interface Setup {
  readonly folder: string;
  readonly backing: string;
  readonly cache: string;
  readonly plog: string;
  /** The table line of `dmkit serve`. */
  readonly table: (changes?: { backing?: string; cache?: string; plog?: string; order?: number }) => string;
}

/** Devices of one cache; the plog has a sector left for the record that pairs it with the cache. */
function setup(type: 0 | 1, sizes: { backing: number; cache: number; order: number }): Setup {
  const folder = tempFolder();
  const backing = file(join(folder, "backing"), sizes.backing);
  const cache = file(join(folder, "cache"), sizes.cache);
  const plog = file(join(folder, "plog"), 8 * 9 * 512 * (2 ** (sizes.order - 3) - 1) + 512);
  return {
    folder,
    backing,
    cache,
    plog,
    table: (changes = {}) => {
      const given = { backing, cache, plog, order: sizes.order, ...changes };
      const devices = [given.backing, given.cache, ...(type === 1 ? [given.plog] : [])].join(" ");
      return `0 ${sizes.backing / 512} writeboost ${type} ${devices} 2 segment_size_order ${given.order} 4 allow_writeback 1 nr_max_batched_writeback 8`;
    },
  };
}

const contentOf = (index: number): Buffer => Buffer.alloc(1 + 700 * index, index);

describeWith(["nbdfuse", "fusermount3", "mkfs.ext4", "fsck.ext4", "mount", "nbdcopy"], "ext4", () => {
  it.each([0, 1] as const)("type %i: what was synced survives SIGKILL of the server", async (type) => {
    const { folder, table } = setup(type, { backing: 64 * MIB, cache: 9 * MIB, order: 7 });
    const server = await serve(["--table", table()]);
    const fuse = join(folder, "fuse");
    const mount = join(folder, "mount");
    mkdirSync(fuse);
    mkdirSync(mount);
    const nbdfuse = run("nbdfuse", [fuse, server.uri]);
    cleanUp(async () => {
      await run("umount", ["-l", mount]);
      await run("fusermount3", ["-uz", fuse]);
      await nbdfuse;
    });
    await until(() => existsSync(join(fuse, "nbd")), "nbdfuse");
    await succeed("mkfs.ext4", ["-q", "-E", "nodiscard", join(fuse, "nbd")]);
    await succeed("mount", ["-o", "loop", join(fuse, "nbd"), mount]);
    const path = (index: number): string => join(mount, `dir${index % 7}`, `file${index}`);
    for (let index = 0; index < 100; index += 1) {
      mkdirSync(join(mount, `dir${index % 7}`), { recursive: true });
      writeFileSync(path(index), contentOf(index));
    }
    await succeed("sync", ["-f", mount]);
    const fd = openSync(path(100), "w");
    writeSync(fd, contentOf(100));
    fsyncSync(fd);
    closeSync(fd);
    // Nobody waits for these: they may be there or not.
    for (let index = 101; index < 150; index += 1) writeFileSync(path(index), contentOf(index));
    await server.stop("SIGKILL");
    await run("umount", ["-l", mount]);
    await run("fusermount3", ["-uz", fuse]);

    const again = await serve(["--table", table()]);
    const disk = join(folder, "copy");
    await succeed("nbdcopy", [again.uri, disk]);
    expect(await again.stop()).toBe(0);
    // The journal is what a crash leaves to be replayed; after that nothing may be wrong.
    const { code } = await run("fsck.ext4", ["-p", disk]);
    expect([0, 1]).toContain(code);
    await succeed("fsck.ext4", ["-f", "-n", disk]);
    const found = join(folder, "found");
    mkdirSync(found);
    await succeed("mount", ["-o", "loop,ro", disk, found]);
    cleanUp(async () => void (await run("umount", [found])));
    for (let index = 0; index <= 100; index += 1) {
      const content = readFileSync(join(found, `dir${index % 7}`, `file${index}`));
      expect([index, content.equals(contentOf(index))]).toEqual([index, true]);
    }
    await succeed("umount", [found]);
  });
});

describeWith(["fio"], "fio", () => {
  it.each([0, 1] as const)("type %i: verifies sizes of 512 B to 64 KiB over a small cache", async (type) => {
    const { folder, table } = setup(type, { backing: 64 * MIB, cache: 5 * MIB, order: 6 });
    const { uri } = await serve(["--table", table()]);
    await succeed(
      "fio",
      [
        "--name=verify",
        "--ioengine=nbd",
        `--uri=${uri}`,
        "--rw=randwrite",
        "--bsrange=512-64k",
        "--blockalign=512",
        "--iodepth=16",
        "--size=16m",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--verify_state_save=0",
        "--do_verify=1",
        "--randseed=11",
      ],
      { cwd: folder },
    );
  });
});

describe("refuses, and leaves everything as it was", () => {
  const sizes = { backing: 4 * MIB, cache: 2 * MIB, order: 5 };
  const names = ["backing", "cache", "plog"] as const;

  /** A type 1 cache with data, closed in order: its devices, to be copied for each test. */
  async function closed(): Promise<readonly Buffer[]> {
    const made = setup(1, sizes);
    const server = await serve(["--table", made.table()]);
    const source = join(made.folder, "data");
    writeFileSync(source, Buffer.alloc(MIB, "mine"));
    expect((await cli("copy", source, server.uri)).code).toBe(0);
    expect(await server.stop()).toBe(0);
    return names.map((name) => readFileSync(made[name]));
  }

  let closedOnce: Promise<readonly (readonly Buffer[])[]> | undefined;

  async function used(): Promise<{ mine: Setup; other: Setup }> {
    closedOnce ??= Promise.all([closed(), closed()]);
    const [mine, other] = (await closedOnce).map((devices) => {
      const made = setup(1, sizes);
      for (const [index, name] of names.entries()) writeFileSync(made[name], devices[index] as Buffer);
      return made;
    });
    return { mine: mine as Setup, other: other as Setup };
  }

  function checksums(...folders: string[]): string[] {
    return folders.flatMap((folder) =>
      readdirSync(folder)
        .filter((name) => !name.endsWith(".sock"))
        .toSorted()
        .map(
          (name) =>
            `${name} ${createHash("sha1")
              .update(readFileSync(join(folder, name)))
              .digest("hex")}`,
        ),
    );
  }

  const refusals: readonly (readonly [string, RegExp, (mine: Setup, other: Setup) => string])[] = [
    [
      "an unknown magic",
      /magic/,
      (mine) => {
        writeAt(mine.cache, 0, Buffer.from("LUKS\u00ba\u00be"));
        return mine.table();
      },
    ],
    ["another segment_size_order", /segment_size_order 5, not 6/, (mine) => mine.table({ order: 6 })],
    [
      "a truncated cache device",
      /cut short/,
      (mine) => {
        truncateSync(mine.cache, MIB + 2 * 16_384);
        return mine.table();
      },
    ],
    [
      "a cache device shorter than its first MiB",
      /few/,
      (mine) => {
        truncateSync(mine.cache, MIB / 2);
        return mine.table();
      },
    ],
    [
      "another backing device",
      /backing device/,
      (mine) => {
        const foreign = join(mine.folder, "foreign");
        copyFileSync(mine.backing, foreign);
        writeAt(foreign, 8192, Buffer.alloc(4096, "somebody else"));
        return mine.table({ backing: foreign });
      },
    ],
    [
      "a shorter backing device",
      /bytes/,
      (mine) => mine.table({ backing: file(join(mine.folder, "shorter"), 3 * MIB) }),
    ],
    ["the plog of another cache", /plog/, (mine, other) => mine.table({ plog: other.plog })],
  ];

  it.each(refusals)("%s", async (_, reason, arrange) => {
    const { mine, other } = await used();
    const table = arrange(mine, other);
    const before = checksums(mine.folder, other.folder);
    const { code, stderr } = await dmkit(["serve", "-U", join(tempFolder(), "nbd.sock"), "--table", table]);
    expect(code).toBe(1);
    const [line = "", ...rest] = stderr.trim().split("\n");
    expect(line).toMatch(/^dmkit: /);
    expect(line).toMatch(reason);
    // What is wrong in one line, and at most one more that says what to do.
    expect(rest.length).toBeLessThanOrEqual(1);
    expect(checksums(mine.folder, other.folder)).toEqual(before);
  });
});
