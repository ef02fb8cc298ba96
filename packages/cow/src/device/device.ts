/**
 * The running stack: one owner map over the base and all layers.
 *
 *      read    cut into runs of one owner, each is one read below
 *      write   data to the top layer, *then* the bits in the map; the bits reach the disk with a later flush
 *      flush   see bitmap-writer.ts
 *
 * Invariants:
 *
 * - a request goes on only when the owners of its range are known;
 * - the map says that the top layer has a sector only after a write of that sector has resolved;
 * - a sector that the top's identity samples is written only after an identity without it is stable: top-record.ts;
 * - after a failure to bring bits or data to stable storage no write is accepted any more.
 */
import {
  type BlockDevice,
  type BlockIoError,
  type Controls,
  type Extent,
  type Facts,
  type Health,
  type LongWork,
  type RangeDescription,
  SECTOR,
  type WriteZeroesOptions,
  GuardedTarget,
  done,
  isOutOfSpace,
  join,
  toBlockIoError,
  worstHealth,
  FUA,
} from "@dmkit/block-io";
import { Autocommit } from "./autocommit.ts";
import { Counters } from "./counters.ts";
import type { Snapshots } from "../core/snapshots.ts";
import type { Identity } from "../format/identity.ts";
import { depthsOf, extentsOf, layerDescriptions } from "./depths.ts";
import { bitmapHealth, cowFacts, statusLine } from "./facts.ts";
import { type ChangeHost, Changes } from "./change/changes.ts";
import { type ControlledStack, cowControls } from "./messages.ts";
import { Layers } from "./layers.ts";
import type { CowParts, NewLayer, Source } from "./parts.ts";
import { sampleTop } from "./top-record.ts";

