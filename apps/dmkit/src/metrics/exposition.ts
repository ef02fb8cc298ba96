/** A server's snapshot as metrics in Prometheus' text format. All names begin with `dmkit_`; times are seconds. */
import { healthStates } from "@dmkit/block-io";
import { type Metric, Registry } from "prom-client";
import type { ExportSnapshot } from "../manager/snapshot.ts";
import { gaugesOf } from "../top/gauges.ts";
import type { Latency, SampledDevice, Snapshot } from "../top/snapshot.ts";

type Labels = Readonly<Record<string, string>>;

interface Sample {
  readonly value: number;
  readonly labels: Labels;
  readonly metricName?: string;
}

/** The text, and its media type. */
export async function expose(snapshot: Snapshot): Promise<{ text: string; type: string }> {
  const registry = new Registry();
  // A metric of the library counts by itself; these have been counted already, so they only answer.
  const add = (
    type: "counter" | "gauge" | "histogram",
    name: string,
    help: string,
    values: readonly Sample[],
  ): void => {
    const metric = {
      name,
      help,
      type,
      aggregator: "sum",
      get: async () => ({ name, help, type, aggregator: "sum", values }),
    };
    if (values.length > 0) registry.registerMetric(metric as unknown as Metric);
  };
  addServer(snapshot, add);
  addExports(snapshot.exports, add);
  addDevices(snapshot.devices, add);
  return { text: await registry.metrics(), type: registry.contentType };
}

type Add = (
  type: "counter" | "gauge" | "histogram",
  name: string,
  help: string,
  values: readonly Sample[],
) => void;

function addServer({ uptime, connections, bytesInFlight }: Snapshot, add: Add): void {
  const one = (value: number): Sample[] => [{ value, labels: {} }];
  add("gauge", "dmkit_uptime_seconds", "Time since the server started", one(uptime / 1000));
  add("gauge", "dmkit_connections", "Clients at present", one(connections));
  add("gauge", "dmkit_in_flight_bytes", "Bytes of requests and replies under way", one(bytesInFlight));
  add("gauge", "dmkit_resident_memory_bytes", "Memory of the server process", one(process.memoryUsage.rss()));
}

function addExports(exports: readonly ExportSnapshot[], add: Add): void {
  const each = (value: (one: ExportSnapshot) => number): Sample[] =>
    exports.map((one) => ({ value: value(one), labels: { export: one.name, device: one.device } }));
  add(
    "gauge",
    "dmkit_export_connections",
    "Clients of the export",
    each((one) => one.connections),
  );
  add(
    "gauge",
    "dmkit_export_size_bytes",
    "Size of the export",
    each((one) => one.size),
  );
  const operations = exports.flatMap(({ name, statistics }) =>
    Object.entries(statistics).map(([operation, counts]) => ({
      labels: { export: name, operation },
      ...counts,
    })),
  );
  const counted = (key: "count" | "bytes" | "errors"): Sample[] =>
    operations.map(({ labels, [key]: value }) => ({ labels, value }));
  add("counter", "dmkit_export_requests_total", "Requests answered, by kind", counted("count"));
  add("counter", "dmkit_export_bytes_total", "Bytes of requests that succeeded", counted("bytes"));
  add("counter", "dmkit_export_errors_total", "Requests answered with an error", counted("errors"));
  const name = "dmkit_export_request_duration_seconds";
  const used = operations.filter(({ count }) => count > 0);
  add(
    "histogram",
    name,
    "From taking up a request to queueing its reply",
    used.flatMap(({ labels, latency }) => histogram(name, labels, latency)),
  );
}

function addDevices(devices: readonly SampledDevice[], add: Add): void {
  const each = (value: (one: SampledDevice) => number | undefined): Sample[] =>
    devices.flatMap((one) => {
      const found = value(one);
      return found === undefined ? [] : [{ value: found, labels: { device: one.name } }];
    });
  const states = ["live", "suspended", "broken"] as const;
  add(
    "gauge",
    "dmkit_device_state",
    "1 for the state the device is in",
    devices.flatMap(({ name, state }) =>
      states.map((one) => ({ value: one === state ? 1 : 0, labels: { device: name, state: one } })),
    ),
  );
  add(
    "gauge",
    "dmkit_device_health",
    "1 for the health of the device: ok, degraded, needs check or failed",
    devices.flatMap(({ name, health }) =>
      healthStates.map((one) => ({
        value: one === health.state ? 1 : 0,
        labels: { device: name, health: one },
      })),
    ),
  );
  add(
    "gauge",
    "dmkit_device_failed",
    "1 if the device refuses writes since a failure",
    each(({ failure }) => (failure === undefined ? 0 : 1)),
  );
  add(
    "gauge",
    "dmkit_device_size_bytes",
    "Size of the device",
    each((one) => one.size),
  );
  add(
    "counter",
    "dmkit_device_requests_total",
    "Requests begun, by kind",
    devices.flatMap(({ name, traffic }) =>
      Object.entries({
        read: traffic.reads,
        write: traffic.writes,
        flush: traffic.flushes,
        discard: traffic.discards,
        writeZeroes: traffic.zeroes,
      }).map(([operation, value]) => ({ value, labels: { device: name, operation } })),
    ),
  );
  add(
    "counter",
    "dmkit_device_bytes_total",
    "Bytes of requests begun",
    devices.flatMap(({ name, traffic }) => [
      { value: traffic.readBytes, labels: { device: name, operation: "read" } },
      { value: traffic.writtenBytes, labels: { device: name, operation: "write" } },
    ]),
  );
  const name = "dmkit_device_request_duration_seconds";
  add(
    "histogram",
    name,
    "Time of one request in 64",
    devices.flatMap(({ name: device, traffic }) =>
      Object.entries(traffic.latency ?? {}).flatMap(([operation, latency]) =>
        histogram(name, { device, operation }, latency as Latency),
      ),
    ),
  );
  const gauges = new Map(devices.map((one) => [one.name, gaugesOf([], one.segments)]));
  add(
    "gauge",
    "dmkit_cache_hit_ratio",
    "Requests the cache could serve, of all since it was opened",
    each((one) => gauges.get(one.name)?.hits),
  );
  add(
    "gauge",
    "dmkit_cache_dirty_ratio",
    "Dirty share of the cache",
    each((one) => gauges.get(one.name)?.dirty),
  );
  add(
    "gauge",
    "dmkit_log_segments",
    "Segments of the log not written back yet",
    each((one) => gauges.get(one.name)?.segments),
  );
  add(
    "gauge",
    "dmkit_compression_ratio",
    "Bytes written by bytes stored",
    each((one) => gauges.get(one.name)?.ratio),
  );
}

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
