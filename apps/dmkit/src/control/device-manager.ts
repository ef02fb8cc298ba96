/**
 * Named devices as device-mapper has them: created from tables, stacked by name, exchanged while in use.
 *
 * Invariants:
 *
 * - a table refers to another device as `dm:NAME`; the references form no circle;
 * - a device is removed only when no export and no other device uses it;
 * - what clients write to directly is used by no other device: nobody changes bytes under somebody's cache;
 * - changes of one device take effect one after the other, and a change that fails leaves what was before; where
 *   even that cannot be opened again, requests wait (state `broken`) instead of failing;
 * - exchanging a table closes the old one before it opens the new: both may name the same files, which are locked.
 */
import {
  BlockIoError,
  type DeviceSchemes,
  type Environment,
  type ErrorCode,
  type MessageOptions,
  SECTOR,
  type Segment,
  printTable,
  tableLength,
} from "@dmkit/block-io";
import { schemes } from "../devices.ts";
import { BorrowedDevice } from "./borrowed-device.ts";
import { exchangeTable } from "./exchange.ts";
import { type InactiveTable, ManagedDevice } from "./managed-device.ts";
import type { NamedDevice } from "./named-device.ts";
import { type OpenedTable, openSegments } from "./opened-table.ts";
import {
  checkDeviceName,
  deviceReferences,
  memoryOf,
  readTable,
  renameReferences,
  resolvePaths,
} from "./references.ts";
import type { DeviceSnapshot } from "./snapshot.ts";

export interface TableOptions {
  /** Open every device below read-only. Default: false for `create`, as it was for `reload`. */
  readonly readOnly?: boolean | undefined;
  /** Where relative paths in the table start; default: the process's folder, and they stay relative. */
  readonly folder?: string | undefined;
}

export interface ReloadOptions extends TableOptions {
  /** Even if what the present table keeps in memory is lost. */
  readonly force?: boolean | undefined;
}

/** What `rename` and `reload` need of a device that may not be there. */
type Code = Extract<ErrorCode, "ENOENT" | "EEXIST" | "EBUSY" | "EINVAL" | "ESHUTDOWN">;

export class DeviceManager {
  readonly #environment: Environment;
  /** In the order they were created. */
  #devices: Map<string, ManagedDevice> = new Map();
  // Names of devices that are being opened or closed.
  readonly #reserved: Set<string> = new Set();
  #ending = false;
  #closing: Promise<void> | undefined;

  constructor(environment: Environment) {
    this.#environment = environment;
  }

