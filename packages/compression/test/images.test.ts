/** What offline tools can do with images: recognise, describe, dump and restore, draw, make. */
import { BlockIoError, MemoryDevice, describeRange } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { compressionImages as images, repair } from "../src/index.ts";
import type { DumpV1, DumpV2 } from "../src/offline/dump.ts";
import {
  BLOCK,
  JOURNAL,
  ReadOnly,
  Recorder,
  bytesOf,
  code,
  contentsOf,
  deviceOf,
  digest,
  flipBit,
  layoutOf,
  noise,
  openImage,
  problemsOf,
  text,
  work,
} from "./support/images.ts";

type Facts = Readonly<Record<string, unknown>>;

const SIZE = 2 ** 21;
const BLOCKS = 300;
const layout = layoutOf(SIZE);
const formats = ["v1", "v2"] as const;
const values = { v1: { format: "v1", algorithm: "lz4" }, v2: { format: "v2", journal: JOURNAL } } as const;

/** Text in 0–31 and 100–102, noise in 40–47. */
async function made(format: "v1" | "v2"): Promise<Recorder> {
  const lower = new Recorder(SIZE);
  const device = await openImage(lower, BLOCKS, values[format]);
  await device.write(0, text(1, 32));
  await device.write(40 * BLOCK, noise(2, 8));
  await device.write(100 * BLOCK, text(3, 3));
  await device.close();
  lower.log.length = 0;
  return lower;
}

