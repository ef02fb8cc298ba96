/**
 * A plan: what a stack file asks for, validated, as plain data that can be printed, compared and carried out.
 *
 * Invariants: names are unique within their kind; what a device stands on comes before it; every export is of a
 * device of the plan; paths are absolute; no two entries listen at the same place.
 */
import { MOST_CONNECTIONS, defaultLimits } from "@dmkit/nbd";
import { type LengthRule, type LogLevel, SECTOR, type TargetRegistry, tableLength } from "@dmkit/block-io";
import type { AccessOptions, ListenPolicy } from "@dmkit/nbd";
import { knownLength, readOpenTable, withLength } from "../manager/lengths.ts";
import { deviceNamed } from "./read/references.ts";

/** A named device. */
export interface PlannedDevice {
  readonly name: string;
  /**
   * Device-mapper table; other devices of the stack are `dm:NAME`. The last line may have `*` in the place of its
   * length: then `length` says what it is.
   */
  readonly table: string;
  /** There if, and only if, the table has a `*`. */
  readonly length?: LengthRule | undefined;
  readonly readOnly: boolean;
  /** `file:line:column`; two plans that differ in it are equal. */
  readonly where: string;
}

/** A file that is made, before any device is opened, if it is not there. */
export interface PlannedFile {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** Whether it is locked meanwhile. Default true. */
  readonly lock?: boolean;
  /** Reserve the storage now instead of making a sparse file. */
  readonly preallocate: boolean;
  /** `file:line:column`. */
  readonly where: string;
}

/** A device offered to NBD clients. */
export interface PlannedExport extends AccessOptions {
  readonly name: string;
  /** Name of a device. */
  readonly device: string;
  readonly description?: string | undefined;
  readonly readOnly: boolean;
  /** Refuse requests that are not aligned to the device's blocks. Left out: false. */
  readonly strict?: boolean | undefined;
  /** Clients at a time. */
  readonly maxConnections?: number | undefined;
  /** `file:line:column`. */
  readonly where: string;
}

export type PlannedListener =
  | (PlannedSocket & ListenPolicy)
  | ({ readonly host: string; readonly port: number; readonly allowRemote: boolean } & ListenPolicy);

interface PlannedSocket {
  readonly unix: string;
  /** Mode of the file: left out, 0o600. */
  readonly mode?: number | undefined;
  /** Name or number of its group. */
  readonly group?: string | undefined;
}

/** Where metrics and health are served over HTTP, and whether the page is as well. */
export type MetricsPlace = MetricsAddress & { readonly page?: boolean | undefined };

export type MetricsAddress = { readonly host: string; readonly port: number } | PlannedSocket;

/** Devices are in an order in which they can be opened: what a device stands on comes before it. */
export interface StackPlan {
  /** The file it was read from. */
  readonly path: string;
  readonly devices: readonly PlannedDevice[];
  /** To be made before the devices are opened. Left out: none. */
  readonly files?: readonly PlannedFile[] | undefined;
  /** In the order of the file; the first is what clients get who ask for none. */
  readonly exports: readonly PlannedExport[];
  /** Empty: the file says nothing, it is up to the command line. */
  readonly listen: readonly PlannedListener[];
  /** Path of the control socket. */
  readonly control?: string | undefined;
  readonly pidfile?: string | undefined;
  readonly log?: LogLevel | undefined;
  /** Seconds to finish requests after a signal. */
  readonly shutdownTimeout?: number | undefined;
  readonly metrics?: MetricsPlace | undefined;
}

/** Clients at a time that a server needs, for every export to have as many as it may. */
export function connectionsOf({ exports }: StackPlan): number {
  const wanted = exports.reduce((sum, { maxConnections = 0 }) => sum + maxConnections, 0);
  return Math.min(MOST_CONNECTIONS, Math.max(defaultLimits.connections, wanted));
}

/**
 * The device with a length in the place of `*`, if that follows from what is known; else as it is.
 * @param sizes bytes of devices of the stack. @param sizeOf those of all else.
 */
export function withKnownLength(
  device: PlannedDevice,
  sizes: ReadonlyMap<string, number | undefined>,
  sizeOf: (reference: string) => number | undefined = () => undefined,
): PlannedDevice {
  const { length, ...rest } = device;
  if (length === undefined) return device;
  const sectors = knownLength(length, (reference) => {
    const name = deviceNamed(reference);
    return name === undefined ? sizeOf(reference) : sizes.get(name);
  });
  if (sectors === undefined || sectors === 0) return device;
  return { ...rest, table: withLength(device.table, sectors) };
}

/** Bytes of a planned device; undefined where its length is open. */
export function plannedSize({ table, length }: PlannedDevice, targets: TargetRegistry): number | undefined {
  return length === undefined ? tableLength(readOpenTable(table, targets)) * SECTOR : undefined;
}
