/**
 * The running device: puts the components together and carries requests between them.
 *
 *      write  → WritePath → SegmentLog (RAM → cache device) → Writeback (→ backing device)
 *      read   → ReadPath → RAM, cache device, backing device; Staging for read caching
 *      discard, zeroes → Bypass → the log or the backing device
 *      flush  → one barrier for all who wait: SegmentLog or PlogWriter, and what went past the log
 */
import {
  type BlockIoError,
  type Controls,
  type Environment,
  type Facts,
  GuardedTarget,
  type Health,
  type MessageOptions,
  SpaceWatch,
  type StorageFacts,
  Streams,
  type Timer,
  type WriteZeroesOptions,
  done,
  isOutOfSpace,
  storageOf,
} from "@dmkit/block-io";
import { Barriers } from "./request/barriers.ts";
import { BusyMeter } from "./writeback/busy-meter.ts";
import { Bypass } from "./request/bypass.ts";
import { Statistics } from "../core/statistics.ts";
import { Daemons } from "./daemons.ts";
import { BLOCK, slotOf } from "../format/geometry.ts";
import { IdentityKeeper } from "./identity-keeper.ts";
import { mergeSplit } from "./merge-split.ts";
import { cacheHealth } from "./health.ts";
import { limitsOver, readOnlyLimitsOver } from "./limits.ts";
import { type ControlledLog, type DropProgress, dropAll, writeboostControls } from "./messages.ts";
import { type Tunables, checked, defaultTunables } from "../options.ts";
import type { Parts } from "./parts.ts";
import { PlogWriter } from "./log/plog-writer.ts";
import { ReadPath } from "./request/read-path.ts";
import { Recorder } from "./recorder.ts";
import type { Devices, Recovered } from "./recovered.ts";
import type { Split } from "./recovered.ts";
import { interrupted, readOnlyError } from "./refusals.ts";
import { SegmentLog } from "./log/segment-log.ts";
import { Staging } from "./request/staging.ts";
import { type Status, printStatus, statusFacts } from "./status.ts";
import { WritePath } from "./request/write-path.ts";
import { Writeback } from "./writeback/writeback.ts";

// Bytes of the smallest write that is worth an operation of its own on the backing device; less if the cutoff is.
const LARGE_WRITE = 64 * 1024;
// Milliseconds.
const RETRY_AFTER = 1000;

export interface DeviceSettings {
  readonly name: string;
  /** Bytes; at most the backing device's. */
  readonly size: number;
  /** RAM buffers. */
  readonly pool: number;
  readonly tunables: Partial<Tunables>;
  readonly environment: Environment;
  /** Nothing is written back, recorded or accepted; the devices keep what recovery has written. */
  readonly readOnly?: boolean | undefined;
}

export class WriteboostDevice extends GuardedTarget {
  readonly #parts: Parts;
  readonly #log: SegmentLog;
  readonly #backing: BusyMeter;
  readonly #writeback: Writeback;
  readonly #bypass: Bypass;
  readonly #staging: Staging = new Staging();
  readonly #streams: Streams = new Streams(0);
  readonly #writes: WritePath;
  readonly #reads: ReadPath;
  readonly #daemons: Daemons;
  readonly #recorder: Recorder;
  readonly #barriers: Barriers;
  readonly #environment: Environment;
  readonly #tunables: Tunables;
  /** What has been set since it was opened. */
  readonly #told: Partial<Tunables> = {};
  #dropping = 0;
  #droppingInOrder = 0;
  #dropsEnd = 0;
  readonly #space: SpaceWatch;
  #stopped = false;
  #retry: Timer | undefined;

