#!/usr/bin/env node
/** `pnpm sim`: the simulation of this package's devices, of the toys, and of targets named with --from. */
import { blockIoTargets } from "./builtin.ts";
import { simMain } from "./cli.ts";
import { toys, wrongToys } from "./toys/targets.ts";

// Whoever reads the trace may have seen enough.
process.stdout.on("error", () => process.exit(1));

process.exitCode = await simMain([...toys, ...blockIoTargets], process.argv.slice(2), undefined, wrongToys);
