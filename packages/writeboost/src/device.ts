/**
 * The running device: puts the components together and carries requests between them.
 *
 *      write  → WritePath → SegmentLog (RAM → cache device) → Writeback (→ backing device)
 *      read   → ReadPath → RAM, cache device, backing device; Staging for read caching
 *      discard, zeroes → Bypass → the log or the backing device
 *      flush  → one barrier for all who wait: SegmentLog or PlogWriter, and what went past the log
 */
import {
  BlockIoError,
  type Environment,
  GuardedTarget,
  type MessageOptions,
  Streams,
  Turnstile,
  type WriteZeroesOptions,
  done,
} from "@dmkit/block-io";
import { Barriers } from "./barriers.ts";
import { BusyMeter } from "./busy-meter.ts";
import { Bypass } from "./bypass.ts";
import { runEnd, runStart } from "./core/sectors.ts";
import { Statistics } from "./core/statistics.ts";
import { Daemons } from "./daemons.ts";
import { BLOCK, slotOf } from "./format/geometry.ts";
import { RECORD_START, encodeRecord } from "./format/superblock.ts";
import { IdentityKeeper, sampleOf } from "./identity-keeper.ts";
import { type Tunables, defaultTunables, tunableNamed, tunableValue } from "./options.ts";
import { limitsOver } from "./limits.ts";
import type { Parts } from "./parts.ts";
import { PlogWriter } from "./plog-writer.ts";
import { ReadPath } from "./read-path.ts";
import type { Devices, Recovered } from "./recovery.ts";
import type { Split } from "./scan.ts";
import { SegmentLog } from "./segment-log.ts";
import { Staging } from "./staging.ts";
import { type Status, printStatus } from "./status.ts";
import { WritePath } from "./write-path.ts";
import { Writeback } from "./writeback.ts";

// Bytes of the smallest write that is worth an operation of its own on the backing device; less if the cutoff is.
const LARGE_WRITE = 64 * 1024;

export interface DeviceSettings {
  readonly name: string;
  /** Bytes; at most the backing device's. */
  readonly size: number;
  /** RAM buffers. */
  readonly pool: number;
  readonly tunables: Partial<Tunables>;
  readonly environment: Environment;
}

/** Says how far {@link WriteboostDevice.dropCaches} is. */
export interface DropProgress {
  readonly dirtyBlocks: number;
  readonly lastWritebackId: number;
  readonly targetId: number;
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
  readonly #identity: IdentityKeeper | undefined;
  readonly #barriers: Barriers;
  readonly #environment: Environment;
  readonly #turnstile: Turnstile = new Turnstile();
  readonly #tunables: Tunables;
  #recorded: number;
  #dropping = 0;
  #dropsEnd = 0;
  #stopped = false;

