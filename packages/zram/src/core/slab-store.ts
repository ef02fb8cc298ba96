/**
 * Objects of 1 … 4096 bytes in a few large buffers.
 *
 *      segment   4 MiB of memory, 64 slabs
 *      slab      64 KiB, cut into objects of one class
 *      address   slab × 4096 + number of the object in the slab; 32 bits, so 64 GiB at most
 *
 * Invariants:
 *
 * - a slab is free, or belongs to a class; `used` counts its objects in use;
 * - a slab with both used and unused objects is in its class's list of partial slabs, and no other slab is;
 * - unused objects below `fresh` are chained: the first two bytes of each hold the number of the next;
 * - `limit` bounds the bytes of slabs in use, and is looked at before a slab is taken.
 */
import { type ZramRules, zramRules } from "./rules.ts";
import { HUGE_CLASS, classOf, classSizes } from "./size-classes.ts";

export const SLAB: number = 64 * 1024;
const SLABS = 64;
const SEGMENT = SLAB * SLABS;
const SLOTS = 4096;
const MAX_SLABS = 2 ** 20;
const NONE = -1;
const NO_SLOT = 0xffff;
const FREE = 0xff;

/** What {@link SlabStore.put} returns when there is no room. */
export const NO_ROOM = -1;

export class SlabStore {
  /** Bytes slabs may take; Infinity for no limit. */
  limit: number = Number.POSITIVE_INFINITY;
  readonly #rules: ZramRules;
  #segments: (Buffer | undefined)[] = [];
  // The same memory, for the chains of unused objects.
  #chains: (Uint16Array | undefined)[] = [];
  #class = new Uint8Array(SLABS);
  #used = new Uint16Array(SLABS);
  #fresh = new Uint16Array(SLABS);
  #unused = new Uint16Array(SLABS);
  #next = new Int32Array(SLABS);
  #previous = new Int32Array(SLABS);
  #partial = new Int32Array(classSizes.length).fill(NONE);
  #freeSlabs: number[] = [];
  #slabsInUse = 0;
  #peak = 0;

  constructor(rules: ZramRules = zramRules) {
    this.#rules = rules;
  }

  /** Bytes of slabs in use. */
  get usedBytes(): number {
    return this.#slabsInUse * SLAB;
  }

  /** The most {@link usedBytes} has been since the last {@link resetPeak}. */
  get peakBytes(): number {
    return this.#peak * SLAB;
  }

  resetPeak(): void {
    this.#peak = this.#slabsInUse;
  }