  get names(): readonly string[] {
    return [...this.#devices.keys()];
  }

  /** Opens a table under a name. Errors: EEXIST, EINVAL (name), EPARSE, ENOENT, EBUSY, those of opening. */
  async create(name: string, table: string, options: TableOptions = {}): Promise<NamedDevice> {
    const readOnly = options.readOnly === true;
    const segments = this.#read(name, table, options.folder);
    return this.#add(name, readOnly, (owner) => this.#open(owner, segments, readOnly));
  }

  /** Gives something that was opened elsewhere a name; from now on the manager closes it. */
  async adopt(name: string, opened: OpenedTable): Promise<NamedDevice> {
    return this.#add(name, opened.device.limits.capabilities.readOnly, async () => opened);
  }

  /** Closes a device. Errors: ENOENT, EBUSY with who uses it, those of the last flush. */
  async remove(name: string): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      this.#refuseIfUsed(managed);
      this.#devices.delete(managed.name);
      await this.#reserving(managed.name, () => this.#close(managed));
    });
  }

  /** Exports and devices above follow. Errors: ENOENT, EEXIST, EINVAL (name). */
  async rename(name: string, to: string): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      this.#checkFree(to);
      const from = managed.name;
      const renamed = (one: string): string => (one === from ? to : one);
      this.#devices = new Map([...this.#devices].map(([key, value]) => [renamed(key), value]));
      managed.device.rename(to);
      for (const other of this.#devices.values()) {
        if (other.inactive === undefined) continue;
        const text = renameReferences(other.inactive.text, renamed);
        other.inactive = { ...other.inactive, text, segments: readTable(text) };
      }
    });
  }

  /**
   * Reads and checks a table that `resume` will put in place; the present one goes on. Errors: ENOENT, EPARSE,
   * EINVAL (a circle), EBUSY (smaller than what users know of, or data in memory would be lost).
   */
  async reload(name: string, table: string, options: ReloadOptions = {}): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      const segments = this.#read(managed.name, table, options.folder);
      this.#refuseCircles(managed, segments);
      const { size } = managed.device;
      if (managed.used && tableLength(segments) * SECTOR < size) {
        throw problem(
          "EBUSY",
          managed.name,
          `the new table has ${tableLength(segments)} sectors, fewer than the ${size / SECTOR} its users know of`,
          "Withdraw its exports and remove the devices above it first.",
        );
      }
      if (options.force !== true) this.#refuseToForget(managed);
      const readOnly = options.readOnly ?? managed.readOnly;
      managed.inactive = { text: printTable(segments), segments, readOnly };
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
   * Errors: ENOENT, EBUSY (a device below is suspended), EIO (the flush failed: requests go on).
   */
  async suspend(name: string, { flush = true }: { readonly flush?: boolean } = {}): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      const { device } = managed;
      this.#refuseAtTheEnd(managed.name);
      if (!flush) {
        device.hold();
        return;
      }
      this.#refuseIfHeldBelow(managed);
      try {
        await device.suspend();
        this.#refuseAtTheEnd(managed.name);
      } catch (error) {
        await device.resume();
        throw error;
      }
    });
  }

  /**
   * Puts the table in place that was loaded, if one was, and lets requests go on. If the new table cannot be
   * opened the old one goes on, and the error says so.
   */
  async resume(name: string): Promise<void> {
    await this.#inTurn(name, async (managed) => {
      const { inactive, device } = managed;
      if (inactive !== undefined) {
        this.#refuseIfHeldBelow(managed);
        await this.#exchange(managed, inactive);
        return;
      }
      if (device.opened === undefined) {
        const hint = `Give it one: dmkit reload ${managed.name} --table "…"`;
        throw problem("EBUSY", managed.name, "has no table that could go on", hint);
      }
      await device.resume();
    });
  }

  /** Carries out a target's message. Errors: ENOENT, EINVAL (unknown), EBUSY, the target's. */
  async message(name: string, words: readonly string[], options: MessageOptions = {}): Promise<string> {
    return this.#find(name).message(words, options);
  }

  /** The device under a name; throws `ENOENT`. It stays the same when it is renamed or its table exchanged. */
  device(name: string): NamedDevice {
    return this.#find(name).device;
  }

  /**
   * Keeps a device from being removed until the function it returns is called. Errors: ENOENT, EEXIST, EBUSY (it
   * would be written to, and other devices stand on it).
   */
  exported(name: string, exportName: string, writes: boolean): () => void {
    const managed = this.#find(name);
    const [above] = managed.owners;
    if (writes && above !== undefined && !managed.device.limits.capabilities.readOnly) {
      throw problem(
        "EBUSY",
        name,
        `device ${above.name} stands on it, and clients would write under it`,
        "Export it read-only.",
      );
    }
    // A name can be given again while the last clients of the one before are still there.
    let key = exportName;
    for (let count = 2; managed.exports.has(key); count += 1) key = `${exportName} (${count})`;
    managed.exports.set(key, { writes });
    return () => managed.exports.delete(key);
  }

  /** Throws `ENOENT`. */
  snapshotOf(name: string): DeviceSnapshot {
    const managed = this.#find(name);
    return managed.snapshot(this.#below(managed));
  }

  /** What all devices are and do, in the order they were created. */
  snapshot(): readonly DeviceSnapshot[] {
    return [...this.#devices.values()].map((managed) => managed.snapshot(this.#below(managed)));
  }

  /** Lets everything go on that is suspended, and suspends nothing any more: nothing may wait at the end. */
  async resumeAll(): Promise<void> {
    this.#ending = true;
    const held = [...this.#devices.values()].filter(({ state }) => state === "suspended");
    // One whose table is being exchanged goes on by itself.
    await Promise.all(held.filter(({ changing }) => !changing).map(({ device }) => device.resume()));
  }

  /**
   * Closes all devices, those above before those below; every one is closed even if others fail, then the first
   * failure is thrown. May be called again.
   */
  close(): Promise<void> {
    this.#closing ??= this.#closeAll();
    return this.#closing;
  }

  async #closeAll(): Promise<void> {
    // Not waited for: closing waits for its own.
    this.resumeAll().catch(() => {});
    const failures: unknown[] = [];
    while (this.#devices.size > 0) {
      const tops = [...this.#devices.values()].filter(({ borrowed }) => borrowed.size === 0);
      // There are no circles, so there is a top; were there none, closing in any order beats not closing.
      const next = tops.length > 0 ? tops : [...this.#devices.values()];
      for (const managed of next) this.#devices.delete(managed.name);
      const results = await Promise.allSettled(
        next.map((managed) => managed.inTurn(() => this.#close(managed))),
      );
      failures.push(...results.flatMap((result) => (result.status === "rejected" ? [result.reason] : [])));
    }
    if (failures.length > 0) throw failures[0];
  }

  async #close(managed: ManagedDevice): Promise<void> {
    managed.changing = true;
    await managed.quieten();
    await managed.device.close();
  }

  #exchange(managed: ManagedDevice, next: InactiveTable): Promise<void> {
    const table = managed.table(this.#below(managed));
    return exchangeTable(managed, next, {
      logger: this.#environment.logger,
      open: (segments, readOnly) => this.#open(managed, segments, readOnly),
      before: { segments: table === "" ? [] : readTable(table), readOnly: managed.readOnly },
    });
  }

  async #add(
    name: string,
    readOnly: boolean,
    open: (owner: ManagedDevice) => Promise<OpenedTable>,
  ): Promise<NamedDevice> {
    this.#checkFree(name);
    return this.#reserving(name, async () => {
      const managed = new ManagedDevice(name, readOnly, this.#environment);
      const opened = await open(managed);
      if (this.#ending) {
        await opened.close();
        this.#refuseAtTheEnd(name);
      }
      managed.device.putIn(opened);
      managed.device.letGo();
      this.#devices.set(name, managed);
      return managed.device;
    });
  }

  async #reserving<T>(name: string, work: () => Promise<T>): Promise<T> {
    this.#reserved.add(name);
    try {
      return await work();
    } finally {
      this.#reserved.delete(name);
    }
  }

  #open(owner: ManagedDevice, segments: readonly Segment[], readOnly: boolean): Promise<OpenedTable> {
    const borrow: DeviceSchemes = {
      dm: async (reference, access) => this.#borrow(owner, reference.slice(3), access),
    };
    return openSegments(segments, {
      name: owner.name,
      environment: this.#environment,
      readOnly,
      schemes: { ...schemes, ...borrow },
    });
  }

  #borrow(owner: ManagedDevice, reference: string, access: "read" | "write"): BorrowedDevice<ManagedDevice> {
    if (reference === owner.name) throw circle([owner.name, owner.name]);
    const managed = this.#find(reference);
    const path = this.#path(managed, owner);
    if (path !== undefined) throw circle([owner.name, ...path]);
    const writing = [...managed.exports].find(([, { writes }]) => writes)?.[0];
    if (writing !== undefined && !managed.device.limits.capabilities.readOnly) {
      throw problem(
        "EBUSY",
        managed.name,
        `clients of export ${JSON.stringify(writing)} may write to it`,
        `Withdraw that export first: dmkit export rm ${JSON.stringify(writing)}`,
      );
    }
    const borrowed = new BorrowedDevice(managed.device, owner, reference, access, (device) =>
      managed.borrowed.delete(device),
    );
    managed.borrowed.add(borrowed);
    return borrowed;
  }

  /** Names from one device down to another that it stands on. */
  #path(from: ManagedDevice, to: ManagedDevice): readonly string[] | undefined {
    if (from === to) return [from.name];
    for (const below of this.#below(from).values()) {
      const rest = this.#path(below, to);
      if (rest !== undefined) return [from.name, ...rest];
    }
    return undefined;
  }

  /** The devices a device stands on, by what its table calls them. */
  #below(owner: ManagedDevice): ReadonlyMap<string, ManagedDevice> {
    const found = new Map<string, ManagedDevice>();
    for (const managed of this.#devices.values()) {
      for (const borrowed of managed.borrowed) {
        if (borrowed.owner === owner) found.set(borrowed.reference, managed);
      }
    }
    return found;
  }

  #read(name: string, table: string, folder: string | undefined): readonly Segment[] {
    const segments = readTable(table);
    for (const reference of deviceReferences(segments)) {
      if (reference === name) throw circle([name, name]);
      this.#find(reference);
    }
    return folder === undefined ? segments : resolvePaths(segments, folder);
  }

  #refuseCircles(managed: ManagedDevice, segments: readonly Segment[]): void {
    for (const reference of deviceReferences(segments)) {
      const path = this.#path(this.#find(reference), managed);
      if (path !== undefined) throw circle([managed.name, ...path]);
    }
  }

  #refuseToForget(managed: ManagedDevice): void {
    const table = managed.table(this.#below(managed));
    const memory = table === "" ? undefined : memoryOf(readTable(table));
    if (memory === undefined) return;
    throw problem(
      "EBUSY",
      managed.name,
      `its table keeps data in memory (${memory}), which a new table would not have`,
      "Make the memory a device of its own and refer to it as dm:NAME, or give --force to lose the data.",
    );
  }

  #refuseIfUsed(managed: ManagedDevice): void {
    const users = [
      ...managed.owners.map(({ name }) => `device ${name}`),
      ...[...managed.exports.keys()].map((name) => `export ${JSON.stringify(name)}`),
    ];
    if (users.length === 0) return;
    const hint =
      managed.borrowed.size > 0
        ? "Remove the devices above it first; see: dmkit ls --tree"
        : "Withdraw its exports first (dmkit export rm), or give --force to disconnect their clients.";
    throw problem("EBUSY", managed.name, `is used by ${users.join(", ")}`, hint);
  }

  #refuseIfHeldBelow(managed: ManagedDevice): void {
    const held = [...this.#below(managed).values()].find(({ device }) => device.held);
    if (held === undefined) return;
    throw problem(
      "EBUSY",
      managed.name,
      `device ${held.name} below it is suspended, so requests in flight cannot finish`,
      `Resume that first: dmkit resume ${held.name}`,
    );
  }

  #inTurn<T>(name: string, change: (managed: ManagedDevice) => Promise<T>): Promise<T> {
    let managed: ManagedDevice;
    try {
      managed = this.#find(name);
    } catch (error) {
      return Promise.reject(error);
    }
    return managed.inTurn(() => {
      // It may have been removed since.
      if (this.#devices.get(managed.name) !== managed) this.#find(name);
      return change(managed);
    });
  }

  #refuseAtTheEnd(name: string): void {
    if (this.#ending) throw problem("ESHUTDOWN", name, "the server is being shut down", undefined);
  }

  #checkFree(name: string): void {
    checkDeviceName(name);
    this.#refuseAtTheEnd(name);
    if (!this.#devices.has(name) && !this.#reserved.has(name)) return;
    throw problem("EEXIST", name, "there is a device of this name already", "Choose another name.");
  }

  #find(name: string): ManagedDevice {
    const managed = this.#devices.get(name);
    if (managed !== undefined) return managed;
    const known = this.names.join(", ");
    throw problem(
      "ENOENT",
      name,
      "there is no such device",
      known === "" ? undefined : `There are: ${known}.`,
    );
  }
}

function circle(names: readonly string[]): BlockIoError {
  return problem(
    "EINVAL",
    names[0] ?? "",
    `a device cannot stand on itself: ${names.join(" → ")}`,
    "Refer to a device that does not stand on this one.",
  );
}

function problem(code: Code, device: string, reason: string, hint: string | undefined): BlockIoError {
  return new BlockIoError(reason, { code, device, hint });
}
