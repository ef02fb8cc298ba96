/**
 * The connections to one incarnation of a server. They come and go together.
 *
 * Invariants:
 *
 * - no request is sent before all connections stand, and the loss of one is the loss of all: so whatever was
 *   acknowledged within a session and flushed within it was flushed by the server that had acknowledged it;
 * - a stripe of the device always uses the same connection: so a read sees every earlier write to its place,
 *   even on a server whose connections agree with each other only after a flush;
 * - the loss is reported when the server has hung up everywhere: so it has finished with what it was sent, and
 *   no old copy of a request can take effect after the request was repeated elsewhere.
 */
import type { BlockIoError, Clock, Environment } from "@dmkit/block-io";
import { FLAG, protocolError } from "../../protocol.ts";
import type { NbdUri } from "../../uri.ts";
import { Connection, type ConnectionOwner } from "../wire/connection.ts";
import type { Request } from "../requests/request.ts";
import { type Terms, breachOf } from "../terms.ts";

const LEAST_STRIPE = 1024 * 1024;
const MOST_STRIPES = 65_536;
// How long a server may take to hang up after it was told good-bye, when nothing depends on it.
const GOOD_BYE_MS = 2000;

/** Bytes, a power of two; requests of a device with several connections do not cross multiples of it. */
export function stripeOf(size: number): number {
  let stripe = LEAST_STRIPE;
  while (size / stripe > MOST_STRIPES) stripe *= 2;
  return stripe;
}

export class Session implements ConnectionOwner {
  readonly terms: Terms;
  /** Milliseconds of the clock when it was established. */
  readonly since: number;
  readonly #connections: readonly Connection[];
  readonly #stripe: number;
  readonly #clock: Clock;
  #owner: ConnectionOwner | undefined;
  #limit = 0;
  #losing = false;

  private constructor(connections: readonly Connection[], terms: Terms, clock: Clock) {
    this.terms = terms;
    this.since = clock.now();
    this.#clock = clock;
    this.#connections = connections;
    this.#stripe = stripeOf(terms.size);
  }

  /**
   * Connects to the server.
   * @param wanted connections; only one is made if the server does not keep several consistent.
   */
  static async open(
    uri: NbdUri,
    wanted: number,
    { clock, logger }: Environment,
    signal: AbortSignal,
  ): Promise<Session> {
    const first = await Connection.open(uri, signal);
    const { terms } = first;
    const more = (terms.flags & FLAG.CAN_MULTI_CONN) === 0 ? 0 : wanted - 1;
    const others = await Promise.allSettled(Array.from({ length: more }, () => Connection.open(uri, signal)));
    const connections = [first];
    for (const other of others) {
      if (other.status === "fulfilled") connections.push(other.value);
      else logger.log("warn", "an additional NBD connection was refused", { error: other.reason as Error });
    }
    const breach = connections
      .map((other) => breachOf(terms, other.terms))
      .find((found) => found !== undefined);
    if (breach === undefined && !signal.aborted) return new Session(connections, terms, clock);
    for (const connection of connections) connection.destroy();
    throw breach === undefined ? signal.reason : protocolError(`connections to one export differ: ${breach}`);
  }

  get connections(): number {
    return this.#connections.length;
  }

  /** When the oldest request was sent that is not answered, in milliseconds of the clock; infinity without any. */
  get oldest(): number {
    return Math.min(...this.#connections.map(({ oldest }) => oldest));
  }

  /** Requests may be sent; false from the first sign of a loss on. */
  get isUsable(): boolean {
    return !this.#losing;
  }

  /**
   * Begins to tell `owner` of answers and of the loss; of the latter, if need be, before this returns.
   * @param limit milliseconds to wait for the server to hang up before the loss is reported; 0: do not wait.
   */
  start(owner: ConnectionOwner, limit: number): void {
    this.#owner = owner;
    this.#limit = limit;
    for (const connection of this.#connections) connection.owner = this;
  }

  answered(request: Request): void {
    this.#owner?.answered(request);
  }

  lost(error: BlockIoError): void {
    if (this.#losing) return;
    this.#losing = true;
    void this.#retire(this.#limit).then(() => this.#owner?.lost(error));
  }

  send(request: Request): void {
    const { length } = this.#connections;
    const index = length === 1 ? 0 : Math.floor(request.offset / this.#stripe) % length;
    (this.#connections[index] as Connection).send(request);
  }

  /** Hangs up everywhere and returns what was not answered, in no order. */
  abandon(): Request[] {
    for (const connection of this.#connections) connection.destroy();
    return this.#connections.flatMap((connection) => connection.unanswered());
  }

  /** Says good-bye on all connections. Nothing may be in flight. */
  close(): Promise<void> {
    this.#losing = true;
    this.#owner = undefined;
    return this.#retire(GOOD_BYE_MS);
  }

  async #retire(limit: number): Promise<void> {
    await Promise.all(this.#connections.map((connection) => connection.retire(this.#clock, limit)));
  }
}
