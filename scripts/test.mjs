// npm test: formatting, lint, rules, types, every package's tests, the packed packages. The last lines say again what
// failed, and count the tests.
import { existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { spawn } from "node:child_process";
import { delimiter, join, relative } from "node:path";
import { exec, prepare, root } from "./prepare.mjs";

const folders = ["packages", "apps"].flatMap((group) =>
  readdirSync(join(root, group)).map((name) => join(group, name)),
);
for (const folder of folders) rmSync(join(root, folder, ".reports"), { recursive: true, force: true });

// Once for all packages. By turbo it was started for each of them, besides.
await prepare();
const checks = ["check:format", "check:lint", "check:rules", "check:types", "check:packed"];

/** Through pnpm, because turbo wants to find it on the path. All failures at once, not the first. */
function turbo(tasks, concurrency, ...args) {
  const options = [`--concurrency=${concurrency}`, "--continue", "--output-logs=new-only"];
  return exec("pnpm", ["exec", "turbo", "run", ...tasks, ...options, ...args]);
}

const running = new Set();
const given = process.argv.slice(2);
// Made before several want to make it at the same time.
let code = await exec(process.execPath, ["scripts/bundle.mjs"]);
if (given.length > 0) code ||= await turbo(["test", ...checks], 2, ...given);
else if (code === 0) code = await all();

/**
 * Four at a time on two cores: with two a quarter of the processor time was left over, with three a tenth, since tests of
 * servers wait for programs and timers. Whoever is free takes what comes next, so the long ones come first, and those of the
 * app, which take as long as all others together, in parts, each beside a package that computes.
 */
async function all() {
  const WORKERS = 4;
  const PARTS = 4;
  const long = ["writeboost", "nbd", "compression", "cow", "assoc-cache", "block-io", "compressor"];
  const rank = (folder) =>
    (long.indexOf(folder.slice("packages/".length)) + long.length + 1) % (long.length + 1);
  const packages = folders
    .filter((folder) => folder.startsWith("packages/"))
    .sort((a, b) => rank(a) - rank(b));
  const part = (number) => [
    "apps/dmkit",
    `--shard=${number}/${PARTS}`,
    `--outputFile.json=.reports/${number}.json`,
  ];
  // Of the parts the first and the last take longest: what ends last would have the machine to itself.
  const [one, two, three, four] = packages.splice(0, PARTS).map((folder) => [folder]);
  const mixed = [part(4), part(1), one, two, part(3), three, part(2), four];
  const jobs = [...mixed, ...packages.map((folder) => [folder])].map(([folder, ...args]) => ({
    name: [folder, ...args.slice(0, 1)].join(" "),
    run: () => vitest(folder, args),
  }));
  jobs.splice(mixed.length, 0, { name: "checks", run: check });
  const count = jobs.length;
  // What waits does not begin then, and what runs ends.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"])
    process.on(signal, () => {
      jobs.length = 0;
      for (const child of running) child.kill(signal);
    });
  let result = 0;
  let done = 0;
  const worker = async () => {
    for (let job = jobs.shift(); job !== undefined; job = jobs.shift()) {
      const started = performance.now();
      const failed = await job.run();
      result ||= failed;
      const seconds = Math.round((performance.now() - started) / 1000);
      done += 1;
      console.log(
        `== ${job.name}: ${failed === 0 ? "passed" : "FAILED"} in ${seconds} s (${done} of ${count})`,
      );
    }
  };
  await Promise.all(Array.from({ length: WORKERS }, worker));
  return result;
}

/** One after the other, whatever fails. */
async function check() {
  let result = 0;
  for (const name of checks) {
    const failed = await exec("npm", ["run", "--silent", name]);
    if (failed !== 0) console.log(`${name} failed`);
    result ||= failed;
  }
  return result;
}

/** Prints what it says when it is done, since another one runs beside it. */
async function vitest(folder, args) {
  const PATH = `${join(root, "node_modules", ".bin")}${delimiter}${process.env.PATH}`;
  const child = spawn("vitest", ["run", ...args], {
    cwd: join(root, folder),
    env: { ...process.env, PATH },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (chunk) => (output += chunk));
  const result = await new Promise((resolve) => {
    child.on("error", (error) => {
      output += error.message;
      resolve(1);
    });
    child.on("close", (status) => resolve(status ?? 1));
  });
  running.delete(child);
  console.log(output.trimEnd());
  return result;
}

const broken = [];
let passed = 0;
let failed = 0;
let skipped = 0;
for (const folder of folders) {
  const reports = join(root, folder, ".reports");
  for (const name of existsSync(reports) ? readdirSync(reports) : []) {
    const result = JSON.parse(readFileSync(join(reports, name), "utf8"));
    passed += result.numPassedTests;
    failed += result.numFailedTests;
    skipped += result.numPendingTests + result.numTodoTests;
    for (const file of result.testResults) {
      const what = file.assertionResults.filter(({ status }) => status === "failed");
      // A file that could not be loaded has no tests.
      if (what.length === 0 && file.status === "failed") broken.push({ file: file.name, why: file.message });
      for (const { fullName, failureMessages } of what)
        broken.push({ file: file.name, fullName, why: failureMessages.join("\n") });
    }
  }
}
for (const { file, fullName = "", why } of broken)
  console.log(`\nFAILED ${relative(root, file)} ${fullName}\n${why.split("\n").slice(0, 30).join("\n")}`);
console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
if (skipped > 0) console.log("Skipped tests need programs that are not installed; .ci/run lists them.");
process.exitCode = code;
