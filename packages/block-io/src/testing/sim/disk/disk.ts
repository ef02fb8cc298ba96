/**
 * The medium of a simulated disk with a volatile cache. For every sector it keeps apart what is stable and
 * what merely may be:
 *
 *      stable     survives every crash
 *      current    what a read sees: the last write that completed
 *      pending    writes issued since, complete or not: each sector of each of them may or may not survive
 *
 * Invariants:
 *
 * - a flush makes stable exactly what completed before it was issued; a FUA write makes itself stable;
 * - `stableAt[s]` is the completion number of the stable version of sector s: older versions cannot come back;
 * - a write in flight may have landed in any of its sectors; one that failed has landed in some and is over;
 * - sectors are written whole or not at all.
 */
import { SECTOR } from "../../../contract/device.ts";
import { FaultInjector } from "./faults.ts";
import { INITIAL, stamp } from "../format/stamp.ts";
import { Prng } from "../prng.ts";
import type { World } from "./world.ts";

export interface DiskSpec {
  readonly name: string;
  /** Bytes; a multiple of the logical block size. */
  readonly size: number;
  /** What it holds at first: zeroes, stamps of version INITIAL, or noise, as a used disk would. */
  readonly fill?: "zero" | "stamps" | "noise" | undefined;
  /** 512 unless told otherwise. */
  readonly logicalBlockSize?: 512 | 4096 | undefined;
  /** What discard does: nothing, zeroes, or either by chance in each sector. Zeroes unless told otherwise. */
  readonly discard?: "none" | "zeroes" | "either" | undefined;
}

/** A write that is not known to be stable. */
export interface PendingWrite {
  readonly offset: number;
  readonly length: number;
  /** Undefined: zeroes. While in flight it may be the caller's own buffer. */
  data: Buffer | undefined;
  /** Its place in the order of completions; Infinity while it is in flight. */
  completed: number;
}

/** Everything a crash depends on; see {@link SimDisk.snapshot}. */
export interface DiskSnapshot {
  readonly stable: Buffer;
  readonly stableAt: Float64Array;
  readonly pending: readonly PendingWrite[];
}

/** Whether a sector of the pending write with this index survives a crash. */
export type Landed = (write: number, sector: number) => boolean;

const IN_FLIGHT = Number.POSITIVE_INFINITY;

export class SimDisk {
  readonly spec: DiskSpec;
  readonly index: number;
  readonly world: World;
  readonly stable: Buffer;
  readonly current: Buffer;
  /** In the order they completed, then those in flight in the order they were issued. */
  pending: PendingWrite[] = [];
  /** What goes wrong in this generation. */
  faults: FaultInjector = new FaultInjector();
  /** The disk's own choices: when it looks at a buffer, what a failure leaves behind. */
  random: Prng;
  /** Flushes that failed; all that were in flight then fail with them. */
  failedFlushes = 0;
  /** Counts whatever could change the outcome of a crash. */
  changes = 0;
  readonly #stableAt: Float64Array;
  #completions = 0;
  // Set when current and stable differ outside of the pending writes.
  #forgetful = false;

  constructor(spec: DiskSpec, index: number, world: World, seed: number) {
    this.spec = spec;
    this.index = index;
    this.world = world;
    this.stable = Buffer.alloc(spec.size);
    this.random = new Prng(seed, index);
    if (spec.fill === "stamps") {
      for (let at = 0; at < spec.size; at += SECTOR) stamp(this.stable, at, INITIAL, at / SECTOR);
    } else if (spec.fill === "noise") {
      for (let at = 0; at < spec.size; at += 1) this.stable[at] = this.random.u32() & 0xff;
    }
    this.current = Buffer.from(this.stable);
    this.#stableAt = new Float64Array(spec.size / SECTOR);
  }

  /** Writes completed so far: what a flush that is issued now will cover. */
  get completions(): number {
    return this.#completions;
  }

