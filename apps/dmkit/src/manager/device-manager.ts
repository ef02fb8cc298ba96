/**
 * Named devices as device-mapper has them: created from tables, stacked by name, exchanged while in use.
 *
 * Invariants:
 *
 * - a table refers to another device as `dm:NAME`; the references form no circle;
 * - a device is removed only when no export and no other device uses it, or given up when its storage is dead;
 * - what clients write to directly is used by no other device, and bytes that one device relies on are written by no
 *   other, whatever is between them: nobody changes bytes under somebody's cache (claims.ts of block-io);
 * - changes of one device take effect one after the other, and a change that fails leaves what was before; where
 *   even that cannot be opened again, requests wait (state `broken`) instead of failing;
 * - exchanging a table closes the old one before it opens the new: both may name the same files, which are locked.
 */
import {
  type Environment,
  type Health,
  type MessageOptions,
  type Segment,
  type TargetRegistry,
  done,
  printTable,
  shellQuote,
} from "@dmkit/block-io";
import { targets as allTargets } from "../targets.ts";
import { endsWithin } from "../serve/ends-within.ts";
import { Departures } from "./departures.ts";
import { DeviceDirectory, problem, shuttingDown } from "./device-directory.ts";
import { exchangeTable } from "./exchange/exchange.ts";
import { bringHome, homecomers, refuseToLeave } from "./exchange/homecoming.ts";
import { type InactiveTable, ManagedDevice } from "./device/managed-device.ts";
import type { NamedDevice } from "./device/named-device.ts";
import { type OpenedTable, claimed, requireTable } from "./device/opened-table.ts";
import { Cancelled } from "../control/protocol.ts";
import type { ReloadOptions, RemoveOptions, ResumeOptions, SuspendOptions, TableOptions } from "./options.ts";
import type { DeviceSnapshot } from "./snapshot.ts";
import { SpaceWatch } from "./space-watch.ts";
import { type Opening, TableOpener } from "./table-opener.ts";
import { refuseIfCancelled, unlessAborted } from "./exchange/unless-aborted.ts";

export class DeviceManager {
  readonly #environment: Environment;
  readonly #devices: DeviceDirectory;
  readonly #departures: Departures;
  readonly #opener: TableOpener;
  readonly #space: SpaceWatch;
  readonly #end: AbortController = new AbortController();
  #closing: Promise<void> | undefined;

  constructor(environment: Environment, targets: TargetRegistry = allTargets, opening?: Opening) {
    this.#environment = environment;
    this.#devices = new DeviceDirectory(targets);
    this.#space = new SpaceWatch(environment.clock);
    this.#departures = new Departures(this.#devices, environment);
    this.#opener = new TableOpener(this.#devices, this.#departures, environment, opening);
  }

  get targets(): TargetRegistry {
    return this.#devices.targets;
  }

  get names(): readonly string[] {
    return this.#devices.names;
  }

  /** Names of devices that are being closed. */
  get leaving(): readonly string[] {
    return this.#departures.names;
  }

  /** Opens a table under a name. Errors: EEXIST, EINVAL (name), EPARSE, ENOENT, EBUSY, those of opening. */
  async create(name: string, table: string, options: TableOptions = {}): Promise<NamedDevice> {
    const readOnly = options.readOnly === true;
    const segments = await this.#opener.read(name, table, options.folder);
    return this.#add(name, readOnly, (owner) => this.#opener.open(owner, segments, readOnly));
  }

