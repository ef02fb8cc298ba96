/** What offline commands do to a cache whose log is archived: the archive is never told of what it did not see. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { cli } from "./cli.ts";
import { archivedDisk } from "./archived-disk.ts";
import { describeWith, serve, succeed, tempFolder } from "./support.ts";

interface Machine {
  readonly stack: string;
  readonly disk: string;
  readonly cache: string;
  readonly archive: string;
}

function machine(): Machine {
  const folder = tempFolder();
  const archive = join(folder, "store/vm1");
  // Where the server is killed long after its last flush, on a busy machine, the disk would have more than is asked for.
  const stack = archivedDisk(folder, archive, { disk: "8M", flush: "remote", writesBack: false });
  const [disk, cache] = [join(folder, "disk.img"), join(folder, "cache.img")];
  return { stack, disk, cache, archive };
}

/** Serves the disk, writes these numbers, each over the first block and into a block of its own, and ends as told. */
async function write(
  { stack }: Machine,
  numbers: readonly number[],
  end: NodeJS.Signals = "SIGKILL",
): Promise<void> {
  const server = await serve([stack]);
  const commands = numbers.flatMap((n) => [`write -P ${n} 0 4k`, `write -P ${n} ${n * 64}k 4k`, "flush"]);
  await succeed("qemu-io", ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), server.uri]);
  await server.stop(end);
}

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await cli(...args);
  expect([args, code, stderr]).toEqual([args, 0, ""]);
  return stdout;
}

/** The disk as the archive has it. */
async function archived({ archive }: Machine, moment = ""): Promise<Buffer> {
  const file = join(tempFolder(), "restored.img");
  await ok("archive", "restore", "-q", `${archive}${moment}`, file);
  return readFileSync(file);
}

/** The disk as it is served. */
async function served({ stack }: Machine): Promise<Buffer> {
  const server = await serve([stack]);
  const file = join(tempFolder(), "copy.img");
  await ok("copy", "-q", server.uri, file);
  expect(await server.stop()).toBe(0);
  return readFileSync(file);
}

const numberAt = (disk: Buffer, offset: number): number => disk[offset] ?? -1;

describeWith(["qemu-io"], "a cache whose log is archived", () => {
  it("is replayed, up to a segment or all of it, and the archive goes on where it was", async () => {
    const one = machine();
    await write(one, [1, 2, 3]);
    const { last_id: last } = JSON.parse(await ok("archive", "info", "--json", one.archive)) as {
      last_id: number;
    };
    expect(last).toBeGreaterThanOrEqual(3);
    // The ids of its first cache are those of the archive.
    await ok("replay", "-q", "--until", String(last - 1), one.cache, one.disk);
    const before = await archived(one, `@${last - 1}`);
    expect(readFileSync(one.disk).equals(before)).toBe(true);
    expect((await served(one)).equals(await archived(one))).toBe(true);
    await write(one, [4, 5]);
    await ok("replay", "-q", one.cache, one.disk);
    expect(readFileSync(one.disk).equals(await archived(one))).toBe(true);
    await write(one, [6], "SIGTERM");
    const whole = await archived(one);
    expect([0, 64, 128, 192, 256, 320, 384].map((kib) => numberAt(whole, kib * 1024))).toEqual([
      6, 1, 2, 3, 4, 5, 6,
    ]);
    expect((await served(one)).equals(whole)).toBe(true);
  });

  it("goes on with its archive when its metadata was restored, but not as it was before", async () => {
    const one = machine();
    await write(one, [1, 2]);
    const dump = join(tempFolder(), "dump.json");
    writeFileSync(dump, await ok("dump", one.cache, "--backing", one.disk));
    const bytes = readFileSync(one.cache);
    const lost = Buffer.from(bytes);
    lost.fill(0, 0, 8192);
    writeFileSync(one.cache, lost);
    await ok("restore", "-q", dump, one.cache, "--backing", one.disk);
    expect(readFileSync(one.cache).equals(bytes)).toBe(true);
    await write(one, [3]);
    expect(numberAt(await archived(one), 0)).toBe(3);
    // What came since is in the archive, and not given up here.
    const again = await cli("restore", "-q", "--force", dump, one.cache, "--backing", one.disk);
    expect([again.code, again.stderr]).toEqual([
      1,
      expect.stringMatching(
        /came after the dump, and the log is archived \(EINVAL\)\n {2}Take the disk over/,
      ),
    ]);
    await write(one, [4]);
    expect(numberAt(await archived(one), 0)).toBe(4);
  });
});
