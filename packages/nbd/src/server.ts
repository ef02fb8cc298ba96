/** The NBD server: block devices in, clients' requests answered. */
import type { Duplex } from "node:stream";
import {
  type Environment,
  type SettingsTable,
  type Timer,
  checkSettings,
  realEnvironment,
  setting,
} from "@dmkit/block-io";
import { REP } from "./protocol.ts";
import { ByteBudget } from "./server/io/budget.ts";
import { SizedBufferPool } from "./server/io/buffer-pool.ts";
import type { ClientStatus } from "./server/client-status.ts";
import { Connection, type Entrance } from "./server/connection.ts";
import type { ServerContext } from "./server/context.ts";
import { Access } from "./server/exports/access.ts";
import type { Export, ExportOptions, RemovalMode } from "./server/exports/export.ts";
import { ExportDirectory } from "./server/exports/exports.ts";
import { OVERHEAD, type ServerLimits, resolveLimits } from "./server/limits.ts";
import {
  type ListenOptions,
  type Listener,
  type ListenPolicy,
  checkWhere,
  listen,
  policySettings,
} from "./server/io/listener.ts";
import type { Denial } from "./server/negotiation.ts";
import { RequestLog, type RequestListener } from "./server/requests/request-log.ts";
import type { ExportStatistics } from "./server/exports/statistics.ts";
import { ServerTls, checkNames } from "./tls/server-tls.ts";

// Bytes of buffers kept for later, for all connections together.
const KEPT_BUFFERS = 16 * 1024 * 1024;
// Milliseconds between two looks at which clients have stalled.
const CHECK_INTERVAL = 1000;
// Descriptors that clients leave to devices and to the control socket.
const DESCRIPTORS_LEFT = 16;
// Milliseconds a client that is refused has to take its refusal.
const REFUSAL_TIME = 1000;

/** What a server is made with. */
export interface NbdServerOptions {
  /** Clock, scheduler and log; the real ones and no log by default. */
  readonly environment?: Environment | undefined;
  readonly limits?: Partial<ServerLimits> | undefined;
  /** Told of every request's beginning and end; see {@link RequestEvent}. */
  readonly onRequest?: RequestListener | undefined;
  /** The export that clients get who ask for none; the one added first by default. */
  readonly defaultExport?: string | undefined;
}

const serverSettings: SettingsTable<NbdServerOptions> = {
  environment: setting.environment,
  // Looked at with the defaults.
  limits: setting.object,
  onRequest: setting.call,
  defaultExport: setting.anyText,
};

const closeSettings = { timeout: setting.number(0, Number.MAX_VALUE) };

/** What a server did and does. */
export interface ServerStatistics {
  /** Connections at present, those still in the handshake included. */
  readonly connections: number;
  /** Connections since the start. */
  readonly accepted: number;
  /** Connections that were refused because there were too many. */
  readonly refused: number;
  /** Bytes of requests and replies in flight at present, as charged to the limits. */
  readonly bytesInFlight: number;
  readonly exports: ReadonlyMap<string, ExportStatistics>;
}

/** An export as it is now. */
export interface ExportStatus {
  readonly name: string;
  readonly description: string;
  /** Bytes. */
  readonly size: number;
  readonly readOnly: boolean;
  readonly strict: boolean;
  /** Clients that are using it. */
  readonly connections: number;
  /** Clients at a time, if there is a limit. */
  readonly maxConnections: number | undefined;
  /** Removed; new clients do not find it. */
  readonly leaving: boolean;
  /** Since it was added. */
  readonly statistics: ExportStatistics;
}

/**
 * Serves block devices to NBD clients.
 *
 * It does not own its devices: whoever opened them closes them, after {@link close} or
 * {@link removeExport} resolved.
 */
export class NbdServer {
  readonly limits: ServerLimits;
  readonly #environment: Environment;
  readonly #exports: ExportDirectory;
  readonly #context: ServerContext;
  readonly #connections: Set<Connection> = new Set();
  readonly #refusals: Set<Connection> = new Set();
  readonly #listeners: Map<Listener, ServerTls | undefined> = new Map();
  #stopping = false;
  #late = false;
  #closing: Promise<void> | undefined;
  #checking: Timer | undefined;
  #accepted = 0;
  #refused = 0;
  #changed: (() => void)[] = [];