/** A running stack: reads find the newest layer that has a sector, writes go to the top. */
export class CowDevice extends GuardedTarget {
  /** What it is made of, until layers are put on top or merged. */
  readonly #parts: CowParts;
  readonly #now: Layers;
  readonly #autocommit: Autocommit;
  readonly #counters = new Counters();
  /** What changes its layers; for messages. */
  readonly changes: Changes;
  constructor(parts: CowParts) {
    super(parts.name, parts.size, parts.limits);
    this.#parts = parts;
    this.#now = new Layers(parts);
    this.changes = new Changes({
      parts,
      now: this.#now,
      host: (quiet) => this.#host(quiet),
      inTurn: (work) => this.inTurn(work),
    });
    this.#autocommit = new Autocommit(parts.environment, parts.autocommit, parts.name, () =>
      this.#now.map.hasDirty && this.failure === undefined ? this.#commit() : done,
    );
  }

  /** Layers above the base. */
  get layers(): number {
    return this.#now.map.top;
  }

  /** What the top layer is; undefined if the stack is read-only. */
  get identity(): Identity | undefined {
    return this.#now.top?.record.identity;
  }

  override health(): Health {
    return worstHealth([super.health(), bitmapHealth(this.#now.loader.missing)]);
  }

  override status(): string {
    return statusLine(this.#now.map, this.#counters);
  }

  protected override doFacts(): Facts {
    return cowFacts(this.#now.map, this.#counters, this.#now.snapshots);
  }

  protected override get controls(): Controls<ControlledStack> {
    return cowControls;
  }

  protected override tunableValues(): Readonly<Record<string, unknown>> {
    return { autocommit: this.#autocommit.pause / 1000 };
  }

  protected override doTune({ autocommit }: { readonly autocommit?: number }): void {
    if (autocommit === undefined) return;
    this.#autocommit.pause = autocommit * 1000;
    // With 0 nothing was set to commit what is in memory only.
    if (this.#now.map.hasDirty) this.#autocommit.arm();
  }

  /** With the layers that were put on top. */
  override settings(): Readonly<Record<string, unknown>> {
    return { ...this.tunableValues(), ...this.#parts.layers?.() };
  }

  /** The arguments in a table, as they are now; empty if it was not opened by one. */
  get tableWords(): readonly string[] {
    return this.#parts.table?.(this.settings()) ?? [];
  }

  /** Reads all bitmaps, so that the counts of the status are exact. */
  async count(options: LongWork = {}): Promise<void> {
    await this.inTurn(() => this.#now.loader.loadAll(options));
  }

  /**
   * Makes the top layer read-only and puts a new, empty one on it, without closing the device: what was flushed
   * before is in the frozen layer, no request is torn between the two. Errors: EROFS, EFORMAT, EINVAL, EEXIST, the devices'.
   * @param snapshot name of the snapshot that the frozen layer is from then on; left out: it is none
   */
  freeze(layer: NewLayer, snapshot?: string): Promise<void> {
    return this.changes.freeze(layer, snapshot);
  }

  /**
   * Merges a layer below the top, which is no snapshot, into what it lies on while the stack is in use: see copy/merge.ts.
   * @param layer from 1 at the bottom. Errors: `EINVAL`, `EBUSY`, `EROFS`, `EIO`, those of the devices, the signal's reason.
   */
  merge(layer: number, options: LongWork = {}): Promise<void> {
    return this.changes.commit(layer, options);
  }

  /**
   * Deletes a snapshot while the stack is in use: what it has and the layer above lacks is copied up into that one, and then its
   * layer is none of the stack any more; all other snapshots show what they did. Errors: `ENOENT`, those of {@link merge}.
   */
  deleteSnapshot(name: string, options: LongWork = {}): Promise<void> {
    return this.changes.deleteSnapshot(name, options);
  }

  /** Opens a snapshot to be read. Errors: `ENOENT`, `EBUSY` while a layer is taken out, those of the devices below. */
  openSnapshot(name: string): Promise<BlockDevice> {
    return this.changes.openSnapshot(name);
  }

  /** Which of the layers are snapshots, bottom to top. */
  get snapshots(): Snapshots {
    return this.#now.snapshots;
  }

  /** How many layers below the top each part of a range comes from; the base counts as one layer more. */
  depths(offset: number, length: number): AsyncIterable<{ length: number; depth: number }> {
    return depthsOf(offset, length, (sector, end) => this.#now.knownRun(sector, end, this.#counters));
  }

  override get descriptions(): readonly RangeDescription[] {
    return layerDescriptions((offset, length) => this.depths(offset, length));
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const sector = offset / SECTOR;
    const count = into.length / SECTOR;
    if (!this.#now.map.isKnown(sector, count)) return this.#readLater(offset, into);
    const end = sector + count;
    const until = this.#now.map.runEnd(sector, end);
    if (until === end) return this.#counters.reading(this.#readRun(sector, sector, into), into.length);
    return this.#readRuns(sector, until, end, into);
  }

  /** Reads a run of sectors of one owner. @param first sector of the request. */
  #readRun(sector: number, first: number, into: Buffer): Promise<void> {
    const source = this.#now.sources[this.#now.map.owner(sector)] as Source;
    return source.device.read(source.offset + this.#parts.rules.placeOf(sector, first) * SECTOR, into);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const { filling } = this.changes;
    if (filling === undefined) return this.#write(offset, from, fua);
    return filling.beside(offset, from.length, () => this.#write(offset, from, fua));
  }

  #write(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const sector = offset / SECTOR;
    const count = from.length / SECTOR;
    if (!this.#now.map.isKnown(sector, count))
      return this.#writeLater(this.#prepare(sector, count), offset, from, fua);
    if (this.#isSampled(sector, count))
      return this.#writeLater(this.#releaseSamples(sector, count), offset, from, fua);
    // Where the bits are stable, nothing but the data itself is needed.
    const overwrites = fua && this.#parts.rules.isStable(this.#now.map, sector, count);
    if (!this.#parts.rules.awaitsData) this.#markWritten(sector, count);
    const top = this.#now.sources[this.#now.map.top] as Source;
    const writing = top.device.write(top.offset + offset, from, overwrites ? FUA : undefined);
    const commit = fua && !overwrites;
    if (writing !== done) return this.#writing(writing, sector, count, commit);
    this.#markWritten(sector, count);
    return commit ? this.#commit() : done;
  }

  /** Whether the top's identity samples one of these sectors, which must not be written then. */
  #isSampled(sector: number, count: number): boolean {
    return this.#now.top?.record.covers(sector, count) === true;
  }

  /** The data of these sectors has been written to the top layer. */
  #markWritten(sector: number, count: number): void {
    this.#now.written = true;
    if (this.#parts.rules.mark(this.#now.map, sector, count)) this.#autocommit.arm();
  }

  protected override doFlush(): Promise<void> {
    return this.#now.top?.writer.flush() ?? done;
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    // Setting bits over a hole costs no space, and nothing older can shine through.
    if (this.limits.capabilities.discard === "native") {
      await this.doWriteZeroes(offset, length, { mayUnmap: true });
    }
  }

  protected override doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    const { filling } = this.changes;
    if (filling === undefined) return this.#writeZeroes(offset, length, options);
    return filling.beside(offset, length, () => this.#writeZeroes(offset, length, options));
  }

  async #writeZeroes(
    offset: number,
    length: number,
    { mayUnmap, fast, fua }: WriteZeroesOptions,
  ): Promise<void> {
    const sector = offset / SECTOR;
    const count = length / SECTOR;
    if (!this.#now.map.isKnown(sector, count)) await this.#prepare(sector, count);
    if (this.#isSampled(sector, count)) await this.#releaseSamples(sector, count);
    const top = this.#now.sources[this.#now.map.top] as Source;
    await top.device.writeZeroes(top.offset + offset, length, { mayUnmap, fast });
    this.#markWritten(sector, count);
    if (fua) await this.#commit();
  }

  protected override doExtents(offset: number, length: number): AsyncIterable<Extent> {
    return extentsOf(this.#now, this.#counters, offset, length);
  }

  protected override async doClose(): Promise<void> {
    await this.changes.close();
    this.#autocommit.disarm();
    // Only what is stable may be sampled.
    if (this.failure !== undefined || !this.#now.written || this.#now.top?.writer.isStable !== true) return;
    await sampleTop(this.#now.top, this.#now.map.sectors, this.name, this.#parts.environment.logger);
  }

  async #readLater(offset: number, into: Buffer): Promise<void> {
    await this.#prepare(offset / SECTOR, into.length / SECTOR);
    await this.doRead(offset, into);
  }

  async #releaseSamples(sector: number, count: number): Promise<void> {
    try {
      await this.#now.top?.record.release(sector, count);
    } catch (error) {
      // Nothing was written, so nothing has changed.
      if (isOutOfSpace(error)) throw error;
      // The flush in it may have been that of bits, which are not known to be stable then.
      throw this.#failed(error);
    }
  }

  async #writeLater(ready: Promise<void>, offset: number, from: Buffer, fua: boolean): Promise<void> {
    await ready;
    await this.#write(offset, from, fua);
  }

  async #prepare(sector: number, count: number): Promise<void> {
    await this.#counters.preparing(this.#now.loader.load(sector, count));
  }

  #readRuns(sector: number, until: number, end: number, into: Buffer): Promise<void> {
    const running: Promise<void>[] = [];
    for (
      let at = sector, stop = until;
      at < end;
      at = stop, stop = at < end ? this.#now.map.runEnd(at, end) : end
    ) {
      const piece = into.subarray((at - sector) * SECTOR, (stop - sector) * SECTOR);
      const reading = this.#readRun(at, sector, piece);
      if (reading !== done) running.push(reading);
    }
    if (running.length === 0) return done;
    return this.#counters.reading(join(running), into.length);
  }

  async #writing(writing: Promise<void>, sector: number, count: number, commit: boolean): Promise<void> {
    await this.#counters.sending(writing, count * SECTOR);
    this.#markWritten(sector, count);
    if (commit) await this.#commit();
  }

  /** Brings everything written so far to stable storage; a failure that lost anything is the end of writing. */
  async #commit(): Promise<void> {
    try {
      await this.doFlush();
    } catch (error) {
      throw this.#failed(error);
    }
  }

  #failed(error: unknown): BlockIoError {
    const failure = toBlockIoError(error, { device: this.name, op: "flush" });
    if (!failure.lossless) this.fail(failure);
    return failure;
  }

  /** What changes the layers needs of the device. @param quiet holds requests back. */
  #host(quiet: () => Promise<void>): ChangeHost {
    return {
      name: this.name,
      limits: this.limits,
      now: this.#now,
      parts: this.#parts,
      hold: async () => {
        await quiet();
        this.#autocommit.disarm();
        // A failed device flushes nothing: what was answered may not be in its layer.
        if (this.failure !== undefined) throw this.failure;
      },
      fail: (failure) => this.fail(failure),
      filled: {
        sectors: this.#now.map.sectors,
        knownRun: (sector, end) => this.#now.knownRun(sector, end, this.#counters),
        write: (offset, bytes) => this.#write(offset, bytes, false),
        writeZeroes: (offset, length) => this.#writeZeroes(offset, length, { mayUnmap: true }),
        flush: () => this.#commit(),
        failure: () => this.failure,
      },
    };
  }
}
