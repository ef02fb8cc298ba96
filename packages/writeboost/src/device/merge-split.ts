/** Brings the sectors of older copies that the newest one lacks into a new copy: for logs of the original drivers. */
import { runEnd, runStart } from "../core/sectors.ts";
import { BLOCK } from "../format/geometry.ts";
import { blockOffset } from "../format/segment.ts";
import type { Split } from "./recovered.ts";
import type { SegmentLog } from "./log/segment-log.ts";
import type { WritePath } from "./request/write-path.ts";

export async function mergeSplit(
  log: SegmentLog,
  writes: WritePath,
  { block, copies }: Split,
): Promise<void> {
  const { map, cache } = log;
  let covered = map.valid[map.find(block)] as number;
  const data = Buffer.allocUnsafe(BLOCK);
  for (const { index, id } of copies.toReversed()) {
    // Making room for other blocks may have written this one back.
    if (log.idOfBlock(index) !== id) continue;
    const bits = (map.dirty[index] as number) & ~covered;
    covered |= map.dirty[index] as number;
    if (bits === 0) continue;
    await cache.read(blockOffset(log.geometry, index), data);
    for (let from = runStart(bits, 0); from < 8; ) {
      const end = runEnd(bits, from);
      await writes.finish(block * BLOCK + from * 512, data.subarray(from * 512, end * 512), 0);
      from = runStart(bits, end);
    }
  }
}
