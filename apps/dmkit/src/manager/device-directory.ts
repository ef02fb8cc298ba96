/**
 * The devices of a manager by name, and what stands on what.
 *
 * Invariants: a name is one device's, or being opened or closed, or free; what stands on what forms no circle.
 */
import {
  BlockIoError,
  type ErrorCode,
  SECTOR,
  type Segment,
  type TargetRegistry,
  didYouMean,
  printTable,
  refuse,
  shellQuote,
  tableLength,
} from "@dmkit/block-io";
import type { InactiveTable, ManagedDevice } from "./device/managed-device.ts";
import {
  checkDeviceName,
  deviceReferences,
  memoryOf,
  readTable,
  refersTo,
  renameReferences,
} from "./references.ts";

/** An error of what was asked of a device. */
export function problem(
  code: Extract<ErrorCode, "ENOENT" | "EEXIST" | "EBUSY" | "EINVAL" | "ESHUTDOWN">,
  device: string,
  reason: string,
  hint: string | undefined,
): BlockIoError {
  return new BlockIoError(reason, { code, device, hint });
}

/** What is said at the end of the server. */
export function shuttingDown(device?: string): BlockIoError {
  return new BlockIoError("the server is being shut down", { code: "ESHUTDOWN", device });
}

export class DeviceDirectory {
  /** What tables can name. */
  readonly targets: TargetRegistry;
  /** In the order they were created. */
  #devices: Map<string, ManagedDevice> = new Map();
  // Names of devices that are being opened or closed; each reservation is one object, given back once.
  readonly #reserved: Map<object, string> = new Map();

  constructor(targets: TargetRegistry) {
    this.targets = targets;
  }

