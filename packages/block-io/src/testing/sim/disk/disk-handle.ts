/**
 * What a target sees of a simulated disk: a block device whose requests are parked in the {@link World} until
 * the scheduler completes them. A handle belongs to one generation; after the crash that ends it, nothing it
 * was asked for is answered.
 */
import { type Limits, type WriteZeroesOptions, plainLimits } from "../../../contract/device.ts";
import { BlockIoError, type ErrorCode, type Operation } from "../../../contract/errors.ts";
import { GuardedDevice } from "../../../contract/guard.ts";
import { SECTOR } from "../../../contract/device.ts";
import type { DiskSpec, PendingWrite, SimDisk } from "./disk.ts";
import { type FaultKind, type IoKind, faultKinds } from "./faults.ts";
import { Prng } from "../prng.ts";
import type { ParkedIo } from "./world.ts";

const opNumbers: Readonly<Record<string, number>> = {
  read: 1,
  write: 2,
  flush: 3,
  discard: 4,
  writeZeroes: 5,
};

export class DiskHandle extends GuardedDevice {
  readonly #disk: SimDisk;
  readonly #generation: number;

  constructor(disk: SimDisk) {
    super(disk.spec.name, disk.spec.size, limitsOf(disk.spec));
    this.#disk = disk;
    this.#generation = disk.world.generation;
  }

  // A disk that forgets at a failed flush is one that goes on as if nothing had happened.
  protected override get failsForGood(): boolean {
    return !this.#disk.faults.specs.some(({ kind }) => kind === "flush-lossy");
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#park("read", offset, into.length, into, false);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    return this.#park("write", offset, from.length, from, fua);
  }

  protected override doFlush(): Promise<void> {
    return this.#park("flush", 0, 0, undefined, false);
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#park("discard", offset, length, undefined, false);
  }

