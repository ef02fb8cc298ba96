/**
 * Opens the tables of named devices: what they refer to as `dm:NAME` is another named device, which is lent to them.
 *
 * Invariant: nobody is lent a device that stands on it, is on its way out, or that clients of an export write to.
 */
import {
  type DeviceSchemes,
  type Environment,
  type FilesBelow,
  type OpenContext,
  type Segment,
  printTable,
  schemeOf,
  shellQuote,
} from "@dmkit/block-io";
import { openersOf } from "../devices.ts";
import { BorrowedDevice } from "./device/borrowed-device.ts";
import type { Departures } from "./departures.ts";
import { type DeviceDirectory, circle, problem } from "./device-directory.ts";
import type { ManagedDevice } from "./device/managed-device.ts";
import { type OpenedTable, openSegments } from "./device/opened-table.ts";
import { bytesOf, hasOpenLength, lengthOf, readOpenTable, requireLength, ruleOf } from "./lengths.ts";
import { deviceReferences, readTable, resolvePaths } from "./references.ts";

/** How far a device is that takes long to open, in units of its target's own, and in a word what is done. */
export type Opening = (device: string, done: number, of: number, what?: string) => void;

// Milliseconds between two events of the log about one device that takes long to open.
const TOLD_EVERY = 10_000;

/** Whole per cent. */
export function percentOf(done: number, of: number): number {
  return of > 0 ? Math.min(100, Math.floor((100 * done) / of)) : 0;
}

export class TableOpener {
  readonly #devices: DeviceDirectory;
  readonly #departures: Departures;
  readonly #environment: Environment;
  readonly #opening: Opening | undefined;

  constructor(
    devices: DeviceDirectory,
    departures: Departures,
    environment: Environment,
    opening: Opening | undefined,
  ) {
    this.#devices = devices;
    this.#departures = departures;
    this.#environment = environment;
    this.#opening = opening;
  }

  /** @param files what has to stand behind its paths. */
  async open(
    owner: ManagedDevice,
    segments: readonly Segment[],
    readOnly: boolean,
    files?: FilesBelow,
  ): Promise<OpenedTable> {
    const borrow: DeviceSchemes = {
      dm: async (reference, access) => this.#borrow(owner, reference.slice(3), access),
    };
    try {
      return await openSegments(segments, {
        name: owner.name,
        environment: this.#environment,
        readOnly,
        schemes: { ...openersOf(this.#devices.targets), ...borrow },
        holder: owner.holder,
        pins: owner.pins,
        progress: this.#progressOf(owner.name),
        files,
      });
    } catch (error) {
      throw this.#departures.namingHolder(this.#devices.namingHolder(error, owner));
    }
  }

  /** Tells whoever wants to know at once, and the log now and then. */
  #progressOf(device: string): NonNullable<OpenContext["progress"]> {
    const { clock, logger } = this.#environment;
    let told = clock.now();
    return (done, of, what = "opening") => {
      this.#opening?.(device, done, of, what);
      if (clock.now() - told < TOLD_EVERY) return;
      told = clock.now();
      logger.log("info", `${what} takes a while`, { device, percent: percentOf(done, of) });
    };
  }

  #borrow(owner: ManagedDevice, reference: string, access: "read" | "write"): BorrowedDevice<ManagedDevice> {
    this.#devices.refuseCircle(owner, reference);
    const managed = this.#devices.find(reference);
    this.#devices.refuseIfLeaving(managed);
    const writing = [...managed.exports].find(([, { writes }]) => writes)?.[0];
    if (writing !== undefined && !managed.device.limits.capabilities.readOnly) {
      throw problem(
        "EBUSY",
        managed.name,
        `clients of export ${JSON.stringify(writing)} may write to it`,
        `Withdraw that export first: dmkit export rm ${shellQuote(writing)}`,
      );
    }
    const borrowed = new BorrowedDevice(managed.device, owner, reference, access, (device) =>
      managed.borrowed.delete(device),
    );
    managed.borrowed.add(borrowed);
    return borrowed;
  }

  /** A table as it can be opened: paths absolute, and all lengths known. Errors: EPARSE, ENOENT, EINVAL, a circle. */
  async read(name: string, table: string, folder: string = process.cwd()): Promise<readonly Segment[]> {
    const { targets } = this.#devices;
    const given = readOpenTable(table, targets);
    for (const reference of deviceReferences(given)) {
      if (reference === name) throw circle([name, name]);
      this.#devices.find(reference);
    }
    const segments = resolvePaths(given, folder, targets);
    const last = segments.at(-1);
    if (last === undefined || !hasOpenLength(table)) return segments;
    const rule = ruleOf(last);
    const length = await lengthOf(rule, async (reference) =>
      schemeOf(reference) === "dm"
        ? this.#devices.find(reference.slice(3)).device.size
        : bytesOf(reference, this.#environment),
    );
    const known = { ...last, length: requireLength(length, rule, name) };
    // Read again: all lines together may be longer than a device can be.
    return readTable(printTable([...segments.slice(0, -1), known]), targets);
  }
}
