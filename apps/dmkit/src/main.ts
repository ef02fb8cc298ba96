#!/usr/bin/env node
/** Where Node can, what it compiled is kept for the next start: modules imported after this line. */
import "./serve/process/parent.ts";
import module from "node:module";
import { takeEarlySignals } from "./early-signals.ts";

takeEarlySignals(process.argv[2]);

/** Since Node 22.1. A folder in that of temporary files, or $NODE_COMPILE_CACHE. */
const { enableCompileCache } = module as { enableCompileCache?: () => unknown };
enableCompileCache?.();
await import("./process.ts");
