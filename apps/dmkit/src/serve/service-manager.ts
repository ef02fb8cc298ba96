/**
 * What a service manager is told of this server, by the protocol of sd_notify(3): datagrams of lines `NAME=VALUE` to the
 * socket that $NOTIFY_SOCKET names.
 *
 * | when | what it is told |
 * |---|---|
 * | devices open | STATUS with how far they are, and that it takes longer (EXTEND_TIMEOUT_USEC) |
 * | clients may connect | READY |
 * | health changes | STATUS, e.g. `disk is degraded: …` |
 * | a stack file is read again | RELOADING with the time, then READY |
 * | the end | STOPPING, and how long it may take |
 * | all along | WATCHDOG, at twice the rate it asks for |
 *
 * Invariants:
 *
 * - nothing is sent unless the variables were there; they are removed, so that commands we run do not speak for us;
 * - WATCHDOG is sent by a turn of the event loop: a server that hangs says nothing;
 * - a service manager that cannot be told is logged once, and never in the way.
 */
import { type Environment, type Timer, every, printable, sendDatagram } from "@dmkit/block-io";
import { percentOf } from "../manager/table-opener.ts";

/** What is known of the server as a whole. */
export interface ServiceState {
  readonly exports: number;
  /** The worst device, in a line; undefined: all are well. */
  readonly trouble: string | undefined;
}

export type Send = (socket: string, text: string) => boolean;

// Milliseconds between two words about devices that open, and how much longer that gives them.
const OPENING_EVERY = 5000;
const OPENING_EXTENDS = 30_000;
// Milliseconds more than the time we give ourselves to end.
const STOPPING_EXTENDS = 5000;
// Characters of STATUS: systemd shows one line.
const LONGEST_STATUS = 300;

/** The variables by which a service manager says where and how often it wants to be told. Clears them. */
export function serviceVariables(environment: NodeJS.ProcessEnv): ServiceVariables {
  const { NOTIFY_SOCKET: socket, WATCHDOG_USEC: interval, WATCHDOG_PID: pid } = environment;
  for (const name of ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]) delete environment[name];
  const isOurs = pid === undefined || pid === String(process.pid);
  return {
    socket: socket !== undefined && /^[/@]./.test(socket) ? socket : undefined,
    watchdog:
      isOurs && interval !== undefined && /^[1-9]\d{0,14}$/.test(interval) ? Number(interval) : undefined,
  };
}

export interface ServiceVariables {
  readonly socket: string | undefined;
  /** Microseconds of silence after which the server counts as hung. */
  readonly watchdog: number | undefined;
}

export class ServiceManager {
  readonly #socket: string | undefined;
  readonly #watchdog: number | undefined;
  readonly #environment: Environment;
  readonly #send: Send;
  readonly #timers = new Map<"watchdog" | "opening", Timer>();
  #failed = false;
  // Clients may connect, and nobody has asked for the end.
  #isReady = false;
  #status = "";
  #opening = "opening the devices";

  constructor({ socket, watchdog }: ServiceVariables, environment: Environment, send: Send = sendDatagram) {
    this.#socket = socket;
    this.#watchdog = watchdog;
    this.#environment = environment;
    this.#send = send;
  }

  /** Devices are being opened from now on. */
  starts(): void {
    if (this.#socket === undefined) return;
    if (this.#watchdog !== undefined)
      this.#every("watchdog", this.#watchdog / 2000, () => this.#tell("WATCHDOG=1"));
    this.#every("opening", OPENING_EVERY, () => {
      this.#tell(`STATUS=${this.#opening}`, `EXTEND_TIMEOUT_USEC=${OPENING_EXTENDS * 1000}`);
    });
  }

  /** How far a device is that takes long to open, in units of its own. */
  opening(device: string, done: number, of: number, what = "opening"): void {
    this.#opening = `${what} ${printable(device)}, ${percentOf(done, of)} %`;
  }

  /** Clients may connect. */
  ready(state: ServiceState): void {
    this.#cancel("opening");
    this.#isReady = true;
    this.#status = statusOf(state);
    this.#tell("READY=1", `STATUS=${this.#status}`);
  }

  /** What may have changed; told if it has. */
  update(state: ServiceState): void {
    const status = statusOf(state);
    if (!this.#isReady || status === this.#status) return;
    this.#status = status;
    this.#tell(`STATUS=${status}`);
  }

  /** The configuration is read again until {@link reloaded} is called. */
  reloading(): void {
    if (!this.#isReady) return;
    // systemd compares it with its own clock, CLOCK_MONOTONIC, which is what this is on Linux.
    const now = process.hrtime.bigint() / 1000n;
    this.#tell("RELOADING=1", `MONOTONIC_USEC=${now}`, "STATUS=reading the stack file again");
  }

  reloaded(state: ServiceState): void {
    if (this.#isReady) this.ready(state);
  }

  /** @param milliseconds that it may take at the most. */
  stopping(milliseconds: number): void {
    this.#cancel("opening");
    this.#isReady = false;
    this.#tell(
      "STOPPING=1",
      "STATUS=finishing requests, flushing and closing the devices",
      `EXTEND_TIMEOUT_USEC=${(milliseconds + STOPPING_EXTENDS) * 1000}`,
    );
  }

  /** Nothing is sent any more. */
  close(): void {
    for (const name of this.#timers.keys()) this.#cancel(name);
  }

  #every(name: "watchdog" | "opening", milliseconds: number, what: () => void): void {
    what();
    this.#timers.set(name, every(this.#environment.clock, milliseconds, what));
  }

  #cancel(name: "watchdog" | "opening"): void {
    this.#timers.get(name)?.cancel();
    this.#timers.delete(name);
  }

  #tell(...lines: readonly string[]): void {
    if (this.#socket === undefined || this.#failed) return;
    try {
      if (this.#send(this.#socket, lines.join("\n"))) return;
      this.#giveUp("the optional package koffi is not installed");
    } catch (error) {
      // Its queue is full: what comes next says more.
      if ((error as NodeJS.ErrnoException).code !== "EAGAIN") this.#giveUp((error as Error).message);
    }
  }

  #giveUp(why: string): void {
    this.#failed = true;
    this.#environment.logger.log("warn", "the service manager cannot be told how the server is", {
      NOTIFY_SOCKET: this.#socket,
      why,
    });
  }
}

function statusOf({ exports, trouble }: ServiceState): string {
  if (trouble !== undefined) return printable(trouble).slice(0, LONGEST_STATUS);
  return exports === 1 ? "serving 1 export" : `serving ${exports} exports`;
}
