/**
 * The metrics, as a table: what each is called, what it says, and where it is in a snapshot of the server. What targets
 * and the devices below them say of themselves is in the table of watched facts of @dmkit/block-io, each of which is a
 * metric of devices, and of the devices below them.
 *
 * Names begin with `dmkit_`, counters end with `_total`; times are seconds, sizes bytes.
 */
import { type Facts, type WatchedFact, healthStates, joinFacts, watchedFacts } from "@dmkit/block-io";
import { countedOperations } from "@dmkit/nbd";
import type { ExportSnapshot } from "../manager/snapshot.ts";
import type { Latency, SampledDevice, Snapshot } from "../top/snapshot.ts";

export type Labels = Readonly<Record<string, string>>;

export interface Sample {
  readonly value: number;
  readonly labels: Labels;
  /** Of a part of a histogram. */
  readonly metricName?: string;
}

/** One metric with all its labels. */
export interface Family {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  /** Names of labels, with what they can be where that is known. */
  readonly labels: readonly string[];
  readonly samples: (snapshot: Snapshot) => readonly Sample[];
}

const states = ["live", "suspended", "broken"] as const;

function ofServer(
  type: "counter" | "gauge",
  name: string,
  help: string,
  value: (server: Snapshot) => number,
): Family {
  return { name, type, help, labels: [], samples: (server) => [{ value: value(server), labels: {} }] };
}

function ofExports(
  type: "counter" | "gauge",
  name: string,
  help: string,
  value: (one: ExportSnapshot) => number,
): Family {
  return {
    name,
    type,
    help,
    labels: ["export", "device"],
    samples: ({ exports }) =>
      exports.map((one) => ({ value: value(one), labels: { export: one.name, device: one.device } })),
  };
}

function ofOperations(name: string, help: string, key: "count" | "bytes" | "errors"): Family {
  return {
    name,
    type: "counter",
    help,
    labels: ["export", `operation: ${countedOperations.join(", ")}`],
    samples: ({ exports }) =>
      exports.flatMap((one) =>
        countedOperations.map((operation) => ({
          value: one.statistics[operation][key],
          labels: { export: one.name, operation },
        })),
      ),
  };
}

/** @param value undefined: it has none. */
function ofDevices(
  type: "counter" | "gauge",
  name: string,
  help: string,
  value: (one: SampledDevice) => number | undefined,
): Family {
  return {
    name,
    type,
    help,
    labels: ["device"],
    samples: ({ devices }) =>
      devices.flatMap((one) => {
        const found = value(one);
        return found === undefined ? [] : [{ value: found, labels: { device: one.name } }];
      }),
  };
}

/** 1 for the one of `all` that is so. */
function oneOf<Value extends string>(
  name: string,
  help: string,
  label: string,
  all: readonly Value[],
  value: (one: SampledDevice) => Value,
): Family {
  return {
    name,
    type: "gauge",
    help,
    labels: ["device", `${label}: ${all.join(", ")}`],
    samples: ({ devices }) =>
      devices.flatMap((one) =>
        all.map((each) => ({
          value: value(one) === each ? 1 : 0,
          labels: { device: one.name, [label]: each },
        })),
      ),
  };
}

/** The watched facts of devices, or of those below them: facts with one metric are one family. */
function ofFacts(
  prefix: string,
  labels: readonly string[],
  factsOf: (snapshot: Snapshot) => readonly { readonly labels: Labels; readonly facts: Facts }[],
): Family[] {
  // Each scrape has a snapshot of its own; its facts are joined once, for all of these metrics.
  const joined = new WeakMap<Snapshot, ReturnType<typeof factsOf>>();
  const once = (snapshot: Snapshot): ReturnType<typeof factsOf> => {
    const facts = joined.get(snapshot) ?? factsOf(snapshot);
    joined.set(snapshot, facts);
    return facts;
  };
  const families = new Map<string, Family>();
  for (const [fact, about] of Object.entries<WatchedFact>(watchedFacts)) {
    const { metric, type, help, labels: own = {} } = about;
    const before = families.get(metric);
    families.set(metric, {
      name: `${prefix}${metric}`,
      type,
      help,
      labels: [...labels, ...Object.keys(own)],
      samples: (snapshot) => [
        ...(before?.samples(snapshot) ?? []),
        ...once(snapshot).flatMap(({ labels: where, facts }) => {
          const value = facts[fact];
          return typeof value === "number" ? [{ value, labels: { ...where, ...own } }] : [];
        }),
      ],
    });
  }
  return [...families.values()];
}

