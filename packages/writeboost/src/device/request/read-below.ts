/** What the cache device does not give, from the backing device: where that has it as well. */
import { type BlockDevice, ByteAccess, isGiven } from "@dmkit/block-io";
import { runEnd, runStart } from "../../core/sectors.ts";
import { BLOCK } from "../../format/geometry.ts";
import type { SegmentLog } from "../log/segment-log.ts";

/** A log, and the device that has what is clean in it. */
export interface LogOver {
  readonly log: SegmentLog;
  readonly backing: BlockDevice;
}

/**
 * Reads sectors of cache block `index`, which must be the newest copy of its block, and these sectors clean, from before
 * the first read until after the last one: nothing that is in the log is written to the backing device past it. False
 * where that is not so, or the backing device does not give them either; `into` may be changed then.
 * @param bits which of them. @param into 4096 bytes.
 */
export async function readBelow(
  { log, backing }: LogOver,
  index: number,
  bits: number,
  into: Buffer,
): Promise<boolean> {
  const { map } = log;
  const block = map.keys[index] as number;
  const id = log.idOfBlock(index);
  const isClean = (): boolean =>
    log.idOfBlock(index) === id && map.find(block) === index && ((map.dirty[index] as number) & bits) === 0;
  const access = new ByteAccess(backing);
  for (let from = runStart(bits, 0); from < 8; ) {
    const end = runEnd(bits, from);
    if (!isClean()) return false;
    const part = into.subarray(from * 512, end * 512);
    if (!(await isGiven(access.read(block * BLOCK + from * 512, part)))) return false;
    from = runStart(bits, end);
  }
  return isClean();
}
