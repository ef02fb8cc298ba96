/** What a server is and does at one moment, as plain data: what `dmkit top`, the metrics and `ls` are made of. */
import type { Facts, Health } from "@dmkit/block-io";
import type { ClientStatus, ExportStatistics } from "@dmkit/nbd";

/** Requests a device has been given since it was created, by whomever. Bytes count when a request is begun. */
export interface DeviceTraffic {
  readonly reads: number;
  readonly readBytes: number;
  readonly writes: number;
  readonly writtenBytes: number;
  readonly flushes: number;
  readonly discards: number;
  readonly zeroes: number;
}

/** One segment of a device's table with what its target says of itself. */
export interface SegmentStatus {
  /** First sector. */
  readonly start: number;
  /** Sectors. */
  readonly length: number;
  readonly target: string;
  /** The target's part of the status line; empty if it has nothing to say. */
  readonly status: string;
  /** What the target says of itself by name, the values of its tunables among it; see METRICS.md. */
  readonly fields: Facts;
}

/** A device that was opened below a table: a file, an export of another server, an image in a store. */
export interface BelowStatus {
  readonly name: string;
  readonly health: Health;
  /** What it says of itself by name; see METRICS.md. */
  readonly fields: Facts;
}

/** Of the file systems that a device's files lie in. */
export interface Space {
  /** Bytes left where the least is left. */
  readonly free: number;
  /** Bytes of the files that have no storage yet. */
  readonly unallocated: number;
}

/** Who keeps a device from being removed. */
export interface Holder {
  readonly kind: "device" | "export";
  readonly name: string;
}

/**
 * `live`: requests are carried out.
 * `suspended`: requests wait.
 * `broken`: requests wait because no table could be opened; a `reload` and `resume` may help.
 */
export type DeviceState = "live" | "suspended" | "broken";

export interface DeviceSnapshot {
  readonly name: string;
  /** As it is now, one line a segment. */
  readonly table: string;
  /** Loaded by `reload`, put in place by `resume`. */
  readonly inactiveTable: string | undefined;
  readonly state: DeviceState;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Why it refuses writes since, if it does. */
  readonly failure: string | undefined;
  readonly health: Health;
  readonly segments: readonly SegmentStatus[];
  /** Without other named devices, which tell of themselves. */
  readonly below: readonly BelowStatus[];
  /** As it was when it was last looked at; undefined where nothing is known, or nothing is missing. */
  readonly space: Space | undefined;
  readonly holders: readonly Holder[];
  /** Named devices its table refers to. */
  readonly uses: readonly string[];
  readonly traffic: DeviceTraffic;
}

export interface ExportSnapshot {
  readonly name: string;
  /** Name of the device as it is now. */
  readonly device: string;
  readonly description: string;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  /** Clients that are using it. */
  readonly connections: number;
  readonly maxConnections: number | undefined;
  /** Withdrawn: no new clients, the last ones are still there. */
  readonly leaving: boolean;
  /** Per kind of request; see the NBD server. */
  readonly statistics: ExportStatistics;
}

export interface ServerSnapshot {
  /** Milliseconds of a clock that never goes back: differences between two snapshots give rates. */
  readonly time: number;
  /** Milliseconds since 1970, by the server's clock. */
  readonly wallTime: number;
  /** Milliseconds since the server started. */
  readonly uptime: number;
  readonly pid: number;
  /** Connections at present, of all exports and in the handshake. */
  readonly connections: number;
  /** Of the program: `dmkit 1.2.3`. */
  readonly version: string;
  /** Connections since the start, and those of them that were refused because there were too many. */
  readonly accepted: number;
  readonly refused: number;
  /** Bytes of requests and replies in flight. */
  readonly bytesInFlight: number;
  readonly clients: readonly ClientStatus[];
  readonly devices: readonly DeviceSnapshot[];
  readonly exports: readonly ExportSnapshot[];
}
