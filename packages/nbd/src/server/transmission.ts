/**
 * The transmission phase of one connection: joins receiver, requests and outbox, and decides when to send,
 * when to stop reading and when it is over.
 *
 * Replies that complete while a chunk is being parsed leave together when it is done. Others wait for the
 * end of the turn of the event loop, so that all of a turn leave in one write; only when nothing else is in
 * flight, and so nothing is to be gained by waiting, they leave at once.
 */
import type { Duplex } from "node:stream";
import type { ClientStatus } from "./client-status.ts";
import type { Account } from "./io/budget.ts";
import type { ChunkOrigin } from "./io/intake.ts";
import type { Phase, ServerContext } from "./context.ts";
import type { Agreement } from "./negotiation.ts";
import { Outbox } from "./io/outbox.ts";
import { Receiver } from "./requests/receiver.ts";
import { type RequestEvents, Requests } from "./requests/requests.ts";
import { StallMeter } from "./stall.ts";

// Bytes; so much is sent at once, so that the client can begin with it while the rest is being read.
const ENOUGH = 128 * 1024;

export interface TransmissionEvents {
  /** Everything was answered: say goodbye. */
  finished(): void;
  /** Hang up. */
  violated(reason: string): void;
  /** Hang up: the server or its listener threw. */
  broken(error: unknown): void;
}

export class Transmission implements Phase, RequestEvents {
  readonly #stream: Duplex;
  readonly #context: ServerContext;
  readonly #events: TransmissionEvents;
  readonly #account: Account;
  readonly #outbox: Outbox;
  readonly #requests: Requests;
  readonly #receiver: Receiver;
  readonly #receiving = new StallMeter();
  readonly #sending = new StallMeter();
  readonly #idling = new StallMeter();
  // Parsing a chunk: replies are collected until it is done.
  #inTurn = false;
  #flushPlanned = false;
  #paused = false;
  // No more requests are taken; the connection ends when those in flight are answered.
  #finishing = false;
  #over = false;

  constructor(stream: Duplex, context: ServerContext, agreement: Agreement, events: TransmissionEvents) {
    this.#stream = stream;
    this.#context = context;
    this.#events = events;
    this.#account = context.budget.open(this.#resume);
    this.#outbox = new Outbox(stream, context.buffers, this.#account, this.#resume);
    this.#requests = new Requests(agreement, context, this.#account, this.#outbox, this);
    this.#receiver = new Receiver(this.#requests, context.buffers, agreement.extended);
  }

  /** See {@link ClientStatus}. */
  get counts(): Pick<ClientStatus, "inFlight" | "requests" | "bytes" | "errors"> {
    return { inFlight: this.#requests.inFlight, ...this.#requests.answers };
  }

  get stopping(): boolean {
    return this.#context.stopping;
  }

  now(): number {
    return this.#context.environment.clock.now();
  }

  receive(chunk: Buffer, origin: ChunkOrigin): void {
    if (this.#over) return;
    this.#beginTurn();
    this.#receiver.receive(chunk, origin);
    this.#endTurn();
  }

  space(): Buffer | undefined {
    return this.#receiver.space();
  }

  filled(count: number): void {
    if (this.#over) return;
    this.#beginTurn();
    this.#receiver.filled(count);
    this.#endTurn();
  }

  /** Takes bytes from the connection's budget for what it receives into; false if there are not enough. */
  charge(bytes: number): boolean {
    return this.#account.tryTake(bytes);
  }

  refund(bytes: number): void {
    this.#account.give(bytes);
  }

  ended(): void {
    this.#finish();
  }

  stop(): void {
    if (this.#requests.inFlight === 0) this.#finish();
  }

  stalled(now: number): string | undefined {
    const { stallTime, idleTime } = this.#context.limits;
    const receiver = this.#receiver;
    const outbox = this.#outbox;
    if (this.#sending.stalled(outbox.token, outbox.tokenBytes, outbox.tokenMoved, now, stallTime)) {
      return "it does not read its replies";
    }
    if (this.#receiving.stalled(receiver.token, receiver.tokenBytes, receiver.tokenMoved, now, stallTime)) {
      return "it does not complete its request";
    }
    const idle = this.#requests.inFlight === 0 && outbox.empty && !receiver.waiting;
    if (idleTime > 0 && this.#idling.stalled(idle ? receiver.requests + 1 : 0, 0, 0, now, idleTime)) {
      return "it was idle for too long";
    }
    return undefined;
  }

  closed(): void {
    this.#over = true;
    this.#receiver.stop();
    this.#requests.close();
    this.#outbox.close();
    this.#account.close();
  }

  // -- What requests report --

  disconnected(): void {
    this.#finishing = true;
  }

  violated(reason: string): void {
    this.#over = true;
    this.#events.violated(reason);
  }

  broken(error: unknown): void {
    this.#over = true;
    this.#receiver.stop();
    this.#events.broken(error);
  }

  answered(): void {
    if (this.#outbox.queued >= ENOUGH) this.#outbox.flush();
    if (this.#inTurn) return;
    if (this.#requests.inFlight === 0) {
      this.#outbox.flush();
      this.#checkFinished();
    } else if (!this.#flushPlanned) {
      this.#flushPlanned = true;
      this.#context.environment.scheduler.defer(this.#flush);
    }
  }

  readonly #flush = (): void => {
    this.#flushPlanned = false;
    try {
      this.#outbox.flush();
    } catch (error) {
      this.broken(error);
    }
  };

  /** There is budget again, or room in the socket. */
  readonly #resume = (): void => {
    if (this.#over || this.#inTurn || !this.#receiver.waiting) return;
    // Called by whoever gave something back: it is not their connection that has to end.
    try {
      this.#beginTurn();
      this.#receiver.resume();
      this.#endTurn();
    } catch (error) {
      this.broken(error);
    }
  };

  #beginTurn(): void {
    this.#requests.arrival = this.now();
    this.#inTurn = true;
  }

  #endTurn(): void {
    this.#inTurn = false;
    this.#outbox.flush();
    if (this.#over) return;
    if (this.#receiver.waiting !== this.#paused) {
      this.#paused = this.#receiver.waiting;
      if (this.#paused) this.#stream.pause();
      else this.#stream.resume();
    }
    this.#checkFinished();
  }

  #finish(): void {
    this.#finishing = true;
    this.#receiver.stop();
    this.#checkFinished();
  }

  #checkFinished(): void {
    if (this.#over || this.#requests.inFlight > 0 || !(this.#finishing || this.stopping)) return;
    this.#over = true;
    this.#receiver.stop();
    this.#outbox.flush();
    this.#events.finished();
  }
}
