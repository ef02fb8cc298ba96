#!/usr/bin/env node
/** `pnpm sim` in this package: writeboost under the simulation, with all options of block-io's own command. */
import { simMain } from "@dmkit/block-io/testing";
import { simTargets } from "./sim-targets.ts";

process.exitCode = await simMain(simTargets, process.argv.slice(2));