  /** Stores a copy of the first `length` bytes; its address, or {@link NO_ROOM}. */
  put(bytes: Buffer, length: number): number {
    const kind = classOf(length);
    const slab = this.#slabFor(kind);
    if (slab === NONE) return NO_ROOM;
    const slot = this.#take(slab, kind);
    const segment = this.#segments[Math.floor(slab / SLABS)] as Buffer;
    bytes.copy(segment, this.#place(slab, slot, kind), 0, length);
    return slab * SLOTS + slot;
  }

  /** Puts other bytes at an address, if its object is just large enough for them. */
  replace(address: number, bytes: Buffer, length: number): boolean {
    const slab = Math.floor(address / SLOTS);
    const kind = this.#class[slab] as number;
    if (!this.#rules.replaces(kind, length)) return false;
    const segment = this.#segments[Math.floor(slab / SLABS)] as Buffer;
    bytes.copy(segment, this.#place(slab, address % SLOTS, kind), 0, length);
    return true;
  }

  /** The first `length` bytes of an object, in place: good until the next change of the store. */
  get(address: number, length: number): Buffer {
    const slab = Math.floor(address / SLOTS);
    const at = this.#place(slab, address % SLOTS, this.#class[slab] as number);
    return (this.#segments[Math.floor(slab / SLABS)] as Buffer).subarray(at, at + length);
  }

  free(address: number, why: "dropped" | "moved" = "dropped"): void {
    if (!this.#rules.frees(why)) return;
    const slab = Math.floor(address / SLOTS);
    const slot = address % SLOTS;
    const kind = this.#class[slab] as number;
    const capacity = capacityOf(kind);
    const used = this.#used[slab] as number;
    if (used === capacity) this.#link(slab, kind);
    const chain = this.#chains[Math.floor(slab / SLABS)] as Uint16Array;
    chain[this.#place(slab, slot, kind) / 2] = this.#unused[slab] as number;
    this.#unused[slab] = slot;
    this.#used[slab] = used - 1;
    if (used === 1) this.#giveBack(slab, kind);
  }

  /**
   * Slabs that are worth emptying, by class: moving their objects to other slabs of their class makes them
   * free. The result tells for each slab whether it is one.
   */
  sparseSlabs(): (slab: number) => boolean {
    const sparse = new Set<number>();
    for (let kind = 0; kind <= HUGE_CLASS; kind += 1) {
      const slabs: number[] = [];
      for (let slab = this.#partial[kind] as number; slab !== NONE; slab = this.#next[slab] as number)
        slabs.push(slab);
      slabs.sort((a, b) => (this.#used[a] as number) - (this.#used[b] as number));
      const capacity = capacityOf(kind);
      let room = slabs.reduce((sum, slab) => sum + capacity - (this.#used[slab] as number), 0);
      for (const slab of slabs) {
        // What is left once this slab is gone must still hold its objects.
        room -= capacity - (this.#used[slab] as number);
        if (room < (this.#used[slab] as number)) break;
        room -= this.#used[slab] as number;
        sparse.add(slab);
      }
    }
    // Nothing is put into them while they are emptied.
    for (const slab of sparse) this.#unlink(slab, this.#class[slab] as number);
    this.#emptying = sparse;
    return (slab) => sparse.has(slab);
  }
  #emptying: Set<number> | undefined;

  /** Moves an object out of a slab that {@link sparseSlabs} named; its new address. */
  move(address: number, length: number): number {
    const moved = this.put(this.get(address, length), length);
    if (moved !== NO_ROOM) this.free(address, "moved");
    return moved === NO_ROOM ? address : moved;
  }

  /** Ends what {@link sparseSlabs} began. */
  endMoving(): void {
    for (const slab of this.#emptying ?? []) this.#link(slab, this.#class[slab] as number);
    this.#emptying = undefined;
  }

  /** Forgets all objects. */
  clear(): void {
    this.#segments = [];
    this.#chains = [];
    this.#freeSlabs = [];
    this.#partial.fill(NONE);
    this.#slabsInUse = 0;
    this.#peak = 0;
  }

  /** The slab an address lies in. */
  static slabOf(address: number): number {
    return Math.floor(address / SLOTS);
  }

  #place(slab: number, slot: number, kind: number): number {
    return (slab % SLABS) * SLAB + slot * (classSizes[kind] as number);
  }

  #take(slab: number, kind: number): number {
    let slot = this.#unused[slab] as number;
    if (slot === NO_SLOT) {
      slot = this.#fresh[slab] as number;
      this.#fresh[slab] = slot + 1;
    } else {
      const chain = this.#chains[Math.floor(slab / SLABS)] as Uint16Array;
      this.#unused[slab] = chain[this.#place(slab, slot, kind) / 2] as number;
    }
    const used = (this.#used[slab] as number) + 1;
    this.#used[slab] = used;
    if (used === capacityOf(kind)) this.#unlink(slab, kind);
    return slot;
  }

  /** A slab of the class with an unused object, or NONE. */
  #slabFor(kind: number): number {
    const partial = this.#partial[kind] as number;
    if (partial !== NONE) return partial;
    if (!this.#rules.fits((this.#slabsInUse + 1) * SLAB, this.limit)) return NONE;
    if (this.#freeSlabs.length === 0 && !this.#addSegment()) return NONE;
    const slab = this.#freeSlabs.pop() as number;
    this.#class[slab] = kind;
    this.#used[slab] = 0;
    this.#fresh[slab] = 0;
    this.#unused[slab] = NO_SLOT;
    this.#slabsInUse += 1;
    this.#peak = Math.max(this.#peak, this.#slabsInUse);
    this.#link(slab, kind);
    return slab;
  }

  #giveBack(slab: number, kind: number): void {
    if (this.#emptying?.delete(slab) !== true) this.#unlink(slab, kind);
    this.#class[slab] = FREE;
    this.#slabsInUse -= 1;
    this.#freeSlabs.push(slab);
    // A segment's worth of free slabs is kept; beyond that, a segment that is free as a whole goes.
    if (this.#freeSlabs.length < 2 * SLABS) return;
    const segment = Math.floor(slab / SLABS);
    const first = segment * SLABS;
    if (this.#class.subarray(first, first + SLABS).some((other) => other !== FREE)) return;
    this.#freeSlabs = this.#freeSlabs.filter((other) => Math.floor(other / SLABS) !== segment);
    this.#segments[segment] = undefined;
    this.#chains[segment] = undefined;
  }

  #addSegment(): boolean {
    let segment = this.#segments.indexOf(undefined);
    if (segment < 0) segment = this.#segments.length;
    const first = segment * SLABS;
    if (first + SLABS > MAX_SLABS) return false;
    const memory = allocate();
    if (memory === undefined) return false;
    this.#segments[segment] = memory;
    this.#chains[segment] = new Uint16Array(memory.buffer, memory.byteOffset, SEGMENT / 2);
    this.#grow(first + SLABS);
    for (let slab = first + SLABS - 1; slab >= first; slab -= 1) {
      this.#class[slab] = FREE;
      this.#freeSlabs.push(slab);
    }
    return true;
  }

  #grow(slabs: number): void {
    if (slabs <= this.#class.length) return;
    const length = Math.max(slabs, this.#class.length * 2);
    const larger = <Table extends Uint8Array | Uint16Array | Int32Array>(
      table: Table,
      made: Table,
    ): Table => {
      made.set(table);
      return made;
    };
    this.#class = larger(this.#class, new Uint8Array(length).fill(FREE));
    this.#used = larger(this.#used, new Uint16Array(length));
    this.#fresh = larger(this.#fresh, new Uint16Array(length));
    this.#unused = larger(this.#unused, new Uint16Array(length));
    this.#next = larger(this.#next, new Int32Array(length));
    this.#previous = larger(this.#previous, new Int32Array(length));
  }

  #link(slab: number, kind: number): void {
    const head = this.#partial[kind] as number;
    this.#next[slab] = head;
    this.#previous[slab] = NONE;
    if (head !== NONE) this.#previous[head] = slab;
    this.#partial[kind] = slab;
  }

  #unlink(slab: number, kind: number): void {
    const next = this.#next[slab] as number;
    const previous = this.#previous[slab] as number;
    if (next !== NONE) this.#previous[next] = previous;
    if (previous === NONE) this.#partial[kind] = next;
    else this.#next[previous] = next;
  }
}

function capacityOf(kind: number): number {
  return Math.floor(SLAB / (classSizes[kind] as number));
}

/** Undefined if the machine has no more memory to give. */
function allocate(): Buffer | undefined {
  try {
    return Buffer.allocUnsafeSlow(SEGMENT);
  } catch {
    return undefined;
  }
}
