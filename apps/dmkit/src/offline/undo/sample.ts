/**
 * How a device is known again: by the checksums of up to 64 blocks of 4 KiB, the first, the last and others evenly
 * between. A sampled block that was overwritten since is looked up in the undo file instead: a device is the same
 * if all the rest is.
 */
import { type BlockDevice, crc32c } from "@dmkit/block-io";
import { MAX_SAMPLES } from "../format/undo-file.ts";

/** Bytes: the unit of saving, and of sampling. */
export const GRANULE = 4096;

export interface Range {
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
}

/** What is sampled of a device of `size` bytes. */
export function sampledBlocks(size: number): Range[] {
  const blocks = Math.ceil(size / GRANULE);
  const count = Math.min(MAX_SAMPLES, blocks);
  return Array.from({ length: count }, (_, index) => {
    const offset = (count === 1 ? 0 : Math.floor((index * (blocks - 1)) / (count - 1))) * GRANULE;
    return { offset, length: Math.min(GRANULE, size - offset) };
  });
}

export async function takeSample(device: BlockDevice): Promise<number[]> {
  const samples: number[] = [];
  for (const block of sampledBlocks(device.size)) samples.push(await checksumOf(device, block));
  return samples;
}

export async function checksumOf(device: BlockDevice, { offset, length }: Range): Promise<number> {
  const bytes = Buffer.allocUnsafeSlow(length);
  await device.read(offset, bytes);
  return crc32c(bytes);
}
