/**
 * Whether the source is as it was at the clean shutdown: another disk, or one that was changed behind the cache's
 * back, is told from the right one by the witness that was taken then, or by what came before there was one.
 */
import { type BlockDevice, crc32c, witnessOf } from "@dmkit/block-io";
import type { Superblock } from "../../format/superblock.ts";

const SAMPLES = 16;

/** Witness of the first `size` bytes; undefined if they cannot be read. */
export async function sourceWitness(source: BlockDevice, size: number): Promise<string | undefined> {
  return witnessOf(source, size).catch(() => undefined);
}

/**
 * Why the source is not the one the cache was closed over, or not as it was then; undefined if it is, or nobody knows.
 * @param size bytes of it that are cached.
 */
export async function whyChanged(
  { clean, uuid, witness, fingerprint }: Superblock,
  source: BlockDevice,
  size: number,
): Promise<string | undefined> {
  if (!clean || (witness ?? fingerprint) === undefined) return undefined;
  const [then, now] =
    witness === undefined
      ? [hex(fingerprint), hex(await sourceFingerprint(source, size))]
      : [witness, await sourceWitness(source, size)];
  if (then === undefined || now === undefined || then === now) return undefined;
  return `the cache (UUID ${uuid}) was closed over a source with the witness ${then.slice(0, 16)}, this one has ${now.slice(0, 16)}: it is another device, or was changed since without the cache`;
}

/** CRC-32C of up to 16 blocks spread over the first `size` bytes; undefined if one cannot be read. */
async function sourceFingerprint(source: BlockDevice, size: number): Promise<number | undefined> {
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

function hex(fingerprint: number | undefined): string | undefined {
  return fingerprint?.toString(16).padStart(8, "0");
}