  /** @param recovered what {@link recover} found; the devices are left to whoever opened them. */
  constructor(devices: Devices, recovered: Recovered, settings: DeviceSettings) {
    super(settings.name, settings.size, limitsOver(devices.backing));
    const { geometry, dialect, map, identity } = recovered;
    const { environment } = settings;
    this.#environment = environment;
    this.#tunables = { ...defaultTunables(geometry.order), ...settings.tunables };
    this.#backing = new BusyMeter(devices.backing, environment.clock);
    const log = new SegmentLog(geometry, dialect, devices.cache, map, settings.pool, recovered);
    const plog = devices.plog && new PlogWriter(devices.plog, geometry, recovered.plogSegments, log);
    this.#log = log;
    this.#recorded = recovered.recorded;
    this.#parts = { log, backing: this.#backing, plog, statistics: new Statistics(), size: settings.size };
    this.#identity = identity && new IdentityKeeper(devices.cache, identity);
    this.#writeback = new Writeback(
      log,
      this.#backing,
      {
        allowed: () => this.#tunables.allow_writeback === 1,
        hurry: () => this.#dropping > 0,
        batch: () => this.#tunables.nr_max_batched_writeback,
        barriers: () => this.#barriers.asked,
        failure: () => this.failure,
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
    this.#staging.threshold = this.#tunables.read_cache_threshold;
    this.#streams.cutoff = this.#tunables.sequential_cutoff;
  }

  /** Merges what recovery found split over several copies, and starts the daemons. Called once. */
  async start(split: readonly Split[]): Promise<void> {
    for (const one of split) await this.#merge(one);
    this.#daemons.configure(this.#tunables);
    this.#writeback.kick();
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
      tunables: { ...this.#tunables, nr_max_batched_writeback: this.#tunables.nr_max_batched_writeback },
    };
  }

  override status(): string {
    return printStatus(this.statusData);
  }

  override async message(words: readonly string[], options: MessageOptions = {}): Promise<string> {
    const [first = "", second, ...rest] = words;
    const word = first.toLowerCase();
    if (rest.length === 0) {
      const name = tunableNamed(word);
      if (name !== undefined && second !== undefined) {
        this.tune({ [name]: tunableValue(name, second) });
        return "";
      }
      if (word === "drop_caches" && second?.toLowerCase() === "stop") {
        this.#endDrops();
        return "";
      }
      if (second === undefined) {
        if (word === "clear_stat" || word === "clear_stats") {
          this.#parts.statistics.clear();
          return "";
        }
        if (word === "drop_caches") {
          await this.#dropCachesFor(options);
          return "";
        }
        if (word === "info") return JSON.stringify(this.#info());
      }
    }
    throw new BlockIoError(`unknown message "${words.join(" ")}"`, {
      code: "EINVAL",
      device: this.name,
      op: "message",
      hint: "Messages: <tunable> <value>, clear_stats, drop_caches, drop_caches stop, info.",
    });
  }

  /** Changes tunables; the values must be in range. */
  tune(changes: Partial<Tunables>): void {
    Object.assign(this.#tunables, changes);
    this.#staging.threshold = this.#tunables.read_cache_threshold;
    this.#streams.cutoff = this.#tunables.sequential_cutoff;
    if (!this.#stopped) this.#daemons.configure(this.#tunables);
    this.#writeback.kick();
  }

  /**
   * Writes back everything that is dirty now. Throws the error of a writeback that failed, `ESHUTDOWN` if the
   * device is closed meanwhile, and the signal's reason if it is aborted; what was written back stays so.
   */
  async dropCaches(
    options: { signal?: AbortSignal; progress?: (progress: DropProgress) => void } = {},
  ): Promise<void> {
    const log = this.#log;
    const { signal, progress } = options;
    const wake = (): void => log.changed.notify();
    signal?.addEventListener("abort", wake);
    const ends = this.#dropsEnd;
    this.#dropping += 1;
    try {
      log.check();
      log.close();
      const targetId = log.open ? log.opened - 1 : log.opened;
      const failures = this.#writeback.failures;
      while (log.lastWriteback < targetId) {
        log.check();
        signal?.throwIfAborted();
        if (this.failure !== undefined) throw this.failure;
        if (this.#dropsEnd !== ends) throw this.#interrupted();
        if (this.#writeback.failures !== failures) throw this.#writeback.lastError;
        progress?.({ dirtyBlocks: log.map.dirtyBlocks, lastWritebackId: log.lastWriteback, targetId });
        this.#writeback.kick();
        await log.changed.wait();
      }
    } finally {
      this.#dropping -= 1;
      signal?.removeEventListener("abort", wake);
    }
  }

  #dropCachesFor({ signal, progress }: MessageOptions): Promise<void> {
    const first = this.#log.lastWriteback;
    return this.dropCaches({
      ...(signal === undefined ? {} : { signal }),
      progress: ({ lastWritebackId, targetId }) =>
        progress?.({ done: lastWritebackId - first, total: targetId - first, unit: "segments" }),
    });
  }

  override suspend(): Promise<void> {
    return this.#turnstile.pass(async () => {
      this.#barriers.quiet = true;
      try {
        await super.suspend();
        await this.#stop();
      } finally {
        this.#barriers.quiet = false;
      }
    });
  }

  override resume(): Promise<void> {
    return this.#turnstile.pass(async () => {
      if (this.#stopped) {
        this.#stopped = false;
        this.#barriers.start();
        this.#writeback.start();
        this.#daemons.configure(this.#tunables);
      }
      await super.resume();
    });
  }

  override close(): Promise<void> {
    this.#barriers.quiet = true;
    return super.close();
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#log.dead !== undefined) return Promise.reject(this.#log.dead);
    if (this.#staging.threshold === 0 || this.#bypass.active) return this.#reads.read(offset, into);
    const ticket = this.#staging.begin(offset, into.length);
    if (ticket === 0) return this.#reads.read(offset, into);
    return this.#readAndStage(offset, into, ticket);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    if (this.#log.dead !== undefined) return Promise.reject(this.#log.dead);
    const { cutoff } = this.#streams;
    if (from.length >= Math.min(cutoff, LARGE_WRITE) && this.#streams.bypasses(offset, from.length)) {
      const writing = this.#bypass.write(this.#writes, offset, from);
      if (writing !== done || fua) return this.#afterWrite(writing, fua);
      this.#barriers.changed(false);
      return done;
    }
    const at = this.#writes.place(offset, from, 0);
    if (at < from.length || fua) {
      return this.#afterWrite(at < from.length ? this.#writes.finish(offset, from, at) : done, fua);
    }
    this.#barriers.changed(false);
    return done;
  }

  protected override doFlush(): Promise<void> {
    return this.#barriers.ask();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    this.#log.check();
    if (this.#backing.limits.capabilities.discard === "none") return;
    await this.#afterWrite(this.#bypass.discard(this.#writes, offset, length), false);
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    this.#log.check();
    const writing = this.#bypass.writeZeroes(this.#writes, offset, length, options);
    await this.#afterWrite(writing, options.fua === true);
  }

  protected override async doClose(): Promise<void> {
    await this.#stop();
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
    await this.#record();
    // After a flush that failed, what the backing device shows need not be what it keeps.
    if (this.#identity === undefined || this.#writeback.failures > 0) return;
    await log.flushCache();
    await this.#backing.flush();
    const backingSample = await sampleOf(this.#backing);
    await this.#identity.write({
      clean: true,
      backingSample,
      coveredId: log.durable,
      lastId: log.lastFlushed,
    });
    await log.cache.flush();
  }

  /** Everything is on the cache device: a plog that cannot be written any more is no loss. */
  async #clearPlog(plog: PlogWriter): Promise<void> {
    try {
      await plog.clear();
    } catch (error) {
      this.#environment.logger.log("warn", "the plog could not be zeroed; the cache is closed in order", {
        device: this.name,
        error: String(error),
      });
    }
  }

