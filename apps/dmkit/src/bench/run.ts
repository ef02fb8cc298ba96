/**
 * Runs the benchmark: every server of a group beside its peers, in turns (A B A B), so that whatever else the
 * machine does falls on all of them. What counts is the ratio of medians within one run.
 */
import { type Cost, openBucket, spent } from "./buckets.ts";
import { withFolder } from "./leftovers.ts";
import {
  type Bucket,
  type DeviceGroup,
  type Pair,
  type RunningServer,
  type ServerSpec,
  isInstalled,
  startServer,
} from "./servers.ts";
import { type Sample, calmest, processors, sampled } from "./steal.ts";
import { type Outcome, type Work, fill, runWork, settle } from "./work.ts";

export interface BenchOptions {
  readonly groups: readonly DeviceGroup[];
  /** The loads of a group. */
  readonly worksOf: (group: DeviceGroup) => readonly Work[];
  readonly rounds: number;
  /** Seconds of each measurement. */
  readonly seconds: number;
  /** Bytes of the device that are used. */
  readonly span: number;
  readonly progress: (text: string) => void;
  /** Called when a group is over, with what could be measured of it. */
  readonly finished: (group: string) => void;
  /** Ends it. */
  readonly signal?: AbortSignal | undefined;
}

/** One server under one load. */
export interface Measurement {
  readonly server: string;
  readonly ours: boolean;
  /** IOPS or bytes per second, one for each round. */
  readonly samples: readonly number[];
  readonly median: number;
  /** (largest - smallest) / median. */
  readonly spread: number;
  /** What it asks of an object store; median. */
  readonly cost?: Cost;
}

export interface Row {
  readonly group: string;
  readonly work: string;
  readonly unit: Work["unit"];
  readonly measurements: readonly Measurement[];
  /** Ours by the best peer's median; undefined without peers. */
  readonly ratio: number | undefined;
  /** The largest share of processor time, 0 to 1, that the host took while a sample was measured. */
  readonly stolen: number;
  /** Servers of ours by each other. */
  readonly pairs: readonly (Pick<Pair, "of" | "to" | "goal"> & { readonly ratio: number })[];
}

/** What a server costs when it does nothing. */
export interface IdleCost {
  readonly group: string;
  readonly server: string;
  /** Milliseconds until the first answer. */
  readonly startup: number;
  /** Bytes resident before any load. */
  readonly memory: number | undefined;
}

export interface BenchReport {
  readonly rows: Row[];
  readonly idle: IdleCost[];
  readonly skipped: string[];
}

/** Measures everything and adds it to the report row by row; servers are stopped whatever happens. */
export async function runBench(options: BenchOptions, report: BenchReport): Promise<void> {
  for (const group of options.groups) {
    if (options.worksOf(group).length === 0) continue;
    try {
      await withFolder((folder) => measureIn(folder, group, options, report));
    } finally {
      options.finished(group.name);
    }
  }
}

/** One group being measured. */
interface Bench extends BenchOptions {
  readonly group: DeviceGroup;
  readonly specs: readonly ServerSpec[];
  readonly folder: string;
  readonly bucket: Bucket | undefined;
  readonly report: BenchReport;
}

async function measureIn(
  folder: string,
  group: DeviceGroup,
  options: BenchOptions,
  report: BenchReport,
): Promise<void> {
  const bucket = group.bucket === undefined ? undefined : await openBucket(group.bucket, folder);
  try {
    const bench = { ...options, group, specs: installed(group, report), folder, bucket, report };
    await (group.fresh === true ? measureFresh(bench) : measureGroup(bench));
  } finally {
    await bucket?.close();
  }
}

function installed(group: DeviceGroup, report: BenchReport): ServerSpec[] {
  return group.servers.filter((spec) => {
    if (isInstalled(spec.program) && spec.able?.() !== false) return true;
    const what = spec.able === undefined ? spec.program : spec.name;
    report.skipped.push(`${group.name}: ${what} is not installed`);
    return false;
  });
}

/** All servers run all the time, and have been written once. */
async function measureGroup(bench: Bench): Promise<void> {
  const { group, specs, span, signal } = bench;
  const servers: RunningServer[] = [];
  try {
    for (const index of specs.keys()) {
      signal?.throwIfAborted();
      servers.push(await start(bench, index));
    }
    for (const server of servers) await fill(server.uri, span, group.data);
    for (const work of bench.worksOf(group)) {
      await measureRow(bench, work, (index, measure) => measure(servers[index] as RunningServer));
    }
  } finally {
    for (const server of servers) await server.stop();
  }
}

