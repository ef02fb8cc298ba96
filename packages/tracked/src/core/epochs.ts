/**
 * The epochs of a device and their bitmaps, in memory.
 *
 * Invariants:
 *
 * - a bit is never cleared while its epoch is there;
 * - a chunk is *settled* only if its bit is set in every epoch, and is on stable storage in all of them: only then may a
 *   write to it go on without waiting;
 * - every page that differs from what is on stable storage is dirty, or taken by whoever writes it.
 */
import { Bitmap } from "@dmkit/block-io";
import { type Geometry, PAGE_BITS_BYTES, PAGE_CHUNKS, chunksOf, pagesOf } from "../format/geometry.ts";
import type { EpochRecord } from "../format/superblock.ts";

/** An epoch, and what has changed since it began. */
export interface Epoch extends EpochRecord {
  excess: boolean;
  /** By chunk. Whole pages: bits behind the last chunk are clear. */
  readonly bits: Bitmap;
  /** Bits that are set. */
  marked: number;
  /** Pages to be written. */
  readonly dirty: Set<number>;
  /** The superblock says on stable storage that it is there. */
  isRecorded: boolean;
}

/** Chunks in a row. */
interface Run {
  readonly first: number;
  readonly count: number;
}

/** A page as it was when it was taken. */
export interface TakenPage {
  readonly epoch: Epoch;
  readonly page: number;
}

/** What is to be made stable together. */
export interface Taken {
  readonly pages: readonly TakenPage[];
  readonly runs: readonly Run[];
  /** Epochs that had begun by then. */
  readonly begun: number;
}

/** The epochs of one device. */
export class EpochTable {
  readonly geometry: Geometry;
  readonly chunks: number;
  #epochs: Epoch[] = [];
  #settled: Bitmap;
  #waiting: Run[] = [];
  #begun = 0;
  #changes = 0;

  constructor(geometry: Geometry) {
    this.geometry = geometry;
    this.chunks = chunksOf(geometry);
    this.#settled = new Bitmap(this.chunks);
  }

  /** By slot. */
  get epochs(): readonly Epoch[] {
    return this.#epochs;
  }

  /** Counts what there is to make stable. */
  get changes(): number {
    return this.#changes;
  }

  find(name: string): Epoch | undefined {
    return this.#epochs.find((epoch) => epoch.name === name);
  }

