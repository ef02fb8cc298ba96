/**
 * Reads what extents hold, format 2. While the device below answers at once, so is a read of an extent: in one turn, through
 * one buffer, and decoded only as far as it is wanted. For random blocks of 4 KiB that is half of the time.
 */
import { type BlockDevice, BufferPool, done, isGiven, readWhatIsGiven } from "@dmkit/block-io";
import type { StoredExtent } from "../../core/extent-map.ts";
import { isRaw } from "../../core/plan.ts";
import type { CompressionRules } from "../../core/rules.ts";
import { BLOCK, MAX_EXTENT, payloadBytes } from "../../format/geometry-v1.ts";
import { payloadSum } from "../../format/metadata-v2.ts";
import type { SuperblockV2 } from "../../format/superblock-v2.ts";
import { type Codec, type Flaw } from "../codec.ts";

export interface PayloadParts {
  readonly rules: CompressionRules;
  readonly lower: BlockDevice;
  readonly codec: Codec;
  readonly superblock: SuperblockV2;
}

/** What is wrong with an extent, if anything is; known at once if the device below answers at once. */
export type Found = Flaw | undefined | Promise<Flaw | undefined>;

export class Payloads {
  readonly #parts: PayloadParts;
  readonly #placeOf: (head: number) => number;
  // One is enough where the device below answers at once.
  readonly #buffers: BufferPool = new BufferPool(MAX_EXTENT * BLOCK, 1);

  /** @param placeOf byte on the device below where the payload of an extent begins. */
  constructor(parts: PayloadParts, placeOf: (head: number) => number) {
    this.#parts = parts;
    this.#placeOf = placeOf;
  }

  /** The contents of an extent that has a payload, or what is wrong with it. As {@link read}. */
  async load(extent: StoredExtent, sum: number): Promise<Buffer | Flaw> {
    const contents = Buffer.allocUnsafe(extent.blocks * BLOCK);
    return (await this.read(extent, sum, 0, contents)) ?? contents;
  }

  /**
   * Fills `into` with the contents of an extent that has a payload, from byte `at` of it on. Errors: those of the device below
   * that are no matter of the place. Fails to check, too, if it was overwritten meanwhile: compare versions.
   */
  read(extent: StoredExtent, sum: number, at: number, into: Buffer): Found {
    if (extent.bad) return "metadata";
    const bytes = payloadBytes(extent.sectors);
    if (isRaw(extent) && into.length === bytes) return this.#fill(into, extent, sum, at, into);
    const buffer = this.#buffers.tryAcquire();
    // The device below is asked for whole blocks of its own.
    const unit = this.#parts.lower.limits.logicalBlockSize;
    const length = Math.ceil(bytes / unit) * unit;
    const payload = buffer?.subarray(0, length) ?? Buffer.allocUnsafe(length);
    const found = this.#fill(payload, extent, sum, at, into);
    if (buffer === undefined) return found;
    if (found instanceof Promise) return found.finally(() => this.#buffers.release(buffer));
    this.#buffers.release(buffer);
    return found;
  }

  #fill(payload: Buffer, extent: StoredExtent, sum: number, at: number, into: Buffer): Found {
    const { lower, codec, superblock, rules } = this.#parts;
    const { head, blocks, sectors } = extent;
    const place = this.#placeOf(head);
    const check = (): Found => {
      const exact = payload.subarray(0, payloadBytes(sectors));
      if (!rules.checks(payloadSum(superblock.uuid, head, exact), sum)) return "checksum";
      return codec.decodePart(exact, blocks * BLOCK, at, into);
    };
    const reading = lower.read(place, payload);
    if (reading === done) return check();
    return isGiven(reading).then(async (all) => {
      if (!all && (await readWhatIsGiven(lower, place, payload)).size > 0) return "unreadable";
      return check();
    });
  }
}