  /** Whether this sector of a pending write could still replace the stable one. */
  mayLand(write: PendingWrite, sector: number): boolean {
    return write.completed > (this.#stableAt[sector] as number);
  }

  /** A write has been issued. `data` undefined: zeroes. */
  begin(offset: number, length: number, data: Buffer | undefined): PendingWrite {
    // When a disk looks at the buffer is up to the disk: at once, or as late as the answer.
    const early = data !== undefined && this.random.chance(0.5);
    const write = { offset, length, data: early ? Buffer.from(data) : data, completed: IN_FLIGHT };
    this.pending.push(write);
    this.changes += 1;
    return write;
  }

  /** A write in flight is done; with `elsewhere` set, in the wrong place. */
  complete(write: PendingWrite, from: Buffer | undefined, elsewhere: number = write.offset): PendingWrite {
    this.#completions += 1;
    const done: PendingWrite = {
      offset: elsewhere,
      length: write.length,
      data: write.data !== undefined && write.data === from ? Buffer.from(write.data) : write.data,
      completed: this.#completions,
    };
    this.#replace(write, [done]);
    return done;
  }

  /** A write in flight fails: the sectors for which `lands` says so are new, the others old. */
  fail(write: PendingWrite, lands: (sector: number) => boolean): void {
    this.#completions += 1;
    const landed: PendingWrite[] = [];
    for (let at = 0; at < write.length; at += SECTOR) {
      if (!lands(at / SECTOR)) continue;
      const data = write.data === undefined ? undefined : Buffer.from(write.data.subarray(at, at + SECTOR));
      landed.push({ offset: write.offset + at, length: SECTOR, data, completed: this.#completions });
    }
    this.#replace(write, landed);
  }

  /** Makes a completed write stable by itself. */
  settle(write: PendingWrite): void {
    this.#makeStable(write);
    this.pending.splice(this.pending.indexOf(write), 1);
  }

  /** A flush issued when `completions` writes had completed has succeeded. */
  flushed(completions: number): void {
    let count = 0;
    for (const write of this.pending) {
      if (write.completed > completions) break;
      this.#makeStable(write);
      count += 1;
    }
    this.pending.splice(0, count);
    this.changes += 1;
  }

  /** A failed flush forgets, by chance, what it should have made stable. Reads still see it. */
  forget(completions: number): void {
    this.#forgetful = true;
    this.pending = this.pending.filter((write) => write.completed > completions || this.random.chance(0.3));
  }

  /** One bit of the medium changes within the range. */
  rot(offset: number, length: number): void {
    const at = offset + this.random.below(length);
    const bit = 1 << this.random.below(8);
    this.stable[at] = (this.stable[at] as number) ^ bit;
    this.current[at] = (this.current[at] as number) ^ bit;
  }

  /** Some other place for a write of this size; where it belongs if there is none. */
  elsewhere(offset: number, length: number): number {
    const block = this.spec.logicalBlockSize ?? SECTOR;
    const last = Math.floor((this.spec.size - length) / block) * block;
    const other = this.random.below(last / block + 1) * block;
    return other === offset ? last : other;
  }

  /** The power fails. `landed` is asked for sectors that may land, in the order in which they are applied. */
  crash(landed: Landed): void {
    for (const [index, write] of this.pending.entries()) {
      const first = write.offset / SECTOR;
      for (let sector = first; sector < first + write.length / SECTOR; sector += 1) {
        if (this.mayLand(write, sector) && landed(index, sector))
          this.#copySector(write, sector, this.stable);
      }
    }
    if (this.#forgetful) this.stable.copy(this.current);
    else for (const { offset, length } of this.pending) this.#restore(offset, length);
    this.#forgetful = false;
    this.pending = [];
  }

  /** Whoever was writing is gone, and the disk goes on: of a write in flight any sectors are written, not yet stable. */
  kill(random: Prng): void {
    for (const write of this.pending.filter(({ completed }) => completed === IN_FLIGHT)) {
      this.fail(write, () => random.chance(0.5));
    }
  }

  /** Everything a crash depends on, to crash from here more than once. */
  snapshot(): DiskSnapshot {
    const pending = this.pending.map((write) => ({
      ...write,
      data: write.data === undefined ? undefined : Buffer.from(write.data),
    }));
    return { stable: Buffer.from(this.stable), stableAt: this.#stableAt.slice(), pending };
  }

  /** Goes back to a snapshot, with nothing visible that is not stable. */
  restore(snapshot: DiskSnapshot): void {
    snapshot.stable.copy(this.stable);
    snapshot.stable.copy(this.current);
    this.#stableAt.set(snapshot.stableAt);
    this.pending = snapshot.pending.slice();
  }

  #replace(write: PendingWrite, done: readonly PendingWrite[]): void {
    this.changes += 1;
    const { pending } = this;
    pending.splice(pending.indexOf(write), 1);
    let place = pending.length;
    while (place > 0 && (pending[place - 1] as PendingWrite).completed === IN_FLIGHT) place -= 1;
    pending.splice(place, 0, ...done);
    for (const { offset, length, data } of done) {
      if (data === undefined) this.current.fill(0, offset, offset + length);
      else data.copy(this.current, offset);
    }
  }

  #makeStable(write: PendingWrite): void {
    const first = write.offset / SECTOR;
    for (let sector = first; sector < first + write.length / SECTOR; sector += 1) {
      if (!this.mayLand(write, sector)) continue;
      this.#copySector(write, sector, this.stable);
      this.#stableAt[sector] = write.completed;
    }
  }

  #copySector({ offset, data }: PendingWrite, sector: number, into: Buffer): void {
    const at = sector * SECTOR;
    if (data === undefined) into.fill(0, at, at + SECTOR);
    else data.copy(into, at, at - offset, at - offset + SECTOR);
  }

  #restore(offset: number, length: number): void {
    this.stable.copy(this.current, offset, offset, offset + length);
  }
}
