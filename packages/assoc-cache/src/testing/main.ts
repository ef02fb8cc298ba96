#!/usr/bin/env node
/** `npm run sim` of this package: the crash simulation of the cache under every policy. */
import { simMain } from "@dmkit/block-io/testing";
import { simTargets } from "./sim-targets.ts";

process.exitCode = await simMain(simTargets, process.argv.slice(2));
