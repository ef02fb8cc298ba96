/**
 * One run of `dmkit serve`, from opening the devices to closing them.
 *
 * Order, and why: devices open first (a mistake is reported before anybody can connect), then listeners, then
 * the pid file and the printed URI (whoever sees them may connect at once). At the end the reverse: no new
 * clients, requests in flight finished, devices flushed and closed, pid file and sockets removed.
 */
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { constants } from "node:os";
import { Duplex } from "node:stream";
import { type BlockDevice, BlockIoError, type Environment, isTargetDevice } from "@dmkit/block-io";
import {
  type ListenOptions,
  type Listener,
  type MetaContext,
  type NbdUri,
  NbdServer,
  formatNbdUri,
} from "@dmkit/nbd";
import { exitCodes, printError } from "../ui/terminal.ts";
import { type Captive, captiveVariables, runCaptive } from "./captive.ts";
import { type NamedDevice, type WhatToServe, closeAll, openExports } from "./exports.ts";
import { type WhereToListen, activatedSockets, chooseListeners } from "./listeners.ts";

export interface SessionOptions {
  readonly what: WhatToServe;
  readonly where: WhereToListen;
  /** Where to listen if nothing else is said. */
  readonly fallback: ListenOptions;
  readonly strict: boolean;
  readonly description?: string | undefined;
  readonly maxConnections?: number | undefined;
  readonly run?: string | undefined;
  readonly printUri: boolean;
  readonly pidfile?: string | undefined;
  readonly exitWithParent: boolean;
  /** Milliseconds to finish requests and flush after the first signal. */
  readonly shutdownTimeout: number;
  /** Called with the URIs (one for each listener and export) when clients may connect. */
  readonly ready: (uris: readonly NbdUri[], devices: readonly NamedDevice[]) => void;
}

/** Serves until told to stop; resolves with the exit code. */
export async function serve(options: SessionOptions, environment: Environment): Promise<number> {
  const stop = new StopSignal();
  const deadline = new Deadline(options.shutdownTimeout, environment);
  const activated = activatedSockets(process.env);
  const devices = await openExports(options.what, environment);
  try {
    return await serveDevices(devices, options, { activated, stop, deadline }, environment);
  } finally {
    await withinTime(closeAll(devices), deadline, environment);
    stop.dispose();
  }
}

// Milliseconds that are always left, so that what needs no waiting still gets done.
const MOMENT = 100;

/** One time limit for all steps of shutting down; it begins to run when somebody first asks what is left. */
class Deadline {
  /** Milliseconds. */
  readonly allowed: number;
  readonly #environment: Environment;
  #started: number | undefined;

  constructor(allowed: number, environment: Environment) {
    this.allowed = allowed;
    this.#environment = environment;
  }

