/**
 * Copying an image from and to servers: `dmkit copy` beside nbdcopy and qemu-img, in turns, between the same servers. All
 * end with a flush.
 */
import { closeSync, ftruncateSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import { runClient, withFolder } from "./leftovers.ts";
import { type Row, measured, ratioOf } from "./run.ts";
import { type RunningServer, isInstalled, main, nbdkit, startServer } from "./servers.ts";
import { calmest, processors, sampled } from "./steal.ts";

/** What is copied from and to: a path or a URI each. */
interface Ends {
  readonly from: string;
  readonly to: string;
}

interface Copier {
  readonly name: string;
  readonly program: string;
  readonly args: (ends: Ends) => readonly string[];
}

/** Whether it is a server; a file is made anew each time. */
const isServer = (end: string): boolean => end.startsWith("nbd");

const copiers: readonly Copier[] = [
  { name: "dmkit copy", program: process.execPath, args: ({ from, to }) => [main, "copy", "-q", from, to] },
  { name: "nbdcopy", program: "nbdcopy", args: ({ from, to }) => ["--flush", from, to] },
  {
    name: "qemu-img convert",
    program: "qemu-img",
    args: ({ from, to }) => [
      "convert",
      ...(isServer(to) ? ["-n"] : []),
      "-f",
      "raw",
      "-O",
      "raw",
      "-W",
      "-m",
      "16",
      from,
      to,
    ],
  },
];

/** Bytes of the image. */
const SIZE = 4 * 2 ** 30;
/** Every fourth MiB of it holds data: a quarter. */
const DATA_STRIDE = 4;

/** The places of one run. */
interface Places {
  readonly image: string;
  /** Not there yet. */
  readonly file: string;
  readonly source: RunningServer;
  readonly destination: RunningServer;
  /** The same, which take a millisecond for each read and write. */
  readonly far: { readonly source: RunningServer; readonly destination: RunningServer };
}

const rows: readonly { readonly work: string; readonly ends: (places: Places) => Ends }[] = [
  { work: "file to NBD", ends: ({ image, destination }) => ({ from: image, to: destination.uri }) },
  { work: "NBD to file", ends: ({ source, file }) => ({ from: source.uri, to: file }) },
  { work: "NBD to NBD", ends: ({ source, destination }) => ({ from: source.uri, to: destination.uri }) },
  { work: "file to NBD, 1 ms away", ends: ({ image, far }) => ({ from: image, to: far.destination.uri }) },
  { work: "NBD, 1 ms away, to file", ends: ({ far, file }) => ({ from: far.source.uri, to: file }) },
];

/** Rows in bytes of image per second, or the reason why there are none. */
export async function runCopyBench(
  rounds: number,
  progress: (text: string) => void,
): Promise<readonly Row[] | string> {
  if (!isInstalled("nbdkit")) return "copy: nbdkit is not installed";
  return withFolder(async (folder) => {
    const servers: RunningServer[] = [];
    const image = makeImage(folder);
    const start = async (...args: readonly string[]): Promise<RunningServer> => {
      const server = await startServer(
        nbdkit("nbdkit", () => args),
        folder,
        servers.length,
      );
      servers.push(server);
      return server;
    };
    const delay = ["rdelay=1ms", "wdelay=1ms"];
    try {
      const places: Places = {
        image,
        file: join(folder, "copy.img"),
        source: await start("file", image),
        destination: await start("memory", String(SIZE)),
        far: {
          source: await start("--filter=delay", "file", image, ...delay),
          destination: await start("--filter=delay", "memory", String(SIZE), ...delay),
        },
      };
      const measuredRows: Row[] = [];
      for (const { work, ends } of rows)
        measuredRows.push(await measureCopies(work, ends(places), rounds, progress));
      return measuredRows;
    } finally {
      for (const server of servers) await server.stop();
    }
  });
}

async function measureCopies(
  work: string,
  ends: Ends,
  rounds: number,
  progress: (text: string) => void,
): Promise<Row> {
  const present = copiers.filter(({ program }) => isInstalled(program));
  const samples = present.map((): number[] => []);
  let stolen = 0;
  // A server takes its memory, and the system reads the image, with the first copy.
  const [first] = present;
  if (first !== undefined) await seconds(first.program, first.args(ends), ends);
  for (let round = 0; round < rounds; round += 1) {
    for (const [index, { name, program, args }] of present.entries()) {
      const sample = await calmest(
        () => sampled(async () => SIZE / (await seconds(program, args(ends), ends))),
        (share) => progress(`copy: ${work}, ${name} again: the host took ${processors(share)}`),
      );
      samples[index]?.push(sample.value);
      stolen = Math.max(stolen, sample.stolen);
    }
  }
  const measurements = present.map(({ name }, index) =>
    measured(name, name === "dmkit copy", samples[index] ?? []),
  );
  return {
    group: "copy",
    work: `4 GiB, ${work}`,
    unit: "bandwidth",
    measurements,
    ratio: ratioOf(measurements),
    stolen,
    pairs: [],
  };
}

function makeImage(folder: string): string {
  const path = join(folder, "source.img");
  const fd = openSync(path, "w");
  ftruncateSync(fd, SIZE);
  const data = Buffer.alloc(2 ** 20);
  for (let at = 0; at < data.length; at += 1) data[at] = 1 + (at % 251);
  for (let offset = 0; offset < SIZE; offset += DATA_STRIDE * data.length) {
    writeSync(fd, data, 0, data.length, offset);
  }
  closeSync(fd);
  return path;
}

async function seconds(program: string, args: readonly string[], { to }: Ends): Promise<number> {
  if (!isServer(to)) rmSync(to, { force: true });
  const started = performance.now();
  await runClient(program, args);
  return (performance.now() - started) / 1000;
}
