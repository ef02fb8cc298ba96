/** A server's snapshot as metrics in Prometheus' text format. */
import { type Metric, Registry } from "prom-client";
import type { Snapshot } from "../top/snapshot.ts";
import { families } from "./families.ts";

/** The text, and its media type. */
export async function expose(given: Snapshot): Promise<{ text: string; type: string }> {
  const registry = new Registry();
  // One that was withdrawn and still has clients stands behind one that has its name by now.
  const names = given.exports.map(({ name }) => name);
  const exports = given.exports.filter(({ name }, index) => names.indexOf(name) === index);
  const snapshot = { ...given, exports };
  for (const { name, type, help, samples } of families) {
    const values = samples(snapshot);
    if (values.length === 0) continue;
    // A metric of the library counts by itself; these have been counted already, so they only answer.
    const metric = { name, help, type, aggregator: "sum" };
    registry.registerMetric({ ...metric, get: async () => ({ ...metric, values }) } as unknown as Metric);
  }
  return { text: await registry.metrics(), type: registry.contentType };
}
