#!/usr/bin/env node
/** `npm run sim` in this package: the simulation of the stack and its offline operations. */
import { simMain } from "@dmkit/block-io/testing";
import { simTargets } from "./sim-targets.ts";

process.exitCode = await simMain(simTargets, process.argv.slice(2));
