/**
 * The running cache: takes requests apart into blocks and hands them to the reader, the writer (write-back) or
 * the source path (everything that changes the source). See state.ts for who locks what.
 */
import {
  type BlockIoError,
  type Controls,
  type Extent,
  type Facts,
  type Health,
  type LongWork,
  type StorageFacts,
  type WriteZeroesOptions,
  GuardedTarget,
  Pace,
  Streams,
  done,
  join,
  refuse,
  storageBelow,
  worstHealth,
  zeroes,
} from "@dmkit/block-io";
import { latencies } from "../core/history.ts";
import { type CacheOptions, type Tunable, tunableNames } from "../options.ts";
import { Cleaner, type CleanerSettings } from "./writeback/cleaner.ts";
import { type ControlledCache, cacheControls, cacheFacts, statusLine } from "./messages.ts";
import type { Metadata } from "./metadata/metadata.ts";
import { requireKnown, unknownRefusal } from "./unknown.ts";
import { cacheHealth } from "./health.ts";
import { limitsOf } from "./limits.ts";
import { Reader } from "./reader.ts";
import { SourcePath } from "./source-path.ts";
import type { CacheState } from "./state.ts";
import { Writeback } from "./writeback/writeback.ts";
import { Writer } from "./writer.ts";
import type { Policy } from "../format/superblock.ts";

/** Zeroes up to this many bytes are written into the cache like data. */
const CACHED_ZEROES = 128 * 1024;

/** What can be tuned while the cache runs. */
export type Tuning = Pick<CacheOptions, Tunable>;

/** A running cache. Closing it writes back all dirty blocks, so that the source has everything. */
export class AssocCacheDevice extends GuardedTarget {
  readonly state: CacheState;
  readonly metadata: Metadata;
  readonly cleaner: Cleaner;
  readonly #pace: Pace;
  #tuning: Tuning;
  readonly #writeStreams: Streams = new Streams(0);
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #sourcePath: SourcePath;
  #isResting = false;

  constructor(state: CacheState, metadata: Metadata, tuning: Tuning) {
    super(state.name, state.size, limitsOf(state));
    this.state = state;
    this.metadata = metadata;
    this.#tuning = tuning;
    const writeback = new Writeback(state, metadata);
    this.#pace = new Pace(state.environment.clock, () => this.requests);
    this.cleaner = new Cleaner(state, writeback, metadata, this.#cleaning());
    const setFull = (block: number): void => this.#setFull(block);
    this.#reader = new Reader(state, setFull);
    this.#sourcePath = new SourcePath(state, writeback);
    this.#writer = new Writer(state, metadata, this.cleaner, this.#sourcePath, setFull);
    this.#applyTuning();
    state.onSourceFailed = (error) => this.fail(error);
    if (state.frames.dirty > 0 && !state.readOnly) this.cleaner.noticeDirty();
    if (!state.readOnly) void state.space.look();
  }

  // A failed flush of the source fails the device (see the constructor); one of the cache only what is dirty.
  protected override get failsForGood(): boolean {
    return false;
  }

  override health(): Health {
    const { needsCheck } = this.metadata;
    return worstHealth([cacheHealth(this.state, needsCheck, this.cleaner.aside), super.health()]);
  }

  get policy(): Policy {
    return this.state.policy;
  }

  get tuning(): Tuning {
    return this.#tuning;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    requireKnown(this.state, "read", offset, into.length);
    const start = this.#begin();
    return this.#timed(this.#reader.read(offset, into), latencies.read, start);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    requireKnown(this.state, "write", offset, from.length);
    const { blockBytes, statistics } = this.state;
    const first = Math.floor(offset / blockBytes);
    const count = Math.floor((offset + from.length - 1) / blockBytes) - first + 1;
    const start = this.#begin();
    statistics.writes += count;
    const given = { offset, from, fua, first, count };
    const result = this.state.writesBack
      ? this.#writer.write(given, this.#writeStreams.bypasses(offset, from.length))
      : this.#sourcePath.write(given);
    return this.#timed(result, latencies.write, start);
  }

  /** Before a request is counted; the time it began. */
  #begin(): number {
    const now = this.state.environment.clock.now();
    this.state.history.advance(now);
    return now;
  }

