/**
 * Requests on their way to a server that may go away and come back.
 *
 *     submit -> admission (mutations) -> queue -> session -> answer
 *                                          ^         |
 *                                          |       loss: unanswered requests are kept
 *                                        replay <- new session
 *
 * Invariants:
 *
 * - mutations that overlap are never in flight together (admission.ts): a mutation that has to be sent again
 *   cannot bring back what a later one has replaced, because no later one was sent;
 * - after a loss nothing but the replay is sent until all of it is answered (replay.ts);
 * - a flush succeeds only if everything acknowledged before it is on stable storage. What was acknowledged
 *   and not flushed when a session is lost is either replayed from the journal, or the device fails: no more
 *   writes and flushes, and no reads where the server may be out of date (health.ts);
 * - every request is settled once, in the end: answered, refused, or given up when it has waited too long for
 *   its server (deadline.ts). Then all that is asked for is refused until the server is back, which is tried on and
 *   on: what was given up was never acknowledged, so nothing is lost by going on.
 */
import {
  BlockIoError,
  type Health as DeviceHealth,
  type Environment,
  FlushGroup,
  type LogLevel,
} from "@dmkit/block-io";
import { CMD } from "../protocol.ts";
import { Admission } from "./requests/admission.ts";
import type { ConnectionOwner } from "./wire/connection.ts";
import { Deadline } from "./requests/deadline.ts";
import { Durability } from "./recovery/durability.ts";
import { Fifo } from "./requests/fifo.ts";
import { Health } from "./health.ts";
import { linkHealth } from "./link-health.ts";
import { Reconnector, type ReconnectorOptions } from "./recovery/reconnector.ts";
import { Replay } from "./recovery/replay.ts";
import { Request } from "./requests/request.ts";
import type { Session } from "./recovery/session.ts";

export interface LinkOptions extends ReconnectorOptions {
  /** Milliseconds a request may wait for the server to come back; 0: the first loss is the end. */
  readonly patience: number;
  /** Requests. */
  readonly maxInFlight: number;
  /** Bytes. */
  readonly maxInFlightBytes: number;
  /** Bytes; 0: unflushed writes are not kept. */
  readonly journal: number;
  /** Every acknowledged mutation counts as stable. */
  readonly writeThrough: boolean;
}

// How long a server may take to finish what it was sent and hang up, before its requests are sent to the next.
const MOST_RETIRE_MS = 5000;

export class Link implements ConnectionOwner {
  readonly #options: LinkOptions;
  readonly #environment: Environment;
  readonly #durability: Durability;
  readonly #health: Health;
  readonly #admission: Admission;
  readonly #deadline: Deadline;
  readonly #reconnector: Reconnector;
  readonly #barrier = new FlushGroup(() => this.submit(new Request(this.#options.name, CMD.FLUSH, 0, 0, 0)));
  readonly #queue = new Fifo<Request>();
  readonly #retireLimit: number;

  #session: Session | undefined;
  #replay: Replay | undefined;
  // Sent once and not answered, or answered with ESHUTDOWN; but for mutations that the replay has taken over.
  #unanswered: Request[] = [];
  // The server said that it is going down: nothing more is sent to it.
  #draining: BlockIoError | undefined;
  #inFlight = 0;
  #inFlightBytes = 0;
  #sequence = 0;
  #reconnects = 0;
  /** Why there is no session, and since when (milliseconds since 1970). */
  #loss: { readonly error: BlockIoError; readonly since: number } | undefined;

