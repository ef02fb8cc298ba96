/**
 * One run of `dmkit serve`, from opening the devices to closing them.
 *
 * Order, and why: devices open first (a mistake is reported before anybody can connect), then listeners and the
 * control socket and the pid file, then it becomes the user it is to be; the URI is printed then. At the end the
 * reverse: nothing is controlled any more, what was suspended goes on, no new clients, requests in flight finished,
 * devices flushed and closed, pid file and sockets removed.
 */
import { Duplex } from "node:stream";
import { type Environment, type TargetRegistry, every, worstHealth } from "@dmkit/block-io";
import {
  type ListenOptions,
  type Listener,
  type NbdUri,
  type RequestListener,
  NbdServer,
  formatNbdUri,
} from "@dmkit/nbd";
import { DeviceManager } from "../manager/device-manager.ts";
import { ExportManager } from "../manager/export-manager.ts";
import { describeHealth } from "../manager/health-watch.ts";
import type { ExportSnapshot, ServerSnapshot } from "../manager/snapshot.ts";
import { type StackPlan, connectionsOf } from "../stack-file/plan.ts";
import type { MetricsListener } from "../metrics/server.ts";
import { exitCodes } from "../ui/terminal.ts";
import { type Captive, captiveVariables, runCaptive } from "./captive.ts";
import { type Control, startControl } from "./control.ts";
import { Deadline } from "./deadline.ts";
import { type WhatToServe, openExports } from "./exports.ts";
import { type WhereToListen, chooseListeners, isTold, plannedAs } from "./listen/listeners.ts";
import { urisOf } from "./listen/uris.ts";
import { type User, becomeUser } from "./process/privileges.ts";
import { removePidfile, writePidfile } from "./pidfile.ts";
import { ServiceManager, type ServiceState, type ServiceVariables } from "./service-manager.ts";
import { StopSignal, watchParent } from "./signals.ts";
import type { Stack, StackContext } from "./stack.ts";

export interface SessionOptions {
  readonly what: WhatToServe;
  /** What tables can name, and images be of. */
  readonly targets: TargetRegistry;
  /** Instead of images and tables. */
  readonly stack?: StackPlan | undefined;
  readonly where: WhereToListen;
  /** Sockets the service manager handed over. */
  readonly activated: number;
  /** Where the service manager wants to be told how the server is. */
  readonly service: ServiceVariables;
  /** Where to listen if nothing else is said. */
  readonly fallback: ListenOptions;
  /** Path of the control socket; the default one is in the user's runtime folder. */
  readonly control?: string | undefined;
  /** Where metrics and health are served over HTTP, and maybe the page. */
  readonly metrics?: StackPlan["metrics"];
  /** Every request is an event of the log. */
  readonly logsRequests: boolean;
  /** `dmkit 1.2.3`. */
  readonly version: string;
  readonly strict: boolean;
  /** Of what the command line names. */
  readonly hidden: boolean;
  readonly description?: string | undefined;
  readonly maxConnections?: number | undefined;
  readonly run?: string | undefined;
  readonly printUri: boolean;
  readonly pidfile?: string | undefined;
  /** Whom to become when all is open. */
  readonly user?: User | undefined;
  readonly exitWithParent: boolean;
  /** Milliseconds to finish requests and flush after the first signal. */
  readonly shutdownTimeout: number;
  /** Called with the URIs (one for each listener and export) when clients may connect. */
  readonly ready: (
    uris: readonly NbdUri[],
    exports: readonly ExportSnapshot[],
    control: string | undefined,
    metrics: Pick<MetricsListener, "url" | "page"> | undefined,
  ) => void;
}

/** All that runs. */
interface Session {
  readonly options: SessionOptions;
  readonly environment: Environment;
  readonly stop: StopSignal;
  readonly service: ServiceManager;
  readonly deadline: Deadline;
  readonly server: NbdServer;
  readonly devices: DeviceManager;
  readonly exports: ExportManager;
  readonly stack: Stack | undefined;
  /** By the environment's clock. */
  readonly started: number;
}

