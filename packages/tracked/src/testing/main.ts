#!/usr/bin/env node
/** `npm run sim` in this package: the simulation of tracked devices. */
import { simMain } from "@dmkit/block-io/testing";
import { simTargets } from "./sim-targets.ts";

process.exitCode = await simMain(simTargets, process.argv.slice(2));