  /** @param recovered what {@link recover} found; the devices are left to whoever opened them. */
  constructor(devices: Devices, recovered: Recovered, settings: DeviceSettings) {
    const limits = settings.readOnly === true ? readOnlyLimitsOver : limitsOver;
    super(settings.name, settings.size, limits(devices));
    const { geometry, dialect, map, identity } = recovered;
    const { environment } = settings;
    this.#environment = environment;
    this.#tunables = { ...defaultTunables(geometry.order), ...settings.tunables };
    this.#backing = new BusyMeter(devices.backing, environment.clock);
    const logDevices = devices.plog === undefined ? [devices.cache] : [devices.cache, devices.plog];
    this.#space = new SpaceWatch(settings.name, logDevices, environment);
    const { plogSegments: segments, plogName: name } = recovered;
    const log = new SegmentLog(geometry, dialect, devices.cache, map, settings.pool, recovered);
    const plog = devices.plog && new PlogWriter(devices.plog, geometry, { segments, name, log });
    this.#log = log;
    this.#parts = { log, backing: this.#backing, plog, statistics: new Statistics(), size: settings.size };
    const keeper = identity && new IdentityKeeper(devices.cache, identity);
    this.#recorder = new Recorder(log, keeper, recovered.recorded);
    this.#writeback = new Writeback(
      log,
      this.#backing,
      {
        allowed: () => this.#tunables.allow_writeback === 1,
        hurry: () => this.#dropping > 0,
        past: () => this.#dropping > this.#droppingInOrder,
        batch: () => this.#tunables.nr_max_batched_writeback,
        barriers: () => this.#barriers.asked,
        failure: () => this.failure,
        relog: (index, data) => this.#writes.relog(index, data),
      },
      environment,
      (error) => {
        // What went past the log cannot be written again.
        if (this.#bypass.unflushed) this.fail(error);
      },
    );
    this.#bypass = new Bypass(this.#parts, this.#staging);
    this.#writes = new WritePath(this.#parts, this.#writeback, this.#bypass);
    this.#reads = new ReadPath(this.#parts);
    this.#barriers = new Barriers(this.#parts, this.#bypass, environment.scheduler, {
      failure: () => this.failure,
      fail: (error) => this.fail(error),
    });
    this.#daemons = new Daemons(environment.clock, {
      modulate: () => this.#modulate(),
      record: () => this.#record().catch(() => {}),
      sync: () => this.#sync().catch(() => {}),
    });
    log.onProgress = () => this.#progress();
    log.onTrouble = (error) => this.#trouble(error);
    this.#staging.threshold = this.#tunables.read_cache_threshold;
    this.#streams.cutoff = this.#tunables.sequential_cutoff;
  }

  /** Merges what recovery found split over several copies, and starts the daemons. Called once. */
  async start(split: readonly Split[]): Promise<void> {
    for (const one of split) await mergeSplit(this.#log, this.#writes, one);
    if (this.limits.capabilities.readOnly) return this.#stop();
    await this.#space.look();
    this.#daemons.configure(this.#tunables);
    this.#writeback.kick();
  }

  /** Of all devices below. */
  async storage(): Promise<readonly StorageFacts[]> {
    const { log, backing } = this.#parts;
    return (await Promise.all([backing, log.cache].map(storageOf))).flat();
  }

  /** Bytes of RAM: the map, and the buffers. */
  get memory(): { readonly map: number; readonly buffers: number; readonly perBlock: number } {
    const { map, geometry } = this.#log;
    const plog = this.#parts.plog?.bufferBytes ?? 0;
    const blocks = geometry.slots * geometry.blocks;
    return { map: map.bytes, buffers: this.#log.bufferBytes + plog, perBlock: map.bytes / blocks };
  }

  /** The error of the last writeback that failed, if any did. */
  get writebackError(): BlockIoError | undefined {
    return this.#writeback.lastError;
  }

  override health(): Health {
    return cacheHealth(super.health(), this.#log, this.#writeback.badBlocks, this.#space.missing);
  }

  get statusData(): Status {
    const log = this.#log;
    const { slots, blocks } = log.geometry;
    const currentId = log.open ? log.opened : log.opened + 1;
    return {
      cursor: slotOf(log.geometry, currentId) * blocks + log.count,
      cacheBlocks: slots * blocks,
      segments: slots,
      currentId,
      lastFlushedId: log.lastFlushed,
      lastWritebackId: log.lastWriteback,
      dirtyBlocks: log.map.dirtyBlocks,
      counters: [...this.#parts.statistics.counters],
      partialFlushes: this.#parts.statistics.partialFlushes,
      trouble: {
        writeback_errors: this.#writeback.failures + this.#writeback.relogged,
        bad_blocks: this.#writeback.badBlocks,
        out_of_space: this.#log.full === undefined ? 0 : 1,
        dead: this.#log.dead === undefined ? 0 : 1,
        missing_space: this.#space.missing,
      },
      batch: this.#writeback.batch,
      tunables: { ...this.#tunables },
    };
  }

  override status(): string {
    if (!this.#stopped) void this.#space.look();
    return printStatus(this.statusData);
  }

  protected override doFacts(): Facts {
    const { geometry, pool } = this.#log;
    return {
      ...statusFacts(this.statusData),
      segment_size_order: geometry.order,
      nr_rambuf_pool: pool,
      nr_cur_batched_writeback: this.#writeback.batch,
    };
  }

  protected override get controls(): Controls<ControlledLog> {
    return writeboostControls;
  }

  protected override tunableValues(): Tunables {
    return this.#tunables;
  }

  protected override doTune(changes: Partial<Tunables>): void {
    this.tune(changes);
  }

  /** The geometry in use, and what was set; not what the modulator has set, which it will set again. */
  override settings(): Readonly<Record<string, unknown>> {
    const { geometry, pool } = this.#log;
    return { segment_size_order: geometry.order, nr_rambuf_pool: pool, ...this.#told };
  }

  /** Changes tunables. Throws `EINVAL` with the range. */
  tune(changes: Partial<Tunables>): void {
    Object.assign(this.#told, checked(changes));
    Object.assign(this.#tunables, changes);
    this.#staging.threshold = this.#tunables.read_cache_threshold;
    this.#streams.cutoff = this.#tunables.sequential_cutoff;
    if (!this.#stopped) this.#daemons.configure(this.#tunables);
    this.#writeback.kick();
  }

  /** Sets the counters of requests to 0; that of partial flushes goes on. */
  clearStatistics(): void {
    this.#parts.statistics.clear();
  }

  /**
   * Writes back everything that is dirty now; what was written back stays so. Throws the error of a writeback that
   * failed, `ESHUTDOWN` if the device is closed, the signal's reason if it is aborted.
   * @param options `inOrder`: nothing that comes after a segment which cannot be read or is damaged, so that the backing
   * device stays as it was at some segment. Default: all the others, and then the error.
   */
  async dropCaches(
    options: { signal?: AbortSignal; progress?: (progress: DropProgress) => void; inOrder?: boolean } = {},
  ): Promise<void> {
    if (this.limits.capabilities.readOnly) throw readOnlyError(this.name);
    const log = this.#log;
    const { signal, progress } = options;
    const wake = (): void => log.changed.notify();
    signal?.addEventListener("abort", wake);
    const ends = this.#dropsEnd;
    const inOrder = options.inOrder === true ? 1 : 0;
    this.#dropping += 1;
    this.#droppingInOrder += inOrder;
    try {
      log.check();
      log.close();
      const targetId = log.open ? log.opened - 1 : log.opened;
      const report = (): void =>
        progress?.({ dirtyBlocks: log.map.dirtyBlocks, lastWritebackId: log.lastWriteback, targetId });
      if (log.lastWriteback < targetId) report();
      // Where a segment cannot be read, all that there is to write is looked at once.
      await log.flushed(targetId);
      const { failures, relogged } = this.#writeback;
      while (log.lastWriteback < targetId) {
        log.check();
        signal?.throwIfAborted();
        if (this.failure !== undefined) throw this.failure;
        if (this.#dropsEnd !== ends) throw interrupted(this.name);
        if (this.#writeback.failures !== failures) throw this.#writeback.lastError;
        report();
        this.#writeback.kick();
        await log.changed.wait();
      }
      // All the others have been: what the backing device does not take has only moved on in the log.
      if (this.#writeback.relogged !== relogged) throw this.#writeback.lastError;
    } finally {
      this.#dropping -= 1;
      this.#droppingInOrder -= inOrder;
      signal?.removeEventListener("abort", wake);
    }
  }

  async writeHome(options: Pick<MessageOptions, "signal" | "progress"> = {}): Promise<void> {
    // What is only read has nothing in memory.
    if (this.limits.capabilities.readOnly && this.#log.map.dirtyBlocks === 0) return;
    await dropAll(this, options);
  }

  /** What is made durable from here on nobody has asked for: it does not count as a partial flush of a client. */
  protected override willDrain(): void {
    this.#barriers.quiet = true;
  }

  protected override async doSuspend(): Promise<void> {
    await this.#stop();
    this.#barriers.quiet = false;
  }

  protected override async doResume(): Promise<void> {
    if (this.limits.capabilities.readOnly) return;
    this.#stopped = false;
    this.#barriers.start();
    this.#writeback.start();
    this.#daemons.configure(this.#tunables);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#log.dead !== undefined) return Promise.reject(this.#log.dead);
    if (this.#staging.threshold === 0 || this.#bypass.active) return this.#reads.read(offset, into);
    const ticket = this.#staging.begin(offset, into.length);
    if (ticket === 0) return this.#reads.read(offset, into);
    return this.#readAndStage(offset, into, ticket);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    if (this.#log.dead !== undefined) return Promise.reject(this.#log.dead);
    const { cutoff } = this.#streams;
    if (from.length >= Math.min(cutoff, LARGE_WRITE) && this.#streams.bypasses(offset, from.length)) {
      return this.#counted(this.#bypass.write(this.#writes, offset, from));
    }
    const at = this.#writes.place(offset, from, 0);
    return this.#counted(at < from.length ? this.#writes.finish(offset, from, at) : done);
  }

  protected override doFlush(): Promise<void> {
    return this.#barriers.ask();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    this.#log.check();
    if (this.#backing.limits.capabilities.discard === "none") return;
    await this.#counted(this.#bypass.discard(this.#writes, offset, length));
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    this.#log.check();
    await this.#counted(this.#bypass.writeZeroes(this.#writes, offset, length, options));
  }

  protected override async doClose(): Promise<void> {
    await this.#stop();
    if (this.limits.capabilities.readOnly) return;
    if (this.#log.dead !== undefined || this.failure !== undefined) return;
    const log = this.#log;
    // The guard has flushed; what was staged since then is not worth a segment. With a plog that left the newest
    // segments in the plog alone, the open one and perhaps one that is on its way: whoever opens the cache without
    // it, as one may after a clean close, would lose them.
    if (this.#parts.plog !== undefined) {
      log.close();
      await log.makeDurable(log.open ? log.opened - 1 : log.opened);
      await this.#clearPlog(this.#parts.plog);
    }
    // The guard has told whoever closes: what found no space is lost now.
    if (log.lastFlushed < (log.open ? log.opened - 1 : log.opened)) return;
    try {
      await this.#record();
      // After a flush that failed, what the backing device shows need not be what it keeps; nor where it is bad.
      const { failures, badBlocks } = this.#writeback;
      if (failures === 0 && badBlocks === 0)
        await this.#recorder.markClean(this.#backing, this.#environment.logger);
    } catch (error) {
      if (!isOutOfSpace(error)) throw error;
      this.#tell("warn", "no space to note that the cache was closed in order; nothing is lost", error);
    }
  }

  /** Everything is on the cache device: a plog that cannot be written any more is no loss. */
  async #clearPlog(plog: PlogWriter): Promise<void> {
    try {
      await plog.clear();
    } catch (error) {
      this.#tell("warn", "the plog could not be zeroed; the cache is closed in order", error);
    }
  }

  #counted(writing: Promise<void>): Promise<void> {
    if (writing !== done) return writing.then(() => this.#barriers.changed());
    this.#barriers.changed();
    return done;
  }

  async #readAndStage(offset: number, into: Buffer, ticket: number): Promise<void> {
    const staging = this.#staging;
    try {
      await this.#reads.read(offset, into, (from, data) => {
        for (let at = (BLOCK - (from % BLOCK)) % BLOCK; at + BLOCK <= data.length; at += BLOCK) {
          const block = (from + at) / BLOCK;
          if (staging.take(block, ticket)) this.#writes.stage(block, data.subarray(at, at + BLOCK));
        }
      });
    } finally {
      staging.end(offset, into.length, ticket);
    }
  }

  #progress(): void {
    this.#writeback.kick();
    if (!this.#stopped) this.#recorder.cover();
  }

  #tell(level: "warn" | "error", message: string, error: unknown): void {
    this.#environment.logger.log(level, message, { device: this.name, error: String(error) });
  }

  /** The log is full, or dead. */
  #trouble(error: BlockIoError): void {
    this.#tell("error", "the cache device does not take what is written", error);
    if (this.#log.dead === undefined) this.#retryLater();
  }

  /** Looks now and then whether there is space again, though nobody writes. */
  #retryLater(): void {
    this.#retry ??= this.#environment.clock.after(RETRY_AFTER, () => {
      this.#retry = undefined;
      if (this.#log.full === undefined || this.#stopped) return;
      this.#log.retry();
      this.#retryLater();
    });
  }

  async #modulate(): Promise<void> {
    const utilisation = await this.#backing.utilisation();
    if (this.#stopped || this.#tunables.enable_writeback_modulator === 0) return;
    this.#tunables.allow_writeback = utilisation < this.#tunables.writeback_threshold ? 1 : 0;
    this.#writeback.kick();
  }

  async #record(): Promise<void> {
    if (this.failure === undefined) await this.#recorder.record();
  }

  async #sync(): Promise<void> {
    const log = this.#log;
    if (log.dead !== undefined || this.failure !== undefined) return;
    await this.#barriers.run();
  }

  async #stop(): Promise<void> {
    this.#stopped = true;
    this.#retry?.cancel();
    this.#retry = undefined;
    this.endDrops();
    await this.#barriers.stop();
    await this.#daemons.stop();
    await this.#writeback.stop();
  }

  /** Ends every {@link dropCaches} that is under way. */
  endDrops(): void {
    this.#dropsEnd += 1;
    this.#log.changed.notify();
  }

  /** Geometry, memory and errors. */
  info(): object {
    const { geometry, dialect, durable } = this.#log;
    return {
      dialect,
      segment_size_order: geometry.order,
      nr_rambuf_pool: this.#log.pool,
      durable_id: durable,
      memory: this.memory,
      writeback_error: this.writebackError?.message ?? null,
      bad_blocks: this.#writeback.badBlocks,
      out_of_space: this.#log.full?.message ?? null,
      dead: this.#log.dead?.message ?? null,
    };
  }
}
