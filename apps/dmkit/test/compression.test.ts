/** compression as a user has it: served by command line, with a file system on it, killed, and converted. */
import { existsSync, mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type ImageProblem, openFile, parseOptions, realEnvironment } from "@dmkit/block-io";
import { isDeep } from "@dmkit/block-io/testing";
import { compressionImages, recompress, recompressOptions } from "@dmkit/compression";
import { expect, it } from "vitest";
import { cleanUp, describeWith, run, serve, succeed, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;
const MINUTES = 5 * 60_000;
const work = { environment: realEnvironment };

/**
 * Parts of node's own install tree, those that are there: 2,000 files of npm, and as many headers, which are larger. Every
 * day a few hundred.
 */
const prefix = dirname(dirname(process.execPath));
const parts = isDeep ? ["include/node", "lib/node_modules"] : ["lib/node_modules/npm/lib"];
const tree: readonly string[] = parts.map((part) => join(prefix, part)).filter((path) => existsSync(path));
/** Of the file system that takes them, and some of them twice. */
const DISK = (isDeep ? 190 : 48) * MIB;

function file(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

interface Mounted {
  readonly path: string;
  unmount(): Promise<void>;
}

/** Makes an ext4 file system on an export and mounts it. */
async function mountExt4(uri: string): Promise<Mounted> {
  const folder = tempFolder();
  const [fuse, path] = [join(folder, "fuse"), join(folder, "mount")];
  mkdirSync(fuse);
  mkdirSync(path);
  const nbdfuse = run("nbdfuse", [fuse, uri]);
  cleanUp(async () => {
    await run("umount", ["-l", path]);
    await run("fusermount3", ["-uz", fuse]);
    await nbdfuse;
  });
  await until(() => existsSync(join(fuse, "nbd")), "nbdfuse");
  await succeed("mkfs.ext4", ["-q", join(fuse, "nbd")]);
  await succeed("mount", ["-o", "loop", join(fuse, "nbd"), path]);
  const unmount = async (): Promise<void> => {
    await succeed("umount", [path]);
    await succeed("fusermount3", ["-u", fuse]);
    await nbdfuse;
  };
  return { path, unmount };
}

/** Copies what an export holds, has it checked, and compares the files with those they were copied from. */
async function compareFiles(uri: string, folder: string, parts: readonly string[]): Promise<void> {
  const disk = join(folder, "copy");
  await succeed("nbdcopy", [uri, disk]);
  // After a crash the journal is replayed first; beyond that nothing may be wrong.
  expect([0, 1]).toContain((await run("fsck.ext4", ["-p", disk])).code);
  await succeed("fsck.ext4", ["-f", "-n", disk]);
  const found = join(folder, "found");
  mkdirSync(found, { recursive: true });
  await succeed("mount", ["-o", "loop,ro", disk, found]);
  cleanUp(async () => void (await run("umount", [found])));
  for (const [index, part] of parts.entries()) {
    await succeed("diff", ["-r", "--no-dereference", part, join(found, String(index))]);
  }
  await succeed("umount", [found]);
}

/** Problems of an image that are more than what a crash leaves; prints how well it is compressed. */
async function inspect(path: string, name: string): Promise<ImageProblem[]> {
  const device = await openFile(path, { readOnly: true });
  try {
    const facts = await compressionImages.info({ device }, work);
    console.info(`${name}: payloads take ${facts["payload_percent"]} % of ${facts["stored_blocks"]} blocks`);
    expect(Number(facts["payload_percent"])).toBeLessThan(90);
    const problems: ImageProblem[] = [];
    for await (const problem of compressionImages.check({ device }, work))
      if (problem.severity !== "info") problems.push(problem);
    return problems;
  } finally {
    await device.close();
  }
}

const clients = ["nbdfuse", "fusermount3", "mkfs.ext4", "fsck.ext4", "mount", "nbdcopy", "diff"];

describeWith(clients, "ext4 with node's own install tree", () => {
  it.each([
    ["format 2, stopped", "writeback 5", "SIGTERM"],
    ["format 2 with zstd, killed", "writeback 5 4 algorithm zstd discard_holes 1", "SIGKILL"],
    ["format 1, stopped", "writeback 5 2 format v1", "SIGTERM"],
  ] as const)(
    "%s: files are equal and the file system is clean",
    async (name, options, signal) => {
      const folder = tempFolder();
      const lower = file(join(folder, "lower"), DISK + 10 * MIB);
      const table = `0 ${DISK / 512} compression ${lower} ${options}`;
      const server = await serve(["--table", table]);
      const mounted = await mountExt4(server.uri);
      // The historical format is compressed in one thread, and slowly: less of it.
      const parts = options.includes("v1") ? tree.slice(-1) : tree;
      for (const [index, part] of parts.entries()) {
        await succeed("cp", ["-a", part, join(mounted.path, String(index))]);
      }
      await succeed("sync", ["-f", mounted.path]);
      if (signal === "SIGKILL") {
        // Nobody waits for this: it may be there or not.
        await succeed("cp", ["-a", parts[0] as string, join(mounted.path, "more")]);
        await server.stop(signal);
      } else {
        await mounted.unmount();
        expect(await server.stop(signal)).toBe(0);
      }
      expect(await inspect(lower, name)).toEqual([]);

      const again = await serve(["--table", table]);
      await compareFiles(again.uri, folder, parts);
      expect(await again.stop()).toBe(0);
      expect(await inspect(lower, name)).toEqual([]);
    },
    MINUTES,
  );

  it(
    "is the same when it is converted from format 1 to format 2, offline",
    async () => {
      const folder = tempFolder();
      const old = file(join(folder, "old"), 64 * MIB);
      const table = (path: string): string => `0 ${(60 * MIB) / 512} compression ${path} writeback 5`;
      const server = await serve(["--table", `${table(old)} 2 format v1`]);
      const mounted = await mountExt4(server.uri);
      const parts = tree.slice(-1);
      await succeed("cp", ["-a", parts[0] as string, join(mounted.path, "0")]);
      await mounted.unmount();
      expect(await server.stop()).toBe(0);

      const from = await openFile(old, { readOnly: true });
      const to = await openFile(file(join(folder, "new"), 72 * MIB));
      await recompress(from, to, parseOptions(recompressOptions, { algorithm: "zstd" }), work);
      await from.close();
      await to.close();
      expect(await inspect(join(folder, "new"), "format 1 to format 2 with zstd")).toEqual([]);
      const again = await serve(["--table", table(join(folder, "new"))]);
      await compareFiles(again.uri, folder, parts);
      expect(await again.stop()).toBe(0);
    },
    MINUTES,
  );
});

describeWith(["fio"], "fio", () => {
  it.each(["v2", "v1"])(
    "verifies compressible data in sizes of 512 B to 128 KiB over format %s",
    async (format) => {
      const folder = tempFolder();
      const lower = file(join(folder, "lower"), 64 * MIB);
      const { uri } = await serve([
        "--table",
        `0 ${(48 * MIB) / 512} compression ${lower} writeback 5 2 format ${format}`,
      ]);
      await succeed(
        "fio",
        [
          "--name=verify",
          "--ioengine=nbd",
          `--uri=${uri}`,
          "--rw=randwrite",
          "--bsrange=512-128k",
          "--blockalign=512",
          "--buffer_compress_percentage=60",
          "--refill_buffers",
          "--iodepth=16",
          "--size=16m",
          "--verify=crc32c",
          "--verify_fatal=1",
          "--verify_state_save=0",
          "--do_verify=1",
          "--randseed=13",
        ],
        { cwd: folder },
      );
    },
    MINUTES,
  );
});
