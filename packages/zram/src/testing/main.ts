#!/usr/bin/env node
/** `npm run sim` of this package. */
import { simMain } from "@dmkit/block-io/testing";
import { simTargets } from "./sim-targets.ts";

process.exitCode = await simMain(simTargets, process.argv.slice(2));