  async #afterWrite(writing: Promise<void>, fua: boolean): Promise<void> {
    await writing;
    this.#barriers.changed(fua);
    if (fua) await this.#barriers.ask();
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
    const identity = this.#identity;
    const { durable, geometry } = this.#log;
    if (identity === undefined || identity.busy || this.#stopped || this.#log.dead !== undefined) return;
    if (durable - identity.identity.coveredId < Math.max(1, geometry.tail / 2)) return;
    identity.write({ coveredId: durable }).catch((error: unknown) => void this.#log.die(error));
  }

  #modulate(): void {
    const utilisation = this.#backing.utilisation();
    this.#tunables.allow_writeback = utilisation < this.#tunables.writeback_threshold ? 1 : 0;
    this.#writeback.kick();
  }

  /** Writes the superblock record if it is behind, durably. */
  async #record(): Promise<void> {
    const log = this.#log;
    const id = log.lastWriteback;
    if (log.dead !== undefined || this.failure !== undefined || id === this.#recorded) return;
    try {
      await log.cache.write(RECORD_START, encodeRecord(id));
      await this.#identity?.write({ recordedId: id });
      await log.flushCache();
      this.#recorded = id;
    } catch (error) {
      throw log.die(error);
    }
  }

  async #sync(): Promise<void> {
    const log = this.#log;
    if (log.dead !== undefined || this.failure !== undefined) return;
    await this.#barriers.run();
  }

  async #stop(): Promise<void> {
    this.#stopped = true;
    this.#endDrops();
    await this.#barriers.stop();
    await this.#daemons.stop();
    await this.#writeback.stop();
  }

  #endDrops(): void {
    this.#dropsEnd += 1;
    this.#log.changed.notify();
  }

  /** Brings the sectors of older copies that the newest one lacks into a new copy. */
  async #merge({ block, copies }: Split): Promise<void> {
    const { map, cache } = this.#log;
    let covered = map.valid[map.find(block)] as number;
    const data = Buffer.allocUnsafe(BLOCK);
    for (const { index, id } of copies.toReversed()) {
      // Making room for other blocks may have written this one back.
      if (this.#log.idOfBlock(index) !== id) continue;
      const bits = (map.dirty[index] as number) & ~covered;
      covered |= map.dirty[index] as number;
      if (bits === 0) continue;
      await cache.read(this.#log.dataOffset(index), data);
      for (let from = runStart(bits, 0); from < 8; ) {
        const end = runEnd(bits, from);
        await this.#writes.finish(block * BLOCK + from * 512, data.subarray(from * 512, end * 512), 0);
        from = runStart(bits, end);
      }
    }
  }

  #info(): object {
    const { geometry, dialect, durable } = this.#log;
    return {
      dialect,
      segment_size_order: geometry.order,
      nr_rambuf_pool: this.#log.pool,
      durable_id: durable,
      memory: this.memory,
      writeback_error: this.writebackError?.message ?? null,
      dead: this.#log.dead?.message ?? null,
    };
  }

  #interrupted(): BlockIoError {
    return new BlockIoError("drop_caches was interrupted", {
      code: "ESHUTDOWN",
      device: this.name,
      op: "message",
      hint: "What was written back stays written back; send it again to go on.",
    });
  }
}