  /** Milliseconds. */
  left(): number {
    const now = this.#environment.clock.now();
    this.#started ??= now;
    return Math.max(MOMENT, this.allowed - (now - this.#started));
  }
}

/** A device whose storage does not answer must not keep the process for ever: better an error than a hang. */
async function withinTime(
  closing: Promise<void>,
  deadline: Deadline,
  environment: Environment,
): Promise<void> {
  let expired!: (error: BlockIoError) => void;
  const expiry = new Promise<never>((_resolve, reject) => {
    expired = reject;
  });
  const timer = environment.clock.after(deadline.left(), () => {
    expired(
      new BlockIoError(`the devices did not close within ${deadline.allowed / 1000} s`, {
        code: "ETIMEDOUT",
        op: "close",
        hint: "What was not flushed may be lost. Check the storage below, or allow more by --shutdown-timeout.",
      }),
    );
  });
  try {
    await Promise.race([closing, expiry]);
  } finally {
    timer.cancel();
  }
}

async function serveDevices(
  devices: readonly NamedDevice[],
  options: SessionOptions,
  { activated, stop, deadline }: { activated: number; stop: StopSignal; deadline: Deadline },
  environment: Environment,
): Promise<number> {
  const server = new NbdServer({
    environment,
    ...(options.maxConnections === undefined ? {} : { limits: { connections: options.maxConnections } }),
  });
  for (const { name, description, device } of devices) {
    server.addExport({
      name,
      device,
      description: options.description ?? description,
      readOnly: options.what.readOnly,
      strict: options.strict,
      metaContexts: metaContextsOf(device),
    });
  }
  const listeners = chooseListeners(options.where, activated, options.fallback);
  const stopWatching = options.exitWithParent ? watchParent(stop, environment) : () => {};
  let captive: Captive | undefined;
  let wrotePidfile = false;
  try {
    const uris = await listen(server, listeners.listen, devices);
    if (options.pidfile !== undefined) {
      writePidfile(options.pidfile);
      wrotePidfile = true;
    }
    options.ready(uris, devices);
    const [uri] = uris;
    if (options.printUri && uri !== undefined) process.stdout.write(`${formatNbdUri(uri)}\n`);
    if (options.where.single) {
      await Promise.race([
        server.serveStream(Duplex.from({ readable: process.stdin, writable: process.stdout })),
        stop.requested,
      ]);
      return exitCodes.ok;
    }
    if (options.run !== undefined && uri !== undefined) {
      captive = runCaptive(options.run, captiveVariables(uri));
      return (
        (await Promise.race([captive.status, stop.requested])) ?? (await endCaptive(captive, environment))
      );
    }
    await stop.requested;
    return exitCodes.ok;
  } finally {
    stopWatching();
    captive?.kill("SIGTERM");
    await server.close({ timeout: deadline.left() });
    if (wrotePidfile && options.pidfile !== undefined) removePidfile(options.pidfile);
    listeners.dispose();
  }
}

/** What the targets can tell about ranges, as NBD metadata contexts. */
function metaContextsOf(device: BlockDevice): readonly MetaContext[] {
  if (!isTargetDevice(device)) return [];
  return device.descriptions.map((description) => ({
    name: description.name,
    describe: (_device, offset, length) => description.describe(offset, length),
  }));
}

async function listen(
  server: NbdServer,
  wanted: readonly ListenOptions[],
  devices: readonly NamedDevice[],
): Promise<NbdUri[]> {
  const uris: NbdUri[] = [];
  for (const one of wanted) {
    const address = addressOf(await server.listen(one));
    for (const { name } of devices) uris.push({ address, exportName: name });
  }
  return uris;
}

function addressOf({ path, host, port }: Listener): NbdUri["address"] {
  return path === undefined ? { kind: "tcp", host: host ?? "", port: port ?? 0 } : { kind: "unix", path };
}

/** Milliseconds a command has to end by itself when it is told to. */
const CAPTIVE_TIME = 2000;

async function endCaptive(captive: Captive, environment: Environment): Promise<number> {
  captive.kill("SIGTERM");
  const timer = environment.clock.after(CAPTIVE_TIME, () => captive.kill("SIGKILL"));
  const status = await captive.status;
  timer.cancel();
  return status;
}

/** Whole or not there: a reader that finds the file finds the number in it. */
function writePidfile(path: string): void {
  const temporary = `${path}.${process.pid}`;
  try {
    writeFileSync(temporary, `${process.pid}\n`);
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw new BlockIoError(`the pid file cannot be written: ${(error as Error).message}`, {
      code: "EACCES",
      device: path,
      cause: error,
      hint: "Give a path in a folder you may write to.",
    });
  }
}

/** Not one that another server has written there since. */
function removePidfile(path: string): void {
  try {
    if (readFileSync(path, "utf8") === `${process.pid}\n`) rmSync(path);
  } catch {
    // Somebody has removed it already.
  }
}

// A terminal or ssh session that goes away must not take unflushed writes with it.
const stopSignals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/** The first SIGINT, SIGTERM or SIGHUP asks for an orderly end, the second ends the process at once. */
class StopSignal {
  /** Resolves with undefined when somebody asked to stop. */
  readonly requested: Promise<undefined>;
  readonly #signalled: (signal: NodeJS.Signals) => void;
  #request!: () => void;
  #asked = false;

  constructor() {
    this.requested = new Promise((resolve) => {
      this.#request = () => resolve(undefined);
    });
    this.#signalled = (signal) => {
      if (this.#asked) process.exit(128 + constants.signals[signal]);
      this.stop();
    };
    for (const signal of stopSignals) process.on(signal, this.#signalled);
  }

  stop(): void {
    this.#asked = true;
    this.#request();
  }

  dispose(): void {
    for (const signal of stopSignals) process.off(signal, this.#signalled);
  }
}

/** Stops when the process that started this one is gone; looks twice a second. */
function watchParent(stop: StopSignal, environment: Environment): () => void {
  const parent = process.ppid;
  let watching = true;
  const look = (): void => {
    if (!watching) return;
    if (process.ppid === parent) environment.clock.after(500, look);
    else stop.stop();
  };
  look();
  return () => {
    watching = false;
  };
}

/** Prints errors that nobody waits for; there should be none. */
export function reportStrays(): void {
  process.on("unhandledRejection", (error) => {
    printError(error);
    process.exit(exitCodes.error);
  });
}