  /** @param failed called once, if ever, when no more writes are accepted. */
  constructor(
    session: Session,
    options: LinkOptions,
    environment: Environment,
    failed: (error: BlockIoError) => void,
  ) {
    this.#options = options;
    this.#environment = environment;
    this.#session = session;
    this.#durability = new Durability({ size: session.terms.size, ...options });
    this.#health = new Health(options.name, this.#durability, failed);
    this.#admission = new Admission(this.#durability.journal, {
      refusal: (request) => this.#health.refusal(request),
      admitted: (request) => this.#enqueue(request),
      flush: () => this.#barrier.flush(),
    });
    this.#reconnector = new Reconnector(session.terms, options, environment, {
      reconnected: (next) => this.#resume(next),
      hopeless: (error) => this.#die(error),
    });
    this.#retireLimit = Math.min(MOST_RETIRE_MS, options.patience);
    this.#deadline = new Deadline(environment.clock, options.patience, () => this.#giveUpWaiting());
  }

  /** Begins to listen; the connection may be lost before this returns. */
  start(): void {
    this.#session?.start(this, this.#retireLimit);
  }

  /** Connections in use; 0 while the server is away. */
  get connections(): number {
    return this.#session?.isUsable === true ? this.#session.connections : 0;
  }

  get reconnects(): number {
    return this.#reconnects;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Bytes kept for a replay. */
  get journalBytes(): number {
    return this.#durability.journal?.bytes ?? 0;
  }

  /** How the way to the server is. */
  health(): DeviceHealth {
    const { name, patience } = this.#options;
    const { clock } = this.#environment;
    return linkHealth({
      name,
      patience,
      loss: this.#loss,
      ill: this.#health.describe(),
      lastError: this.#reconnector.lastError,
      silent: clock.now() - (this.#session?.oldest ?? Number.POSITIVE_INFINITY),
      now: clock.wallTime(),
      isAtRisk: this.#durability.isAtRisk,
    });
  }

  /** Resolves when the server has carried the request out. The request's buffer is in use until then. */
  submit(request: Request): Promise<void> {
    return new Promise((resolve, reject) => {
      request.resolve = resolve;
      request.reject = reject;
      this.#sequence += 1;
      request.sequence = this.#sequence;
      const problem = this.#health.refusal(request);
      if (problem !== undefined) reject(problem);
      else if (request.mutates) this.#admission.enter(request);
      else this.#enqueue(request);
    });
  }

  /** A flush that may be shared by several callers. Needs no server when there is nothing to flush. */
  flush(): Promise<void> {
    if (this.#session === undefined && this.#durability.isSettled) return Promise.resolve();
    return this.#barrier.flush();
  }

  /** Nothing may be in flight. */
  async close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    this.#die(new BlockIoError("the device is closed", { code: "ESHUTDOWN", device: this.#options.name }));
    await session?.close();
  }

  #enqueue(request: Request): void {
    const problem = this.#health.refusal(request);
    if (problem !== undefined) {
      this.#settle(request, problem);
      return;
    }
    this.#queue.push(request);
    if (this.#session === undefined) this.#deadline.watch(request);
    else this.#pump();
  }

  /** Sends what may be sent: the replay, or, when there is none, what is queued. */
  #pump(): void {
    const session = this.#session;
    if (session === undefined || !session.isUsable || this.#draining !== undefined) return;
    const source = this.#replay ?? this.#queue;
    const now = this.#environment.clock.now();
    for (let next = source.peek(); next !== undefined && this.#admits(next); next = source.peek()) {
      source.shift();
      this.#inFlight += 1;
      this.#inFlightBytes += next.payload;
      this.#durability.sending(next);
      next.sentAt = now;
      session.send(next);
    }
  }

  #admits(request: Request): boolean {
    if (this.#inFlight === 0) return true;
    const { maxInFlight, maxInFlightBytes } = this.#options;
    return this.#inFlight < maxInFlight && request.payload <= maxInFlightBytes - this.#inFlightBytes;
  }

  answered(request: Request): void {
    this.#inFlight -= 1;
    this.#inFlightBytes -= request.payload;
    const restored = this.#replay?.answered(request) === true;
    if (request.error?.code === "ESHUTDOWN" && this.#options.patience > 0) {
      // It will be sent to the successor, once the others in flight have been answered.
      this.#draining ??= request.error;
      if (!restored) this.#unanswered.push(request);
    } else {
      this.#reconnector.progress();
      if (!restored) this.#conclude(request);
      else if (request.error !== undefined) this.#loseWrites(request.error);
    }
    if (this.#draining !== undefined && this.#inFlight === 0) this.#session?.lost(this.#draining);
    this.#advance();
  }

  #conclude(request: Request): void {
    if (request.error === undefined) {
      this.#durability.succeeded(request);
    } else if (request.type === CMD.FLUSH) {
      this.#health.refuseWrites(request.error);
      this.#rejectRefused();
    }
    this.#settle(request, request.error);
  }

  /** Tells the caller, and lets others take the request's place. */
  #settle(request: Request, error: BlockIoError | undefined): void {
    if (error === undefined) request.resolve();
    else request.reject(error);
    if (request.mutates) this.#admission.leave(request);
  }

  lost(error: BlockIoError): void {
    const session = this.#session;
    if (session === undefined) return;
    this.#takeBack(session);
    this.#loss ??= { error, since: this.#environment.clock.wallTime() };
    this.#log("warn", "the connection to the NBD server is lost", { error: error.message });
    if (this.#durability.isAtRisk) this.#loseWrites(error);
    if (this.#options.patience === 0) {
      this.#die(error);
      return;
    }
    this.#deadline.lost(session.since, [...this.#unanswered, ...this.#queue, ...this.#admission.waiting]);
    this.#reconnector.start(error);
  }

  /** Collects what was not answered, in order of submission. */
  #takeBack(session: Session): void {
    const replay = this.#replay;
    const all = new Set([...this.#unanswered, ...(replay?.unanswered() ?? [])]);
    for (const request of session.abandon()) if (replay?.answered(request) !== true) all.add(request);
    this.#session = undefined;
    this.#replay = undefined;
    this.#draining = undefined;
    this.#inFlight = 0;
    this.#inFlightBytes = 0;
    this.#unanswered = [...all].sort((a, b) => a.sequence - b.sequence);
    for (const request of this.#unanswered) request.renew();
  }

  #resume(session: Session): void {
    this.#deadline.cancel();
    this.#reconnects += 1;
    this.#session = session;
    this.#health.returned();
    this.#loss = undefined;
    this.#log("info", "the NBD server is back", { connections: session.connections });
    const mutations = this.#unanswered.filter((request) => request.mutates);
    this.#unanswered = this.#unanswered.filter((request) => !request.mutates);
    this.#replay = new Replay(this.#options.name, this.#durability.entries(), mutations);
    session.start(this, this.#retireLimit);
    this.#advance();
  }

  /** Goes on with what was asked when the replay is done: what has to be repeated first, then what is new. */
  #advance(): void {
    if (this.#replay?.isDone === true) {
      this.#replay = undefined;
      const again = [...this.#unanswered, ...this.#queue.drain()];
      this.#unanswered = [];
      for (const request of again) this.#queue.push(request);
    }
    this.#pump();
  }

  #loseWrites(cause: BlockIoError): void {
    this.#health.doubt(cause);
    this.#rejectRefused();
  }

  /** The server has not come back in time. It may still, and then all goes on. */
  #giveUpWaiting(): void {
    this.#health.miss(this.#reconnector.despair(this.#loss?.error));
    this.#log("error", "requests are refused until the NBD server is back", {
      lost: this.#loss?.error.message,
      attempt: this.#reconnector.lastError?.message,
    });
    this.#deadline.cancel();
    this.#rejectRefused();
  }

  #die(error: BlockIoError): void {
    if (this.#health.isDead) return;
    this.#health.die(error);
    if (error.code !== "ESHUTDOWN")
      this.#log("error", "the NBD device is out of reach", { error: error.message });
    this.#deadline.cancel();
    this.#reconnector.stop();
    if (this.#session !== undefined) this.#takeBack(this.#session);
    this.#rejectRefused();
  }

  /** Settles everything that waits and is not accepted any more. */
  #rejectRefused(): void {
    const kept: Request[] = [];
    for (const request of [...this.#unanswered.splice(0), ...(this.#replay?.cancel() ?? [])]) {
      if (!this.#rejectIfRefused(request)) kept.push(request);
    }
    this.#unanswered.push(...kept);
    for (const request of this.#queue.drain()) {
      if (!this.#rejectIfRefused(request)) this.#queue.push(request);
    }
    this.#admission.review();
  }

  #rejectIfRefused(request: Request): boolean {
    const problem = this.#health.refusal(request);
    if (problem !== undefined) this.#settle(request, problem);
    return problem !== undefined;
  }

  #log(level: LogLevel, message: string, fields: Readonly<Record<string, unknown>>): void {
    this.#environment.logger.log(level, message, { device: this.#options.name, ...fields });
  }
}