  #timed(result: Promise<void>, kind: number, start: number): Promise<void> {
    if (result !== done) return this.#timedLater(result, kind, start);
    this.state.history.took(kind, this.state.environment.clock.now() - start);
    return done;
  }

  /** Requests that fail count too. */
  async #timedLater(result: Promise<void>, kind: number, start: number): Promise<void> {
    try {
      await result;
    } finally {
      this.state.history.took(kind, this.state.environment.clock.now() - start);
    }
  }

  protected override doFlush(): Promise<void> {
    return join([this.state.flushSource(), this.metadata.commit()]);
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    if (this.limits.capabilities.discard === "none") return done;
    requireKnown(this.state, "discard", offset, length);
    return this.#sourcePath.change(offset, length, (source) => source.discard(offset, length));
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    if (this.state.writesBack && length <= CACHED_ZEROES && !options.fast) {
      return this.doWrite(offset, zeroes(length), options.fua === true);
    }
    requireKnown(this.state, "write", offset, length);
    await this.#sourcePath.change(offset, length, (source) => source.writeZeroes(offset, length, options));
  }

  /** Holes of the source, as long as nothing that is dirty could be in them. */
  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    if (this.state.frames.dirty + this.state.unknown.size > 0) yield { offset, length, kind: "data" };
    else yield* this.state.source.extents(offset, length);
  }

  protected override doSuspend(): Promise<void> {
    this.#isResting = true;
    return this.cleaner.pause();
  }

  protected override async doResume(): Promise<void> {
    this.#isResting = false;
    if (!this.state.readOnly) this.cleaner.resume();
  }

  async storage(): Promise<readonly StorageFacts[]> {
    return storageBelow([this.state.source, this.state.cache]);
  }

  override status(): string {
    return statusLine(this);
  }

  protected override doFacts(): Facts {
    return cacheFacts(this);
  }

  protected override get controls(): Controls<ControlledCache> {
    return cacheControls;
  }

  protected override tunableValues(): Readonly<Record<(typeof tunableNames)[number], unknown>> {
    const { sequential_cutoff, read_sequential_cutoff = sequential_cutoff } = this.#tuning;
    const values = { ...this.#tuning, read_sequential_cutoff, policy: this.policy };
    return Object.fromEntries(tunableNames.map((name) => [name, values[name]])) as Required<Tuning> & {
      policy: Policy;
    };
  }

  protected override async doTune(changes: Partial<Tuning> & { readonly policy?: Policy }): Promise<void> {
    const { policy, ...tuning } = changes;
    this.#sourcePath.requireDiscards(tuning.discard_cache === 1);
    this.#tuning = { ...this.#tuning, ...tuning };
    this.#applyTuning();
    this.cleaner.changeSettings(this.#cleaning());
    if (policy !== undefined) await this.setPolicy(policy);
  }

  #applyTuning(): void {
    const { sequential_cutoff: cutoff, read_sequential_cutoff: ofReads = cutoff, ...tuning } = this.#tuning;
    this.#reader.tune(ofReads, tuning.promote_after);
    this.#writeStreams.cutoff = cutoff;
    this.#sourcePath.updates = tuning.write_hit === "update";
    this.#sourcePath.discards = tuning.discard_cache === 1;
  }

  /**
   * What loads this very cache: it exists by now, whatever the table said when it was made. The policy is stored with
   * the cache too; historical metadata knows but two.
   */
  override settings(): Readonly<Record<string, unknown>> {
    const { frames, blockSectors, ways } = this.state.frames.geometry;
    const isPlain = this.policy === "write-through" || this.policy === "write-back";
    return {
      ...this.tunableValues(),
      read_sequential_cutoff: this.#tuning.read_sequential_cutoff,
      persistence: 1,
      block_size: blockSectors,
      cache_size: frames,
      associativity: ways,
      write_policy: this.policy === "write-back" ? 1 : 0,
      policy: isPlain ? undefined : this.policy,
      format: `v${this.metadata.version}`,
    };
  }

  /** Switches the policy; resolves when no block is dirty that should not be. */
  async setPolicy(policy: Policy): Promise<void> {
    const { state, metadata } = this;
    if (policy === state.policy) return;
    if (policy === "write-back" && !metadata.keepsDirty) {
      throw this.#refusal("EINVAL", "a cache with historical metadata cannot write back", "Use format v2.");
    }
    state.policy = policy;
    if (state.cacheError === undefined) await metadata.policyChanged();
    if (policy !== "write-back") await this.clean();
  }

  /** Writes back all blocks that are dirty now. */
  async clean(options: LongWork = {}): Promise<void> {
    if (this.#isResting) {
      throw this.#refusal("EBUSY", "the cache is suspended", "Resume it first.");
    }
    await this.cleaner.cleanAll(options);
    if (this.state.unknown.size > 0) throw unknownRefusal(this.state, "message");
  }

  async writeHome(options: LongWork = {}): Promise<void> {
    if (this.state.frames.dirty + this.state.unknown.size === 0) return;
    if (this.state.readOnly) {
      const hint = "Open it for writing: then it is written back.";
      throw this.#refusal("EROFS", `${this.state.frames.dirty} blocks are in the cache only`, hint);
    }
    await this.clean(options);
  }

  /** Drops what the cache holds of a range (bytes); what is dirty of it is written back first. */
  async invalidate(offset: number, length: number): Promise<void> {
    if (length === 0) return;
    requireKnown(this.state, "discard", offset, length);
    await this.#sourcePath.change(offset, length, () => done);
  }

  /** The guard has waited for all requests and flushed. */
  protected override async doClose(): Promise<void> {
    const { state, metadata, cleaner } = this;
    if (state.readOnly) return;
    const before = state.statistics.writtenBack;
    let problem: unknown = this.failure;
    if (problem === undefined && state.cacheError === undefined && state.frames.dirty > 0) {
      await cleaner.cleanAll().catch((error: unknown) => (problem = error));
    }
    await cleaner.pause();
    if (state.rules.waitsForFills) await state.lock.acquire(0, Math.max(1, state.blocks), true);
    const flushed = state.statistics.writtenBack - before;
    if (state.sourceError === undefined && state.cacheError === undefined) {
      problem ??= await this.#save();
    } else {
      await this.#noteTrouble();
      problem ??= state.frames.dirty > 0 ? state.unavailable("flush") : metadata.debt;
    }
    state.environment.logger.log(
      "info",
      `${this.name}: closed, ${state.statistics.statsLine()}, flushed dirty blocks(${flushed})`,
    );
    if (problem !== undefined) throw problem;
  }

  /** What keeps the cache from being closed cleanly, if that loses anything. */
  async #save(): Promise<unknown> {
    const { state, metadata } = this;
    try {
      await state.flushSource();
      await metadata.commit();
      // Else what cannot be read would count as clean.
      if (state.unknown.size > 0) return unknownRefusal(state, "close");
      await metadata.saveClean();
    } catch (error) {
      // If the source has everything, and no older data comes back, the cache is merely cold next time.
      const loses = state.sourceError !== undefined || state.frames.dirty > 0 || metadata.debt !== undefined;
      if (loses) return error;
      state.environment.logger.log("warn", `${this.name}: the cache could not be closed cleanly`, {
        cause: String(error),
      });
    }
    return undefined;
  }

  /** A device failed while the cache was open: as far as possible, that is stored. */
  async #noteTrouble(): Promise<void> {
    try {
      await this.metadata.noteTrouble();
    } catch (error) {
      this.state.environment.logger.log("warn", `${this.name}: needs a check, which could not be stored`, {
        cause: String(error),
      });
    }
  }

  /** A block found no frame: make room for the next one. */
  #setFull(block: number): void {
    const { frames, statistics, cacheError } = this.state;
    if (cacheError !== undefined) return;
    const oldest = frames.oldestDirty(block);
    if (oldest >= 0) {
      statistics.replacedDirty += 1;
      this.cleaner.urgent(oldest);
    }
  }

  #refusal(code: "EINVAL" | "EBUSY" | "EROFS", reason: string, hint: string): BlockIoError {
    return refuse(this.name, code, reason, hint, "message");
  }

  #cleaning(): CleanerSettings {
    const { high_watermark: high, low_watermark: low, age_limit: seconds } = this.#tuning;
    const share = (percent: number): number =>
      Math.floor((this.state.frames.geometry.frames * percent) / 100);
    this.#pace.tune(this.#tuning.writeback_rate, this.#tuning.writeback_pause);
    return { watermarks: { high: share(high), low: share(low) }, ageLimit: seconds * 1000, pace: this.#pace };
  }
}