  /** Throws `EINVAL` for options there are not, and limits out of range. */
  constructor(options: NbdServerOptions = {}) {
    checkSettings(serverSettings, options, "listen");
    const { environment = realEnvironment, limits, defaultExport, onRequest } = options;
    this.limits = resolveLimits(limits);
    const { bytesInAll, bytesPerConnection, connections } = this.limits;
    this.#environment = environment;
    this.#exports = new ExportDirectory(defaultExport);
    const isStopping = (): boolean => this.#stopping;
    this.#context = {
      environment,
      limits: this.limits,
      budget: new ByteBudget(bytesInAll, bytesPerConnection, connections, OVERHEAD),
      buffers: new SizedBufferPool(KEPT_BUFFERS),
      exports: this.#exports,
      log: onRequest === undefined ? undefined : new RequestLog(onRequest),
      get stopping() {
        return isStopping();
      },
    };
  }

  /** Offers a device. Throws `EEXIST` if the name is taken, `EINVAL` if it cannot be sent. */
  addExport(options: ExportOptions): void {
    this.#exports.add(options);
  }

  /**
   * Withdraws an export; see {@link RemovalMode}. Resolves when the server does not use its device any
   * more. Rejects with `ENOENT`, `EINVAL` for no mode, or, in mode `safe`, `EBUSY`.
   */
  removeExport(name: string, mode: RemovalMode = "safe"): Promise<void> {
    return this.#exports.remove(name, mode);
  }

  /** Starts to listen; may be called several times. Rejects with `EINVAL`, `EADDRINUSE`, `EEXIST`, `EPERM` … */
  async listen(where: ListenOptions): Promise<Listener> {
    checkWhere(where);
    const entrance = { accepted: true, ...(await this.#entranceOf(where)) };
    const listener = await listen(where, {
      what: "NBD",
      environment: this.#environment,
      reserve: DESCRIPTORS_LEFT,
      accept: (socket) => this.#accept(socket, entrance),
    });
    const { tls } = entrance;
    this.#listeners.set(listener, tls);
    if (this.#stopping) await listener.close();
    return {
      ...listener,
      identity: tls?.identity,
      close: () => {
        this.#listeners.delete(listener);
        return listener.close();
      },
    };
  }

  /**
   * Reads certificates and keys again if they have changed, as it is done for the next client anyway. Throws what is
   * wrong with them (`ENOENT`, `EFORMAT` …): those that were read before stay in use then.
   */
  refreshTls(): void {
    for (const tls of this.#listeners.values()) tls?.refresh();
  }

  /**
   * Serves one client on a stream that exists already (stdin and stdout …). Resolves when it is gone. Rejects with
   * `EINVAL`, `ENOENT` … for TLS that cannot be.
   */
  async serveStream(stream: Duplex, policy: ListenPolicy = {}): Promise<void> {
    checkSettings(policySettings, policy, "listen");
    const entrance = { accepted: false, ...(await this.#entranceOf(policy)) };
    await new Promise<void>((resolve) => {
      stream.once("close", resolve);
      this.#accept(stream, entrance);
    });
  }

  async #entranceOf(policy: ListenPolicy | undefined): Promise<Omit<Entrance, "accepted">> {
    const { tls, identities, writers } = policy ?? {};
    checkNames({ tls, identities, writers });
    return {
      tls: await ServerTls.open(tls, this.#environment.logger),
      access: new Access({ identities, writers }),
    };
  }

  /**
   * Stops accepting, finishes what is in flight, answers later requests with `ESHUTDOWN`, and resolves when
   * all clients are gone. Those who are not after `timeout` milliseconds, 0 or more, are dropped.
   */
  async close(options: { readonly timeout?: number } = {}): Promise<void> {
    const { timeout = 10_000 } = checkSettings(closeSettings, options, "listen");
    this.#closing ??= this.#close(timeout);
    await this.#closing;
  }

  /** What is offered at present, in the order it was added; then what was removed and still has clients. */
  exports(): readonly ExportStatus[] {
    return [
      ...this.#exports.all.map((exported) => statusOf(exported, false)),
      ...this.#exports.leaving.map((exported) => statusOf(exported, true)),
    ];
  }

  /** Who is there, in the order in which they came; without those in the handshake. */
  clients(): readonly ClientStatus[] {
    return [...this.#connections].map(({ status }) => status).filter((status) => status !== undefined);
  }

  /** The figures as they are now. */
  statistics(): ServerStatistics {
    return {
      connections: this.#connections.size,
      accepted: this.#accepted,
      refused: this.#refused,
      bytesInFlight: this.#context.budget.used,
      exports: new Map(this.#exports.all.map(({ name, statistics }) => [name, statistics.snapshot()])),
    };
  }

  #accept(stream: Duplex, entrance: Entrance): void {
    if (this.#stopping) {
      stream.destroy();
      return;
    }
    this.#accepted += 1;
    if (this.#connections.size >= this.limits.connections) {
      this.#refuse(stream, entrance);
      return;
    }
    const connection = new Connection(
      stream,
      entrance,
      this.#context,
      this.limits.handshakeTime,
      undefined,
      (gone) => {
        this.#connections.delete(gone);
        this.#notify();
      },
    );
    this.#connections.add(connection);
    this.#checking ??= this.#planCheck();
  }

  /** One client too many is told so, unless too many are being told so already. */
  #refuse(stream: Duplex, entrance: Entrance): void {
    this.#refused += 1;
    if (this.#refusals.size >= this.limits.connections) {
      stream.destroy();
      return;
    }
    const denial: Denial = {
      type: REP.ERR_POLICY,
      text: `the server has its ${this.limits.connections} connections already; try again later`,
    };
    const connection = new Connection(stream, entrance, this.#context, REFUSAL_TIME, denial, (gone) => {
      this.#refusals.delete(gone);
      this.#notify();
    });
    this.#refusals.add(connection);
  }

  #planCheck(): Timer {
    return this.#environment.clock.after(CHECK_INTERVAL, () => {
      const now = this.#environment.clock.now();
      for (const connection of this.#connections) connection.check(now);
      this.#checking = this.#connections.size > 0 ? this.#planCheck() : undefined;
    });
  }

  async #close(timeout: number): Promise<void> {
    this.#stopping = true;
    // A listener is closed for good only when its connections are gone, which is waited for below.
    for (const listener of this.#listeners.keys()) void listener.close();
    // A timer may fire a little early by the clock, so it is the timer that says when the time is up.
    this.#late = timeout <= 0;
    const timer = this.#environment.clock.after(timeout, () => {
      this.#late = true;
      this.#notify();
    });
    for (const connection of this.#connections) connection.stop();
    while (this.#transmitting() && !this.#late) await this.#change();
    timer.cancel();
    for (const connection of [...this.#connections, ...this.#refusals]) {
      connection.drop("the server is being shut down");
    }
    while (this.#connections.size + this.#refusals.size > 0) await this.#change();
    this.#checking?.cancel();
  }

  #transmitting(): boolean {
    for (const connection of this.#connections) if (connection.transmitting) return true;
    return false;
  }

  /** Resolves when a connection has gone or the time is up. */
  #change(): Promise<void> {
    return new Promise((resolve) => this.#changed.push(resolve));
  }

  #notify(): void {
    for (const resolve of this.#changed.splice(0)) resolve();
  }
}

function statusOf(exported: Export, leaving: boolean): ExportStatus {
  const { name, description, device, readOnly, strict, clients, maxConnections, statistics } = exported;
  return {
    name,
    description,
    size: device.size,
    readOnly,
    strict,
    connections: clients.size,
    maxConnections: Number.isFinite(maxConnections) ? maxConnections : undefined,
    leaving,
    statistics: statistics.snapshot(),
  };
}
