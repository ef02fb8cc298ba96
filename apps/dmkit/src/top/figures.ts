/**
 * Rates and percentiles from two snapshots of a server.
 *
 * Counters that went back (something was made anew under the same name) count from nothing.
 */
import type { Health, HealthState } from "@dmkit/block-io";
import type { ClientStatus } from "@dmkit/nbd";
import type { ExportSnapshot, SegmentStatus } from "../manager/snapshot.ts";
import { type Gauges, gaugesOf } from "./gauges.ts";
import type { Latency, SampledDevice, Snapshot } from "./snapshot.ts";

/** One direction of traffic. */
export interface Flow {
  /** Requests a second. */
  readonly iops: number;
  /** Bytes a second. */
  readonly rate: number;
  /** Microseconds, half and 99 of 100 requests are faster; undefined if there were none. */
  readonly p50: number | undefined;
  readonly p99: number | undefined;
}

export interface Traffic {
  readonly read: Flow;
  readonly write: Flow;
  /** Requests a second. */
  readonly flushes: number;
  readonly discards: number;
}

export interface ExportFigures extends Traffic {
  readonly name: string;
  readonly device: string;
  readonly clients: number;
  /** Requests a second that were answered with an error. */
  readonly errors: number;
}

export interface DeviceFigures extends Traffic, Gauges {
  readonly name: string;
  /** How it is; the state it is in where nothing is wrong with it. */
  readonly state: SampledDevice["state"] | HealthState;
  readonly health: Health;
}

/** One client, whatever it does. */
export interface ClientFigures {
  readonly id: number;
  /** Its identity where it has proved one, its address otherwise. */
  readonly name: string;
  readonly export: string;
  readonly tls: boolean;
  readonly readOnly: boolean;
  /** Milliseconds since it came. */
  readonly age: number;
  /** Requests under way. */
  readonly inFlight: number;
  /** Requests, bytes and errors a second. */
  readonly iops: number;
  readonly rate: number;
  readonly errors: number;
}

export interface Figures {
  readonly pid: number;
  /** Milliseconds. */
  readonly uptime: number;
  readonly connections: number;
  /** Bytes. */
  readonly bytesInFlight: number;
  readonly exports: readonly ExportFigures[];
  readonly devices: readonly DeviceFigures[];
  readonly clients: readonly ClientFigures[];
}

export function figuresOf(before: Snapshot, after: Snapshot): Figures {
  // Two snapshots of one moment say nothing; anything but 0 does as a divisor.
  const seconds = Math.max(0.001, (after.time - before.time) / 1000);
  const exports = new Map(before.exports.map((one) => [one.name, one]));
  const devices = new Map(before.devices.map((one) => [one.name, one]));
  const clients = new Map(before.clients.map((one) => [one.id, one]));
  const { pid, uptime, connections, bytesInFlight } = after;
  return {
    pid,
    uptime,
    connections,
    bytesInFlight,
    exports: after.exports.map((one) => exportFigures(exports.get(one.name), one, seconds)),
    devices: after.devices.map((one) => deviceFigures(devices.get(one.name), one, seconds)),
    clients: after.clients.map((one) => clientFigures(clients.get(one.id), one, seconds, after.wallTime)),
  };
}

function exportFigures(
  before: ExportSnapshot | undefined,
  after: ExportSnapshot,
  seconds: number,
): ExportFigures {
  const [old, now] = [before?.statistics, after.statistics];
  const flow = (kind: "read" | "write"): Flow => ({
    iops: grown(old?.[kind].count, now[kind].count) / seconds,
    rate: grown(old?.[kind].bytes, now[kind].bytes) / seconds,
    ...percentiles(old?.[kind].latency, now[kind].latency),
  });
  const sum = (statistics: ExportSnapshot["statistics"] | undefined): number =>
    Object.values(statistics ?? {}).reduce((total, { errors }) => total + errors, 0);
  return {
    name: after.name,
    device: after.device,
    clients: after.connections,
    read: flow("read"),
    write: flow("write"),
    flushes: grown(old?.flush.count, now.flush.count) / seconds,
    discards: grown(old?.trim.count, now.trim.count) / seconds,
    errors: grown(sum(old), sum(now)) / seconds,
  };
}

function clientFigures(
  before: ClientStatus | undefined,
  after: ClientStatus,
  seconds: number,
  now: number,
): ClientFigures {
  const { id, export: name, tls, readOnly, since, inFlight, identity, address } = after;
  return {
    id,
    name: identity ?? address ?? `unix ${id}`,
    export: name,
    tls,
    readOnly,
    age: Math.max(0, now - since),
    inFlight,
    iops: grown(before?.requests, after.requests) / seconds,
    rate: grown(before?.bytes, after.bytes) / seconds,
    errors: grown(before?.errors, after.errors) / seconds,
  };
}

function deviceFigures(
  before: SampledDevice | undefined,
  after: SampledDevice,
  seconds: number,
): DeviceFigures {
  const [old, now] = [before?.traffic, after.traffic];
  return {
    name: after.name,
    health: after.health,
    state: after.state === "live" && after.health.state !== "ok" ? after.health.state : after.state,
    read: {
      iops: grown(old?.reads, now.reads) / seconds,
      rate: grown(old?.readBytes, now.readBytes) / seconds,
      ...percentiles(old?.latency?.read, now.latency?.read),
    },
    write: {
      iops: grown(old?.writes, now.writes) / seconds,
      rate: grown(old?.writtenBytes, now.writtenBytes) / seconds,
      ...percentiles(old?.latency?.write, now.latency?.write),
    },
    flushes: grown(old?.flushes, now.flushes) / seconds,
    discards: grown(old?.discards, now.discards) / seconds,
    ...gaugesOf(before?.segments ?? noSegments, after.segments),
  };
}

const noSegments: readonly SegmentStatus[] = [];

/** How much a counter has grown. */
export function grown(before: number | undefined, after: number): number {
  return before === undefined || before > after ? after : after - before;
}

function percentiles(before: Latency | undefined, after: Latency | undefined): Pick<Flow, "p50" | "p99"> {
  const counts = (after ?? []).map((count, index) => grown(before?.[index], count));
  return { p50: percentile(counts, 0.5), p99: percentile(counts, 0.99) };
}

/** Microseconds that a share of the requests took at most; as exact as buckets of doubling width allow. */
export function percentile(counts: Latency, share: number): number | undefined {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return undefined;
  let left = total * share;
  for (const [index, count] of counts.entries()) {
    if (left <= count) {
      const start = index === 0 ? 0 : 2 ** index;
      return start + (2 ** (index + 1) - start) * (left / count);
    }
    left -= count;
  }
  return 2 ** counts.length;
}