/** Serves until told to stop; resolves with the exit code. */
export async function serve(options: SessionOptions, environment: Environment): Promise<number> {
  const session = await makeSession(options, environment);
  const { stop, deadline, devices, service } = session;
  void stop.requested.then(() => {
    deadline.begin();
    service.stopping(options.shutdownTimeout);
  });
  const { stack } = session;
  if (stack !== undefined) stop.onHangup = () => void hangup(session, stack);
  service.starts();
  const opening = openAll(session);
  stop.ready();
  try {
    // Recovery may take long, and storage that does not answer takes for ever: a signal ends that, too.
    const told = await Promise.race([opening.then(() => "open"), stop.requested]);
    return told === undefined ? exitCodes.ok : await serveDevices(session);
  } finally {
    const closing = Promise.all([devices.close(), opening.catch(() => {})]);
    await deadline.closing(
      closing.then(() => {}),
      () => [...devices.leaving, ...devices.names],
    );
    stop.dispose();
    service.close();
  }
}

async function makeSession(options: SessionOptions, environment: Environment): Promise<Session> {
  const { activated, maxConnections, stack: plan, targets, what, where } = options;
  // Who comes by standard input is alone.
  const most = where.single ? 1 : (maxConnections ?? (plan && connectionsOf(plan)));
  const stop = new StopSignal();
  const service = new ServiceManager(options.service, environment);
  const server = new NbdServer({
    environment,
    ...(most === undefined ? {} : { limits: { connections: most } }),
    ...(options.logsRequests ? { onRequest: requestLogger(environment) } : {}),
  });
  const devices = new DeviceManager(environment, targets, (...progress) => service.opening(...progress));
  const exports = new ExportManager(server, devices, environment);
  const stack =
    plan &&
    (await stackOf(plan, {
      devices,
      exports,
      server,
      environment,
      readOnly: what.readOnly,
      usual: isTold(where, activated) ? undefined : plannedAs(options.fallback, where),
    }));
  return {
    options,
    environment,
    stop,
    service,
    deadline: new Deadline(options.shutdownTimeout, environment),
    server,
    devices,
    exports,
    stack,
    started: environment.clock.now(),
  };
}

function requestLogger({ logger }: Environment): RequestListener {
  return ({ event, operation, ...fields }) => logger.log("debug", `request ${event}: ${operation}`, fields);
}

/** YAML and schemas are loaded only by who needs them. */
async function stackOf(plan: StackPlan, context: StackContext): Promise<Stack> {
  const stackFiles = await import("./stack.ts");
  return new stackFiles.Stack(plan, context);
}

async function openAll({ options, stack, devices, exports, environment }: Session): Promise<void> {
  if (stack !== undefined) {
    await stack.open();
    return;
  }
  const { what, description, strict, hidden } = options;
  for (const one of await openExports(what, devices, environment)) {
    exports.add({ ...one, strict, hidden, description: description ?? one.description });
  }
}

async function serveDevices(session: Session): Promise<number> {
  const { options, environment, stop, service, deadline, server, devices, exports, stack } = session;
  const watches = [every(environment.clock, LOOK_AT_HEALTH, () => service.update(stateOf(session)))];
  if (options.exitWithParent) watches.push(watchParent(stop, environment));
  const { listeners, open } = openListeners(session);
  let control: Control | undefined;
  let metrics: MetricsListener | undefined;
  let captive: Captive | undefined;
  let wrotePidfile = false;
  try {
    const places = await open();
    const snapshot = (): ServerSnapshot => snapshotOf(session);
    const uris = urisOf(places, exports.snapshot());
    control = await startControl(
      {
        devices,
        exports,
        snapshot,
        reloadStack: stack && (() => stack.reload()),
        history: () => metrics?.history,
      },
      { path: options.control, wanted: !options.where.single, version: options.version, environment },
    );
    if (options.metrics !== undefined) {
      // Loaded only by servers that are asked for it.
      const { startHttp } = await import("../metrics/start.ts");
      const { targets } = options;
      metrics = await startHttp(options.metrics, { environment, snapshot, targets, control: control?.path });
    }
    if (options.pidfile !== undefined) {
      writePidfile(options.pidfile);
      wrotePidfile = true;
    }
    if (options.user !== undefined) {
      // The command is to connect as whom it runs.
      if (options.run !== undefined) listeners.giveTo(options.user);
      becomeUser(options.user);
    }
    options.ready(uris, exports.snapshot(), control?.path, metrics);
    service.ready(stateOf(session));
    // Whoever was promised a URI, or a command beside the server, may make the first export.
    const uri = uris[0] ?? urisOf(places, [{ name: "" }])[0];
    if (options.printUri && uri !== undefined) process.stdout.write(`${formatNbdUri(uri)}\n`);
    if (options.where.single) {
      const { tls, allow, identities, writers } = options.where;
      const client = Duplex.from({ readable: process.stdin, writable: process.stdout });
      await Promise.race([server.serveStream(client, { tls, allow, identities, writers }), stop.requested]);
      return exitCodes.ok;
    }
    if (options.run !== undefined && uri !== undefined) {
      captive = runCaptive(options.run, { ...captiveVariables(uri), ...control?.variables });
      return (
        (await Promise.race([captive.status, stop.requested])) ?? (await endCaptive(captive, environment))
      );
    }
    await stop.requested;
    return exitCodes.ok;
  } finally {
    stop.onHangup = undefined;
    for (const watch of watches) watch.cancel();
    captive?.kill("SIGTERM");
    void control?.close();
    void metrics?.close();
    // Not waited for: what hangs below must not keep the server from closing in time.
    devices.resumeAll().catch(() => {});
    await server.close({ timeout: deadline.leftForClients() });
    if (wrotePidfile && options.pidfile !== undefined) removePidfile(options.pidfile);
    listeners.dispose();
  }
}

