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
  unknownMessage,
  worstHealth,
  FUA,
} from "@dmkit/block-io";
import { Autocommit } from "./autocommit.ts";
import { STEP_SECTORS } from "./bitmap-loader.ts";
import { BitmapWriter } from "./bitmap-writer.ts";
import { Counters } from "./counters.ts";
import type { OwnerMap } from "../core/owner-map.ts";
import type { Identity } from "../format/identity.ts";
import { depthsOf, layerDescriptions } from "./depths.ts";
import { bitmapHealth, cowFacts, statusLine } from "./facts.ts";
import { type FreezeHost, type NewLayer, freeze } from "./freeze.ts";
import { type ControlledStack, cowControls } from "./messages.ts";
import type { StackDevices } from "./layer/stack-devices.ts";
import type { CowParts, Source } from "./parts.ts";
import { TopRecord, sampleTop } from "./top-record.ts";

/** A running stack: reads find the newest layer that has a sector, writes go to the top. */
export class CowDevice extends GuardedTarget {
  readonly #map: OwnerMap;
  readonly #parts: CowParts;
  readonly #sources: Source[];
  #top: CowParts["top"];
  #stack: StackDevices;
  /** Something has been written to the top since it is the top. */
  #written = false;
  readonly #autocommit: Autocommit;
  readonly #counters = new Counters();
  constructor(parts: CowParts) {
    super(parts.name, parts.size, parts.limits);
    this.#parts = parts;
    this.#map = parts.map;
    this.#sources = [...parts.sources];
    this.#top = parts.top;
    this.#stack = parts.stack;
    this.#autocommit = new Autocommit(parts.environment, parts.autocommit, parts.name, () =>
      this.#map.hasDirty && this.failure === undefined ? this.#commit() : done,
    );
  }

  /** Layers above the base. */
  get layers(): number {
    return this.#map.top;
  }

  /** What the top layer is; undefined if the stack is read-only. */
  get identity(): Identity | undefined {
    return this.#top?.record.identity;
  }

  override health(): Health {
    return worstHealth([super.health(), bitmapHealth(this.#parts.loader.missing)]);
  }

  override status(): string {
    return statusLine(this.#map, this.#counters);
  }

  protected override doFacts(): Facts {
    return cowFacts(this.#map, this.#counters);
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
    if (this.#map.hasDirty) this.#autocommit.arm();
  }

  /** With the layers that were put on top. */
  override settings(): Readonly<Record<string, unknown>> {
    return { ...this.tunableValues(), ...this.#parts.layers?.() };
  }

  /** The arguments in a table, as they are now; empty if it was not opened by one. */
  get tableWords(): readonly string[] {
    return this.#parts.table?.(this.settings()) ?? [];
  }

  /** Opens devices that are named, and puts them on top; see {@link freeze}. Throws `EINVAL` if it cannot. */
  async freezeTo(words: readonly string[]): Promise<void> {
    const { openLayer } = this.#parts;
    if (openLayer === undefined) throw unknownMessage(this.name, ["freeze", ...words]);
    const layer = await openLayer(words);
    try {
      await this.freeze(layer);
    } catch (error) {
      if (this.#top?.layer !== layer) await layer.giveBack?.().catch(() => {});
      throw error;
    }
  }

  /** Reads all bitmaps, so that the counts of the status are exact. */
  async count(options: LongWork = {}): Promise<void> {
    await this.inTurn(() => this.#parts.loader.loadAll(options));
  }

  /**
   * Makes the top layer read-only and puts a new, empty one on it, without closing the device: what was flushed
   * before is in the frozen layer, no request is torn between the two. Errors: EROFS, EFORMAT, EINVAL, those of
   * the devices below.
   */
  freeze(layer: NewLayer): Promise<void> {
    return this.inTurn((quiet) => freeze(this.#freezeHost(quiet), layer));
  }

  /** How many layers below the top each part of a range comes from; the base counts as one layer more. */
  depths(offset: number, length: number): AsyncIterable<{ length: number; depth: number }> {
    return depthsOf(this.#map, offset, length, (sector, end) => this.#knownRun(sector, end));
  }

  override get descriptions(): readonly RangeDescription[] {
    return layerDescriptions((offset, length) => this.depths(offset, length));
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const sector = offset / SECTOR;
    const count = into.length / SECTOR;
    if (!this.#map.isKnown(sector, count)) return this.#readLater(offset, into);
    const end = sector + count;
    const until = this.#map.runEnd(sector, end);
    if (until === end) return this.#counters.reading(this.#readRun(sector, sector, into), into.length);
    return this.#readRuns(sector, until, end, into);
  }

  /** Reads a run of sectors of one owner. @param first sector of the request. */
  #readRun(sector: number, first: number, into: Buffer): Promise<void> {
    const source = this.#sources[this.#map.owner(sector)] as Source;
    return source.device.read(source.offset + this.#parts.rules.placeOf(sector, first) * SECTOR, into);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const sector = offset / SECTOR;
    const count = from.length / SECTOR;
    if (!this.#map.isKnown(sector, count))
      return this.#writeLater(this.#prepare(sector, count), offset, from, fua);
    if (this.#isSampled(sector, count))
      return this.#writeLater(this.#releaseSamples(sector, count), offset, from, fua);
    // Where the bits are stable, nothing but the data itself is needed.
    const overwrites = fua && this.#parts.rules.isStable(this.#map, sector, count);
    if (!this.#parts.rules.awaitsData) this.#markWritten(sector, count);
    const top = this.#sources[this.#map.top] as Source;
    const writing = top.device.write(top.offset + offset, from, overwrites ? FUA : undefined);
    const commit = fua && !overwrites;
    if (writing !== done) return this.#writing(writing, sector, count, commit);
    this.#markWritten(sector, count);
    return commit ? this.#commit() : done;
  }

  /** Whether the top's identity samples one of these sectors, which must not be written then. */
  #isSampled(sector: number, count: number): boolean {
    return this.#top?.record.covers(sector, count) === true;
  }

  /** The data of these sectors has been written to the top layer. */
  #markWritten(sector: number, count: number): void {
    this.#written = true;
    if (this.#parts.rules.mark(this.#map, sector, count)) this.#autocommit.arm();
  }

  protected override doFlush(): Promise<void> {
    return this.#top?.writer.flush() ?? done;
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    // Setting bits over a hole costs no space, and nothing older can shine through.
    if (this.limits.capabilities.discard === "native") {
      await this.doWriteZeroes(offset, length, { mayUnmap: true });
    }
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    { mayUnmap, fast, fua }: WriteZeroesOptions,
  ): Promise<void> {
    const sector = offset / SECTOR;
    const count = length / SECTOR;
    if (!this.#map.isKnown(sector, count)) await this.#prepare(sector, count);
    if (this.#isSampled(sector, count)) await this.#releaseSamples(sector, count);
    const top = this.#sources[this.#map.top] as Source;
    await top.device.writeZeroes(top.offset + offset, length, { mayUnmap, fast });
    this.#markWritten(sector, count);
    if (fua) await this.#commit();
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const end = (offset + length) / SECTOR;
    for (let sector = offset / SECTOR; sector < end; ) {
      const until = await this.#knownRun(sector, end);
      const { device, offset: start } = this.#sources[this.#map.owner(sector)] as Source;
      for await (const extent of device.extents(start + sector * SECTOR, (until - sector) * SECTOR)) {
        yield { offset: extent.offset - start, length: extent.length, kind: extent.kind };
      }
      sector = until;
    }
  }

  protected override async doClose(): Promise<void> {
    this.#autocommit.disarm();
    // Only what is stable may be sampled.
    if (this.failure !== undefined || !this.#written || this.#top?.writer.isStable !== true) return;
    await sampleTop(this.#top, this.#map.sectors).catch((error: unknown) => {
      // Nothing depends on it.
      this.#parts.environment.logger.log("warn", "the samples of the data could not be written", {
        device: this.name,
        error: toBlockIoError(error, {}).message,
      });
    });
  }

  /** The end of the run of one owner that starts at `sector`, which is made known first. */
  async #knownRun(sector: number, end: number): Promise<number> {
    // Not more than a piece of the bitmaps at a time: a query over all of a large device may stop early.
    let until = Math.min(end, sector + STEP_SECTORS);
    if (!this.#map.isKnown(sector, until - sector))
      until = await this.#counters.preparing(this.#parts.loader.loadUpTo(sector, until));
    return this.#map.runEnd(sector, until);
  }

  async #readLater(offset: number, into: Buffer): Promise<void> {
    await this.#prepare(offset / SECTOR, into.length / SECTOR);
    await this.doRead(offset, into);
  }

  async #releaseSamples(sector: number, count: number): Promise<void> {
    try {
      await this.#top?.record.release(sector, count);
    } catch (error) {
      // Nothing was written, so nothing has changed.
      if (isOutOfSpace(error)) throw error;
      // The flush in it may have been that of bits, which are not known to be stable then.
      throw this.#failed(error);
    }
  }

  async #writeLater(ready: Promise<void>, offset: number, from: Buffer, fua: boolean): Promise<void> {
    await ready;
    await this.doWrite(offset, from, fua);
  }

  async #prepare(sector: number, count: number): Promise<void> {
    await this.#counters.preparing(this.#parts.loader.load(sector, count));
  }

  #readRuns(sector: number, until: number, end: number, into: Buffer): Promise<void> {
    const running: Promise<void>[] = [];
    for (
      let at = sector, stop = until;
      at < end;
      at = stop, stop = at < end ? this.#map.runEnd(at, end) : end
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

  #freezeHost(quiet: () => Promise<void>): FreezeHost {
    const parts = this.#parts;
    return {
      name: this.name,
      limits: this.limits,
      sectors: this.#map.sectors,
      stack: this.#stack,
      random: parts.environment.random,
      top: this.#top,
      hold: async () => {
        await quiet();
        this.#autocommit.disarm();
        // A failed device flushes nothing: what was answered may not be in the layer to be frozen.
        if (this.failure !== undefined) throw this.failure;
      },
      fail: (failure) => this.fail(failure),
      swap: (layer, identity) => {
        parts.rules.push(this.#map);
        parts.loader.push(layer);
        this.#sources.push({ device: layer.data, offset: layer.offset });
        this.#stack = { ...this.#stack, layers: [...this.#stack.layers, layer] };
        this.#written = false;
        const record = new TopRecord(layer.bitmap, identity, parts.rules);
        const writer = new BitmapWriter(this.#map, layer.bitmap, layer.data, parts.rules);
        this.#top = { layer, record, writer };
        parts.frozen?.(layer);
      },
    };
  }
}
