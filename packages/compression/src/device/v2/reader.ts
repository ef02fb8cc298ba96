/**
 * Reads, format 2: memory first, then the device below, then the journal where that does not give what it should. Readers take
 * no lock: store.ts says how they notice that they met a write in progress.
 */
import { done, isLossless, join } from "@dmkit/block-io";
import type { Flaw } from "../codec.ts";
import type { StoredExtent } from "../../core/extent-map.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { GROUP } from "../../format/layout-v2.ts";
import type { Found } from "./payloads.ts";
import type { Recall } from "./recall.ts";
import type { Staging } from "./staging.ts";
import type { Store } from "./store.ts";

export interface ReaderParts {
  readonly store: Store;
  readonly staging: Staging;
  readonly recall: Recall;
}

/** At an extent, as it was known then. */
interface Look {
  readonly extent: StoredExtent;
  readonly version: number | undefined;
  readonly read: () => Found;
}

export class Reader {
  readonly #parts: ReaderParts;
  readonly #owing: () => void;

  /** @param owing told when a place is to be written anew. */
  constructor(parts: ReaderParts, owing: () => void) {
    this.#parts = parts;
    this.#owing = owing;
  }

  /** Whole blocks, from block `first` on. Errors: `EIO` of what is damaged, and the journal does not have; those of the device below. */
  read(first: number, into: Buffer): Promise<void> {
    const { staging, store } = this.#parts;
    const end = first + into.length / BLOCK;
    let reads: Promise<void>[] | undefined;
    for (let block = first; block < end; ) {
      const at = (block - first) * BLOCK;
      const waiting = staging.get(block) ?? store.held.get(block);
      if (waiting !== undefined) {
        waiting.copy(into, at);
        block += 1;
      } else if (store.map.isHole(block)) {
        into.fill(0, at, at + BLOCK);
        block += 1;
      } else {
        const start = block;
        const extent = store.map.find(block);
        const stop = Math.min(end, extent.head + extent.blocks);
        do block += 1;
        while (block < stop && staging.get(block) === undefined);
        const piece = into.subarray(at, at + (block - start) * BLOCK);
        const reading = this.#readStored(start, piece);
        if (reading !== done) (reads ??= []).push(reading);
      }
    }
    if (reads === undefined) return done;
    return reads.length === 1 ? (reads[0] as Promise<void>) : join(reads);
  }

  /** Blocks of one extent that are not in memory. */
  #readStored(first: number, into: Buffer): Promise<void> {
    const isMoving = this.#parts.store.moving.has(Math.floor(first / GROUP));
    return isMoving ? this.#readMoving(first, into) : this.#readPlace(first, into);
  }

  async #readMoving(first: number, into: Buffer): Promise<void> {
    const { store } = this.#parts;
    try {
      await store.settled;
      return await this.read(first, into);
    } catch (error) {
      if (!isLossless(error) || store.isMoved(store.map.find(first))) throw error;
    }
    return this.#readPlace(first, into);
  }

  #readPlace(first: number, into: Buffer): Promise<void> {
    const { store } = this.#parts;
    const extent = store.map.find(first);
    const sum = store.sums[extent.head] as number;
    const version = store.versions[Math.floor(first / GROUP)];
    const read = (): Found => store.payloads.read(extent, sum, (first - extent.head) * BLOCK, into);
    const flaw = read();
    return flaw === undefined ? done : this.#readAgain(first, into, { extent, version, read }, flaw);
  }

  /**
   * Damage is believed when it was seen twice, and the journal does not have the extent.
   * @param flaw what the first look has found, if anything.
   */
  async #readAgain(first: number, into: Buffer, at: Look, flaw: Found): Promise<void> {
    const { versions } = this.#parts.store;
    let found = await flaw;
    for (let look = 1; found !== undefined; look += 1) {
      if (versions[Math.floor(first / GROUP)] !== at.version) return this.read(first, into);
      if (look === 2) return this.#recall(first, into, at, found);
      found = await at.read();
    }
  }

  async #recall(first: number, into: Buffer, { extent, version }: Look, flaw: Flaw): Promise<void> {
    const { store, recall } = this.#parts;
    const contents = await recall.contents(extent);
    if (contents === undefined) {
      if (store.versions[Math.floor(first / GROUP)] !== version) return this.read(first, into);
      throw store.damaged(extent, flaw);
    }
    const at = (first - extent.head) * BLOCK;
    contents.copy(into, 0, at, at + into.length);
    if (recall.owes) this.#owing();
  }
}
