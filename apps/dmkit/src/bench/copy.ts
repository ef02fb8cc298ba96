/** Copying an image onto a server: `dmkit copy` beside nbdcopy and qemu-img, in turns, onto the same server. */
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { runClient, withFolder } from "./leftovers.ts";
import { type Row, measured, ratioOf } from "./run.ts";
import { DEVICE_SIZE } from "./images.ts";
import { isInstalled, main, nbdkit, startServer } from "./servers.ts";
import { calmest, processors, sampled } from "./steal.ts";

interface Copier {
  readonly name: string;
  readonly program: string;
  readonly args: (source: string, uri: string) => readonly string[];
}

const copiers: readonly Copier[] = [
  { name: "dmkit copy", program: process.execPath, args: (source, uri) => [main, "copy", "-q", source, uri] },
  { name: "nbdcopy", program: "nbdcopy", args: (source, uri) => [source, uri] },
  {
    name: "qemu-img convert",
    program: "qemu-img",
    args: (source, uri) => ["convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", source, uri],
  },
];

/** Every fourth MiB of the image holds data. */
const DATA_STRIDE = 4;

/** One row in bytes of image per second, or the reason why there is none. */
export async function runCopyBench(rounds: number, progress: (text: string) => void): Promise<Row | string> {
  if (!isInstalled("nbdkit")) return "copy: nbdkit is not installed";
  return withFolder((folder) => measureCopies(folder, rounds, progress));
}

async function measureCopies(folder: string, rounds: number, progress: (text: string) => void): Promise<Row> {
  const present = copiers.filter(({ program }) => isInstalled(program));
  const server = await startServer(
    nbdkit("nbdkit memory", () => ["memory", "1G"]),
    folder,
    0,
  );
  try {
    const source = makeImage(folder);
    const samples = present.map((): number[] => []);
    let stolen = 0;
    for (let round = 0; round < rounds; round += 1) {
      for (const [index, { name, program, args }] of present.entries()) {
        const sample = await calmest(
          () => sampled(async () => DEVICE_SIZE / (await seconds(program, args(source, server.uri)))),
          (share) => progress(`copy: ${name} again: the host took ${processors(share)}`),
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
      work: "1 GiB image, a quarter data",
      unit: "bandwidth",
      measurements,
      ratio: ratioOf(measurements),
      stolen,
      pairs: [],
    };
  } finally {
    await server.stop();
  }
}

function makeImage(folder: string): string {
  const path = join(folder, "source.img");
  const fd = openSync(path, "w");
  ftruncateSync(fd, DEVICE_SIZE);
  const data = Buffer.alloc(2 ** 20);
  for (let at = 0; at < data.length; at += 1) data[at] = 1 + (at % 251);
  for (let offset = 0; offset < DEVICE_SIZE; offset += DATA_STRIDE * data.length) {
    writeSync(fd, data, 0, data.length, offset);
  }
  closeSync(fd);
  return path;
}

async function seconds(program: string, args: readonly string[]): Promise<number> {
  const started = performance.now();
  await runClient(program, args);
  return (performance.now() - started) / 1000;
}
