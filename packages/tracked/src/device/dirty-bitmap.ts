/** What has changed since an epoch began, as NBD clients ask for it: `qemu:dirty-bitmap:NAME`, 1 where it has. */
import { DIRTY_BITMAP, type RangeDescription } from "@dmkit/block-io";
import type { Epoch, EpochTable } from "../core/epochs.ts";

/**
 * @param uuid of the bitmaps. No number of an epoch is used twice with it; the time tells those apart that would be, after
 * the bitmap device was put back as it was before.
 */
export function dirtyBitmap(
  { geometry }: EpochTable,
  { name, number, begun, bits }: Epoch,
  uuid: string,
): RangeDescription {
  return {
    name: `${DIRTY_BITMAP}${name}`,
    id: `${uuid}/${number}/${begun}`,
    otherwise: 1,
    async *describe(offset, length) {
      const end = offset + length;
      for (let at = offset; at < end; ) {
        const chunk = Math.floor(at / geometry.chunk);
        const run = bits.runEnd(chunk, Math.ceil(end / geometry.chunk));
        const until = Math.min(end, run * geometry.chunk);
        yield { length: until - at, status: bits.get(chunk) ? 1 : 0 };
        at = until;
      }
    },
  };
}
