/**
 * The metadata blocks of a device of format 1: which of them have to be written, and when.
 *
 * Invariants:
 *
 * - a metadata block is written by one at a time; what it holds is the map as it was when it was packed;
 * - a flush packs first, then makes the data stable, then writes what was packed: so nothing gets into metadata by
 *   a flush whose data is not stable;
 * - a flush is over when the metadata that it covers is stable, whoever wrote it; what others failed to write it
 *   writes itself;
 * - a metadata block that its place does not take fails the flush, and keeps no other from being stable.
 */
import type { DeviceV1Parts } from "./parts.ts";
import type { SealedEntries } from "./sealed.ts";
import type { CompressionRules } from "../../core/rules.ts";
import {
  Bitmap,
  type BlockDevice,
  type BlockIoError,
  type RangeGrant,
  RangeLock,
  done,
  isLossless,
  isOfPlace,
  join,
} from "@dmkit/block-io";
import type { ExtentMap } from "../../core/extent-map.ts";
import type { Counters } from "../counters.ts";
import { metaBlocksOf, packBlock } from "../../format/entries-v1.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { keptInMemory } from "../no-space.ts";

// Blocks packed at a time.
const BATCH = 64;

interface Packed {
  readonly page: number;
  readonly grant: RangeGrant;
  readonly bytes: Buffer;
}

export type MetadataV1Parts = Pick<
  DeviceV1Parts,
  "lower" | "map" | "sealed" | "metaBlocks" | "counters" | "rules"
>;

export class MetadataV1 {
  readonly #lower: BlockDevice;
  readonly #map: ExtentMap;
  readonly #sealed: SealedEntries | undefined;
  readonly #counters: Counters;
  readonly #rules: CompressionRules;
  readonly #dirty: Bitmap;
  // Changed since the last flush began.
  #recent: Bitmap;
  readonly #lock = new RangeLock();

  constructor({ lower, map, sealed, metaBlocks, counters, rules }: MetadataV1Parts) {
    this.#lower = lower;
    this.#map = map;
    this.#sealed = sealed;
    this.#counters = counters;
    this.#rules = rules;
    this.#dirty = new Bitmap(metaBlocks);
    this.#recent = new Bitmap(metaBlocks);
  }

  /** The entries of these blocks have changed. */
  touch(first: number, blocks: number): void {
    const pages = metaBlocksOf(first, blocks);
    this.#dirty.set(pages.first, pages.last - pages.first + 1);
    this.#recent.set(pages.first, pages.last - pages.first + 1);
  }

  /** Right after a flush: whether what is stable is what the map says of these blocks. */
  isStable(first: number, blocks: number): boolean {
    const pages = metaBlocksOf(first, blocks);
    return this.#recent.find(true, pages.first, pages.last + 1) > pages.last;
  }

  /** Writes what has changed of these blocks' entries; not stable yet. */
  async write(first: number, blocks: number): Promise<void> {
    const { last, first: from } = metaBlocksOf(first, blocks);
    const end = Math.min(last + 1, this.#dirty.length);
    for (let page = this.#dirty.find(true, from, end); page < end; ) {
      const grant = await this.#lock.acquire(page, 1, true);
      if (this.#dirty.get(page)) await this.#writePacked(this.#pack(page, grant));
      else this.#lock.release(grant);
      page = this.#dirty.find(true, page + 1, end);
    }
  }

  /** Data, then the metadata that describes it, are stable. */
  async flush(): Promise<void> {
    const length = this.#dirty.length;
    this.#recent = new Bitmap(length);
    await this.#atRest();
    if (this.#dirty.find(true, 0) === length) return this.#dataStable();
    let bad: BlockIoError | undefined;
    for (let from = 0; from < length; ) {
      const { packed, next } = await this.#packBatch(from);
      await this.#writeBatch(packed).catch((error: unknown) => {
        if (!isOfPlace(error) || !isLossless(error)) throw error;
        bad = error;
      });
      from = next;
    }
    await this.#atRest();
    if (this.#rules.flushesMetadata) await this.#lower.flush();
    if (bad !== undefined) throw bad;
  }

  #dataStable(): Promise<void> {
    return this.#rules.flushesData ? this.#lower.flush() : done;
  }

  /** Waits until no metadata write is under way that was when this was called. */
  async #atRest(): Promise<void> {
    if (this.#lock.pending === 0 || !this.#rules.waitsForOthers) return;
    this.#lock.release(await this.#lock.acquire(0, this.#dirty.length, true));
  }

  /** Changed metadata blocks from `from` on, as they are at one moment; where to go on. */
  async #packBatch(from: number): Promise<{ packed: Packed[]; next: number }> {
    const length = this.#dirty.length;
    const grants: [number, RangeGrant][] = [];
    let page = this.#dirty.find(true, from);
    for (; page < length && grants.length < BATCH; page = this.#dirty.find(true, page + 1)) {
      grants.push([page, await this.#lock.acquire(page, 1, true)]);
    }
    const packed: Packed[] = [];
    for (const [at, grant] of grants) {
      if (this.#dirty.get(at)) packed.push(this.#pack(at, grant));
      else this.#lock.release(grant);
    }
    return { packed, next: page };
  }

  #pack(page: number, grant: RangeGrant): Packed {
    const bytes = Buffer.alloc(BLOCK);
    packBlock(this.#map.states, page, bytes);
    this.#dirty.clear(page);
    return { page, grant, bytes };
  }

  async #writeBatch(packed: readonly Packed[]): Promise<void> {
    try {
      await this.#dataStable();
    } catch (error) {
      for (const { page, grant } of packed) {
        this.#dirty.set(page);
        this.#lock.release(grant);
      }
      throw error;
    }
    await join(packed.map((one) => this.#writePacked(one)));
  }

  async #writePacked({ page, grant, bytes }: Packed): Promise<void> {
    try {
      this.#counters.metadata += BLOCK;
      await (this.#sealed?.write(page, bytes) ?? this.#lower.write((1 + page) * BLOCK, bytes));
    } catch (error) {
      if (!this.#rules.fails("metadata")) return;
      // It is written by the next flush.
      this.#dirty.set(page);
      throw keptInMemory(error);
    } finally {
      this.#lock.release(grant);
    }
  }
}