  /** Gives something that was opened elsewhere a name; the manager closes it, also if this fails. */
  async adopt(name: string, opened: OpenedTable): Promise<NamedDevice> {
    try {
      requireTable(opened, this.targets);
      return await this.#add(name, opened.device.limits.capabilities.readOnly, async ({ holder }) =>
        claimed(opened, holder),
      );
    } catch (error) {
      await opened.close().catch(() => {});
      throw error;
    }
  }

  /**
   * Closes a device. Resolves with whether it is closed: one whose storage does not answer is given up by `force`; its
   * name is free then, and what it has open stays so until the storage answers or the process ends.
   * Errors: ENOENT, EBUSY with who uses it, `Cancelled`, and ENOSPC and the like where closing it would lose what can
   * still be saved: the device is there as before then. Otherwise those of the last flush.
   */
  async remove(name: string, options: RemoveOptions = {}): Promise<boolean> {
    if (options.force) return this.#removeOrGiveUp(name, options);
    await this.#inTurn(name, async (managed) => {
      refuseIfCancelled("remove", options.signal);
      this.#devices.refuseIfUsed(managed);
      await this.#departures.close(managed, { keepsData: true });
    });
    return true;
  }

  /**
   * For a device that is going to be removed: writes back what is in a cache that none of the tables has which there will
   * be. Errors: ENOENT, EBUSY (used, suspended), `ESHUTDOWN`, those of writing back.
   */
  bringHome(name: string, others: readonly Segment[]): Promise<void> {
    return this.#inTurn(name, async (managed) => {
      this.#devices.refuseIfUsed(managed);
      const context = { logger: this.#environment.logger, signal: this.#end.signal };
      const next = { segments: others, force: false };
      const targets = homecomers(managed, next, this.#devices.segmentsOf(managed)).homecomers;
      if (targets.length > 0 && managed.device.held) {
        const reason = "its cache has to be written back before it goes, and it is suspended";
        throw problem("EBUSY", name, reason, `Resume it first: dmkit resume ${shellQuote(name)}`);
      }
      await bringHome(managed, targets, next, context);
    });
  }

  async #removeOrGiveUp(name: string, { patience = 10_000, withdraw }: RemoveOptions): Promise<boolean> {
    // One that is being closed already has a name that nobody else has, until it is given up.
    const isHere = this.#devices.names.includes(name);
    const managed = (isHere ? undefined : this.#departures.named(name)) ?? this.#devices.find(name);
    this.#devices.refuseIfBelow(managed);
    managed.leaving = true;
    if (isHere) await withdraw?.(managed.device);
    const closing = isHere
      ? managed.inTurn(() => this.#departures.close(managed))
      : this.#departures.close(managed);
    if (await endsWithin(this.#environment.clock, patience, closing)) return true;
    this.#departures.giveUp(managed);
    return false;
  }

  /** Exports and devices above follow. Errors: ENOENT, EEXIST, EINVAL (name). */
  async rename(name: string, to: string): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      this.#checkFree(to);
      this.#devices.rename(managed, to);
    });
  }

  /**
   * Reads and checks a table that `resume` will put in place; the present one goes on. Errors: ENOENT, EPARSE,
   * EINVAL (a circle), EBUSY (smaller than what users know of, or data in memory would be lost).
   */
  async reload(name: string, table: string, options: ReloadOptions = {}): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      const segments = await this.#opener.read(managed.name, table, options.folder);
      this.#devices.refuseCircles(managed, segments);
      this.#devices.refuseToShrink(managed, segments);
      this.#devices.refuseInThePast(managed);
      const force = options.force === true;
      if (!force) {
        this.#devices.refuseToForget(managed);
        refuseToLeave(managed, segments);
      }
      const readOnly = options.readOnly ?? managed.readOnly;
      managed.inactive = { text: printTable(segments), segments, readOnly, force };
    });
  }

  /** Forgets what `reload` has loaded. */
  async clear(name: string): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      managed.inactive = undefined;
    });
  }

  /**
   * New requests wait; resolves when those in flight are answered and all is flushed, or at once without `flush`.
   * Errors: ENOENT, EBUSY (a device below is suspended), EIO (the flush failed: requests go on), `Cancelled`, which
   * is told at once, with what becomes of the device.
   */
  async suspend(name: string, { flush = true, signal }: SuspendOptions = {}): Promise<void> {
    let outcome = "nothing has changed";
    const cancelled = (): Cancelled => new Cancelled(`suspend was cancelled: ${outcome}`);
    const suspending = this.#inTurn(name, async (managed) => {
      const { device } = managed;
      this.#refuseAtTheEnd(managed.name);
      if (signal?.aborted) throw cancelled();
      if (!flush) {
        device.hold();
        return;
      }
      this.#devices.refuseIfHeldBelow(managed);
      const stays = device.held;
      outcome = stays
        ? `${managed.name} stays suspended; to let requests go on: dmkit resume ${shellQuote(managed.name)}`
        : `${managed.name} goes on as soon as the requests in flight are answered`;
      try {
        await device.suspend();
        this.#refuseAtTheEnd(managed.name);
        if (signal?.aborted && !stays) throw cancelled();
      } catch (error) {
        await device.resume();
        throw error;
      }
    });
    await unlessAborted(suspending, signal, cancelled);
  }

  /**
   * Puts the table in place that was loaded, if one was, and lets requests go on. What the old table has in a cache
   * that the new one does not have is written back before. If that fails, or the new table cannot be opened, the old
   * one goes on, and the error says so. Until all is written back it can be cancelled (`Cancelled`); from then on the
   * exchange comes to its end.
   */
  async resume(name: string, { signal, progress }: ResumeOptions = {}): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      refuseIfCancelled("resume", signal);
      const { inactive, device } = managed;
      if (inactive !== undefined) {
        this.#devices.refuseIfHeldBelow(managed);
        await this.#exchange(managed, inactive, { signal, progress });
        return;
      }
      if (device.opened === undefined) {
        const hint = `Give it one: dmkit reload ${shellQuote(managed.name)} --table "…"`;
        throw problem("EBUSY", managed.name, "has no table that could go on", hint);
      }
      await device.resume();
    });
  }

  /** See `ManagedDevice.atRest`. Errors: its, ENOENT, EBUSY (a device below is suspended). */
  atRest(name: string, work: (device: NamedDevice) => void): Promise<void> {
    return this.#inTurn(name, async (managed) => {
      this.#devices.refuseIfHeldBelow(managed);
      await managed.atRest(work);
    });
  }

  /** Carries out a target's message. Errors: ENOENT, EINVAL (unknown), EBUSY, the target's. */
  async message(name: string, words: readonly string[], options: MessageOptions = {}): Promise<string> {
    const managed = this.#devices.find(name);
    managed.untold ??= this.#devices.segmentsOf(managed);
    return managed.message(words, options);
  }

  /** The device under a name; throws `ENOENT`. It stays the same when it is renamed or its table exchanged. */
  device(name: string): NamedDevice {
    return this.#devices.find(name).device;
  }

  /** Keeps a device from being removed until what it returns is called. Errors: ENOENT, EEXIST, EBUSY (others stand on it). */
  exported(name: string, exportName: string, writes: boolean): () => void {
    return this.#devices.exported(name, exportName, writes);
  }

  /** Looks how all devices are; what has changed is logged. Returns those that are not well. */
  watchHealth(): readonly { readonly name: string; readonly health: Health }[] {
    void this.#space.look(this.#devices.all);
    const told = this.#devices.all.map((managed) => ({ name: managed.name, health: managed.health() }));
    return told.filter(({ health }) => health.state !== "ok");
  }

  /** Throws `ENOENT`. */
  snapshotOf(name: string): DeviceSnapshot {
    const managed = this.#devices.find(name);
    return managed.snapshot(this.#devices.below(managed));
  }

  /** What all devices are and do, in the order they were created. */
  snapshot(): readonly DeviceSnapshot[] {
    return this.#devices.all.map((managed) => managed.snapshot(this.#devices.below(managed)));
  }

  /**
   * Lets everything go on that is suspended, refuses what waits for a table that cannot be opened, and suspends
   * nothing any more: nothing may wait at the end.
   */
  async resumeAll(): Promise<void> {
    this.#end.abort(shuttingDown());
    await Promise.all(this.#devices.all.map((managed) => managed.goOn()));
  }

  /** Closes all devices, those above before those below, even if some fail: then throws the first failure. May be called again. */
  close(): Promise<void> {
    if (this.#closing !== undefined) return this.#closing;
    this.#end.abort(shuttingDown());
    // Each waits for itself only: what hangs while it is resumed must not keep others from being closed.
    const going = new Map(this.#devices.all.map((managed) => [managed, managed.goOn()] as const));
    for (const resumed of going.values()) resumed.catch(() => {});
    this.#closing = this.#departures.closeAll((managed) => going.get(managed) ?? done);
    return this.#closing;
  }

  #exchange(managed: ManagedDevice, next: InactiveTable, { signal, progress }: ResumeOptions): Promise<void> {
    const exchange = exchangeTable(managed, next, {
      logger: this.#environment.logger,
      open: (segments, readOnly, files) => this.#opener.open(managed, segments, readOnly, files),
      lines: () => this.#devices.segmentsOf(managed),
      signal: signal === undefined ? this.#end.signal : AbortSignal.any([signal, this.#end.signal]),
      progress,
    });
    return this.#departures.track(exchange);
  }

  async #add(
    name: string,
    readOnly: boolean,
    open: (owner: ManagedDevice) => Promise<OpenedTable>,
  ): Promise<NamedDevice> {
    this.#checkFree(name);
    const adding = this.#devices.reserving(name, async () => {
      const managed = new ManagedDevice(name, readOnly, this.targets, this.#environment);
      const opened = await open(managed);
      if (this.#end.signal.aborted) {
        await opened.close();
        this.#refuseAtTheEnd(name);
      }
      managed.pins = opened.pins ?? new Map();
      managed.device.putIn(opened);
      managed.device.letGo();
      this.#devices.add(managed);
      return managed.device;
    });
    return this.#departures.track(adding);
  }

  #inTurn<T>(name: string, change: (managed: ManagedDevice) => Promise<T>): Promise<T> {
    let managed: ManagedDevice;
    try {
      managed = this.#devices.find(name);
    } catch (error) {
      return Promise.reject(error);
    }
    return managed.inTurn(() => {
      // It may have been removed since.
      if (!this.#devices.has(managed)) this.#devices.find(name);
      return change(managed);
    });
  }

  #refuseAtTheEnd(name: string): void {
    if (this.#end.signal.aborted) throw shuttingDown(name);
  }

  #checkFree(name: string): void {
    this.#refuseAtTheEnd(name);
    this.#devices.checkFree(name);
  }
}
