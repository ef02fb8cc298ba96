/** Damaged images: what check reports, what repair puts right, that it can be interrupted, and that it loses nothing. */
import { type ImageRepairSettings, crc32c, parseOptions } from "@dmkit/block-io";
import { SeededRandom, isDeep } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { encodeHeader, headerLength } from "../src/format/journal-v2.ts";
import { payloadSum } from "../src/format/metadata-v2.ts";
import { mendSuperblockV2 } from "../src/format/superblock-v2.ts";
import { recompress, recompressOptions, repair } from "../src/index.ts";
import {
  BLOCK,
  JOURNAL,
  ReadOnly,
  Recorder,
  bytesOf,
  code,
  contentsOf,
  crashImages,
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

const SIZE = 2 ** 21;
const BLOCKS = 300;
const layout = layoutOf(SIZE);
const DATA = layout.dataStart * BLOCK;
const META = layout.metaStart * BLOCK;
const seed = Number(process.env["DMKIT_SEED"] ?? 1 + (process.pid % 1000));

/**
 * Text in 0–31, noise in 40–47, lost blocks in none; group 1 (64–127) written as a whole by the last record, then
 * one more record with block 200. With `closed` the superblock says so.
 */
async function image(closed: boolean): Promise<Buffer> {
  const lower = new Recorder(SIZE);
  const device = await openImage(lower, BLOCKS, { format: "v2", journal: JOURNAL, max_extent: 65_536 });
  await device.write(0, text(1, 32));
  await device.write(40 * BLOCK, noise(2, 8));
  await device.flush();
  await device.write(64 * BLOCK, text(5, 40));
  await device.write(104 * BLOCK, noise(6, 24));
  await device.flush();
  await device.write(200 * BLOCK, text(7, 1));
  await device.flush();
  // What a flush leaves is brought into place behind it.
  await device.suspend();
  const unclosed = await bytesOf(lower);
  await device.close();
  return closed ? bytesOf(lower) : unclosed;
}

const closedImage = await image(true);
const openImageBytes = await image(false);
const whole = await contentsOf(closedImage, BLOCKS);

interface Damage {
  readonly name: string;
  readonly of?: Buffer;
  readonly make: (bytes: Buffer) => void;
  /** Kinds, with what is done about them; then those that are left. */
  readonly repaired: readonly string[];
  readonly left: readonly string[];
  /** Blocks that cannot be read afterwards; "all": the device is refused. */
  readonly gone?: readonly number[] | "all";
}

const range = (first: number, count: number): number[] =>
  Array.from({ length: count }, (_, index) => first + index);

const damages: readonly Damage[] = [
  { name: "none", make: () => {}, repaired: [], left: [] },
  { name: "a flipped bit in copy 0", make: (b) => flipBit(b, 40), repaired: ["superblock-copy"], left: [] },
  {
    name: "copy 1 is gone",
    make: (b) => b.fill(0, BLOCK, 2 * BLOCK),
    repaired: ["superblock-copy"],
    left: [],
  },
  {
    name: "copy 1 is that of an interrupted close",
    make: (b) => openImageBytes.copy(b, BLOCK, BLOCK, 2 * BLOCK),
    repaired: ["superblock-copy"],
    left: [],
  },
  {
    name: "a flipped bit in both copies",
    make: (b) => [20, BLOCK + 100].forEach((at) => flipBit(b, at)),
    repaired: ["superblock-copy", "superblock-copy"],
    left: [],
  },
  {
    name: "a flipped bit in the checksum of both copies",
    make: (b) => [12, BLOCK + 12].forEach((at) => flipBit(b, at)),
    repaired: ["superblock-copy", "superblock-copy"],
    left: [],
  },
  {
    name: "both copies overwritten, but for the magic",
    make: (b) => [0, BLOCK].forEach((at) => b.fill(7, at + 8, at + 512)),
    repaired: [],
    left: ["superblock"],
    gone: "all",
  },
  {
    name: "a later version",
    make(b) {
      for (const at of [0, BLOCK]) {
        const sector = b.subarray(at, at + 512);
        sector[8] = 3;
        // Whoever writes a later version gives it the right checksum.
        sector.fill(0, 12, 16);
        sector.writeUInt32LE(crc32c(sector), 12);
      }
    },
    repaired: [],
    left: ["superblock"],
    gone: "all",
  },
  {
    name: "an algorithm that nobody knows, in the newer copy",
    make(b) {
      const sector = b.subarray(0, 512);
      sector.write("lz5\0", 112, "latin1");
      sector.writeUInt8(200, 32);
      sector.fill(0, 12, 16);
      sector.writeUInt32LE(crc32c(sector), 12);
    },
    repaired: [],
    left: ["superblock"],
    gone: "all",
  },
  {
    name: "a flipped bit in the states of group 0",
    make: (b) => flipBit(b, META + 16 + 5),
    repaired: ["metadata"],
    left: [],
  },
  {
    name: "a flipped bit in a checksum of group 1",
    make: (b) => flipBit(b, META + 512 + 80 + 3),
    repaired: ["metadata"],
    left: [],
  },
  {
    name: "a flipped bit in the metadata of blocks never written",
    make: (b) => flipBit(b, META + 2 * 512 + 300),
    repaired: ["metadata"],
    left: [],
  },
  {
    name: "metadata overwritten that the journal has",
    of: openImageBytes,
    make: (b) => b.fill(9, META + 512, META + 1024),
    repaired: ["metadata", "journal"],
    left: [],
  },
  {
    name: "metadata overwritten that the journal has, of a closed device",
    make: (b) => b.fill(9, META + 512, META + 1024),
    repaired: ["metadata"],
    left: [],
  },
  {
    name: "metadata overwritten that nobody has",
    make: (b) => b.fill(9, META, META + 512),
    repaired: [],
    left: ["metadata"],
    gone: range(0, 64),
  },
  { name: "not closed", of: openImageBytes, make: () => {}, repaired: ["journal"], left: [] },
  {
    name: "not closed, nothing of the last records in place",
    of: openImageBytes,
    make(b) {
      b.fill(3, DATA + 64 * BLOCK, DATA + 128 * BLOCK);
      b.fill(3, DATA + 200 * BLOCK, DATA + 201 * BLOCK);
    },
    repaired: ["journal"],
    left: [],
  },
  {
    name: "a payload that the journal has",
    make: (b) => b.fill(3, DATA + 80 * BLOCK, DATA + 80 * BLOCK + 700),
    repaired: ["extent"],
    left: [],
  },
  {
    name: "a raw payload that the journal has",
    make: (b) => flipBit(b, DATA + 113 * BLOCK),
    repaired: ["extent"],
    left: [],
  },
  {
    name: "a payload that nobody has",
    make: (b) => flipBit(b, DATA + 16 * BLOCK + 100),
    repaired: [],
    left: ["extent"],
    gone: range(16, 16),
  },
  {
    name: "several at once",
    of: openImageBytes,
    make(b) {
      flipBit(b, 300);
      flipBit(b, META + 30);
      flipBit(b, DATA + 100);
      b.fill(9, META + 512, META + 1024);
      b.fill(5, DATA + 64 * BLOCK, DATA + 65 * BLOCK);
    },
    // The payload does not agree with the metadata: so the flipped bit in it is not believed either.
    repaired: ["superblock-copy", "metadata", "journal"],
    left: ["metadata"],
    gone: range(0, 64),
  },
];

describe.each(damages)("$name", ({ of = closedImage, make, repaired, left, gone = [] }) => {
  const damaged = (): Buffer => {
    const bytes = Buffer.from(of);
    make(bytes);
    return bytes;
  };

  it("is reported, and repaired as far as that is no guess", async () => {
    const device = await deviceOf(damaged());
    const found = await problemsOf(new ReadOnly(device));
    expect((await bytesOf(device)).equals(damaged()), "check writes nothing").toBe(true);
    const result = await repair(device, work);
    expect(result.repaired.map(({ kind }) => kind)).toEqual(repaired);
    expect(result.left.map(({ kind }) => kind)).toEqual(left);
    expect(found.filter(({ repair: text }) => text !== undefined).map(({ kind }) => kind)).toEqual(repaired);
    expect((await problemsOf(device)).map(({ kind }) => kind)).toEqual(left);
    expect((await repair(device, work)).repaired).toEqual([]);
    if (gone === "all") {
      expect(await code(openImage(device, BLOCKS))).toBe("EFORMAT");
      return;
    }
    const after = await contentsOf(await bytesOf(device), BLOCKS);
    for (const [block, contents] of after.entries()) {
      expect(contents, `block ${block}`).toEqual(gone.includes(block) ? "EIO" : whole[block]);
    }
  });

  it("can be interrupted anywhere", async () => {
    const before = damaged();
    const recorder = new Recorder(SIZE);
    await recorder.write(0, before);
    recorder.log.length = 0;
    await repair(recorder, work);
    const after = await bytesOf(recorder);
    const contents = gone === "all" ? [] : await contentsOf(after, BLOCKS);
    // A repair of two records writes hundreds of times; one in so many of the images after each costs little.
    const images = [...crashImages(before, recorder.log, new SeededRandom(seed))];
    const step = Math.ceil(images.length / (isDeep ? 60 : 20));
    for (const crashed of images.filter((_image, index) => index % step === seed % step)) {
      const device = await deviceOf(crashed);
      const result = await repair(device, work);
      expect(
        result.left.map(({ kind }) => kind),
        `seed ${seed}`,
      ).toEqual(left);
      expect((await repair(device, work)).repaired, `seed ${seed}`).toEqual([]);
      expect(await contentsOf(await bytesOf(device), BLOCKS), `seed ${seed}`).toEqual(contents);
    }
  });

  // Where these are in question: a second look at all others would only take time.
  const isOfContents = [...repaired, ...left].some((kind) => kind === "metadata" || kind === "extent");
  if (isOfContents)
    it("is recompressed as if it had been repaired", async () => {
      if (gone === "all") return;
      const to = await deviceOf(Buffer.alloc(2 * SIZE));
      const options = parseOptions(recompressOptions, { journal: JOURNAL });
      const { lost } = await recompress(new ReadOnly(await deviceOf(damaged())), to, options, work);
      expect(lost).toBe(gone.length);
      const after = await contentsOf(await bytesOf(to), BLOCKS);
      for (const [block, contents] of after.entries()) {
        expect(contents, `block ${block}`).toEqual(gone.includes(block) ? "EIO" : whole[block]);
      }
    });

  it.each(["unreadable", "zero"] as const)("leaves nothing but %s blocks when told so", async (bad) => {
    if (gone === "all") return;
    const device = await deviceOf(damaged());
    const settings: ImageRepairSettings = { bad };
    const result = await repair(device, work, settings);
    expect(result.left.map(({ kind }) => kind)).toEqual(bad === "zero" || gone.length === 0 ? [] : ["lost"]);
    expect((await repair(device, work, settings)).repaired).toEqual([]);
    const after = await contentsOf(await bytesOf(device), BLOCKS);
    const lost = bad === "zero" ? digest(Buffer.alloc(BLOCK)) : "EIO";
    for (const [block, contents] of after.entries()) {
      expect(contents, `block ${block}`).toEqual(gone.includes(block) ? lost : whole[block]);
    }
  });
});

describe("a record that says what cannot be", () => {
  it("is reported and ignored", async () => {
    const bytes = Buffer.from(closedImage);
    const superblock = mendSuperblockV2(bytes);
    if (superblock === undefined) throw new Error("no superblock");
    const number = superblock.applied + 1;
    const start = headerLength(1, 0);
    const record = Buffer.alloc(start);
    const change = { kind: 1 as const, first: 60, blocks: 8, sectors: 1, sum: 0 };
    encodeHeader(record, start, superblock.uuid, number, [change]);
    record.copy(bytes, layout.journalStart * BLOCK + (number % 2) * (JOURNAL / 2));
    const device = await deviceOf(bytes);
    expect(await problemsOf(device)).toMatchObject([{ kind: "journal-record", severity: "error" }]);
    expect((await repair(device, work)).repaired).toEqual([]);
    expect(await contentsOf(bytes, BLOCKS)).toEqual(whole);
  });

  it("is not taken for a second copy, if its payload is what cannot be", async () => {
    const bytes = Buffer.from(closedImage);
    const superblock = mendSuperblockV2(bytes);
    if (superblock === undefined) throw new Error("no superblock");
    const number = superblock.applied + 1;
    const start = headerLength(1, 1);
    const record = Buffer.alloc(start + 512, 0xff);
    const sum = payloadSum(superblock.uuid, 208, record.subarray(start));
    const change = { kind: 1 as const, first: 208, blocks: 8, sectors: 1, sum };
    encodeHeader(record, start, superblock.uuid, number, [change]);
    record.copy(bytes, layout.journalStart * BLOCK + (number % 2) * (JOURNAL / 2));
    const device = await deviceOf(bytes);
    const { repaired, left } = await repair(device, work);
    expect(repaired.map(({ kind }) => kind)).toEqual(["journal"]);
    expect(left).toMatchObject([{ kind: "extent", location: "blocks 208 … 215" }]);
    expect(left[0]?.repair).toBe(undefined);
    expect((await repair(device, work, { bad: "zero" })).left).toEqual([]);
    expect(await contentsOf(await bytesOf(device), BLOCKS)).toEqual(whole);
  });
});