  protected override doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    return this.#park("writeZeroes", offset, length, undefined, options.fua === true);
  }

  #park(
    op: Operation,
    offset: number,
    length: number,
    buffer: Buffer | undefined,
    fua: boolean,
  ): Promise<void> {
    const { world } = this.#disk;
    if (world.generation !== this.#generation) return new Promise(() => {});
    const io = new DiskIo(this.#disk, op, offset, length, buffer, fua);
    world.parked.push(io);
    return io.promise;
  }
}

class DiskIo implements ParkedIo {
  readonly ordinal: number;
  readonly promise: Promise<void>;
  readonly hangs: ParkedIo["hangs"];
  readonly #disk: SimDisk;
  readonly #op: Operation;
  readonly #offset: number;
  readonly #length: number;
  readonly #buffer: Buffer | undefined;
  readonly #fua: boolean;
  readonly #fault: FaultKind | undefined;
  readonly #writes: PendingWrite[] = [];
  // What had completed when this was issued: a flush covers no more.
  readonly #completions: number;
  readonly #failedFlushes: number;
  #resolve!: () => void;
  #reject!: (error: BlockIoError) => void;

  constructor(
    disk: SimDisk,
    op: Operation,
    offset: number,
    length: number,
    buffer: Buffer | undefined,
    fua: boolean,
  ) {
    const { world } = disk;
    this.ordinal = world.nextOrdinal();
    this.#disk = disk;
    this.#op = op;
    this.#offset = offset;
    this.#length = length;
    this.#buffer = buffer;
    this.#fua = fua;
    this.#completions = disk.completions;
    this.#failedFlushes = disk.failedFlushes;
    const kind: IoKind = op === "read" || op === "flush" || op === "discard" ? op : "write";
    this.#fault = disk.faults.next(disk.index, kind);
    this.hangs = this.#fault === "hang" ? (persistent(disk) ? "for ever" : "once") : false;
    this.promise = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    world.trace.note(16 + disk.index * 8 + (opNumbers[op] ?? 0), offset, length, fua ? 1 : 0);
    if (world.trace.verbose) world.trace.line(`             issue ${this.describe()}`);
    if (op === "discard") {
      for (const range of discarded(disk, offset, length)) {
        this.#writes.push(disk.begin(range.offset, range.length, undefined));
      }
    } else if (kind === "write" && this.#fault !== "enospc") {
      if (buffer !== undefined) world.trace.bytes(buffer);
      this.#writes.push(disk.begin(offset, length, buffer));
    }
  }

  describe(): string {
    const where = this.#op === "flush" ? "" : ` ${this.#offset / SECTOR}+${this.#length / SECTOR}`;
    const fault = this.#fault === undefined ? "" : ` !! ${faultKinds[this.#fault].text}`;
    return `#${this.ordinal} ${this.#disk.spec.name}: ${this.#op}${where}${this.#fua ? " fua" : ""}${fault}`;
  }

  complete(): void {
    if (this.#op === "read") this.#completeRead();
    else if (this.#op === "flush") this.#completeFlush();
    else this.#completeWrite();
  }

  #completeRead(): void {
    const into = this.#buffer as Buffer;
    const { current, random } = this.#disk;
    if (this.#fault === "read-error" || this.#fault === "short") {
      const part = this.#fault === "short" ? random.below(this.#length / SECTOR) * SECTOR : 0;
      current.copy(into, 0, this.#offset, this.#offset + part);
      this.#fail("EIO");
      return;
    }
    if (this.#fault === "rot") this.#disk.rot(this.#offset, this.#length);
    current.copy(into, 0, this.#offset, this.#offset + this.#length);
    this.#resolve();
  }

  #completeFlush(): void {
    const disk = this.#disk;
    if (this.#fault === "flush-lossless") {
      this.#fail("ENOSPC", true);
      return;
    }
    if (this.#fault === "flush-error" || this.#fault === "flush-lossy") {
      if (this.#fault === "flush-lossy") disk.forget(this.#completions);
      disk.failedFlushes += 1;
    }
    // Whoever waited for a flush while one failed is told so: contract rule 5.
    if (disk.failedFlushes !== this.#failedFlushes) {
      this.#fail("EIO");
      return;
    }
    if (this.#fault !== "ignored-flush") disk.flushed(this.#completions);
    this.#resolve();
  }

  #completeWrite(): void {
    const disk = this.#disk;
    if (this.#fault === "enospc") {
      this.#fail("ENOSPC");
      return;
    }
    if (this.#fault === "write-error" || this.#fault === "short") {
      const prefix = disk.random.below(this.#length / SECTOR);
      const short = this.#fault === "short";
      for (const write of this.#writes) {
        disk.fail(write, (sector) => (short ? sector < prefix : disk.random.chance(0.5)));
      }
      this.#fail("EIO");
      return;
    }
    for (const write of this.#writes) {
      const place = this.#fault === "misdirected" ? disk.elsewhere(write.offset, write.length) : write.offset;
      const done = disk.complete(write, this.#buffer, place);
      if (this.#fua) disk.settle(done);
    }
    this.#resolve();
  }

  #fail(code: ErrorCode, lossless = false): void {
    this.#reject(
      new BlockIoError(`injected fault ${this.#fault}`, {
        code,
        device: this.#disk.spec.name,
        op: this.#op,
        offset: this.#offset,
        length: this.#length,
        lossless,
      }),
    );
  }
}

/** A device for the current generation of the world; the disk's choices come from `seed`. */
export function openDisk(disk: SimDisk, seed: number): DiskHandle {
  disk.random = new Prng(seed, disk.index);
  return new DiskHandle(disk);
}

function persistent(disk: SimDisk): boolean {
  return disk.faults.specs.some((spec) => spec.kind === "hang" && spec.persistent);
}

/** The ranges a discard turns to zeroes. */
function discarded(disk: SimDisk, offset: number, length: number): { offset: number; length: number }[] {
  if (disk.spec.discard === "none") return [];
  if (disk.spec.discard !== "either") return [{ offset, length }];
  const ranges: { offset: number; length: number }[] = [];
  for (let at = offset; at < offset + length; at += SECTOR) {
    if (disk.random.chance(0.5)) ranges.push({ offset: at, length: SECTOR });
  }
  return ranges;
}

function limitsOf(spec: DiskSpec): Limits {
  const block = spec.logicalBlockSize ?? SECTOR;
  return {
    ...plainLimits,
    logicalBlockSize: block,
    discardGranularity: block,
    capabilities: {
      ...plainLimits.capabilities,
      fua: "native",
      discard: spec.discard === "none" ? "none" : "native",
      discardZeroes: spec.discard !== "none" && spec.discard !== "either",
      writeZeroes: "native",
      fastZero: true,
    },
  };
}
