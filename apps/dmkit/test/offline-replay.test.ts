/** Replay, overlays and views of logs that were left behind; dumps and what is wrong with them; undo by command. */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, readdirSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { type BlockDevice, openFile, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { readDump, tryRestore } from "../src/offline/dump.ts";
import { openView } from "../src/offline/view.ts";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { complaints, dmkit, main, tempFolder } from "./support.ts";
import { toy, toyImage } from "./toy-format.ts";

const MIB = 2 ** 20;

function sparse(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

const hash = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
const state = (path: string): string => `${hash(path)} ${statSync(path).mtimeMs}`;

interface Cached {
  readonly cache: string;
  readonly backing: string;
  /** What the device showed at last. */
  readonly contents: Buffer;
}

/** A cache that was killed with dirty data: its files are copied while it is still open, and no time passes for it. */
async function abandoned(line: (backing: string, cache: string) => string): Promise<Cached> {
  const folder = tempFolder();
  const [backing, cache] = [join(folder, "live.disk"), join(folder, "live.ssd")];
  sparse(backing, 8 * MIB);
  sparse(cache, 8 * MIB);
  const device: BlockDevice = await openTable(parseTable(line(backing, cache), targets), {
    environment: manualEnvironment(),
  });
  const random = new SeededRandom(11);
  for (let write = 0; write < 60; write += 1) {
    const offset = random.below(2000) * 4096;
    await device.write(offset, random.fill(Buffer.alloc(4096 * (1 + random.below(4)))));
    if (write % 7 === 0) await device.flush();
  }
  await device.flush();
  const contents = Buffer.alloc(device.size);
  await device.read(0, contents);
  const copies = { backing: join(folder, "disk"), cache: join(folder, "ssd"), contents };
  writeFileSync(copies.backing, readFileSync(backing));
  writeFileSync(copies.cache, readFileSync(cache));
  await device.close();
  return copies;
}

/** A disk with one partition, from its first MiB on, that holds the contents of a file. */
function partitioned(file: string): string {
  const contents = readFileSync(file);
  const disk = Buffer.concat([Buffer.alloc(MIB), contents, Buffer.alloc(MIB)]);
  disk[446 + 4] = 0x83;
  disk.writeUInt32LE(MIB / 512, 446 + 8);
  disk.writeUInt32LE(contents.length / 512, 446 + 12);
  disk.writeUInt16LE(0xaa55, 510);
  writeFileSync(`${file}.whole`, disk);
  return `${file}.whole`;
}

it("refuses the disk where a cache was over a partition of it; what the hint names is right", async () => {
  const { backing, cache, contents } = await abandoned(writeboostLine);
  const disk = partitioned(backing);
  const before = [hash(disk), hash(cache)];
  const refused = await cli("replay", "-q", cache, disk);
  expect([refused.code, [hash(disk), hash(cache)]]).toEqual([1, before]);
  const [, named] = /Give that partition: '?([^' ]+\?partition=1)'?\. /.exec(refused.stderr) ?? [];
  expect(named, refused.stderr).toBe(`${disk}?partition=1`);
  expect((await cli("replay", "-q", cache, named ?? "")).code).toBe(0);
  expect(readFileSync(disk).subarray(MIB, -MIB).equals(contents)).toBe(true);
});

const writeboostLine = (backing: string, cache: string): string =>
  `0 ${(8 * MIB) / 512} writeboost 0 ${backing} ${cache} 2 segment_size_order 7`;
const cacheLine = (backing: string, cache: string): string =>
  `0 ${(8 * MIB) / 512} cache ${backing} ${cache} 0 8 1024 4 1`;

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await cli(...args);
  expect(complaints(stderr)).toBe("");
  expect(code).toBe(0);
  return stdout;
}

