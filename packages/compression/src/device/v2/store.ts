/**
 * What is on the device below, format 2: the map of extents with their checksums, and how an extent is read.
 *
 * Invariants:
 *
 * - a group is in `moving` while anything of it is overwritten in place; readers wait for `settled`. Where that ends
 *   for want of space, they go on with what is not overwritten;
 * - `versions[group]` counts up before that begins. A reader whose extent does not check, and whose group has
 *   another version by then, has looked at a write in progress and looks again; in a group that did not change,
 *   the extent is damaged.
 */
import type { CompressionRules } from "../../core/rules.ts";
import { BlockIoError, type BlockDevice, type Logger } from "@dmkit/block-io";
import { type Codec, payloadBytes } from "../codec.ts";
import { type StoredExtent, ExtentMap } from "../../core/extent-map.ts";
import type { Counters } from "../counters.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { payloadSum } from "../../format/metadata-v2.ts";
import type { SuperblockV2 } from "../../format/superblock-v2.ts";

export interface StoreParts {
  readonly rules: CompressionRules;
  readonly lower: BlockDevice;
  readonly codec: Codec;
  readonly superblock: SuperblockV2;
  readonly logger: Logger;
  readonly counters: Counters;
}

export class Store {
  readonly parts: StoreParts;
  readonly map: ExtentMap;
  readonly sums: Uint32Array;
  readonly versions: Uint32Array;
  moving: ReadonlySet<number> = new Set();
  /** Blocks whose payloads are being overwritten: what the map says of them is not what is there. */
  moved: readonly { readonly first: number; readonly blocks: number }[] = [];
  /** Groups whose metadata could not be read when the device was opened. */
  readonly unreadable: Set<number> = new Set();
  /** Resolves when nothing moves any more; rejects if what was moving is left half done. */
  settled: Promise<void> = Promise.resolve();
  /** Bytes from the start of the device below to block 0. */
  readonly dataOffset: number;

  constructor(parts: StoreParts) {
    this.parts = parts;
    const { dataBlocks, dataStart } = parts.superblock.layout;
    this.map = new ExtentMap(dataBlocks);
    this.sums = new Uint32Array(dataBlocks);
    this.versions = new Uint32Array(Math.ceil(dataBlocks / GROUP));
    this.dataOffset = dataStart * BLOCK;
  }

  /** Whether an extent, as the map has it, lies where payloads are being overwritten. */
  isMoved({ head, blocks }: StoredExtent): boolean {
    return this.moved.some((change) => change.first < head + blocks && head < change.first + change.blocks);
  }

  /** Byte on the device below where the payload of an extent begins. */
  placeOf(head: number): number {
    return this.dataOffset + head * BLOCK;
  }

  /**
   * The contents of an extent that has a payload; undefined if it is damaged. Errors: those of the device below.
   * Fails to check, too, if it was overwritten meanwhile: compare versions.
   */
  async load(extent: StoredExtent, sum: number): Promise<Buffer | undefined> {
    if (extent.bad) return undefined;
    const { lower, codec, superblock } = this.parts;
    const payload = Buffer.allocUnsafe(this.#readable(payloadBytes(extent.sectors)));
    await lower.read(this.placeOf(extent.head), payload);
    const exact = payload.subarray(0, payloadBytes(extent.sectors));
    if (!this.parts.rules.checks(payloadSum(superblock.uuid, extent.head, exact), sum)) return undefined;
    if (exact.length === extent.blocks * BLOCK) return exact;
    const contents = Buffer.allocUnsafe(extent.blocks * BLOCK);
    return (await codec.decode(exact, contents)) === undefined ? contents : undefined;
  }

  /** Counts damage, says where it is, and makes the error to report. */
  damaged({ head, blocks, sectors, bad }: StoredExtent): BlockIoError {
    const { logger, counters, lower } = this.parts;
    counters.damaged += 1;
    logger.log("error", "damaged extent", { block: head, blocks, sectors, place: this.placeOf(head) });
    return new BlockIoError(
      bad
        ? `what blocks ${head} … ${head + blocks - 1} held is lost`
        : `the extent at block ${head} is damaged`,
      {
        code: "EIO",
        device: lower.name,
        op: "read",
        offset: head * BLOCK,
        length: blocks * BLOCK,
        hint: "Restore it from a backup, or overwrite the blocks. Check the device below.",
      },
    );
  }

  /** Bytes to read so that the device below is asked for whole blocks of its own. */
  #readable(bytes: number): number {
    const unit = this.parts.lower.limits.logicalBlockSize;
    return Math.ceil(bytes / unit) * unit;
  }
}