describe.each(formats)("an image of format %s", (format) => {
  it("is detected by its magic, and nothing else is", async () => {
    const device = await made(format);
    expect(await images.detect(device)).toMatchObject({ certainty: "magic", role: "device" });
    for (const size of [0, 512, 4096, 8192, 2 ** 20]) {
      expect(await images.detect(new MemoryDevice(size))).toBeUndefined();
    }
    expect(await images.detect(await deviceOf(noise(1, 20)))).toBeUndefined();
    const broken = await bytesOf(device);
    broken.fill(0, 8, 600);
    broken.fill(0, BLOCK + 8, BLOCK + 600);
    expect(await images.detect(await deviceOf(broken))).toMatchObject({ certainty: "magic" });
  });

  it("is described", async () => {
    const facts = await images.info({ device: new ReadOnly(await made(format)) }, work);
    expect(facts).toMatchObject({
      format,
      algorithm: "lz4",
      stored_blocks: 43,
      lost_blocks: 0,
      raw_extents: 1,
      blocks_saving_0_bytes: expect.any(Number),
    });
    const saved = Object.entries(facts).flatMap(([name, blocks]) => {
      const bytes = /^blocks_saving_(\d+)_bytes$/.exec(name)?.[1];
      return bytes === undefined ? [] : [Number(bytes) * Number(blocks)];
    });
    expect(saved.reduce((a, b) => a + b)).toBe(facts["saved_bytes"]);
    expect(Number(facts["payload_percent"])).toBeLessThan(60);
  });

  it("is described as it is while it is served, and by what has happened since", async () => {
    const lower = await made(format);
    const { stored_blocks, payload_bytes, raw_extents, compressed_extents } = (await images.info(
      { device: lower },
      work,
    )) as Facts;
    const device = await openImage(lower, BLOCKS, values[format]);
    const answered = async (): Promise<Facts> =>
      Object.fromEntries(
        (await device.message(["extents"])).split("\n").map((line) => {
          const [name, value] = line.split(" ");
          return [name, Number(value)];
        }),
      );
    expect(await answered()).toMatchObject({ stored_blocks, payload_bytes, raw_extents, compressed_extents });
    expect(device.facts()).toMatchObject({
      format,
      algorithm: "lz4",
      stored_extents: 0,
      stored_raw_extents: 0,
      decompressed_extents: 0,
    });
    await device.write(200 * BLOCK, text(5, 4));
    await device.write(220 * BLOCK, noise(6, 2));
    await device.flush();
    await device.read(0, Buffer.alloc(4 * BLOCK));
    expect(device.facts()).toMatchObject({
      stored_extents: 2,
      stored_raw_extents: 1,
      decompressed_extents: 1,
      compressed_from_bytes: 6 * BLOCK,
    });
    await device.read(40 * BLOCK, Buffer.alloc(BLOCK));
    expect(device.facts()["decompressed_extents"]).toBe(1);
    await device.close();
    const after = (await images.info({ device: lower }, work)) as Facts;
    const again = await openImage(lower, BLOCKS, values[format]);
    const said = Object.fromEntries(
      (await again.message(["extents"])).split("\n").map((line) => line.split(" ")),
    );
    for (const [name, value] of Object.entries(said)) expect(after[name], name).toBe(Number(value));
    await again.close();
  });

  it("is drawn, in order and without overlaps", async () => {
    const device = await made(format);
    const { strips, legend } = await images.map({ device }, work);
    expect(strips.length).toBe(1);
    const kinds = new Set<string>();
    let at = 0;
    for (const { offset, length, kind } of strips[0]?.ranges ?? []) {
      expect(offset).toBeGreaterThanOrEqual(at);
      expect(length).toBeGreaterThan(0);
      at = offset + length;
      kinds.add(kind);
    }
    expect(at).toBeLessThanOrEqual(SIZE);
    for (const kind of kinds) expect(Object.hasOwn(legend, kind), kind).toBe(true);
    const expected = ["superblock", "metadata", "raw", ...(format === "v2" ? ["journal"] : [])];
    expect([...kinds]).toEqual(expect.arrayContaining(expected));
    expect(device.log).toEqual([]);
  });

  it("is dumped, and restored to the same bytes", async () => {
    const device = await made(format);
    const bytes = await bytesOf(device);
    const dump: unknown = JSON.parse(JSON.stringify(await images.dump?.({ device }, work)));
    expect(device.log).toEqual([]);
    // All metadata is gone, the superblocks too; a v2 journal and the data stay.
    const wiped = Buffer.from(bytes);
    if (format === "v1") wiped.fill(0xff, 0, 2 * BLOCK);
    else {
      wiped.fill(0xff, 0, 2 * BLOCK);
      wiped.fill(0xff, layout.metaStart * BLOCK, layout.dataStart * BLOCK);
    }
    const target = await deviceOf(wiped);
    await images.restore?.({ device: target }, dump, work);
    // Sectors of metadata behind the last group have no blocks: whatever their number, they come back too.
    expect((await bytesOf(target)).equals(bytes)).toBe(true);
  });

  it("is dumped without loss when it is damaged", async () => {
    const device = await made(format);
    const bytes = await bytesOf(device);
    const meta = format === "v1" ? BLOCK : layout.metaStart * BLOCK;
    for (const at of [0, 3, 17, 40]) flipBit(bytes, meta + at);
    const damaged = await deviceOf(bytes);
    const dump = await images.dump?.({ device: damaged }, work);
    const target = await deviceOf(bytes);
    await images.restore?.({ device: target }, dump, work);
    expect((await bytesOf(target)).equals(bytes)).toBe(true);
  });

  it("is made anew", async () => {
    const device = await deviceOf(noise(9, SIZE / BLOCK));
    await images.format?.({ device }, { format, algorithm: "deflate" }, work).catch((error) => {
      // 2 MiB are too small for a journal of 4 MiB.
      expect((error as BlockIoError).code).toBe("EINVAL");
    });
    const options =
      format === "v1" ? { format, algorithm: "deflate" } : { journal: "1M", algorithm: "deflate" };
    await images.format?.({ device }, options, work);
    expect(await problemsOf(device)).toEqual([]);
    expect(await images.info({ device }, work)).toMatchObject({ algorithm: "deflate", stored_blocks: 0 });
    expect(await contentsOf(await bytesOf(device), 10)).toEqual(
      Array.from({ length: 10 }, () => digest(Buffer.alloc(BLOCK))),
    );
    for (const wrong of [{ format: "v3" }, { colour: "blue" }, { journal: "x" }]) {
      expect(await code(images.format?.({ device }, wrong, work) as Promise<void>)).toBe("EPARSE");
    }
    for (const [name, spec] of Object.entries(images.formatOptions ?? {})) {
      expect(`${name}: ${describeRange(spec)}`).not.toContain("undefined");
    }
  });

  it("is checked with progress, and until it is told to end", async () => {
    const device = await made(format);
    const seen: number[] = [];
    const progress = (done: number, total: number): void => void seen.push(done / total);
    for await (const problem of images.check({ device }, { ...work, progress }))
      throw new Error(problem.text);
    expect(seen.at(-1)).toBe(1);
    expect(seen).toEqual(seen.toSorted((a, b) => a - b));
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(
      (async () => {
        for await (const problem of images.check({ device }, { ...work, signal }))
          throw new Error(problem.text);
      })(),
    ).rejects.toThrow("enough");
  });
});