  get names(): readonly string[] {
    return [...this.#devices.keys()];
  }

  get all(): readonly ManagedDevice[] {
    return [...this.#devices.values()];
  }

  has(managed: ManagedDevice): boolean {
    return this.#devices.get(managed.name) === managed;
  }

  /** Throws `ENOENT` with the names there are. */
  find(name: string): ManagedDevice {
    const managed = this.#devices.get(name);
    if (managed !== undefined) return managed;
    const known = this.names.join(", ");
    const hint = known === "" ? undefined : `${didYouMean(name, this.names)}There are: ${known}.`;
    throw problem("ENOENT", name, "there is no such device", hint);
  }

  /** Throws `EINVAL` for what is no name, `EEXIST` for one that is taken. */
  checkFree(name: string): void {
    checkDeviceName(name);
    if (!this.#devices.has(name) && ![...this.#reserved.values()].includes(name)) return;
    throw problem("EEXIST", name, "there is a device of this name already", "Choose another name.");
  }

  add(managed: ManagedDevice): void {
    this.#devices.set(managed.name, managed);
  }

  /** Does nothing if the name is another device's by now. */
  delete(managed: ManagedDevice): void {
    if (this.has(managed)) this.#devices.delete(managed.name);
  }

  /** Keeps a name from being given until the function it returns is called; calling that again does nothing. */
  reserve(name: string): () => void {
    const reservation = {};
    this.#reserved.set(reservation, name);
    return () => void this.#reserved.delete(reservation);
  }

  /** Keeps a name from being given while `work` lasts. */
  async reserving<T>(name: string, work: () => Promise<T>): Promise<T> {
    const free = this.reserve(name);
    try {
      return await work();
    } finally {
      free();
    }
  }

  /** Gives a device another, free name, in every table that refers to it as well. */
  rename(managed: ManagedDevice, to: string): void {
    const from = managed.name;
    const renamed = (one: string): string => (one === from ? to : one);
    this.#devices = new Map([...this.#devices].map(([key, value]) => [renamed(key), value]));
    managed.device.rename(to);
    // Each by itself: some of a table are no table, which begins at sector 0.
    const lineIn = (line: Segment): Segment => {
      const text = renameReferences(printTable([{ ...line, start: 0 }]), renamed);
      return { ...line, ...readTable(text, this.targets)[0], start: line.start };
    };
    const linesIn = (lines: readonly Segment[]): readonly Segment[] => lines.map(lineIn);
    const tableIn = (table: InactiveTable): InactiveTable => {
      const segments = linesIn(table.segments);
      return { ...table, text: printTable(segments), segments };
    };
    for (const other of this.all) {
      const { inactive, exchanged } = other;
      other.left = linesIn(other.left);
      other.gone = other.gone.map((one) => ({ ...one, line: lineIn(one.line) }));
      if (inactive !== undefined) other.inactive = tableIn(inactive);
      if (exchanged === undefined) continue;
      exchanged.next = tableIn(exchanged.next);
      exchanged.before = linesIn(exchanged.before);
    }
  }

  /** The devices a device stands on, by what its table calls them. */
  below(owner: ManagedDevice): ReadonlyMap<string, ManagedDevice> {
    const found = new Map<string, ManagedDevice>();
    for (const managed of this.#devices.values()) {
      for (const borrowed of managed.borrowed) {
        if (borrowed.owner === owner) found.set(borrowed.reference, managed);
      }
    }
    return found;
  }

  /** The table of a device as it is now, with the present names of what it stands on; empty without one. */
  tableOf(managed: ManagedDevice): string {
    return managed.table(this.below(managed));
  }

  /** The lines of that table. */
  segmentsOf(managed: ManagedDevice): readonly Segment[] {
    const table = this.tableOf(managed);
    return table === "" ? [] : readTable(table, this.targets);
  }

  /** Throws `EBUSY` for a table that is shorter than what users of the device know of. */
  refuseToShrink(managed: ManagedDevice, segments: readonly Segment[]): void {
    const { size } = managed.device;
    if (!managed.used || tableLength(segments) * SECTOR >= size) return;
    throw problem(
      "EBUSY",
      managed.name,
      `the new table has ${tableLength(segments)} sectors, fewer than the ${size / SECTOR} its users know of`,
      "Withdraw its exports and remove the devices above it first.",
    );
  }

  /** Throws `EINVAL` if `owner` stood on itself once it stood on `reference`, `ENOENT` if there is no such device. */
  refuseCircle(owner: ManagedDevice, reference: string): void {
    const path = reference === owner.name ? [owner.name] : this.#path(this.find(reference), owner);
    if (path !== undefined) throw circle([owner.name, ...path]);
  }

  /** The same for all that a table refers to. */
  refuseCircles(owner: ManagedDevice, segments: readonly Segment[]): void {
    for (const reference of deviceReferences(segments)) this.refuseCircle(owner, reference);
  }

  /** The devices above it, also while their tables are exchanged: the one that was closed may have to be opened again. */
  above(managed: ManagedDevice): readonly ManagedDevice[] {
    const exchanged = this.all.filter(
      ({ exchanged: tables }) =>
        tables !== undefined &&
        deviceReferences([...tables.before, ...tables.next.segments]).includes(managed.name),
    );
    return [...new Set([...managed.owners, ...exchanged])];
  }

  /** Throws `EBUSY` with who uses it. */
  refuseIfUsed(managed: ManagedDevice): void {
    this.refuseIfBelow(managed);
    const { users } = managed;
    if (users.length === 0) return;
    const hint = "Withdraw its exports first (dmkit export rm), or give --force to disconnect their clients.";
    throw problem("EBUSY", managed.name, `is used by ${users.join(", ")}`, hint);
  }

  /** Throws `EBUSY` if other devices stand on it. */
  refuseIfBelow(managed: ManagedDevice): void {
    const above = this.above(managed);
    if (above.length === 0) return;
    // What was given up is in no list any more, and closed when its storage answers.
    const isLeft = !above.some((device) => this.all.includes(device));
    const who = above.map(({ name }) => `device ${name}${isLeft ? ", which was given up" : ""}`).join(", ");
    const hint = isLeft
      ? "It is free when the storage of the other one answers, or the server ends."
      : "Remove the devices above it first; see: dmkit ls --tree";
    throw problem("EBUSY", managed.name, `is used by ${who}`, hint);
  }

  /** Throws `EBUSY` if it is on its way out. */
  refuseIfLeaving(managed: ManagedDevice): void {
    if (managed.leaving) throw problem("EBUSY", managed.name, "is being removed", undefined);
  }

  /** Throws `EBUSY` if requests in flight could not finish. */
  refuseIfHeldBelow(managed: ManagedDevice): void {
    const held = [...this.below(managed).values()].find(({ device }) => device.held);
    if (held === undefined) return;
    throw problem(
      "EBUSY",
      managed.name,
      `device ${held.name} below it is suspended, so requests in flight cannot finish`,
      `Resume that first: dmkit resume ${shellQuote(held.name)}`,
    );
  }

  /** An error of opening a table; where a file is locked by another device of this server it says which. */
  namingHolder(error: unknown, owner: ManagedDevice): unknown {
    if (!(error instanceof BlockIoError) || error.code !== "EBUSY" || error.device === undefined)
      return error;
    const path = error.device;
    const tableOf = (managed: ManagedDevice): string =>
      this.tableOf(managed) || printTable(managed.exchanged?.before ?? []);
    const holder = this.all.find(
      (managed) => managed !== owner && refersTo(tableOf(managed), path, this.targets),
    );
    if (holder === undefined) return error;
    return new BlockIoError(`is in use by device ${holder.name} of this server`, {
      code: "EBUSY",
      device: path,
      op: error.op,
      cause: error,
      hint: `Name that device in the table, dm:${holder.name} in place of the path, or remove it first: dmkit remove ${shellQuote(holder.name)}`,
    });
  }

  /** Throws `ENOTSUP` for what could not be opened again if another table failed. */
  refuseInThePast({ name, device }: ManagedDevice): void {
    if (device.opened?.past === undefined) return;
    throw refuse(
      name,
      "ENOTSUP",
      `shows ${device.opened.past}, which no table opens again: it gets no other`,
      "Make a device of its own for the other table: dmkit create NAME --table …",
    );
  }

  /** Throws `EBUSY` if closing the table, or opening it again where the next one fails, would lose something. */
  refuseToForget(managed: ManagedDevice): void {
    const segments = this.segmentsOf(managed);
    const { name, beginsAnew } = segments.find(({ target }) => target.beginsAnew)?.target ?? {};
    if (beginsAnew !== undefined) {
      throw problem(
        "EBUSY",
        managed.name,
        `its table has ${name}, whose ${beginsAnew} begins anew when it is opened: also where the new table fails and this one is opened again`,
        "Remove the device and create it with the new table; or give --force, and copy first what is to be kept.",
      );
    }
    const memory = memoryOf(segments);
    if (memory === undefined) return;
    throw problem(
      "EBUSY",
      managed.name,
      `its table keeps data in memory (${memory}), which a new table would not have`,
      "Make the memory a device of its own and refer to it as dm:NAME, or give --force to lose the data.",
    );
  }

  /** Keeps a device from being removed until the function it returns is called. Errors: ENOENT, EBUSY. */
  exported(name: string, exportName: string, writes: boolean): () => void {
    const managed = this.find(name);
    this.refuseIfLeaving(managed);
    const [above] = this.above(managed);
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

  /** Names from one device down to another that it stands on. @param seen those that do not lead there. */
  #path(
    from: ManagedDevice,
    to: ManagedDevice,
    seen: Set<ManagedDevice> = new Set(),
  ): readonly string[] | undefined {
    if (from === to) return [from.name];
    if (seen.has(from)) return undefined;
    seen.add(from);
    for (const below of this.below(from).values()) {
      const rest = this.#path(below, to, seen);
      if (rest !== undefined) return [from.name, ...rest];
    }
    return undefined;
  }
}

/** What is said of a device that would stand on itself. */
export function circle(names: readonly string[]): BlockIoError {
  return problem(
    "EINVAL",
    names[0] ?? "",
    `a device cannot stand on itself: ${names.join(" → ")}`,
    "Refer to a device that does not stand on this one.",
  );
}
