/**
 * Tries to reach a server again, with growing pauses, until it is told to stop.
 *
 * Pauses grow with every attempt since the last answer to a request, not since the last successful handshake:
 * a server that accepts connections and dies at the first request is not tried more often than one that is
 * away.
 */
import { BlockIoError, type Environment, type Timer, toBlockIoError } from "@dmkit/block-io";
import type { NbdClientOptions } from "../client-options.ts";
import type { NbdUri } from "../../uri.ts";
import { Session } from "./session.ts";
import { type Terms, breachOf } from "../terms.ts";

export interface ReconnectorOptions {
  readonly name: string;
  readonly uri: NbdUri;
  readonly connections: number;
  /** Milliseconds for a connection and its handshake. */
  readonly connectTimeout: number;
  readonly lost?: NbdClientOptions["lost"];
}

export interface ReconnectorOwner {
  reconnected(session: Session): void;
  /** There is a server, but it does not serve what it served before; or there is no use in waiting. */
  hopeless(error: BlockIoError): void;
}

const FIRST_PAUSE_MS = 50;
const LONGEST_PAUSE_MS = 5000;

export class Reconnector {
  readonly #terms: Terms;
  readonly #options: ReconnectorOptions;
  readonly #environment: Environment;
  readonly #owner: ReconnectorOwner;
  #attempts = 0;
  #stopped = false;
  #running: AbortController | undefined;
  #pausing: { readonly timer: Timer; readonly wake: () => void } | undefined;
  #lastError: BlockIoError | undefined;

  constructor(terms: Terms, options: ReconnectorOptions, environment: Environment, owner: ReconnectorOwner) {
    this.#terms = terms;
    this.#options = options;
    this.#environment = environment;
    this.#owner = owner;
  }

  /** A server answered a request: the next loss starts with short pauses again. */
  progress(): void {
    this.#attempts = 0;
  }

  /** @param reason why the connection is lost. */
  start(reason: BlockIoError): void {
    this.#lastError = undefined;
    void this.#run();
    void this.#ask(reason);
  }

  /** Ends all attempts, for good. */
  stop(): void {
    this.#stopped = true;
    this.#pausing?.timer.cancel();
    this.#pausing?.wake();
    this.#running?.abort(new BlockIoError("the device is closed", { code: "ESHUTDOWN" }));
  }

  /** Why the last attempt failed, if one did. */
  get lastError(): BlockIoError | undefined {
    return this.#lastError;
  }

  /** What to tell those who have waited in vain. */
  despair(lost: BlockIoError | undefined): BlockIoError {
    if (lost?.code === "EPROTO") {
      return new BlockIoError("the server breaks the protocol whenever it is asked", {
        code: "EPROTO",
        device: this.#options.name,
        hint: "Update the server, or serve the image with another one: requests are carried out again once it answers.",
        cause: lost,
      });
    }
    return new BlockIoError("the server did not come back in time", {
      code: "ENOTCONN",
      device: this.#options.name,
      hint: "Start the server: requests are carried out again as soon as it is back. With reconnect=SECONDS in the URI they wait for longer.",
      cause: this.#lastError,
    });
  }

  async #ask(reason: BlockIoError): Promise<void> {
    const hopeless = await this.#options.lost?.(reason);
    if (hopeless !== undefined && !this.#stopped) this.#owner.hopeless(hopeless);
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      await this.#pause();
      const session = await this.#attempt();
      if (session === undefined) continue;
      if (this.#isStopped()) {
        session.abandon();
        return;
      }
      const breach = breachOf(this.#terms, session.terms);
      if (breach === undefined) {
        this.#owner.reconnected(session);
        return;
      }
      session.abandon();
      this.#owner.hopeless(
        new BlockIoError(`the server came back with another export: ${breach}`, {
          code: "ENOTCONN",
          device: this.#options.name,
          hint: "Reopen the device, and check first that the server serves the right image.",
        }),
      );
      return;
    }
  }

  async #pause(): Promise<void> {
    const { clock, random } = this.#environment;
    // The first attempt is made at once: a server that is restarted in place is often back already.
    if (this.#attempts > 0) {
      const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** (this.#attempts - 1));
      // Jitter keeps many clients of one server apart.
      const jittered = pause * (0.75 + random.next() / 2);
      await new Promise<void>((wake) => {
        this.#pausing = { timer: clock.after(jittered, wake), wake };
      });
      this.#pausing = undefined;
    }
    this.#attempts += 1;
  }

  async #attempt(): Promise<Session | undefined> {
    if (this.#stopped) return undefined;
    const { uri, connections, connectTimeout } = this.#options;
    this.#running = new AbortController();
    try {
      return await openSession(uri, connections, connectTimeout, this.#environment, this.#running);
    } catch (error) {
      this.#lastError = toBlockIoError(error, { device: this.#options.name, op: "connect" });
      return undefined;
    } finally {
      this.#running = undefined;
    }
  }

  // A function, because the compiler believes that nothing changes during an await.
  #isStopped(): boolean {
    return this.#stopped;
  }
}

/** {@link Session.open} with a limit on its time. Rejects with `ETIMEDOUT` when it is over. */
export async function openSession(
  uri: NbdUri,
  connections: number,
  timeout: number,
  environment: Environment,
  attempt: AbortController = new AbortController(),
): Promise<Session> {
  const timer = environment.clock.after(timeout, () => {
    attempt.abort(
      new BlockIoError(`no NBD handshake within ${timeout / 1000} seconds`, {
        code: "ETIMEDOUT",
        op: "connect",
        hint: "Check that this is an NBD server and that it is not overloaded.",
      }),
    );
  });
  try {
    return await Session.open(uri, connections, environment, attempt.signal);
  } finally {
    timer.cancel();
  }
}
