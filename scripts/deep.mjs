// The deeper tiers, after npm test: crash/recover cycles of every target by the simulation (and then a fifth as many
// where flushes fail and lose nothing), takeovers of archives, in a model and by processes that are killed, and fuzzing.
// Two jobs at a time. The seeds are fixed, so a failure here is a failure everywhere; each prints its own command.
import { availableParallelism } from "node:os";
import { spawn } from "node:child_process";
import { prepare, root } from "./prepare.mjs";

// [name, package, script, arguments]; cycles are for each target of the package.
const jobs = [
  ["toy log, 100,000 cycles", "packages/block-io", "sim", "--target", "toy-log", "--cycles", "100000"],
  ["writeboost, 56,000 cycles", "packages/writeboost", "sim", "--cycles", "3500"],
  ["cow, 51,000 cycles", "packages/cow", "sim", "--cycles", "8500"],
  ["tracked, 6,000 cycles", "packages/tracked", "sim", "--cycles", "3000"],
  ["assoc-cache, 50,000 cycles", "packages/assoc-cache", "sim", "--cycles", "8400"],
  ["takeover of archives, 10,000 schedules", "packages/archive", "model", "10000"],
  ["takeover of archives on Ceph's gateway, 50 and 50 by two at once", "apps/dmkit", "takeovers"],
  [
    "compression v2, 50,000 cycles",
    "packages/compression",
    "sim",
    "--target",
    "compression:v2",
    "--cycles",
    "50000",
  ],
  ["zram, 1,000 runs of each", "packages/zram", "sim", "--seeds", "1000"],
  [
    "plain targets and format 1 of compression, 300 runs of each",
    "packages/block-io",
    "sim",
    ...["linear", "striped", "flakey", "memory"].flatMap((name) => ["--target", name]),
    ...["closed", "raw", "raw-through-ordered"].flatMap((name) => ["--target", `compression:v1-${name}`]),
    "--seeds",
    "300",
  ],
  ["tests of the simulation, with all they do", "packages/block-io", "deep"],
  ["mutants of cow, how soon they are found", "packages/cow", "deep"],
  ["mutants of compression, how soon they are found, and repairs cut short", "packages/compression", "deep"],
  ["connections that are cut at more of their bytes", "packages/nbd", "deep"],
  ["mutants of zram, how soon they are found", "packages/zram", "deep"],
  ["faults and flipped bits of writeboost, one after the other", "packages/writeboost", "deep"],
  ["faults of assoc-cache, one after the other", "packages/assoc-cache", "deep"],
  ["the benchmark, file systems and killed servers, with all the tests do", "apps/dmkit", "deep"],
  ["decompressors beside the programs, with more inputs", "packages/compressor", "deep"],
  ["fuzzing of decompressors, 1,000,000 inputs each", "packages/compressor", "fuzz", "--seed", "2"],
];

await prepare({ quiet: true });
const wanted = process.argv.slice(2);
const queue = jobs.filter(([name]) => wanted.length === 0 || wanted.some((word) => name.includes(word)));
if (!process.env.DMKIT_CEPH?.startsWith("{")) {
  console.log("DMKIT_CEPH is not set: what needs Ceph's gateway is skipped. See scripts/ceph.mjs.");
  for (const [at, [name]] of [...queue.entries()].toReversed())
    if (name.includes("Ceph")) queue.splice(at, 1);
}
let failures = 0;
await Promise.all(Array.from({ length: Math.min(2, availableParallelism()) }, work));
console.log(failures === 0 ? "All deeper tiers passed." : `${failures} deeper tiers failed.`);
process.exitCode = failures === 0 ? 0 : 1;

async function work() {
  for (let job = queue.shift(); job !== undefined; job = queue.shift()) {
    const [name, folder, ...command] = job;
    const started = performance.now();
    const { code, output } = await capture(folder, command);
    const seconds = Math.round((performance.now() - started) / 1000);
    if (code !== 0) failures += 1;
    console.log(`== ${name}: ${code === 0 ? "passed" : "FAILED"} in ${seconds} s\n${output.trimEnd()}`);
  }
}

/** Runs a package's script; resolves with its exit code and what it printed. */
async function capture(folder, command) {
  const child = spawn("npm", ["--prefix", folder, "--silent", "run", command[0], "--", ...command.slice(1)], {
    cwd: root,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  const code = await new Promise((resolve) => child.on("close", resolve));
  return { code, output };
}
