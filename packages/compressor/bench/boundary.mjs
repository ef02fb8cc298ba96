// Where the line lies between compressing at once and handing over to another thread.
//
//   node bench/boundary.mjs [--backend NAME,NAME] [--seconds N]
//
// zstd-library, zstd-native and zstd-wasm are the ways to zstd.
//
// For each backend and length, in microseconds per call:
//
//   sync       processor time of a call made here
//   cpu ×4     processor time, all threads together, of an asynchronous call with 4 always under way
//   wall ×1 …  wall time per asynchronous call with 1, 2 and 4 under way
//   cores      processor time divided by wall time with 4 under way: near 2 means that two cores are busy
//
// On two cores the hand-over pays where cpu ×4 is less than twice sync. Processor times hardly depend on what
// else the machine does; wall times and cores do. The data is half text, half machine code. Build first (tsc -b).
import { readFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { createCompressor, findBackend, listBackends } from "../dist/index.js";
import { makeSample } from "../dist/testing/index.js";

const { values } = parseArgs({
  options: {
    backend: { type: "string", default: listBackends().join(",") },
    seconds: { type: "string", default: "0.3" },
  },
});
const milliseconds = Number(values.seconds) * 1000;
const lengths = [1024, 4096, 8192, 16384, 32768, 65536, 131072, 524288];
const code = readFileSync(process.execPath).subarray(20_000_000, 30_000_000);

console.log(`Node ${process.version}, ${availableParallelism()} cores`);
for (const name of values.backend.split(",")) {
  await measure("compress", name);
  await measure("decompress", name);
}

async function measure(kind, name) {
  const found = await find(name);
  await found.load?.();
  // Limits of 0: asynchronous calls are always handed over.
  const backend = { ...found, syncCompress: 0, syncDecompress: 0 };
  if (backend.worker === undefined && backend.compressAsync === undefined) return;
  const compressor = await createCompressor(backend, { maxStreams: 4, maxInput: lengths.at(-1) });
  console.log(`\n${name}, ${kind}, µs`);
  console.log("length      sync    cpu ×4   wall ×1   wall ×2   wall ×4  cores");
  for (const length of lengths) {
    const work = await prepare(kind, compressor, inputs(length));
    const sync = timeSync(work.sync);
    const [one, two, four] = [
      await timeAsync(work.async, 1),
      await timeAsync(work.async, 2),
      await timeAsync(work.async, 4),
    ];
    const figures = [sync, four.cpu, one.wall, two.wall, four.wall].map((figure) =>
      figure.toFixed(1).padStart(9),
    );
    const pays = four.cpu < 2 * sync ? "  pays" : "";
    console.log(
      `${String(length).padStart(6)} ${figures.join(" ")}  ${(four.cpu / four.wall).toFixed(2)}${pays}`,
    );
    work.end();
  }
  await compressor.close();
}

async function find(name) {
  if (!name.startsWith("zstd-")) return findBackend(name);
  const exported = name.replace(/-(.)/, (_, letter) => letter.toUpperCase());
  return (await import(`../dist/backends/${name}.js`))[exported];
}

function inputs(length) {
  const made = Array.from({ length: 8 }, (_, n) => makeSample("text", length, n).bytes);
  const real = Array.from({ length: 8 }, (_, n) => code.subarray(n * 1_000_000, n * 1_000_000 + length));
  return [...made, ...real];
}

/** One call of each sort, on a slot (0 … 3) that has no other call under way. */
async function prepare(kind, compressor, sources) {
  const streams = await Promise.all([0, 1, 2, 3].map(() => compressor.acquire()));
  const end = () => streams.forEach((stream) => stream.release());
  let next = 0;
  const pick = (list) => list[next++ % list.length];
  if (kind === "compress") {
    return {
      sync: () => streams[0].compressSync(pick(sources)),
      async: (slot) => streams[slot].compress(pick(sources)),
      end,
    };
  }
  const compressed = sources.map((source) =>
    Buffer.from(streams[0].output.subarray(0, streams[0].compressSync(source))),
  );
  const outputs = streams.map(() => Buffer.alloc(sources[0].length));
  return {
    sync: () => compressor.decompressSync(pick(compressed), outputs[0]),
    async: (slot) => compressor.decompress(pick(compressed), outputs[slot]),
    end,
  };
}

function timeSync(call) {
  for (const end = performance.now() + milliseconds / 3; performance.now() < end; ) call();
  const start = performance.now();
  const before = process.cpuUsage();
  let calls = 0;
  while (performance.now() - start < milliseconds) {
    for (let n = 0; n < 16; n += 1) call();
    calls += 16;
  }
  return usedSince(before) / calls;
}

/** Microseconds of processor time. */
function usedSince(before) {
  const { user, system } = process.cpuUsage(before);
  return user + system;
}

async function timeAsync(call, atOnce) {
  let calls = 0;
  const run = async (slot, end) => {
    while (performance.now() < end) {
      await call(slot);
      calls += 1;
    }
  };
  const all = (duration) => {
    const end = performance.now() + duration;
    return Promise.all(Array.from({ length: atOnce }, (_, slot) => run(slot, end)));
  };
  await all(milliseconds / 3);
  calls = 0;
  const before = process.cpuUsage();
  const start = performance.now();
  await all(milliseconds);
  const wall = (performance.now() - start) * 1000;
  return { wall: wall / calls, cpu: usedSince(before) / calls };
}
