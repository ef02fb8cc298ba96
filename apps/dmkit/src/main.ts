#!/usr/bin/env node
/** The command: what loads its modules, and the first of them. Nothing else is loaded by Node's own loader. */
import { createRequire } from "node:module";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { Modules } from "./start/modules.ts";

const [, , word = ""] = process.argv;
const folder = dirname(fileURLToPath(import.meta.url));
// A file name. Mistakes in typing load what the version does, and make no files.
const command = /^[a-z]+(-[a-z]+)*$/.test(word) ? word : "none";
const modules = new Modules(folder, command, createRequire(import.meta.url));
const { takeEarlySignals } = modules.load("early-signals.js") as typeof import("./early-signals.ts");
takeEarlySignals(word);
const { runProcess } = modules.load("process.js") as typeof import("./process.ts");
void runProcess(() => modules.keep());
