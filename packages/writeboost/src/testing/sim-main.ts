#!/usr/bin/env node
/**
 * `npm run sim` in this package: writeboost under the simulation, with all options of block-io's own command.
 * The mutants are run only when named.
 */
import { simMain } from "@dmkit/block-io/testing";
import { mutants } from "./mutants.ts";
import { simTargets } from "./sim-targets.ts";

process.exitCode = await simMain(simTargets, process.argv.slice(2), undefined, mutants);