for (const [name, line] of [
  ["writeboost", writeboostLine],
  ["cache", cacheLine],
] as const) {
  describe(`dmkit replay of ${name}`, () => {
    it("puts everything on the backing device, and undo takes it back", async () => {
      const { cache, backing, contents } = await abandoned(line);
      const before = [hash(cache), hash(backing)];
      expect(readFileSync(backing).equals(contents)).toBe(false);
      expect((await cli("fsck", cache, backing)).code).toBe(0);
      expect([hash(cache), hash(backing)]).toEqual(before);
      await ok("replay", cache, backing, "--undo", `${cache}.undo`);
      expect(readFileSync(backing).equals(contents)).toBe(true);
      expect((await cli("fsck", cache, backing)).code).toBe(0);
      await ok("undo", `${cache}.undo`);
      expect([hash(cache), hash(backing)]).toEqual(before);
      await ok("replay", cache, backing);
      await ok("replay", cache, backing);
      expect(readFileSync(backing).equals(contents)).toBe(true);
    });

    it("goes to an overlay, touching neither cache nor backing device, and over no layer that is there", async () => {
      const { cache, backing, contents } = await abandoned(line);
      const before = [state(cache), state(backing)];
      const overlay = join(tempFolder(), "try");
      await ok("replay", cache, backing, "--overlay", overlay);
      // What a replay that was killed has left is no obstacle.
      const second = join(tempFolder(), "second");
      for (const file of ["map", "img"]) writeFileSync(`${second}.${file}.dmkit-part`, Buffer.alloc(512, 1));
      await ok("replay", cache, backing, "--overlay", `${second}.map,${second}.img`);
      const layers = [`${overlay}.map`, `${overlay}.img`];
      const made = layers.map(state);
      for (const words of [overlay, layers.join(",")]) {
        const { code, stderr } = await cli("replay", cache, backing, "--overlay", words);
        expect([code, stderr]).toEqual([1, expect.stringContaining("EEXIST")]);
      }
      expect(layers.map(state)).toEqual(made);
      expect(readdirSync(dirname(second)).toSorted()).toEqual(["second.img", "second.map"]);
      expect([state(cache), state(backing)]).toEqual(before);
      const table = `0 ${(8 * MIB) / 512} cow ${backing} 0 ${overlay}.map ${overlay}.img 0`;
      const stack = await openTable(parseTable(table, targets), {
        environment: realEnvironment,
        readOnly: true,
      });
      const seen = Buffer.alloc(stack.size);
      await stack.read(0, seen);
      await stack.close();
      expect(seen.equals(contents)).toBe(true);
      // Half a layer is none.
      const half = join(tempFolder(), "half");
      writeFileSync(`${half}.map`, "");
      expect((await cli("replay", cache, backing, "--overlay", half)).code).toBe(1);
      expect(existsSync(`${half}.img`)).toBe(false);
    });

    it("dumps and restores its metadata, undoes a restore, draws itself", async () => {
      const { cache, backing } = await abandoned(line);
      // Metadata that somebody has written since must not show in what is compared.
      await ok("replay", cache, backing);
      const role = name === "cache" ? "--source" : "--backing";
      await ok("dump", cache, role, backing, "-o", `${cache}.json`);
      const damaged = readFileSync(cache).fill(0, 0, 4096);
      writeFileSync(cache, damaged);
      await ok("restore", `${cache}.json`, cache, "--undo", `${cache}.undo`);
      await ok("dump", cache, role, backing, "-o", `${cache}.again.json`);
      // A generation counts writes of the superblock.
      const metadata = (path: string): string =>
        readFileSync(path, "utf8").replaceAll(/"generation": \d+/g, "");
      expect(metadata(`${cache}.again.json`)).toBe(metadata(`${cache}.json`));
      await ok("undo", `${cache}.undo`);
      expect(readFileSync(cache).equals(damaged)).toBe(true);
      await ok("restore", `${cache}.json`, cache);
      expect((await cli("fsck", cache, backing)).code).toBe(0);
      const folder = process.env["DMKIT_PICTURES"] ?? tempFolder();
      await ok("map", cache, "--png", join(folder, `${name}.png`), "--html", join(folder, `${name}.html`));
    });
  });
}