describe("a device that is none", () => {
  it.each(["info", "dump", "map"] as const)("%s says so", async (verb) => {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(512), Buffer.alloc(2 ** 16), noise(1, 20)]) {
      expect(await code(images[verb]?.({ device: await deviceOf(bytes) }, work) as Promise<unknown>)).toBe(
        "EFORMAT",
      );
    }
  });

  it("is neither checked nor repaired", async () => {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(2 ** 16), noise(1, 20)]) {
      expect(await code(problemsOf(await deviceOf(bytes)))).toBe("EFORMAT");
      expect(await code(images.repair?.({ device: await deviceOf(bytes) }, work) as Promise<unknown>)).toBe(
        "EFORMAT",
      );
    }
  });
});

type Change = (dump: Record<string, unknown>) => void;

describe("a dump that cannot be true is refused, and nothing is written", () => {
  const change =
    <Dump>(edit: (dump: Dump) => void): Change =>
    (dump) =>
      edit(dump as Dump);
  type Loose<T> = { -readonly [K in keyof T]: T[K] extends object ? Loose<T[K]> : unknown };
  const one = change<Loose<DumpV1>>;
  const two = change<Loose<DumpV2>>;

  it.each<[string, "v1" | "v2", Change]>([
    ["another type", "v1", one((d) => (d.type = "cow"))],
    ["another format", "v1", one((d) => (d.format = "v3"))],
    ["no superblock", "v1", (d) => delete d["superblock"]],
    ["another size", "v1", one((d) => (d.superblock.dataBlocks = 5))],
    ["an unknown algorithm", "v1", one((d) => (d.superblock.algorithm = 17))],
    ["extents that overlap", "v1", one((d) => (d.extents = [...d.extents, ...d.extents] as never))],
    ["no sectors", "v1", one((d) => ((d.extents[0] as Loose<DumpV1["extents"][0]>).sectors = 0))],
    ["too many sectors", "v1", one((d) => ((d.extents[0] as Loose<DumpV1["extents"][0]>).sectors = 257))],
    ["33 blocks", "v1", one((d) => ((d.extents[0] as Loose<DumpV1["extents"][0]>).blocks = 33))],
    ["entries of 6 bits", "v1", one((d) => (d.entries = [{ first: 60, values: [32] }] as never))],
    ["entries in an extent", "v1", one((d) => (d.entries = [{ first: 1, values: [3] }] as never))],
    ["entries behind the end", "v1", one((d) => (d.entries = [{ first: 509, values: [3, 3] }] as never))],
    ["a UUID of 15 bytes", "v2", two((d) => (d.superblock.uuid = "00".repeat(15)))],
    ["a layout that nobody makes", "v2", two((d) => (d.superblock.layout.metaStart = 7))],
    ["a layout of a larger device", "v2", two((d) => (d.superblock.layout.totalBlocks = 600))],
    ["a generation that is not a number", "v2", two((d) => (d.superblock.generation = "1"))],
    ["a name of 33 letters", "v2", two((d) => (d.superblock.algorithm = "a".repeat(33)))],
    ["a group twice", "v2", two((d) => (d.groups = [...d.groups, ...d.groups] as never))],
    [
      "a group beyond the last",
      "v2",
      two((d) => ((d.groups[0] as Loose<DumpV2["groups"][0]>).group = 99_999)),
    ],
    [
      "an extent of another group",
      "v2",
      two((d) => (((d.groups[0] as Loose<DumpV2["groups"][0]>).extents[0] as { head: number }).head = 64)),
    ],
    [
      "a negative checksum",
      "v2",
      two((d) => (((d.groups[0] as Loose<DumpV2["groups"][0]>).extents[0] as { sum: number }).sum = -1)),
    ],
    ["a short sector", "v2", two((d) => (d.damaged = [{ group: 3, bytes: "00" }] as never))],
  ])("%s", async (_, format, edit) => {
    const device = await made(format);
    const dump = JSON.parse(JSON.stringify(await images.dump?.({ device }, work))) as Record<string, unknown>;
    edit(dump);
    expect(await code(images.restore?.({ device }, dump, work) as Promise<void>)).toBe("EINVAL");
    expect(device.log).toEqual([]);
  });

  it.each([undefined, null, 7, "text", [], {}])("%j", async (dump) => {
    const device = await made("v2");
    expect(await code(images.restore?.({ device }, dump, work) as Promise<void>)).toBe("EINVAL");
    expect(device.log).toEqual([]);
  });
});

