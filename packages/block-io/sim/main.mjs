#!/usr/bin/env node
/**
 * `npm run sim`: the simulation of every device in the workspace. A package joins by exporting `simTargets` from
 * src/testing/sim-targets.ts, and arrays whose names end in "mutants" from a file beside it whose name does.
 * Nothing is imported that was not built; packages know nothing of each other.
 */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { blockIoTargets, simMain, toys, wrongToys } from "../dist/testing/index.js";

// Whoever reads the trace may have seen enough.
process.stdout.on("error", () => process.exit(1));

const packages = fileURLToPath(new URL("../../", import.meta.url));
const targets = [...toys, ...blockIoTargets];
const hidden = [...wrongToys];

for (const name of readdirSync(packages).sort()) {
  const folder = join(packages, name, "dist", "testing");
  if (name === "block-io" || !existsSync(folder)) continue;
  for (const file of readdirSync(folder)
    .filter((entry) => /(sim-targets|mutants)\.js$/.test(entry))
    .sort()) {
    const exported = await import(pathToFileURL(join(folder, file)).href);
    for (const [key, value] of Object.entries(exported)) {
      if (key === "simTargets") targets.push(...value);
      else if (/mutants$/i.test(key)) hidden.push(...value);
    }
  }
}

process.exitCode = await simMain(targets, process.argv.slice(2), undefined, hidden);