  /** A slot that no epoch has; undefined if there is none. */
  freeSlot(): number | undefined {
    for (let slot = 0; slot < this.geometry.slots; slot += 1) {
      if (!this.#epochs.some((epoch) => epoch.slot === slot)) return slot;
    }
    return undefined;
  }

  /** Adds an epoch; every write from now on is in it. @param isRecorded whether the superblock has it already. */
  add(record: EpochRecord, isRecorded: boolean): Epoch {
    const bytes = new Uint8Array(pagesOf(this.geometry) * PAGE_BITS_BYTES);
    const bits = new Bitmap(this.chunks, bytes);
    const epoch: Epoch = { ...record, bits, marked: 0, dirty: new Set(), isRecorded };
    this.#epochs = [...this.#epochs, epoch].toSorted((a, b) => a.slot - b.slot);
    this.#settled = new Bitmap(this.chunks);
    // What waits is set in the others only.
    this.#waiting = [];
    this.#begun += 1;
    return epoch;
  }

  /** What is settled without it stays settled: it is set in the others. */
  remove(epoch: Epoch): void {
    this.#epochs = this.#epochs.filter((one) => one !== epoch);
  }

  /** Takes the bits of a page from stable storage; undefined: the page is lost, and everything in it is marked. */
  load(epoch: Epoch, page: number, bits: Uint8Array | undefined): void {
    const first = page * PAGE_CHUNKS;
    const end = Math.min(this.chunks, first + PAGE_CHUNKS);
    if (bits === undefined) {
      this.#set(epoch, first, end - first);
      epoch.excess = true;
    } else {
      epoch.bits.bytes.set(bits, page * PAGE_BITS_BYTES);
      // Whoever reads runs of bits relies on there being none behind the last chunk.
      const beyond = (end - first) % 8;
      const last = Math.floor(end / 8);
      if (end === this.chunks && last < epoch.bits.bytes.length) {
        epoch.bits.bytes[last] = (epoch.bits.bytes[last] as number) & ((1 << beyond) - 1);
        epoch.bits.bytes.fill(0, last + 1);
      }
      epoch.marked += epoch.bits.count(first, end);
    }
  }

  /** Marks everything in all epochs. */
  markAll(): void {
    for (const epoch of this.#epochs) {
      this.#set(epoch, 0, this.chunks);
      epoch.excess = true;
    }
  }

  /** What all epochs have on stable storage, where nothing is dirty, is settled. After loading. */
  settleAll(): void {
    const [first, ...others] = this.#epochs;
    if (first === undefined) return;
    this.#settled.bytes.set(first.bits.bytes.subarray(0, this.#settled.bytes.length));
    for (const { bits } of others) {
      for (let at = 0; at < this.#settled.bytes.length; at += 1)
        this.#settled.bytes[at] = (this.#settled.bytes[at] as number) & (bits.bytes[at] as number);
    }
  }

  /** Whether a write to these chunks needs no bit that is not there. */
  covers(first: number, end: number): boolean {
    if (this.#epochs.length === 0) return true;
    return end === first + 1 ? this.#settled.get(first) : this.#settled.find(false, first, end) === end;
  }

  /**
   * How many chunks behind `end` a write of the chunks from `first` on should mark as well: as many as are marked in a row
   * up to `end`, at most `most`. A stream that goes on so waits ever more seldom, and no more than twice what it has
   * written is marked. None for a write that continues nothing.
   */
  ahead(first: number, end: number, most: number): number {
    let run = 0;
    while (run < most && run < first && this.#settled.get(first - 1 - run)) run += 1;
    if (run === 0) return 0;
    return Math.min(most, run + end - first, this.chunks - end);
  }

  /** Sets the bits of chunks in all epochs; they are settled when what {@link take} gives from now on is stable. */
  mark(first: number, count: number): void {
    for (const epoch of this.#epochs) this.#set(epoch, first, count);
    this.#waiting.push({ first, count });
  }

  /** `into` has all that `from` has. */
  merge(from: Epoch, into: Epoch): void {
    const [source, target] = [from.bits.bytes, into.bits.bytes];
    for (let page = 0; page < pagesOf(this.geometry); page += 1) {
      for (let at = page * PAGE_BITS_BYTES; at < (page + 1) * PAGE_BITS_BYTES; at += 1) {
        const more = (source[at] as number) & ~(target[at] as number);
        if (more === 0) continue;
        target[at] = (target[at] as number) | more;
        into.dirty.add(page);
      }
    }
    into.marked = into.bits.count();
    into.excess ||= from.excess;
    this.#changes += 1;
  }

  /** All that has to be written, which is not dirty any more. One of {@link settle} and {@link giveBack} follows. */
  take(): Taken {
    const pages = this.#epochs.flatMap((epoch) => {
      const dirty = [...epoch.dirty].toSorted((a, b) => a - b);
      epoch.dirty.clear();
      return dirty.map((page) => ({ epoch, page }));
    });
    return { pages, runs: this.#waiting.splice(0), begun: this.#begun };
  }

  /** What was taken is on stable storage. */
  settle({ runs, begun }: Taken): void {
    // An epoch that has begun since has none of these bits.
    if (begun !== this.#begun) return;
    for (const { first, count } of runs) this.#settled.set(first, count);
  }

  /** What was taken could not be made stable: who marks these chunks next tries again. */
  giveBack({ pages }: Taken): void {
    for (const { epoch, page } of pages) epoch.dirty.add(page);
    this.#changes += 1;
  }

  #set(epoch: Epoch, first: number, count: number): void {
    const missing = count - epoch.bits.count(first, first + count);
    if (missing === 0) return;
    epoch.bits.set(first, count);
    epoch.marked += missing;
    const last = Math.floor((first + count - 1) / PAGE_CHUNKS);
    for (let page = Math.floor(first / PAGE_CHUNKS); page <= last; page += 1) epoch.dirty.add(page);
    this.#changes += 1;
  }
}
