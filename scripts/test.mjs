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
const tasks = ["build", "check:format", "check:lint", "check:rules", "check:types", "test", "check:packed"];
// Two packages at a time: tests of servers and timers share two cores badly beyond that.
// Through pnpm, because turbo wants to find it on the path. All failures at once, not the first.
const code = await exec("pnpm", [
  "exec",
  "turbo",
  "run",
  ...tasks,
  "--concurrency=2",
  "--continue",
  "--output-logs=new-only",
  ...process.argv.slice(2),
]);

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
