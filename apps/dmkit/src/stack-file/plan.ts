/** What a stack file asks for, validated: devices, exports and where to listen. */
import type { LogLevel } from "@dmkit/block-io";

/** A named device. */
export interface PlannedDevice {
  readonly name: string;
  /** Device-mapper table; other devices of the stack are `dm:NAME`. */
  readonly table: string;
  readonly readOnly: boolean;
  /** `file:line`. */
  readonly where: string;
}

/** A device offered to NBD clients. */
export interface PlannedExport {
  readonly name: string;
  /** Name of a device. */
  readonly device: string;
  readonly description?: string | undefined;
  readonly readOnly: boolean;
  /** Clients at a time. */
  readonly maxConnections?: number | undefined;
  /** `file:line`. */
  readonly where: string;
}

export type PlannedListener =
  | { readonly unix: string }
  | { readonly host: string; readonly port: number; readonly allowRemote: boolean };

/** Devices are in an order in which they can be opened: what a device stands on comes before it. */
export interface StackPlan {
  /** The file it was read from. */
  readonly path: string;
  readonly devices: readonly PlannedDevice[];
  readonly exports: readonly PlannedExport[];
  readonly listen: readonly PlannedListener[];
  /** Path of the control socket. */
  readonly control?: string | undefined;
  readonly pidfile?: string | undefined;
  readonly log?: LogLevel | undefined;
  /** Seconds to finish requests after a signal. */
  readonly shutdownTimeout?: number | undefined;
  /** Where metrics are served over HTTP. */
  readonly metrics?: { readonly host: string; readonly port: number } | undefined;
}
