/**
 * What the page shows, as JSON: `/v1/status` and `/v1/history`. A client may rely on what is here; more may come to be in
 * it, and what changes its meaning gets another number in the path.
 *
 * Names, messages and paths are as they were given, by whomever: it is for who shows them to show them as text.
 */
import { type TargetRegistry, type WatchedFacts, joinFacts } from "@dmkit/block-io";
import type { ClientStatus } from "@dmkit/nbd";
import { lowerReferences } from "../manager/references.ts";
import type { DeviceSnapshot, ExportSnapshot, ServerSnapshot } from "../manager/snapshot.ts";
import type { Figures } from "../top/figures.ts";

/** A device as `dmkit status --json` tells it, and what else the page draws. */
export interface FeedDevice extends Omit<DeviceSnapshot, "uses" | "traffic"> {
  /** What its table stands on, in order: `dm:NAME`, paths, URIs. */
  readonly standsOn: readonly string[];
  /** What all its segments say under names that mean the same for all, together; see METRICS.md. */
  readonly watched: WatchedFacts;
}

export interface FeedExport
  extends Pick<
    ExportSnapshot,
    "name" | "device" | "description" | "size" | "readOnly" | "connections" | "maxConnections" | "leaving"
  > {
  /** Since it was added: requests, bytes of those that succeeded, and those answered with an error. */
  readonly requests: number;
  readonly bytes: number;
  readonly errors: number;
}

export interface StatusFeed {
  /** Milliseconds since 1970. */
  readonly time: number;
  /** `dmkit 1.2.3`. */
  readonly version: string;
  readonly pid: number;
  /** Milliseconds since the server started. */
  readonly uptime: number;
  readonly connections: number;
  readonly bytesInFlight: number;
  /** Where verbs find this server, if they can. */
  readonly control: string | undefined;
  readonly devices: readonly FeedDevice[];
  readonly exports: readonly FeedExport[];
  /** Who uses them, in the order they came. */
  readonly clients: readonly ClientStatus[];
  /** Of the last second, as `dmkit top --json`; nothing in the first one. */
  readonly figures: Figures | undefined;
}

/** What a feed is made of besides a snapshot. */
export interface FeedContext {
  readonly control: string | undefined;
  readonly targets: TargetRegistry;
  readonly figures: Figures | undefined;
}

export function statusFeed(snapshot: ServerSnapshot, context: FeedContext): StatusFeed {
  const { wallTime, version, pid, uptime, connections, bytesInFlight, devices, exports, clients } = snapshot;
  const { targets, ...told } = context;
  return {
    ...told,
    time: wallTime,
    version,
    pid,
    uptime,
    connections,
    bytesInFlight,
    devices: devices.map((device) => feedDevice(device, targets)),
    exports: exports.map(feedExport),
    clients,
  };
}

function feedDevice(
  { uses: _uses, traffic: _traffic, ...device }: DeviceSnapshot,
  targets: TargetRegistry,
): FeedDevice {
  const watched = joinFacts(device.segments.map(({ fields }) => fields));
  return { ...device, watched, standsOn: lowerReferences(device.table, targets) };
}

function feedExport({ statistics, ...one }: ExportSnapshot): FeedExport {
  const sum = (key: "count" | "bytes" | "errors"): number =>
    Object.values(statistics).reduce((total, { [key]: value }) => total + value, 0);
  return { ...one, requests: sum("count"), bytes: sum("bytes"), errors: sum("errors") };
}
