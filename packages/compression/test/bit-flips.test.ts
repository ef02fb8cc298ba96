/**
 * Flipped bits in each region of format 2, also where a crash has left the newest contents in the journal only: the
 * right bytes or EIO, never others. `DMKIT_FLIPS` sets how many in each region.
 */
import { SeededRandom } from "@dmkit/block-io/testing";
import { beforeAll, describe, expect, it } from "vitest";
import {
  BLOCK,
  Recorder,
  SMALL,
  bytesOf,
  code,
  deviceOf,
  flipBit,
  layoutOf,
  noise,
  openImage,
  text,
} from "./support/images.ts";

const SIZE = 2 ** 20;
const BLOCKS = 80;
const flips = Number(process.env["DMKIT_FLIPS"] ?? 250);
const seed = Number(process.env["DMKIT_SEED"] ?? 1 + (process.pid % 1000));
const MINUTES = 20 * 60_000;
const layout = layoutOf(SIZE);

interface Image {
  readonly bytes: Buffer;
  readonly expected: Buffer;
}

/** Closed, and crashed right after a flush was acknowledged: nothing of that is in place. */
let images: { readonly closed: Image; readonly crashed: Image };

async function make(): Promise<typeof images> {
  const lower = new Recorder(SIZE);
  let device = await openImage(lower, BLOCKS);
  await device.write(0, text(1, 32));
  await device.write(40 * BLOCK, noise(2, 8));
  await device.write(64 * BLOCK, text(3, 10));
  await device.close();
  const closed = await bytesOf(lower);
  const expected = Buffer.concat([
    text(1, 32),
    Buffer.alloc(8 * BLOCK),
    noise(2, 8),
    Buffer.alloc(16 * BLOCK),
    text(3, 10),
    Buffer.alloc(6 * BLOCK),
  ]);
  device = await openImage(lower, BLOCKS);
  lower.log.length = 0;
  const fresh = Buffer.from(expected);
  for (const [block, data] of [
    [4, text(9, 3)],
    [42, noise(9, 2)],
    [70, text(8, 8)],
  ] as const) {
    await device.write(block * BLOCK, data);
    data.copy(fresh, block * BLOCK);
  }
  await device.flush();
  const crashed = Buffer.from(closed);
  for (const { offset, bytes } of lower.log) {
    if (bytes === undefined) break;
    bytes.copy(crashed, offset);
  }
  await device.close();
  return { closed: { bytes: closed, expected }, crashed: { bytes: crashed, expected: fresh } };
}

beforeAll(async () => {
  images = await make();
});

/** Bytes of the device, from and to, in blocks. */
const regions = {
  superblocks: [0, 2],
  journal: [layout.journalStart, layout.metaStart],
  metadata: [layout.metaStart, layout.dataStart],
  payloads: [layout.dataStart, layout.dataStart + BLOCKS],
} as const;

/** Sectors of a region that hold anything. */
function usedSectors(bytes: Buffer, [from, to]: readonly [number, number]): number[] {
  const used: number[] = [];
  for (let at = from * BLOCK; at < to * BLOCK; at += 512) {
    if (bytes.subarray(at, at + 512).some((byte) => byte !== 0)) used.push(at);
  }
  return used;
}

describe.each(["closed", "crashed"] as const)("of a %s device, a flipped bit", (state) => {
  it.each(Object.entries(regions))(
    "in its %s",
    async (_, region) => {
      const { bytes, expected } = images[state];
      const random = new SeededRandom(seed);
      const used = usedSectors(bytes, region);
      expect(used.length).toBeGreaterThan(0);
      for (let round = 0; round < flips; round += 1) {
        const at = (used[random.below(used.length)] as number) + random.below(512);
        const bit = random.below(8);
        const broken = Buffer.from(bytes);
        flipBit(broken, at, bit);
        const device = await openImage(await deviceOf(broken), BLOCKS, SMALL);
        for (let block = 0; block < BLOCKS; block += 8) {
          const into = Buffer.alloc(8 * BLOCK);
          const result = await code(device.read(block * BLOCK, into));
          const right = into.equals(expected.subarray(block * BLOCK, (block + 8) * BLOCK));
          if (result !== "EIO" && !(result === "no error" && right))
            throw new Error(`seed ${seed}: byte ${at}, bit ${bit}: ${result}, wrong bytes at block ${block}`);
        }
        await device.close();
      }
    },
    MINUTES,
  );
});
