// npm run bench -- [options]: our servers beside their peers; the options are those of `dmkit bench peers`. Then what the
// packages measure of themselves, for the same devices; with --work, which is about loads, or --help: nothing more.
import { exec, prepare, prepareCommand } from "./prepare.mjs";

// [device, what it shows, script]
const own = [
  ["writeboost", "writeboost: opening a full cache", "packages/writeboost/bench/recovery.bench.mjs"],
  ["assoc-cache", "assoc-cache: ns by associativity", "packages/assoc-cache/bench/associativity.bench.mjs"],
  ["cow", "cow: ns of a read by empty layers", "packages/cow/bench/layers.bench.mjs"],
  ["compression", "compressor: this thread or another", "packages/compressor/bench/boundary.mjs"],
];

const args = process.argv.slice(2);
const devices = [];
let more = true;
for (const [index, arg] of args.entries()) {
  if (arg === "-d" || arg === "--device") devices.push(args[index + 1]);
  else if (arg.startsWith("--device=")) devices.push(arg.slice("--device=".length));
  else if (/^(-w|-h|--help|--work(=.*)?)$/.test(arg)) more = false;
}

const main = await prepareCommand({ quiet: true });
let code = await exec(process.execPath, [main, "bench", "peers", ...args]);
if (more && code === 0) await prepare({ quiet: true });
for (const [device, title, script] of own) {
  if (!more || code !== 0 || (devices.length > 0 && !devices.includes(device))) continue;
  console.log(`\n${title}`);
  code = await exec(process.execPath, [script]);
}
process.exitCode = code;
