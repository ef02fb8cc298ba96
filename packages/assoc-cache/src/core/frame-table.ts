/**
 * The frames of a cache: which block each holds, in what state, in which order they were used. Typed arrays
 * only, 22 to 30 bytes a frame plus 6 to 12 a set; lookup, use, allocation and every change of state are O(1).
 *
 *      free ──bind──▶ filling ──▶ clean ⇄ dirty ⇄ written
 *        ▲───────────────┴──────────┘      ▲          │ the source is flushed
 *                                          └──────────┴──▶ clean
 *
 * `filling`  the block's contents are on their way into the frame; nobody reads it
 * `clean`    the frame equals the source
 * `dirty`    the frame is newer than the source
 * `written`  the frame has been copied to the source, which has not been flushed since
 *
 * Beside the state, three facts about the frame's entry on the cache device:
 *
 * `claim`    the next write of its entry sector says dirty
 * `held`     the entry on the device may say dirty
 * `sure`     the entry on the device does say dirty, durably
 *
 * Invariants:
 *
 * - a block is in one frame at most, and only in a frame of its own set;
 * - a held frame stays bound to its block: only when the loss of its entry is durable may the frame get another
 *   block, or the source newer data of this one;
 * - a frame is in exactly one list of its set: free; evictable (clean and not held), by use; dirty, by use; or in
 *   none (filling, clean but held).
 */
import { Bitmap } from "@dmkit/block-io";
import type { Geometry } from "../format/geometry.ts";
import { type WayArray, WayLists, noWay, wayArray } from "./way-lists.ts";
import { DirtyAges } from "./dirty-ages.ts";
import { Sets } from "./sets.ts";

export const states = { free: 0, filling: 1, clean: 2, dirty: 3, written: 4 } as const;
export type State = (typeof states)[keyof typeof states];

/** Facts about a frame's entry on the device, see above; and one about its contents. */
export const facts = {
  claim: 8,
  held: 16,
  sure: 32,
  /** A write to the frame has succeeded since it was last clean. */
  acknowledged: 64,
  /** It waits for the next commit. */
  queued: 128,
  /** A commit is about to claim it; gone as soon as the frame is clean. */
  staged: 256,
  /** Free, as far as is known: its entry could not be read, and it is not used. See unknown-sets.ts. */
  unknown: 512,
} as const;

const STATE = 7;
/** No frame. */
export const NONE = -1;

export class FrameTable {
  readonly geometry: Geometry;
  readonly sets: Sets;
  /** Frames that are dirty or written. */
  dirty = 0;
  /** Frames that hold a block, in whatever state. */
  bound = 0;
  /** For how long they are. */
  readonly ages: DirtyAges;
  /** Bit n: frame n is dirty or written. */
  readonly dirtyFrames: Bitmap;
  readonly #blocks: Float64Array;
  readonly #flags: Uint16Array;
  readonly #chain: WayArray;
  readonly #buckets: WayArray;
  readonly #free: WayLists;
  readonly #evictable: WayLists;
  readonly #dirty: WayLists;
  readonly #none: number;

  /** @param now milliseconds of a clock that never goes back. */
  constructor(geometry: Geometry, now: () => number = () => 0) {
    const { frames, ways } = geometry;
    this.ages = new DirtyAges(frames, now);
    this.geometry = geometry;
    this.sets = new Sets(geometry);
    this.dirtyFrames = new Bitmap(frames);
    this.#blocks = new Float64Array(frames);
    this.#flags = new Uint16Array(frames);
    this.#none = noWay(ways);
    this.#chain = wayArray(ways, frames);
    this.#buckets = wayArray(ways, frames);
    // A frame is in one list at a time, so all three share their links.
    const links = { next: wayArray(ways, frames), previous: wayArray(ways, frames) };
    this.#free = new WayLists(ways, this.sets.count, links);
    this.#evictable = new WayLists(ways, this.sets.count, links);
    this.#dirty = new WayLists(ways, this.sets.count, links);
    for (let frame = 0; frame < frames; frame += 1) this.#free.append(frame);
  }