describe("a restore that is interrupted", () => {
  it.each(formats)(
    "leaves nothing that can be opened or is taken for empty, and can be repeated: %s",
    async (format) => {
      const device = await made(format);
      const bytes = await bytesOf(device);
      const dump = await images.dump?.({ device }, work);
      await images.restore?.({ device }, dump, work);
      for (let step = 0; step < device.log.length - 1; step += 1) {
        const half = Buffer.from(bytes);
        for (const { offset, bytes: written } of device.log.slice(0, step + 1)) written?.copy(half, offset);
        const target = await deviceOf(half);
        if (!half.equals(bytes)) {
          const copyIsThere = format === "v2" && step >= device.log.length - 4;
          if (!copyIsThere) expect(await code(openImage(target, 10, {})), `step ${step}`).toBe("EFORMAT");
        }
        await images.restore?.({ device: target }, dump, work);
        expect((await bytesOf(target)).equals(bytes)).toBe(true);
      }
    },
  );
});

describe("format 1", () => {
  it("whose count wrapped, or that has bits behind the last entry, is put right", async () => {
    const total = 6555;
    const lower = new MemoryDevice(total * BLOCK);
    const device = await openImage(lower, 6552, { format: "v1" });
    await device.write(6551 * BLOCK, noise(1, 1));
    await device.close();
    const bytes = await bytesOf(lower);
    // 2^32 too many, as the original had it; and bits that belong to nothing.
    bytes.writeUInt32LE(1, 20);
    bytes[3 * BLOCK - 1] = 0x80;
    const damaged = await deviceOf(bytes);
    expect((await problemsOf(damaged)).map(({ kind }) => kind)).toEqual([
      "superblock-wrapped",
      "metadata-padding",
    ]);
    expect(await code((await openImage(damaged, 1, {})).write(0, noise(1, 1)))).toBe("EROFS");
    const { repaired, left } = (await images.repair?.({ device: damaged }, work)) ?? {
      repaired: [],
      left: [],
    };
    expect([repaired.length, left.length]).toEqual([2, 0]);
    expect((await bytesOf(damaged)).equals(await bytesOf(lower))).toBe(true);
    expect((await images.repair?.({ device: damaged }, work))?.repaired).toEqual([]);
    const again = await openImage(damaged, 6552, {});
    await again.write(0, noise(3, 1));
    await again.close();
  });

  it("whose superblock counts wrongly or names no algorithm is reported, not repaired", async () => {
    for (const at of [8, 17, 24]) {
      const bytes = await bytesOf(await made("v1"));
      bytes[at] = at === 17 ? 2 : 77;
      const damaged = await deviceOf(bytes);
      const advice = at === 24 ? /0 \(lzo\), 1 \(lz4\)/ : at === 17 ? /former size/ : /backup/;
      expect(await problemsOf(damaged)).toMatchObject([
        { kind: "superblock", severity: "error", advice: expect.stringMatching(advice) as string },
      ]);
      expect(await images.repair?.({ device: damaged }, work)).toMatchObject({ repaired: [] });
      expect((await bytesOf(damaged)).equals(bytes)).toBe(true);
      expect(await code(images.info({ device: damaged }, work))).toBe("EFORMAT");
    }
  });

  it("that was made larger is read and written as it was", async () => {
    const bytes = await bytesOf(await made("v1"));
    const larger = await deviceOf(Buffer.concat([bytes, Buffer.alloc(SIZE / 2, 9)]));
    expect(await problemsOf(larger)).toMatchObject([{ kind: "superblock-rest", severity: "info" }]);
    const { data_bytes: before } = (await images.info({ device: await deviceOf(bytes) }, work)) as Facts;
    expect(await images.info({ device: larger }, work)).toMatchObject({ data_bytes: before });
    const device = await openImage(larger, BLOCKS, {});
    await device.write(200 * BLOCK, noise(9, 2));
    await device.close();
    const now = await bytesOf(larger);
    expect(now.subarray(SIZE).equals(Buffer.alloc(SIZE / 2, 9))).toBe(true);
    const contents = await contentsOf(now, BLOCKS);
    expect(contents[201]).toBe(digest(noise(9, 2).subarray(BLOCK)));
    expect(contents.slice(0, 200)).toEqual(await contentsOf(bytes, 200));
    expect(await code(openImage(larger, Number(before) / BLOCK + 1, {}))).toBe("EINVAL");
  });

  it.each(["unreadable", "zero"] as const)("has bad extents marked as %s when told so", async (bad) => {
    const bytes = await bytesOf(await made("v1"));
    const before = await contentsOf(bytes, 110);
    bytes.fill(7, 2 * BLOCK, 2 * BLOCK + 512);
    // A tail without a head, and what follows it.
    flipBit(bytes, BLOCK + Math.floor((60 * 5 + 4) / 8), (60 * 5 + 4) % 8);
    flipBit(bytes, BLOCK + Math.floor((60 * 5) / 8), (60 * 5) % 8);
    const damaged = await deviceOf(bytes);
    const { repaired, left } = await repair(damaged, work, { bad });
    expect(repaired.length).toBe(2);
    expect(left.map(({ kind }) => kind)).toEqual(bad === "zero" ? [] : ["lost", "lost"]);
    expect((await repair(damaged, work, { bad })).repaired).toEqual([]);
    const after = await contentsOf(await bytesOf(damaged), 110);
    const gone = bad === "zero" ? digest(Buffer.alloc(BLOCK)) : "EIO";
    for (const [block, contents] of after.entries()) {
      // Block 59 is the hole in front of the tail: it belongs to what makes no sense.
      if (block === 59 || block === 60) expect(["EIO", digest(Buffer.alloc(BLOCK))]).toContain(contents);
      else expect(contents, `block ${block}`).toBe(block < 32 ? gone : before[block]);
    }
  });

  it("has nothing that could be repaired in its data", async () => {
    const bytes = await bytesOf(await made("v1"));
    bytes.fill(7, 2 * BLOCK, 2 * BLOCK + 512);
    const damaged = await deviceOf(bytes);
    const result = await images.repair?.({ device: damaged }, work);
    expect(result?.repaired).toEqual([]);
    expect(result?.left).toMatchObject([{ kind: "extent", location: "blocks 0 … 31" }]);
    expect((await bytesOf(damaged)).equals(bytes)).toBe(true);
  });
});
