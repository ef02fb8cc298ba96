/**
 * The running device: puts the components together and carries requests between them.
 *
 *      write  → WritePath → SegmentLog (RAM → cache device) → Writeback (→ backing device)
 *      read   → ReadPath → RAM, cache device, backing device; Staging for read caching
 *      discard, zeroes → Bypass → the log or the backing device
 *      flush  → one barrier for all who wait: SegmentLog or PlogWriter, and what went past the log
 */
import {
  type Controls,
  type Environment,
  type Facts,
  GuardedTarget,
  type Health,
  type MessageOptions,
  Pace,
  SpaceWatch,
  type StorageFacts,
  type WriteZeroesOptions,
  done,
  healthy,
  storageBelow,
  worstHealth,
} from "@dmkit/block-io";
import { Barriers } from "./request/barriers.ts";
import { BusyMeter } from "./writeback/busy-meter.ts";
import { Bypass } from "./request/bypass.ts";
import { rules as ours } from "../core/rules.ts";
import { Shipper } from "./archive/shipper.ts";
import { Statistics } from "../core/statistics.ts";
import { Daemons } from "./daemons.ts";
import { IdentityKeeper } from "./identity-keeper.ts";
import { mergeSplit } from "./merge-split.ts";
import { cacheHealth } from "./control/health.ts";
import { archivedLimitsOver, limitsOver, readOnlyLimitsOver } from "./limits.ts";
import { type ControlledLog, dropAll, writeboostControls } from "./control/messages.ts";
import { type Tunables, defaultTunables } from "../options.ts";
import type { Parts } from "./parts.ts";
import { PlogWriter } from "./log/plog-writer.ts";
import { ReadPath } from "./request/read-path.ts";
import { Recorder } from "./recorder.ts";
import type { DeviceSettings } from "./settings.ts";
import type { Devices, Recovered, Split } from "./recovered.ts";
import { readOnlyError, suspendedError } from "./refusals.ts";
import { giveUp } from "./writeback/give-up.ts";
import { SegmentAges } from "./segment-ages.ts";
import { SegmentLog } from "./log/segment-log.ts";
import { Steering } from "./control/steering.ts";
import { LogTrouble } from "./log/trouble.ts";
import { Staging } from "./request/staging.ts";
import { closeInOrder } from "./closing.ts";
import { factsOf, infoOf, statusOf } from "./control/report.ts";
import { type Status, printStatus } from "./control/status.ts";
import { WritePath } from "./request/write-path.ts";
import { WriteThrough } from "./request/write-through.ts";
import { Discarder } from "./writeback/discarder.ts";
import { DropCaches, type DropOptions } from "./writeback/drop-caches.ts";
import { Writeback } from "./writeback/writeback.ts";

/** A running cache. After an error that may have lost something it takes no writes any more (`EIO`). */
export class WriteboostDevice extends GuardedTarget {
  readonly #parts: Parts;
  readonly #log: SegmentLog;
  readonly #backing: BusyMeter;
  readonly #writeback: Writeback;
  readonly #discarder: Discarder;
  readonly #bypass: Bypass;
  readonly #staging: Staging;
  readonly #writes: WritePath;
  readonly #reads: ReadPath;
  readonly #daemons: Daemons;
  readonly #recorder: Recorder;
  readonly #barriers: Barriers;
  readonly #through: WriteThrough;
  readonly #environment: Environment;
  readonly #steering: Steering;
  readonly #drops: DropCaches;
  readonly #trouble: LogTrouble;
  readonly #space: SpaceWatch;
  #stopped = false;

