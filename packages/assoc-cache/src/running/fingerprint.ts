/**
 * A checksum of some sectors of the source, taken at a clean shutdown and compared at the next open: another
 * disk, or one that was changed behind the cache's back, is told from the right one.
 */
import { type BlockDevice, crc32c } from "@dmkit/block-io";

const SAMPLES = 16;

/** CRC-32C of up to 16 blocks spread over the first `size` bytes; undefined if one cannot be read. */
export async function sourceFingerprint(source: BlockDevice, size: number): Promise<number | undefined> {
  const block = source.limits.logicalBlockSize;
  const last = size / block - 1;
  const bytes = Buffer.alloc(block);
  let checksum = 0;
  try {
    for (let sample = 0; sample < SAMPLES; sample += 1) {
      await source.read(Math.floor((last * sample) / (SAMPLES - 1)) * block, bytes);
      checksum = crc32c(bytes, checksum);
    }
  } catch {
    return undefined;
  }
  return checksum;
}
