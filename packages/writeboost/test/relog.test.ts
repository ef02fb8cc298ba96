/** Blocks that the backing device refuses are logged again, in a cache with a plog: what a crash in there leaves. */
import { settle } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { HandDisk } from "./support/hand.ts";
import { BLOCK, MIB, Rig, filled } from "./support/rig.ts";

const BAD = [1, 2];
const SEGMENT_5 = 27 * 512;

function spoil({ backing }: Rig): void {
  backing.refuse = ({ op, offset, length }) =>
    op === "write" && BAD.some((block) => offset < (block + 1) * BLOCK && block * BLOCK < offset + length);
}

/** Three full segments, durable, with the bad blocks in the first of them. */
async function opened(slots: number): Promise<Rig> {
  const tunables = { nr_max_batched_writeback: 1 };
  const rig = new Rig({ order: 5, slots, plog: 8 * SEGMENT_5, options: { tunables } });
  await rig.open();
  spoil(rig);
  for (const block of [1, 2, 20, 21, 22, 23, 24, 25, 26]) await rig.write(block, block);
  await rig.device.flush();
  return rig;
}

describe("a crash while refused blocks are logged again", () => {
  // With the first of two blocks there, the ring would be full, and have no room for the other one.
  it("leaves a ring that goes on, whatever of their segment landed", async () => {
    for (const landed of [0, 9, 18]) {
      const rig = await opened(4);
      rig.cache.hold = ({ op, offset }) => op === "write" && offset >= MIB;
      void rig.write(27, 27).catch(() => {});
      await settle();
      expect(rig.cache.held).toBe(1);
      (rig.plog as HandDisk).hold = ({ op }) => op === "flush";
      void rig.device.flush().catch(() => {});
      await settle();
      await rig.crash((_write, sector) => sector < landed);
      spoil(rig);
      await rig.open();
      for (let block = 30; block < 40; block += 1) await rig.segment(block, block);
      for (const block of [...BAD, 20, 30, 39]) expect(await rig.read(block)).toEqual(filled(block));
    }
  });

  it("loses nothing that was written behind them and flushed", async () => {
    const rig = await opened(9);
    for (const block of [27, 28, 29]) await rig.write(block, block);
    // Segments 4, which is full, and 5, which takes the refused blocks.
    rig.cache.hold = ({ op, offset }) => op === "write" && offset >= MIB + 3 * 32 * 512;
    rig.device.tune({ allow_writeback: 1 });
    await rig.clock.pass(600);
    expect(rig.cache.held).toBe(2);
    await rig.write(30, 30);
    let isFlushed = false;
    const flushing = rig.device.flush().then(() => (isFlushed = true));
    await settle();
    // Segment 5 has no records: it has to be there before those of 6.
    expect(isFlushed).toBe(false);
    rig.cache.hold = () => false;
    rig.cache.release();
    await flushing;
    await rig.crash();
    spoil(rig);
    await rig.open();
    for (const block of [...BAD, 27, 30]) expect(await rig.read(block)).toEqual(filled(block));
  });
});

describe("where refused blocks need a segment that clients have opened meanwhile", () => {
  it("goes on in that one: nobody else need ever close it", async () => {
    const tunables = { nr_max_batched_writeback: 1 };
    const rig = new Rig({ order: 5, slots: 9, plog: 8 * SEGMENT_5, options: { tunables, pool: 1 } });
    await rig.open();
    spoil(rig);
    for (const block of [1, 2, 20, 21, 22, 23, 24, 25, 26, 27, 28]) await rig.write(block, block);
    await rig.device.flush();
    // Segment 4 takes the first refused block, and is full.
    rig.cache.hold = ({ op, offset }) => op === "write" && offset >= MIB + 3 * 32 * 512;
    rig.device.tune({ allow_writeback: 1 });
    await rig.clock.pass(600);
    expect(rig.cache.held).toBe(1);
    const writing = rig.write(29, 29);
    rig.cache.hold = () => false;
    rig.cache.release();
    await writing;
    await settle();
    await rig.device.suspend();
    await rig.device.resume();
    for (const block of [...BAD, 20, 28, 29]) expect(await rig.read(block)).toEqual(filled(block));
    await rig.device.close();
  });
});