describe("a log", () => {
  it("is shown, and replayed, as of an earlier segment", async () => {
    const { cache, backing, contents } = await abandoned(writeboostLine);
    const before = [state(cache), state(backing)];
    const { facts } = (
      JSON.parse(await ok("info", "--json", cache, backing)) as {
        contents: { facts: Record<string, number> };
      }
    ).contents;
    const last = Math.max(
      ...Object.entries(facts)
        .filter(([fact]) => fact.includes("last"))
        .map(([, id]) => id),
    );
    const shown = Buffer.alloc(8 * MIB);
    for (const [id, whole] of [
      [last, true],
      [last - 2, false],
    ] as const) {
      const view = await openView([cache, backing], id, await targets.images(), realEnvironment);
      await view.device.read(0, shown);
      for (const device of [view.device, ...view.below]) await device.close();
      expect(shown.equals(contents)).toBe(whole);
    }
    // The same by command line, to a client.
    const copied = join(dirname(cache), "past.img");
    const command = `"${process.execPath}" "${main}" copy -q "$uri" "${copied}"`;
    const served = await dmkit(["serve", "--at", String(last - 2), cache, backing, "--run", command]);
    expect(served.code, served.stderr).toBe(0);
    expect(readFileSync(copied).equals(shown)).toBe(true);
    expect((await dmkit(["serve", "--at", "1", cache])).code).toBe(2);
    expect([state(cache), state(backing)]).toEqual(before);
    await ok("replay", cache, backing, "--until", String(last - 2), "-q");
    expect(readFileSync(backing).equals(shown)).toBe(true);
    await expect(
      openView([cache, backing], last + 1, await targets.images(), realEnvironment),
    ).rejects.toMatchObject({ code: "EINVAL" });
    expect((await cli("replay", cache, backing, "--until", String(last + 1))).code).toBe(1);
  });

  it("that cannot be replayed leaves no layer behind, but touches none that was there", async () => {
    const { cache, backing } = await abandoned(writeboostLine);
    const overlay = join(tempFolder(), "try");
    const fail = ["replay", cache, backing, "--overlay", overlay, "--until", "100000"];
    expect((await cli(...fail)).code).toBe(1);
    expect([existsSync(`${overlay}.map`), existsSync(`${overlay}.img`)]).toEqual([false, false]);
    await ok("replay", cache, backing, "--overlay", overlay);
    const before = hash(`${overlay}.img`);
    expect((await cli(...fail)).code).toBe(1);
    expect(existsSync(`${overlay}.map`)).toBe(true);
    expect(hash(`${overlay}.img`)).toBe(before);
  });
});

describe("restore", () => {
  const dumpOf = (dump: unknown): string =>
    JSON.stringify({
      dmkit: "dump",
      version: 1,
      format: "toy",
      devices: { device: { name: "x", size: 8192 } },
      dump,
    });

  it("refuses every hostile dump before it writes anything", async () => {
    const folder = tempFolder();
    const path = join(folder, "image");
    writeFileSync(path, toyImage(16, "E"));
    const hostile = [
      "",
      "null",
      "[]",
      "{",
      '{"dmkit":"dump"}',
      dumpOf({ sectors: ["TOYMAGIC"] }).replace('"version":1', '"version":2'),
      dumpOf({ sectors: ["TOYMAGIC"] }).replace('"toy"', '"__proto__"'),
      dumpOf({ sectors: ["TOYMAGIC"] }).replace("8192", "-1"),
      dumpOf({ sectors: ["TOYMAGIC"] }).replace("8192", "1e999"),
      dumpOf({ sectors: ["TOYMAGIC"] }).replace("8192", "4096"),
      dumpOf({ sectors: ["TOYMAGIC", 7] }),
      dumpOf({ sectors: "none" }).replace('"none"', "null"),
      dumpOf({ sectors: Array.from({ length: 17 }, () => "") }),
      dumpOf({ sectors: ["TOYMAGIC", "x".repeat(10), {}] }),
      "[".repeat(100_000),
    ];
    for (const text of hostile) {
      writeFileSync(join(folder, "dump"), text);
      const device = await openFile(path, { readOnly: true });
      const attempt = readDump(join(folder, "dump"), [toy()]).then((file) =>
        tryRestore(file, { device }, { environment: realEnvironment }),
      );
      const error: unknown = await attempt.then(
        () => undefined,
        (reason: unknown) => reason,
      );
      await device.close();
      expect((error as { code?: string } | undefined)?.code, text.slice(0, 80)).toMatch(
        /^(EFORMAT|EINVAL|ENOSPC)$/,
      );
    }
    writeFileSync(join(folder, "dump"), dumpOf({ sectors: ["TOYMAGIC", "W"] }));
    const device = await openFile(path, { readOnly: true });
    const file = await readDump(join(folder, "dump"), [toy()]);
    const after = await tryRestore(file, { device }, { environment: realEnvironment });
    expect([...after.keys()]).toEqual(["device"]);
    await device.close();
    expect(readFileSync(path)).toEqual(toyImage(16, "E"));
  });
});
