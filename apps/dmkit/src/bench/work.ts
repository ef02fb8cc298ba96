/** What is done to the servers: fio jobs over its nbd engine, a client of the peers' house, not ours. */
import { spawn } from "node:child_process";
import { dirname } from "node:path";
import { runClient } from "./leftovers.ts";

/** One kind of load. */
export interface Work {
  readonly name: string;
  /** `iops` for small requests, `bandwidth` in bytes per second for large ones. */
  readonly unit: "iops" | "bandwidth";
  /** Arguments of fio besides engine, URI and run time. */
  readonly job: readonly string[];
  /** Reads what must have been written before. */
  readonly reads: boolean;
  /** Part of a quick run. */
  readonly quick: boolean;
  /** Ends when all is done, or after twice the time of others; they begin anew until their time is over. */
  readonly once: boolean;
}

/** @param job arguments of fio, with a space between. */
export function work(
  name: string,
  unit: Work["unit"],
  job: string,
  { reads = false, quick = false, once = false }: Partial<Pick<Work, "reads" | "quick" | "once">> = {},
): Work {
  return { name, unit, job: job.split(" "), reads, quick, once };
}

export const works: readonly Work[] = [
  // Sequential work first: it finds a device on which nothing lies about at random.
  work("128k write, depth 16", "bandwidth", "--rw=write --bs=128k --iodepth=16", { quick: true }),
  work("128k read, depth 16", "bandwidth", "--rw=read --bs=128k --iodepth=16", { reads: true, quick: true }),
  work("1M write, depth 4", "bandwidth", "--rw=write --bs=1M --iodepth=4"),
  work("1M read, depth 4", "bandwidth", "--rw=read --bs=1M --iodepth=4", { reads: true }),
  work("4k write, depth 1", "iops", "--rw=randwrite --bs=4k --iodepth=1", { quick: true }),
  work("4k read, depth 1", "iops", "--rw=randread --bs=4k --iodepth=1", { reads: true, quick: true }),
  work("4k write, depth 32", "iops", "--rw=randwrite --bs=4k --iodepth=32", { quick: true }),
  work("4k read, depth 32", "iops", "--rw=randread --bs=4k --iodepth=32", { reads: true, quick: true }),
  work("4k 70:30, depth 1", "iops", "--rw=randrw --rwmixread=70 --bs=4k --iodepth=1", { reads: true }),
  work("4k 70:30, depth 32", "iops", "--rw=randrw --rwmixread=70 --bs=4k --iodepth=32", { reads: true }),
  work("4k write, depth 32, 2 connections", "iops", "--rw=randwrite --bs=4k --iodepth=32 --numjobs=2"),
  work("4k read, depth 32, 2 connections", "iops", "--rw=randread --bs=4k --iodepth=32 --numjobs=2", {
    reads: true,
  }),
  work("4k write + flush, depth 1", "iops", "--rw=randwrite --bs=4k --iodepth=1 --fsync=1"),
  work("4k write + flush, depth 8", "iops", "--rw=randwrite --bs=4k --iodepth=8 --fsync=1"),
];

/** What came of a load. */
export interface Outcome {
  /** IOPS or bytes per second. */
  readonly value: number;
  /** Reads and writes. */
  readonly requests: number;
}

interface FioSide {
  readonly iops: number;
  readonly total_ios: number;
  readonly bw_bytes: number;
}

interface FioReport {
  readonly jobs: readonly { readonly error: number; readonly read: FioSide; readonly write: FioSide }[];
}

/** Waits until the disk has what others wrote, so that nobody pays for them. */
export function settle(): Promise<void> {
  return new Promise((resolve, reject) => {
    spawn("sync", { stdio: "ignore" })
      .on("error", reject)
      .on("exit", () => resolve());
  });
}

/** Runs one job. Throws with fio's words if it failed. */
export async function runWork(
  { job, unit, once }: Work,
  uri: string,
  seconds: number,
  span: number,
  data: readonly string[] = [],
): Promise<Outcome> {
  const time = once ? [`--runtime=${2 * seconds}`] : ["--time_based", `--runtime=${seconds}`];
  const output = await fio([...job, ...data, ...time, `--size=${span}`], uri);
  const report = JSON.parse(output.slice(output.indexOf("{"))) as FioReport;
  const sides = report.jobs.flatMap(({ read, write }) => [read, write]);
  const sum = (of: (side: FioSide) => number): number => sides.reduce((all, side) => all + of(side), 0);
  return {
    value: sum((side) => (unit === "iops" ? side.iops : side.bw_bytes)),
    requests: sum((side) => side.total_ios),
  };
}

/** Writes the first `span` bytes once, so that reads find data and not holes. */
export async function fill(uri: string, span: number, data: readonly string[] = []): Promise<void> {
  await fio(["--rw=write", "--bs=1M", "--iodepth=4", ...data, `--size=${span}`], uri);
}

function fio(args: readonly string[], uri: string): Promise<string> {
  const all = [
    "--name=job",
    "--ioengine=nbd",
    `--uri=${uri}`,
    "--group_reporting",
    "--output-format=json",
    ...args,
  ];
  // libnbd looks for certificates in the home folder, and fio has no word for another one.
  const socket = uri.startsWith("nbds") ? /socket=(.*)$/.exec(uri)?.[1] : undefined;
  const env = { ...process.env, ...(socket === undefined ? {} : { HOME: dirname(socket) }) };
  return runClient("fio", all, env);
}
