/**
 * Runs the benchmark: every server of a group beside its peers, in turns (A B A B), so that whatever else the
 * machine does falls on all of them. What counts is the ratio of medians within one run.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type DeviceGroup, type RunningServer, isInstalled, startServer } from "./servers.ts";
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
  readonly rows: readonly Row[];
  readonly idle: readonly IdleCost[];
  readonly skipped: readonly string[];
}

/** Measures everything; servers are stopped whatever happens. */
export async function runBench(options: BenchOptions): Promise<BenchReport> {
  const report: { rows: Row[]; idle: IdleCost[]; skipped: string[] } = { rows: [], idle: [], skipped: [] };
  for (const group of options.groups) {
    const folder = mkdtempSync(join(tmpdir(), "dmkit-bench-"));
    const servers: RunningServer[] = [];
    try {
      for (const [index, spec] of group.servers.entries()) {
        if (!isInstalled(spec.program)) {
          report.skipped.push(`${spec.name}: ${spec.program} is not installed`);
          continue;
        }
        const server = await startServer(spec, folder, index);
        servers.push(server);
        const { name, startup } = server;
        report.idle.push({ group: group.name, server: name, startup, memory: server.memory() });
      }
      await measureGroup(group.name, servers, options, report);
    } finally {
      for (const server of servers) await server.stop();
      rmSync(folder, { recursive: true, force: true });
    }
  }
  return report;
}

async function measureGroup(
  group: string,
  servers: readonly RunningServer[],
  { works, rounds, seconds, span, progress }: BenchOptions,
  report: { rows: Row[]; skipped: string[] },
): Promise<void> {
  for (const server of servers) await fill(server.uri, span);
  for (const work of works) {
    progress(`${group}: ${work.name}`);
    const able = new Map<RunningServer, number[]>(servers.map((server) => [server, []]));
    for (let round = 0; round < rounds; round += 1) {
      for (const [server, samples] of able) {
        await settle();
        try {
          samples.push(await runWork(work, server.uri, seconds, span));
        } catch (error) {
          if (server.ours) throw error;
          // A peer that cannot do this is left out of the row, and said so.
          able.delete(server);
          report.skipped.push(`${group}, ${work.name}: ${server.name} fails`);
        }
      }
    }
    const measurements = [...able].map(([{ name, ours }, samples]) => measured(name, ours, samples));
    report.rows.push({ group, work: work.name, unit: work.unit, measurements, ratio: ratioOf(measurements) });
  }
}

/** Median and spread of samples. */
export function measured(server: string, ours: boolean, samples: readonly number[]): Measurement {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const median =
    sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
  return { server, ours, samples, median, spread: ((sorted.at(-1) ?? 0) - (sorted[0] ?? 0)) / (median || 1) };
}

/** Ours by the best peer. */
export function ratioOf(measurements: readonly Measurement[]): number | undefined {
  // `null` answers without doing anything: it is the ceiling, not a peer.
  const peers = measurements.filter(({ ours, server }) => !ours && server !== "nbdkit null");
  const best = Math.max(...peers.map(({ median }) => median));
  // The first of ours is what the row is about; others are for comparison.
  const mine = measurements.find(({ ours }) => ours)?.median;
  return mine === undefined || peers.length === 0 ? undefined : mine / best;
}