  /** The frame that holds `block`, in whatever state, or {@link NONE}. */
  find(block: number): number {
    const { ways } = this.geometry;
    const first = this.sets.of(block) * ways;
    for (let way = this.#buckets[first + bucketOf(block, ways)] as number; way !== this.#none; ) {
      const frame = first + way;
      if (this.#blocks[frame] === block) return frame;
      way = this.#chain[frame] as number;
    }
    return NONE;
  }

  /** The block in a frame that is not free. */
  blockOf(frame: number): number {
    return this.#blocks[frame] as number;
  }

  stateOf(frame: number): State {
    return ((this.#flags[frame] as number) & STATE) as State;
  }

  /** Whether the frame has the fact (or any of the facts, added up). */
  has(frame: number, fact: number): boolean {
    return ((this.#flags[frame] as number) & fact) !== 0;
  }

  isDirty(frame: number): boolean {
    return ((this.#flags[frame] as number) & STATE) >= states.dirty;
  }

  /** Whether the frame's contents may be read: clean, dirty or written. */
  isValid(frame: number): boolean {
    return ((this.#flags[frame] as number) & STATE) >= states.clean;
  }

  /** Whether the source may not be written behind this frame's back: it is dirty, or its entry may say so. */
  isBinding(frame: number): boolean {
    return this.isDirty(frame) || this.has(frame, facts.held);
  }

  /** Makes the frame the most recently used of its list. */
  use(frame: number): void {
    this.#listOf(this.#flags[frame] as number)?.toFront(frame);
  }

  /** A free frame of the block's set, or NONE. */
  freeFrame(block: number): number {
    return this.#free.first(this.sets.of(block));
  }

  /** The least recently used frame of the block's set that may be evicted, or NONE. */
  oldestEvictable(block: number): number {
    return this.#evictable.last(this.sets.of(block));
  }

  /** The evictable frame used next after `frame`, or NONE. */
  nextEvictable(frame: number): number {
    return this.#evictable.before(frame);
  }

  /** The least recently used dirty frame of the block's set, or NONE. */
  oldestDirty(block: number): number {
    return this.#dirty.last(this.sets.of(block));
  }

  /** Puts a block into a free frame, whose contents are still to come. */
  bind(frame: number, block: number): void {
    if (this.stateOf(frame) !== states.free) throw new Error(`assoc-cache: frame ${frame} is not free`);
    const { ways } = this.geometry;
    const bucket = frame - (frame % ways) + bucketOf(block, ways);
    this.#blocks[frame] = block;
    this.#chain[frame] = this.#buckets[bucket] as number;
    this.#buckets[bucket] = frame % ways;
    this.bound += 1;
    this.#change(frame, states.filling);
  }

  /** Empties a frame that is not binding. */
  release(frame: number): void {
    if (this.isBinding(frame)) throw new Error(`assoc-cache: frame ${frame} may not be released`);
    this.#unchain(frame);
    this.bound -= 1;
    this.#change(frame, states.free);
  }

  /** Changes the state of a frame that holds a block. `cold`: the first to be evicted. */
  setState(frame: number, state: State, cold = false): void {
    const flags = this.#flags[frame] as number;
    const keep = state === states.clean ? ~(STATE | facts.acknowledged | facts.staged) : ~STATE;
    this.#change(frame, (flags & keep) | state, cold);
  }

  addFacts(frame: number, added: number): void {
    this.#change(frame, (this.#flags[frame] as number) | added);
  }

  removeFacts(frame: number, removed: number): void {
    this.#change(frame, (this.#flags[frame] as number) & ~removed);
  }

  /** Takes a frame out that is dirty and whose data is given up; for when the cache device is gone. */
  abandon(frame: number): void {
    this.#change(frame, states.clean);
    this.release(frame);
  }

  #change(frame: number, flags: number, cold = false): void {
    const before = this.#flags[frame] as number;
    this.#flags[frame] = flags;
    const wasDirty = (before & STATE) >= states.dirty;
    const isDirty = (flags & STATE) >= states.dirty;
    if (wasDirty !== isDirty) {
      this.dirty += isDirty ? 1 : -1;
      this.dirtyFrames.fill(frame, 1, isDirty);
      this.ages.changed(frame, isDirty);
    }
    const from = this.#listOf(before);
    const to = this.#listOf(flags);
    if (from === to) return;
    from?.remove(frame);
    if (cold) to?.append(frame);
    else to?.prepend(frame);
  }

  #listOf(flags: number): WayLists | undefined {
    switch (flags & STATE) {
      case states.free:
        return (flags & facts.unknown) === 0 ? this.#free : undefined;
      case states.clean:
        return (flags & facts.held) === 0 ? this.#evictable : undefined;
      case states.dirty:
      case states.written:
        return this.#dirty;
      default:
        return undefined;
    }
  }

  #unchain(frame: number): void {
    const { ways } = this.geometry;
    const way = frame % ways;
    const first = frame - way;
    const bucket = first + bucketOf(this.#blocks[frame] as number, ways);
    let at = this.#buckets[bucket] as number;
    if (at === way) {
      this.#buckets[bucket] = this.#chain[frame] as number;
      return;
    }
    while (this.#chain[first + at] !== way) at = this.#chain[first + at] as number;
    this.#chain[first + at] = this.#chain[frame] as number;
  }
}

/** Spreads the blocks of a set over as many buckets as it has ways. */
function bucketOf(block: number, ways: number): number {
  const mixed = Math.imul(block | 0, 0x9e37_79b1) ^ Math.floor(block / 0x1_0000_0000);
  // The high bits of a product depend on all bits of the factor.
  return ((mixed >>> 8) ^ (mixed >>> 20)) & (ways - 1);
}