  /** @param recovered what {@link recover} found; the devices are left to whoever opened them. */
  constructor(devices: Devices, recovered: Recovered, settings: DeviceSettings) {
    const { environment, archive, readOnly, size, rules = ours } = settings;
    const limits = readOnly ? readOnlyLimitsOver : archive === undefined ? limitsOver : archivedLimitsOver;
    super(settings.name, size, limits(devices));
    const { geometry, identity, plogSegments: segments, plogName: name } = recovered;
    this.#environment = environment;
    this.#backing = new BusyMeter(devices.backing, environment.clock);
    const logDevices = [devices.cache, devices.plog].filter((one) => one !== undefined);
    this.#space = new SpaceWatch(settings.name, logDevices, environment);
    const decisions = archive === undefined ? rules : { ...rules, isLogged: rules.isLoggedToArchive };
    const log = new SegmentLog(devices.cache, recovered, settings.pool, decisions);
    const shipper = archive && new Shipper(log, archive.to, archive, settings.name, environment);
    const plog = devices.plog && new PlogWriter(devices.plog, geometry, { segments, name, log });
    this.#log = log;
    const ages = new SegmentAges(log, environment.clock);
    this.#parts = { log, backing: this.#backing, plog, shipper, statistics: new Statistics(), ages, size };
    const keeper = identity && new IdentityKeeper(devices.cache, identity);
    this.#recorder = new Recorder(log, keeper, recovered.recorded, (message, error) =>
      this.#trouble.tell("warn", message, error),
    );
    const pace = new Pace(environment.clock, () => this.requests);
    this.#writeback = new Writeback(
      log,
      this.#backing,
      {
        allowed: () => this.#steering.allowsWriteback,
        hurry: () => this.#drops.isRunning,
        past: () => this.#drops.goesPast,
        batch: () => this.#steering.values.nr_max_batched_writeback,
        barriers: () => this.#barriers.asked,
        failure: () => this.failure,
        relog: (index, data) => this.#writes.relog(index, data),
        pace,
      },
      environment,
      (error) => {
        // What went past the log cannot be written again.
        if (this.#bypass.unflushed) this.fail(error);
      },
    );
    this.#staging = new Staging(geometry.slots * geometry.blocks);
    this.#bypass = new Bypass(this.#parts, this.#staging);
    this.#writes = new WritePath(this.#parts, this.#writeback, this.#bypass);
    this.#reads = new ReadPath(this.#parts);
    this.#barriers = new Barriers(this.#parts, this.#bypass, environment.scheduler, {
      failure: () => this.failure,
      fail: (error) => this.fail(error),
    });
    this.#daemons = new Daemons(environment.clock, {
      modulate: () => this.#modulate(),
      record: () => (this.failure === undefined ? this.#recorder.record().catch(() => {}) : done),
      sync: () =>
        log.dead === undefined && this.failure === undefined ? this.#barriers.run().catch(() => {}) : done,
    });
    log.onProgress = () => this.#progress();
    this.#drops = new DropCaches(log, () => this.failure);
    this.#trouble = new LogTrouble(log, settings.name, environment);
    this.#discarder = new Discarder(this.#parts, this.#recorder, environment);
    const own = { name: this.name, mark: readOnly ? undefined : this.#recorder.through };
    this.#through = new WriteThrough(this.#parts, this.#writeback, this.#drops, this.#barriers, own);
    this.#steering = new Steering(
      { ...defaultTunables(geometry.order), ...settings.tunables },
      {
        log,
        staging: this.#staging,
        pace,
        bypass: this.#bypass,
        through: this.#through,
        discarder: this.#discarder,
        isArchived: archive !== undefined,
      },
      environment.logger,
    );
  }

  /** Merges what recovery found split over several copies, and starts the daemons. Called once. */
  async start(split: readonly Split[]): Promise<void> {
    for (const one of split) await mergeSplit(this.#log, this.#writes, one);
    if (this.limits.capabilities.readOnly) return this.#stop();
    await this.#space.look();
    this.#configure();
    this.#parts.shipper?.start();
    this.#discarder.start();
    this.#writeback.kick();
  }

  async storage(): Promise<readonly StorageFacts[]> {
    return storageBelow([this.#backing, this.#log.cache]);
  }

  override health(): Health {
    const { badSector } = this.#recorder;
    const own = cacheHealth(super.health(), this.#log, this.#writeback, this.#space.missing, badSector);
    return worstHealth([own, this.#parts.shipper?.health() ?? healthy]);
  }

  get statusData(): Status {
    return statusOf(this.#parts, this.#writeback, this.#space.missing, this.#steering.values);
  }

  override status(): string {
    if (!this.#stopped) void this.#space.look();
    return printStatus(this.statusData);
  }

  protected override doFacts(): Facts {
    return factsOf(this.#parts, this.#writeback, this.statusData, this.#through.isComplete);
  }

  protected override get controls(): Controls<ControlledLog> {
    return writeboostControls;
  }

  protected override tunableValues(): Tunables {
    return this.#steering.values;
  }

  protected override doTune(changes: Partial<Tunables>): void {
    this.tune(changes);
  }

  /** The geometry in use, and what was set; not what the modulator has set, which it will set again. */
  override settings(): Readonly<Record<string, unknown>> {
    const { geometry, pool } = this.#log;
    return { segment_size_order: geometry.order, nr_rambuf_pool: pool, ...this.#steering.told };
  }

  /** Changes tunables. Throws `EINVAL` with the range, `ENOTSUP` for what the devices below cannot do. */
  tune(changes: Partial<Tunables>): void {
    this.#steering.set(changes);
    if (!this.#stopped) this.#configure();
    this.#writeback.repace();
  }

  /** Sets the counters of requests to 0; that of partial flushes goes on. */
  clearStatistics(): void {
    this.#parts.statistics.clear();
  }

  /**
   * Writes back everything that is dirty now; what was written back stays so. Throws the error of a writeback that
   * failed, `EBUSY` while suspended, `ESHUTDOWN` if that or closing ends it, the signal's reason if it is aborted.
   */
  async dropCaches(options: DropOptions = {}): Promise<void> {
    this.#requireRunning();
    await this.#drops.run(this.#writeback, this.name, options).then(() => this.#through.settled());
  }

  /** See give-up.ts; `EBUSY` while suspended. */
  async giveUp(segment: number): Promise<string> {
    this.#requireRunning();
    return giveUp(this.#parts, this.#writeback, segment, this.#environment.logger);
  }

  #requireRunning(): void {
    if (this.#stopped) throw (this.limits.capabilities.readOnly ? readOnlyError : suspendedError)(this.name);
  }

  async writeHome(options: Pick<MessageOptions, "signal" | "progress"> = {}): Promise<void> {
    // What is only read has nothing in memory.
    if (this.limits.capabilities.readOnly && this.#log.map.dirtyBlocks === 0) return;
    await dropAll(this, options);
  }

  /** What is made durable from here on nobody has asked for: it does not count as a partial flush of a client. */
  protected override willDrain(): void {
    this.#barriers.quiet = true;
    this.#parts.shipper?.hurry();
  }

  protected override async doSuspend(): Promise<void> {
    await this.#stop();
    this.#barriers.quiet = false;
  }

  protected override async doResume(): Promise<void> {
    if (this.limits.capabilities.readOnly) return;
    this.#stopped = false;
    this.#trouble.start();
    this.#barriers.start();
    this.#writeback.start();
    this.#discarder.start();
    this.#configure();
    this.#parts.shipper?.start();
  }

  #configure(): void {
    this.#daemons.configure(this.#steering.values);
    this.#through.begin();
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#log.dead !== undefined) return Promise.reject(this.#log.dead);
    if (this.#staging.threshold === 0 || this.#bypass.overlaps(offset, into.length))
      return this.#reads.read(offset, into);
    const ticket = this.#staging.begin(offset, into.length);
    if (ticket === 0) return this.#reads.read(offset, into);
    return this.#staging.read(this.#reads, this.#writes, offset, into, ticket);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    if (this.#log.dead !== undefined) return Promise.reject(this.#log.dead);
    if (this.#steering.route.goesPast(offset, from.length)) {
      return this.#through.acknowledge(this.#bypass.write(this.#writes, offset, from), offset, from.length);
    }
    const at = this.#writes.place(offset, from);
    const rest = at < from.length ? this.#writes.finish(offset, from, at) : done;
    return this.#through.acknowledge(rest, offset, from.length);
  }

  protected override doFlush(): Promise<void> {
    return this.#barriers.ask();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    this.#log.check();
    if (this.limits.capabilities.discard === "none") return;
    await this.#through.acknowledge(this.#bypass.discard(this.#writes, offset, length), offset, length);
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    this.#log.check();
    const zeroing = this.#bypass.writeZeroes(this.#writes, offset, length, options);
    await this.#through.acknowledge(zeroing, offset, length);
  }

  protected override async doClose(): Promise<void> {
    await this.#stop();
    if (this.limits.capabilities.readOnly) return;
    await this.#parts.shipper?.close();
    if (this.#log.dead === undefined && this.failure === undefined)
      await closeInOrder(this.#parts, this.#recorder, this.#writeback, this.#environment, this.#trouble);
  }

  #progress(): void {
    this.#writeback.kick();
    this.#parts.shipper?.kick();
    this.#discarder.kick();
    this.#through.look(!this.#stopped);
    if (!this.#stopped) this.#recorder.cover();
  }

  async #modulate(): Promise<void> {
    const utilisation = await this.#backing.utilisation();
    if (this.#stopped || !this.#steering.modulate(utilisation)) return;
    this.#writeback.kick();
  }

  async #stop(): Promise<void> {
    this.#stopped = true;
    this.#trouble.stop();
    this.#parts.shipper?.stop();
    this.#drops.end();
    await Promise.all([this.#barriers.stop(), this.#through.settled()]);
    await this.#daemons.stop();
    await this.#discarder.stop();
    await this.#writeback.stop();
  }

  /** Geometry, memory and errors. */
  info(): object {
    return infoOf(this.#parts, this.#writeback);
  }
}