/** One server at a time, and a new one each time. */
async function measureFresh(bench: Bench): Promise<void> {
  const { data, filled, span = bench.span } = bench.group;
  for (const work of bench.worksOf(bench.group)) {
    await measureRow(bench, work, async (index, measure) => {
      const server = await start(bench, index);
      try {
        if (filled === "always" || (filled === "for reads" && work.reads)) await fill(server.uri, span, data);
        return await measure(server);
      } finally {
        await server.stop();
      }
    });
  }
}

async function start({ group, specs, folder, bucket, report }: Bench, index: number): Promise<RunningServer> {
  const server = await startServer(specs[index] as ServerSpec, folder, index, bucket);
  const { name, startup } = server;
  if (!report.idle.some((known) => known.group === group.name && known.server === name)) {
    report.idle.push({ group: group.name, server: name, startup, memory: server.memory() });
  }
  return server;
}

/** @param using gives the server of an index to its argument. */
async function measureRow(
  bench: Bench,
  work: Work,
  using: (index: number, measure: (server: RunningServer) => Promise<Sample>) => Promise<Sample>,
): Promise<void> {
  const { group, specs, bucket, rounds, seconds, progress, signal, report } = bench;
  const { span = bench.span, data } = group;
  progress(`${group.name}: ${work.name}`);
  const able = new Map<number, { samples: number[]; costs: Cost[] }>(
    specs.map((_spec, index) => [index, { samples: [], costs: [] }]),
  );
  let stolen = 0;
  const once = async (index: number, costs: Cost[]): Promise<Sample> => {
    const before = bucket?.used();
    let outcome: Outcome | undefined;
    const sample = await using(index, async ({ uri }) => {
      await settle();
      return await sampled(async () => {
        outcome = await runWork(work, uri, seconds, span, data);
        return outcome.value;
      });
    });
    // Also what a server asks when it starts, and when it ends.
    if (bucket !== undefined && before !== undefined && outcome !== undefined)
      costs.push(spent(bucket, before, outcome.requests));
    return sample;
  };
  for (const index of able.keys()) if (specs[index]?.rehearsed === true) await once(index, []);
  for (let round = 0; round < rounds; round += 1) {
    for (const [index, { samples, costs }] of able) {
      const { name, ours } = specs[index] as ServerSpec;
      signal?.throwIfAborted();
      try {
        const sample = await calmest(
          () => once(index, costs),
          (share) =>
            progress(`${group.name}: ${work.name}, ${name} again: the host took ${processors(share)}`),
        );
        samples.push(sample.value);
        stolen = Math.max(stolen, sample.stolen);
      } catch (error) {
        if (ours || signal?.aborted === true) throw error;
        // A peer that cannot do this is left out of the row, and said so.
        able.delete(index);
        report.skipped.push(`${group.name}, ${work.name}: ${name} fails`);
      }
    }
  }
  const measurements = [...able].map(([index, { samples, costs }]) => {
    const { name, ours } = specs[index] as ServerSpec;
    const cost = costs.toSorted((a, b) => a.dollars - b.dollars)[costs.length >> 1];
    return { ...measured(name, ours, samples), ...(cost === undefined ? {} : { cost }) };
  });
  report.rows.push({
    group: group.name,
    work: work.name,
    unit: work.unit,
    measurements,
    ratio: ratioOf(measurements),
    stolen,
    pairs: pairsOf(group, work, measurements),
  });
}

function pairsOf(
  { pairs = [] }: DeviceGroup,
  work: Work,
  measurements: readonly Measurement[],
): Row["pairs"] {
  const medianOf = (name: string): number => measurements.find(({ server }) => server === name)?.median ?? 0;
  return pairs
    .filter((pair) => work.name.startsWith(pair.work) && medianOf(pair.to) > 0)
    .map(({ work: _loads, ...pair }) => ({ ...pair, ratio: medianOf(pair.of) / medianOf(pair.to) }));
}

/** Median and spread of samples. */
export function measured(server: string, ours: boolean, samples: readonly number[]): Measurement {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median =
    sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
  return { server, ours, samples, median, spread: ((sorted.at(-1) ?? 0) - (sorted[0] ?? 0)) / (median || 1) };
}

/** They show what is possible without doing the work: keeping anything, or compressing it. */
const ceilings: ReadonlySet<string> = new Set(["nbdkit null", "nbdkit malloc"]);

/** Ours by the best peer. */
export function ratioOf(measurements: readonly Measurement[]): number | undefined {
  const peers = measurements.filter(({ ours, server }) => !ours && !ceilings.has(server));
  const best = Math.max(...peers.map(({ median }) => median));
  // The first of ours is what the row is about; others are for comparison.
  const mine = measurements.find(({ ours }) => ours)?.median;
  return mine === undefined || peers.length === 0 ? undefined : mine / best;
}
