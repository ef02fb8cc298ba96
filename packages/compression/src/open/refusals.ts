/** What an opening asks for and the device cannot be: checked before anything is made, and again when it is opened. */
import { type BlockIoError, refuse } from "@dmkit/block-io";
import { BLOCK, BLOCK_SECTORS } from "../format/geometry-v1.ts";
import { type CompressionOptions, compressionOptions } from "../options.ts";

/** An `EINVAL` of an opening. */
export function refusal(device: string, reason: string, hint: string): BlockIoError {
  return refuse(device, "EINVAL", reason, hint);
}

/** Throws `EINVAL` unless `size` bytes are whole blocks, and no more than there are. */
export function requireFit(size: number, dataBlocks: number, name: string): void {
  if (size <= dataBlocks * BLOCK && size % BLOCK === 0) return;
  const hint = `There are ${dataBlocks * BLOCK_SECTORS} sectors; take a multiple of ${BLOCK_SECTORS}.`;
  throw refusal(name, `${size} bytes do not fit`, hint);
}

/** Throws `EINVAL` for options that format 1 has no use for: the table would show what is not. */
export function requireOptionsOfV1(
  { memory, journal }: Pick<CompressionOptions, "memory" | "journal">,
  name: string,
): void {
  const refuse = (option: string, what: string): BlockIoError =>
    refusal(name, `a device of format 1 ${what}`, `Leave the option ${option} out, or use format v2.`);
  if (journal !== compressionOptions.journal.default) throw refuse("journal", "has no journal");
  if (memory !== compressionOptions.memory.default) throw refuse("memory", "keeps no writes in memory");
}