/** All of them, in the order in which they are shown. */
export const families: readonly Family[] = [
  {
    name: "dmkit_build_info",
    type: "gauge",
    help: "1; the labels say which program this is",
    labels: ["version", "node"],
    samples: ({ version }) => [
      { value: 1, labels: { version: version.replace(/^dmkit /, ""), node: process.version } },
    ],
  },
  ofServer("gauge", "dmkit_uptime_seconds", "Time since the server started", ({ uptime }) => uptime / 1000),
  ofServer("gauge", "dmkit_connections", "Connections at present", ({ connections }) => connections),
  ofServer(
    "counter",
    "dmkit_accepted_connections_total",
    "Connections since the start",
    (one) => one.accepted,
  ),
  ofServer(
    "counter",
    "dmkit_refused_connections_total",
    "Connections that were refused because there were too many",
    ({ refused }) => refused,
  ),
  ofServer(
    "gauge",
    "dmkit_in_flight_bytes",
    "Bytes of requests and replies under way",
    (one) => one.bytesInFlight,
  ),
  ofServer("gauge", "dmkit_resident_memory_bytes", "Memory of the server process", () =>
    process.memoryUsage.rss(),
  ),
  {
    name: "dmkit_export_clients",
    type: "gauge",
    help: "Clients of the export, with and without TLS",
    labels: ["export", "device", "tls: yes, no"],
    samples: ({ exports, clients }) =>
      exports.flatMap(({ name, device, connections }) => {
        const secure = clients.filter((one) => one.tls && one.export === name).length;
        const labels = { export: name, device };
        return [
          { value: Math.min(secure, connections), labels: { ...labels, tls: "yes" } },
          { value: Math.max(0, connections - secure), labels: { ...labels, tls: "no" } },
        ];
      }),
  },
  ofExports("gauge", "dmkit_export_size_bytes", "Size of the export", ({ size }) => size),
  ofOperations("dmkit_export_requests_total", "Requests answered, by kind", "count"),
  ofOperations("dmkit_export_bytes_total", "Bytes of requests that succeeded", "bytes"),
  ofOperations("dmkit_export_errors_total", "Requests answered with an error", "errors"),
  {
    name: "dmkit_export_request_duration_seconds",
    type: "histogram",
    help: "From taking up a request to queueing its reply; kinds that nobody has asked for are left out",
    labels: ["export", "operation"],
    samples: ({ exports }) =>
      exports.flatMap(({ name, statistics }) =>
        countedOperations.flatMap((operation) => {
          const { count, latency } = statistics[operation];
          const labels = { export: name, operation };
          return count === 0 ? [] : histogram("dmkit_export_request_duration_seconds", labels, latency);
        }),
      ),
  },
  oneOf("dmkit_device_state", "1 for the state the device is in", "state", states, ({ state }) => state),
  oneOf(
    "dmkit_device_health",
    "1 for the health of the device; why, and what helps, is in /healthz and dmkit status",
    "health",
    healthStates,
    ({ health }) => health.state,
  ),
  ofDevices(
    "gauge",
    "dmkit_device_health_since_timestamp_seconds",
    "When the device came to be as it is; not there while it is ok",
    ({ health: { state, since } }) => (state === "ok" || since === undefined ? undefined : since / 1000),
  ),
  ofDevices(
    "gauge",
    "dmkit_device_failed",
    "1 if the device refuses writes since a failure",
    ({ failure }) => (failure === undefined ? 0 : 1),
  ),
  ofDevices("gauge", "dmkit_device_size_bytes", "Size of the device", ({ size }) => size),
  ofDevices(
    "gauge",
    "dmkit_device_storage_free_bytes",
    "Bytes left in the file systems below, where the least is left; not there where all has its storage",
    ({ space }) => space?.free,
  ),
  ofDevices(
    "gauge",
    "dmkit_device_storage_unallocated_bytes",
    "Bytes of the files below that have no storage yet",
    ({ space }) => space?.unallocated,
  ),
  {
    name: "dmkit_device_requests_total",
    type: "counter",
    help: "Requests begun, by kind",
    labels: ["device", "operation: read, write, flush, discard, writeZeroes"],
    samples: ({ devices }) =>
      devices.flatMap(({ name, traffic }) =>
        Object.entries({
          read: traffic.reads,
          write: traffic.writes,
          flush: traffic.flushes,
          discard: traffic.discards,
          writeZeroes: traffic.zeroes,
        }).map(([operation, value]) => ({ value, labels: { device: name, operation } })),
      ),
  },
  {
    name: "dmkit_device_bytes_total",
    type: "counter",
    help: "Bytes of requests begun",
    labels: ["device", "operation: read, write"],
    samples: ({ devices }) =>
      devices.flatMap(({ name, traffic }) => [
        { value: traffic.readBytes, labels: { device: name, operation: "read" } },
        { value: traffic.writtenBytes, labels: { device: name, operation: "write" } },
      ]),
  },
  {
    name: "dmkit_device_request_duration_seconds",
    type: "histogram",
    help: "Time of one request in 64",
    labels: ["device", "operation: read, write, flush"],
    samples: ({ devices }) =>
      devices.flatMap(({ name: device, traffic }) =>
        Object.entries<Latency>({ ...traffic.latency }).flatMap(([operation, latency]) =>
          histogram("dmkit_device_request_duration_seconds", { device, operation }, latency),
        ),
      ),
  },
  ...ofFacts("dmkit_device_", ["device"], ({ devices }) =>
    devices.map(({ name, segments }) => ({
      labels: { device: name },
      facts: joinFacts(segments.map(({ fields }) => fields)) as Facts,
    })),
  ),
  ...ofFacts("dmkit_below_", ["device", "below"], ({ devices }) =>
    devices.flatMap(({ name, below }) =>
      // Two may have one name, such as mem:1G: they are told together.
      [...new Set(below.map((one) => one.name))].map((lower) => {
        const facts = below.filter((one) => one.name === lower).map(({ fields }) => fields);
        return { labels: { device: name, below: lower }, facts: joinFacts(facts) };
      }),
    ),
  ),
];

/**
 * Cumulative buckets, their sum and their count. The sum is estimated from the middle of each bucket: what a server
 * counts is how many requests took how long, not how long they took together.
 */
function histogram(name: string, labels: Labels, latency: Latency): Sample[] {
  const samples: Sample[] = [];
  let count = 0;
  let sum = 0;
  for (const [index, requests] of latency.entries()) {
    count += requests;
    sum += (requests * 1.5 * 2 ** index) / 1e6;
    const isLast = index === latency.length - 1;
    const le = isLast ? "+Inf" : String(2 ** (index + 1) / 1e6);
    samples.push({ metricName: `${name}_bucket`, labels: { ...labels, le }, value: count });
  }
  samples.push(
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: count },
  );
  return samples;
}
