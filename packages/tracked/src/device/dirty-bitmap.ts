/** What has changed since an epoch began, as NBD clients ask for it: `qemu:dirty-bitmap:NAME`, 1 where it has. */
import { DIRTY_BITMAP, type RangeDescription } from "@dmkit/block-io";
import type { Epoch, EpochTable } from "../core/epochs.ts";

export function dirtyBitmap({ geometry }: EpochTable, { name, bits }: Epoch): RangeDescription {
  return {
    name: `${DIRTY_BITMAP}${name}`,
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
