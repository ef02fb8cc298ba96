/**
 * What `dmkit top` and `/metrics` read: a {@link ServerSnapshot}, and with each device the latencies that a `Meter` in
 * front of it has sampled, where there is one.
 *
 * The device manager counts with a `Meter` and answers `meter.traffic()` as the device's `traffic`: it has all that
 * `DeviceTraffic` has.
 */
import type { DeviceSnapshot, DeviceTraffic, ServerSnapshot } from "../manager/snapshot.ts";

/**
 * How many requests took how long. Bucket i: answered after 2^i up to 2^(i+1) microseconds; bucket 0 starts at 0, the
 * last one has no end.
 */
export type Latency = readonly number[];

/** Of the requests that were timed: one in some. */
export interface SampledLatency {
  readonly read: Latency;
  readonly write: Latency;
  readonly flush: Latency;
}

export interface SampledTraffic extends DeviceTraffic {
  readonly latency?: SampledLatency | undefined;
}

export interface SampledDevice extends DeviceSnapshot {
  readonly traffic: SampledTraffic;
}

export interface Snapshot extends ServerSnapshot {
  readonly devices: readonly SampledDevice[];
}
