// npm test: formatting, lint, rules, types, every package's tests, the packed packages. One line at the end
// counts the tests.
import { existsSync, readFileSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { exec, install, root } from "./prepare.mjs";

const reports = ["packages", "apps"].flatMap((folder) =>
  readdirSync(join(root, folder)).map((name) => join(root, folder, name, ".reports", "vitest.json")),
);
for (const report of reports) rmSync(report, { force: true });

await install();
const checks = ["check:format", "check:lint", "check:rules", "check:packed"];

/** Through pnpm, because turbo wants to find it on the path. All failures at once, not the first. */
function turbo(tasks, concurrency, ...args) {
  const options = [`--concurrency=${concurrency}`, "--continue", "--output-logs=new-only"];
  return exec("pnpm", ["exec", "turbo", "run", ...tasks, ...options, ...args]);
}

// Two packages at a time: tests of servers and timers share two cores badly beyond that. The app's take as long as all
// others together; they have a lane of their own, since turbo would begin them when the others are nearly done.
const given = process.argv.slice(2);
let code = await turbo(["build", "check:types"], 2);
if (given.length > 0) code ||= await turbo(["test", ...checks], 2, ...given);
else {
  const lanes = [turbo(["test"], 1, "--filter=dmkit"), turbo(["test", ...checks], 1, "--filter=!dmkit")];
  for (const lane of await Promise.all(lanes)) code ||= lane;
}

let passed = 0;
let failed = 0;
let skipped = 0;
for (const report of reports) {
  if (!existsSync(report)) continue;
  const result = JSON.parse(readFileSync(report, "utf8"));
  passed += result.numPassedTests;
  failed += result.numFailedTests;
  skipped += result.numPendingTests + result.numTodoTests;
}
console.log(`\n${passed} passed, ${failed} failed, ${skipped} skipped`);
if (skipped > 0) console.log("Skipped tests need programs that are not installed; .ci/run lists them.");
process.exitCode = code;
