/**
 * How a device is known again: by the checksums of those blocks that the witness of a device is made of, so that it
 * changes with whatever a mount writes. They are kept one by one: a sampled block that was overwritten since is
 * looked up in the undo file instead, and a device is the same if all the rest is. What cannot be read says nothing.
 */
import { type BlockDevice, given, witnessBlocks } from "@dmkit/block-io";
import {
  GRANULE,
  MAX_SAMPLES,
  type UndoSample,
  type UndoVersion,
  contentsChecksum,
} from "../format/undo-file.ts";

export interface Range {
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
}

/** What a sample is of, on a device of `size` bytes. */
export function sampledBlock({ offset }: UndoSample, size: number): Range {
  return { offset, length: Math.min(GRANULE, size - offset) };
}

export async function takeSample(device: BlockDevice): Promise<UndoSample[]> {
  const samples: UndoSample[] = [];
  for (const offset of ((await given(witnessBlocks(device))) ?? []).slice(0, MAX_SAMPLES)) {
    const block = { offset, length: Math.min(GRANULE, device.size - offset) };
    const checksum = await given(checksumOf(device, block, 2));
    if (checksum !== undefined) samples.push({ offset, checksum });
  }
  return samples;
}

/** @param version of the undo file. */
export async function checksumOf(
  device: BlockDevice,
  { offset, length }: Range,
  version: UndoVersion,
): Promise<number> {
  const bytes = Buffer.allocUnsafeSlow(length);
  await device.read(offset, bytes);
  return contentsChecksum(bytes, version);
}
