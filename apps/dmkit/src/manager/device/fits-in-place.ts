/** What a table has to be like that takes the place of another under those who use it. */
import { type BlockDevice, BlockIoError } from "@dmkit/block-io";

/**
 * Whether a table can take the place of another.
 * @param before size and limits others have been told.
 * @param used whether anybody was.
 */
export function fitsInPlaceOf(
  before: Pick<BlockDevice, "name" | "size" | "limits">,
  after: Pick<BlockDevice, "size" | "limits">,
  used: boolean,
): BlockIoError | undefined {
  const refuse = (reason: string): BlockIoError =>
    new BlockIoError(reason, {
      code: "EBUSY",
      device: before.name,
      op: "resume",
      hint: "Withdraw its exports and remove the devices above it first; see: dmkit ls --tree",
    });
  const [old, now] = [before.limits, after.limits];
  if (old.logicalBlockSize !== now.logicalBlockSize) {
    return refuse(
      `the new table has blocks of ${now.logicalBlockSize} bytes, the old one of ${old.logicalBlockSize}`,
    );
  }
  if (!used) return undefined;
  if (after.size < before.size) {
    return refuse(`the new table has ${after.size} bytes, fewer than the ${before.size} its users know of`);
  }
  if (now.capabilities.readOnly && !old.capabilities.readOnly) {
    return refuse("the new table is read-only, and its users may write");
  }
  if (old.capabilities.discardZeroes && !now.capabilities.discardZeroes) {
    return refuse("discards do not zero in the new table, and its users may rely on it");
  }
  return undefined;
}
