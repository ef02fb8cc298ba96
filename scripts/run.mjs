// Runs a package's script after making sure that dependencies and builds are there:
//   node scripts/run.mjs packages/block-io sim --seed 7
import { exec, prepare } from "./prepare.mjs";

const [folder, script, ...rest] = process.argv.slice(2);
await prepare({ quiet: true });
process.exitCode = await exec("pnpm", ["--dir", folder, "--silent", "run", script, ...rest]);
