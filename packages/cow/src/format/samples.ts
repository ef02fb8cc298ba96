/**
 * What an identity remembers of the layer's data: a hash of some sectors that are in the layer. Little-endian.
 *
 *      byte   0   8   sector of the target
 *             8   8   the first 8 bytes of SHA-256 over: UUID (16 bytes), sector (8), its 512 bytes
 *
 * The hash is cryptographic: data that carry a CRC of themselves leave a CRC over them the same however they change.
 */
import { createHash } from "node:crypto";
import { setU64, tryU64 } from "@dmkit/block-io";

/** A sector by which the data device of a layer is known. */
export interface Sample {
  readonly sector: number;
  /** 16 hexadecimal digits. */
  readonly hash: string;
}

/** The most of them. */
export const SAMPLES = 16;
const SAMPLE = 16;
const HASH_BYTES = 8;

/** @param uuid of the layer, 16 bytes. @param bytes of the sector, 512. */
export function hashOf(uuid: Uint8Array, sector: number, bytes: Uint8Array): string {
  const number = Buffer.alloc(8);
  setU64(number, 0, sector);
  const digest = createHash("sha256").update(uuid).update(number).update(bytes).digest();
  return digest.toString("hex", 0, HASH_BYTES);
}

/** @param samples at most {@link SAMPLES}, ascending. */
export function putSamples(into: Buffer, at: number, samples: readonly Sample[]): void {
  for (const [index, { sector, hash }] of samples.entries()) {
    setU64(into, at + index * SAMPLE, sector);
    into.write(hash, at + index * SAMPLE + 8, HASH_BYTES, "hex");
  }
}

/** Undefined where they are not ascending, or not of a target of so many sectors. */
export function getSamples(from: Buffer, at: number, count: number, sectors: number): Sample[] | undefined {
  const samples: Sample[] = [];
  for (let index = 0; index < count; index += 1) {
    const start = at + index * SAMPLE;
    const sector = tryU64(from, start);
    // Also refuses NaN.
    if (!(sector < sectors && sector > (samples.at(-1)?.sector ?? -1))) return undefined;
    samples.push({ sector, hash: from.toString("hex", start + 8, start + SAMPLE) });
  }
  return samples;
}
