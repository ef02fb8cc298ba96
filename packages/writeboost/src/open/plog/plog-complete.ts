/**
 * Completes segments rebuilt from the plog. A partial write takes the dirty sectors of the copy it replaces along,
 * in records of its own; a crash may have kept some of those records and not the others. The newest copy of a
 * block would then not be the whole truth (write-path.ts), and what the older copy alone has would be lost. So
 * its sectors are put back here, before the segment is written to its slot: doing it again gives the same.
 */
import { type BlockDevice, refuse, isOfPlace } from "@dmkit/block-io";
import type { Rules } from "../../core/rules.ts";
import { type Rebuilt, complete } from "../../core/plog-replay.ts";
import { BLOCK } from "../../format/geometry.ts";
import { blockOffset, dataStart } from "../../format/segment.ts";
import type { ScannedLog } from "../scan.ts";
import { wayOut } from "../unreadable.ts";

/** The newest copy of a block on the cache device. */
interface Copy {
  readonly id: number;
  readonly index: number;
}

/** Of a rebuilt segment nothing that older copies have must be missing. Throws `EIO`, named, where one cannot be read. */
export async function completeRebuilt(
  cache: BlockDevice,
  found: ScannedLog,
  rebuilt: readonly Rebuilt[],
  { lacks }: Rules,
): Promise<void> {
  // In logs of other drivers no copy is the whole truth: adoptLog finds what is split.
  if (rebuilt.length === 0 || typeof found.identity !== "object") return;
  const { map, geometry } = found;
  const copies = newestCopies(found, rebuilt);
  const data = Buffer.allocUnsafe(BLOCK);
  const earlier = new Map<number, { readonly from: Rebuilt; readonly at: number }>();
  for (const one of rebuilt) {
    for (let at = 0; at < one.length; at += 1) {
      const block = one.keys[at] as number;
      const bits = one.bits[at] as number;
      const before = earlier.get(block);
      const copy = copies.get(block);
      if (before !== undefined) {
        const missing = lacks(before.from.bits[before.at] as number, bits);
        const start = dataStart(before.at);
        if (missing !== 0) complete(one, at, missing, before.from.image.subarray(start, start + BLOCK));
      } else if (copy !== undefined && copy.id > one.id - geometry.slots) {
        const missing = lacks(map.valid[copy.index] as number, bits);
        if (missing !== 0) {
          const offset = blockOffset(geometry, copy.index);
          await cache.read(offset, data).catch((error: unknown) => {
            if (!isOfPlace(error)) throw error;
            const reason = `byte ${offset} cannot be read, and segment ${one.id} in the plog needs what is there`;
            throw refuse(cache.name, "EIO", reason, `Nothing has been written.${wayOut(found)}`);
          });
          complete(one, at, missing, data);
        }
      }
      earlier.set(block, { from: one, at });
    }
  }
}

/** Of the blocks that were rebuilt, the newest copies in the log that are not known to be written back. */
function newestCopies(found: ScannedLog, rebuilt: readonly Rebuilt[]): Map<number, Copy> {
  const { map, ids, first, last, record } = found;
  const wanted = new Set(rebuilt.flatMap(({ keys }) => [...keys]));
  const copies = new Map<number, Copy>();
  for (let slot = 0; slot < ids.length; slot += 1) {
    const id = ids[slot] as number;
    if (id < first || id > last || id <= record) continue;
    const start = slot * map.blocks;
    for (let index = start; index < start + (map.lengths[slot] as number); index += 1) {
      const block = map.keys[index] as number;
      if (wanted.has(block) && id > (copies.get(block)?.id ?? 0)) copies.set(block, { id, index });
    }
  }
  return copies;
}
