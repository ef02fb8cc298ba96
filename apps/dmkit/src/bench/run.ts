/**
 * Runs the benchmark: every server of a group beside its peers, in turns (A B A B), so that whatever else the
 * machine does falls on all of them. What counts is the ratio of medians within one run.
 */
import { withFolder } from "./leftovers.ts";
import {
  type DeviceGroup,
  type RunningServer,
  type ServerSpec,
  isInstalled,
  startServer,
} from "./servers.ts";
import { type Sample, calmest, processors, sampled } from "./steal.ts";
import { type Work, fill, runWork, settle } from "./work.ts";

export interface BenchOptions {
  readonly groups: readonly DeviceGroup[];
  readonly works: readonly Work[];
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
  readonly pairs: readonly { readonly of: string; readonly to: string; readonly ratio: number }[];
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
    const bench = group.fresh === true ? measureFresh : measureGroup;
    try {
      await withFolder((folder) => bench(group, installed(group, report), folder, options, report));
    } finally {
      options.finished(group.name);
    }
  }
}

function installed(group: DeviceGroup, report: BenchReport): ServerSpec[] {
  return group.servers.filter((spec) => {
    if (isInstalled(spec.program)) return true;
    report.skipped.push(`${spec.name}: ${spec.program} is not installed`);
    return false;
  });
}

/** All servers run all the time, and have been written once. */
async function measureGroup(
  group: DeviceGroup,
  specs: readonly ServerSpec[],
  folder: string,
  options: BenchOptions,
  report: BenchReport,
): Promise<void> {
  const servers: RunningServer[] = [];
  try {
    for (const [index, spec] of specs.entries()) {
      options.signal?.throwIfAborted();
      servers.push(await start(group, spec, folder, index, report));
    }
    for (const server of servers) await fill(server.uri, options.span, group.data);
    for (const work of options.works) {
      await measureRow(group, work, specs, options, report, (index, measure) =>
        measure(servers[index] as RunningServer),
      );
    }
  } finally {
    for (const server of servers) await server.stop();
  }
}

/** One server at a time, and a new one each time. */
async function measureFresh(
  group: DeviceGroup,
  specs: readonly ServerSpec[],
  folder: string,
  options: BenchOptions,
  report: BenchReport,
): Promise<void> {
  for (const work of options.works) {
    await measureRow(group, work, specs, options, report, async (index, measure) => {
      const server = await start(group, specs[index] as ServerSpec, folder, index, report);
      try {
        const { data, span = options.span } = group;
        const { filled } = group;
        if (filled === "always" || (filled === "for reads" && work.reads)) await fill(server.uri, span, data);
        return await measure(server);
      } finally {
        await server.stop();
      }
    });
  }
}

async function start(
  group: DeviceGroup,
  spec: ServerSpec,
  folder: string,
  index: number,
  { idle }: BenchReport,
): Promise<RunningServer> {
  const server = await startServer(spec, folder, index);
  const { name, startup } = server;
  if (!idle.some((known) => known.group === group.name && known.server === name)) {
    idle.push({ group: group.name, server: name, startup, memory: server.memory() });
  }
  return server;
}

/** @param using gives the server of an index to its argument. */
async function measureRow(
  group: DeviceGroup,
  work: Work,
  specs: readonly ServerSpec[],
  { rounds, seconds, span, progress, signal }: BenchOptions,
  report: BenchReport,
  using: (index: number, measure: (server: RunningServer) => Promise<Sample>) => Promise<Sample>,
): Promise<void> {
  progress(`${group.name}: ${work.name}`);
  const able = new Map<number, number[]>(specs.map((_spec, index) => [index, []]));
  let stolen = 0;
  for (let round = 0; round < rounds; round += 1) {
    for (const [index, samples] of able) {
      const { name, ours } = specs[index] as ServerSpec;
      signal?.throwIfAborted();
      try {
        const sample = await calmest(
          () =>
            using(index, async ({ uri }) => {
              await settle();
              return sampled(() => runWork(work, uri, seconds, group.span ?? span, group.data));
            }),
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
  const measurements = [...able].map(([index, samples]) => {
    const { name, ours } = specs[index] as ServerSpec;
    return measured(name, ours, samples);
  });
  const ratio = ratioOf(measurements);
  const pairs = pairsOf(group, work, measurements);
  report.rows.push({
    group: group.name,
    work: work.name,
    unit: work.unit,
    measurements,
    ratio,
    stolen,
    pairs,
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
    .map(({ of, to }) => ({ of, to, ratio: medianOf(of) / medianOf(to) }));
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