/**
 * Where to listen: as the command line says, and at sockets that were handed over; without either, as the stack file
 * says; and otherwise as is usual.
 */
function openListeners({ options, environment, server, stack }: Session): {
  readonly listeners: ReturnType<typeof chooseListeners>;
  readonly open: () => Promise<readonly Listener[]>;
} {
  const { where, fallback, activated } = options;
  const planned = options.stack?.listen ?? [];
  const listeners = chooseListeners(where, activated, fallback);
  if (!isTold(where, 0) && activated > 0 && planned.length > 0) {
    environment.logger.log(
      "warn",
      "the sockets of a service manager are listened at, and not what the stack file says",
      {
        LISTEN_FDS: activated,
        not: planned.map((one) => ("unix" in one ? one.unix : `${one.host}:${one.port}`)).join(", "),
      },
    );
  }
  return {
    listeners,
    async open() {
      if (stack !== undefined && !isTold(where, activated)) return stack.listen();
      const opened: Listener[] = [];
      for (const one of listeners.listen) opened.push(await server.listen(one));
      return opened;
    },
  };
}

/** What the server is and does, for `top`, metrics and whoever asks. */
function snapshotOf({ options, environment, server, devices, exports, started }: Session): ServerSnapshot {
  const { exports: _exports, ...counts } = server.statistics();
  const time = environment.clock.now();
  return {
    time,
    wallTime: environment.clock.wallTime(),
    uptime: time - started,
    pid: process.pid,
    version: options.version,
    ...counts,
    clients: server.clients(),
    devices: devices.snapshot(),
    exports: exports.snapshot(),
  };
}

/** What a service manager is told; looks how all devices are. */
function stateOf({ devices, exports }: Session): ServiceState {
  const unwell = devices.watchHealth();
  const worst = worstHealth(unwell.map(({ health }) => health));
  const name = unwell.find(({ health }) => health === worst)?.name;
  const others = unwell.length > 1 ? ` (and ${unwell.length - 1} more)` : "";
  return {
    exports: exports.count,
    trouble: name === undefined ? undefined : `${name} is ${describeHealth(worst)}${others}`,
  };
}

/** SIGHUP with a stack file. */
async function hangup(session: Session, stack: Stack): Promise<void> {
  const { service } = session;
  const { logger } = session.environment;
  logger.log("info", "reading the stack file again");
  service.reloading();
  try {
    await stack.reload();
  } catch (error) {
    for (const message of (error as Error).message.split("\n")) {
      logger.log("error", "the stack file was not taken: nothing has changed", { message });
    }
  }
  service.reloaded(stateOf(session));
}

/** Milliseconds between two looks at how all devices are: what comes and goes in between is not seen. */
const LOOK_AT_HEALTH = 1000;

/** Milliseconds a command has to end by itself when it is told to. */
const CAPTIVE_TIME = 2000;

async function endCaptive(captive: Captive, environment: Environment): Promise<number> {
  captive.kill("SIGTERM");
  const timer = environment.clock.after(CAPTIVE_TIME, () => captive.kill("SIGKILL"));
  const status = await captive.status;
  timer.cancel();
  return status;
}
