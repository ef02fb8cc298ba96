/**
 * Requests on their way to a server that may go away and come back.
 *
 *     submit -> [room in the journal] -> [range lock] -> queue -> session -> answer
 *                                                          ^         |
 *                                                          |       loss: unanswered requests are kept
 *                                                        replay <- new session
 *
 * Invariants:
 *
 * - mutations that overlap are never in flight together: a mutation that has to be sent again cannot bring
 *   back what a later one has replaced, because no later one was sent;
 * - after a loss nothing but the replay is sent until all of it is answered (replay.ts);
 * - a flush succeeds only if everything acknowledged before it is on stable storage. What was acknowledged
 *   and not flushed when a session is lost is either replayed from the journal, or the device fails: no more
 *   writes and flushes, and no reads where the server may be out of date;
 * - every request is settled once, in the end: answered, refused, or given up `patience` milliseconds after
 *   its server went away.
 */
import {
  BlockIoError,
  type Environment,
  FlushGroup,
  type LogLevel,
  RangeLock,
  type Timer,
} from "@dmkit/block-io";
import { CMD } from "../protocol.ts";
import type { NbdUri } from "../uri.ts";
import type { ConnectionOwner } from "./connection.ts";
import { Fifo } from "./fifo.ts";
import { Journal } from "./journal.ts";
import { Reconnector } from "./reconnector.ts";
import { Replay } from "./replay.ts";
import { Request } from "./request.ts";
import type { Session } from "./session.ts";
import { Unflushed } from "./unflushed.ts";

export interface LinkOptions {
  /** Name of the device, for messages. */
  readonly name: string;
  readonly uri: NbdUri;
  readonly connections: number;
  /** Milliseconds a request may wait for the server to come back; 0: the first loss is the end. */
  readonly patience: number;
  /** Milliseconds for a connection and its handshake. */
  readonly connectTimeout: number;
  readonly maxInFlight: number;
  /** Bytes. */
  readonly maxInFlightBytes: number;
  /** Bytes; 0: unflushed writes are not kept. */
  readonly journal: number;
  /** Every acknowledged mutation counts as stable. */
  readonly writeThrough: boolean;
}

export class Link implements ConnectionOwner {
  readonly #options: LinkOptions;
  readonly #environment: Environment;
  /** Called when writes must not be accepted any more. */
  readonly #failed: (error: BlockIoError) => void;
  readonly #lock = new RangeLock();
  readonly #unflushed: Unflushed;
  readonly #journal: Journal | undefined;
  readonly #reconnector: Reconnector;
  readonly #barrier = new FlushGroup(() => this.submit(new Request(this.#options.name, CMD.FLUSH, 0, 0, 0)));

  #session: Session | undefined;
  #replay: Replay | undefined;
  readonly #queue = new Fifo<Request>();
  readonly #waitingForRoom = new Fifo<Request>();
  // Sent once and not answered; or answered with ESHUTDOWN. To be sent again.
  #unanswered: Request[] = [];
  #inFlight = 0;
  #inFlightBytes = 0;
  #sequence = 0;
  #reconnects = 0;
  #deadline: Timer | undefined;
  #deadlineAt = Number.POSITIVE_INFINITY;
  #makingRoom = false;
  // The server said that it is going down: nothing more is sent to it.
  #draining: BlockIoError | undefined;
  #refusesWrites: BlockIoError | undefined;
  // Acknowledged writes are lost: reads are refused where they were.
  #inDoubt: BlockIoError | undefined;
  #dead: BlockIoError | undefined;

  constructor(
    session: Session,
    options: LinkOptions,
    environment: Environment,
    failed: (error: BlockIoError) => void,
  ) {
    this.#options = options;
    this.#environment = environment;
    this.#failed = failed;
    this.#unflushed = new Unflushed(session.terms.size);
    this.#journal = options.journal > 0 ? new Journal(options.journal) : undefined;
    this.#reconnector = new Reconnector(session.terms, options, environment, {
      reconnected: (next) => this.#resume(next),
      hopeless: (error) => this.#die(error),
    });
    this.#session = session;
  }

  /** Begins to listen; the link may be lost before this returns. */
  start(): void {
    if (this.#session !== undefined) this.#session.owner = this;
  }

  get connections(): number {
    return this.#session?.connections ?? 0;
  }

  get reconnects(): number {
    return this.#reconnects;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Bytes kept for a replay. */
  get journalBytes(): number {
    return this.#journal?.bytes ?? 0;
  }

  /** Resolves when the server has carried the request out. The request's buffer is in use until then. */
  submit(request: Request): Promise<void> {
    return new Promise((resolve, reject) => {
      request.resolve = resolve;
      request.reject = reject;
      this.#sequence += 1;
      request.sequence = this.#sequence;
      const problem = this.#refusal(request);
      if (problem !== undefined) reject(problem);
      else if (!request.mutates) this.#enqueue(request);
      else if (this.#journal === undefined) this.#acquire(request);
      else this.#reserve(this.#journal, request);
    });
  }

  /** A flush that may be shared by several callers. Needs no server when there is nothing to flush. */
  flush(): Promise<void> {
    if (this.#session === undefined && !this.#unflushed.any) return Promise.resolve();
    return this.#barrier.flush();
  }

  /** Nothing may be in flight. */
  async close(): Promise<void> {
    const session = this.#session;
    this.#session = undefined;
    this.#die(new BlockIoError("the device is closed", { code: "ESHUTDOWN", device: this.#options.name }));
    await session?.close(this.#environment);
  }

  // -- On the way out -----------------------------------------------------------------------------------------

  #refusal(request: Request): BlockIoError | undefined {
    if (this.#dead !== undefined) {
      return request.failure(this.#dead.code, "the connection to the server is lost for good", this.#dead);
    }
    if (request.mutates || request.type === CMD.FLUSH) {
      if (this.#refusesWrites === undefined) return undefined;
      return request.failure(
        "EIO",
        "the device refuses writes since an earlier failure",
        this.#refusesWrites,
      );
    }
    if (this.#inDoubt === undefined || !this.#unflushed.doubtful(request.offset, request.length))
      return undefined;
    return request.failure("EIO", "the server may have lost writes to this place", this.#inDoubt);
  }

  #reserve(journal: Journal, request: Request): void {
    if (this.#waitingForRoom.length > 0 || !journal.reserve(request)) {
      this.#waitingForRoom.push(request);
      this.#makeRoom();
    } else {
      this.#acquire(request);
    }
  }

  #acquire(request: Request): void {
    const { offset, length } = request;
    request.grant = this.#lock.tryAcquire(offset, length, true);
    if (request.grant !== undefined) {
      this.#enqueue(request);
      return;
    }
    void this.#lock.acquire(offset, length, true).then((grant) => {
      request.grant = grant;
      this.#enqueue(request);
    });
  }

  #enqueue(request: Request): void {
    const problem = this.#refusal(request);
    if (problem !== undefined) {
      this.#settle(request, problem);
      return;
    }
    this.#queue.push(request);
    if (this.#session !== undefined) this.#pump();
    else this.#wait(request);
  }

  #advance(): void {
    if (this.#replay?.isDone === true) this.#afterReplay();
    this.#pump();
  }

  #pump(): void {
    const session = this.#session;
    if (session === undefined || this.#draining !== undefined) return;
    if (this.#replay !== undefined) {
      for (
        let next = this.#replay.peek();
        next !== undefined && this.#admits(next);
        next = this.#replay.peek()
      ) {
        this.#replay.sent();
        this.#send(session, next);
      }
      return;
    }
    for (let next = this.#queue.peek(); next !== undefined && this.#admits(next); next = this.#queue.peek()) {
      this.#queue.shift();
      this.#send(session, next);
    }
  }

  #admits(request: Request): boolean {
    if (this.#inFlight === 0) return true;
    const { maxInFlight, maxInFlightBytes } = this.#options;
    return this.#inFlight < maxInFlight && request.payload <= maxInFlightBytes - this.#inFlightBytes;
  }

  #send(session: Session, request: Request): void {
    this.#inFlight += 1;
    this.#inFlightBytes += request.payload;
    if (request.type === CMD.FLUSH) request.mark = this.#unflushed.mark();
    session.send(request);
  }

  // -- On the way back ----------------------------------------------------------------------------------------

  answered(request: Request): void {
    this.#inFlight -= 1;
    this.#inFlightBytes -= request.payload;
    const restored = this.#replay?.answered(request) === true;
    if (request.error?.code === "ESHUTDOWN" && this.#options.patience > 0) {
      this.#drain(request, restored);
    } else {
      this.#reconnector.progress();
      if (!restored) {
        this.#account(request);
        this.#settle(request, request.error);
      } else if (request.error !== undefined) {
        this.#loseWrites(request.error);
      }
    }
    if (this.#draining !== undefined && this.#inFlight === 0) this.lost(this.#draining);
    this.#advance();
  }

  /** Keeps the books of what is stable. */
  #account(request: Request): void {
    if (request.type === CMD.FLUSH) {
      if (request.error !== undefined) {
        this.#refuseWrites(request.error);
      } else {
        this.#unflushed.settle(request.mark);
        this.#journal?.drop(request.mark);
      }
    } else if (request.mutates && request.error === undefined) {
      this.#acknowledge(request);
    }
  }

  #acknowledge(request: Request): void {
    const journal = this.#journal;
    if (!request.forced && !this.#options.writeThrough) {
      const number = this.#unflushed.acknowledge(request.offset, request.length);
      journal?.add(number, request);
      if (journal?.isHalfFull === true) this.#makeRoom();
    } else if (journal !== undefined && !journal.isEmpty) {
      journal.add(this.#unflushed.mark(), request);
    }
  }

  /** Gives back what the request holds and tells its caller. */
  #settle(request: Request, error: BlockIoError | undefined): void {
    if (request.grant !== undefined) this.#lock.release(request.grant);
    request.grant = undefined;
    if (request.reserved > 0) this.#journal?.release(request);
    if (error === undefined) request.resolve();
    else request.reject(error);
    if (this.#waitingForRoom.length > 0) this.#admitWaiting();
  }

  // -- Room in the journal --------------------------------------------------------------------------------------

  #makeRoom(): void {
    if (this.#makingRoom || this.#journal === undefined || this.#journal.isEmpty) return;
    this.#makingRoom = true;
    const finished = (): void => {
      this.#makingRoom = false;
      this.#admitWaiting();
    };
    // A failure is reported where the answer is: it makes the device refuse writes.
    this.#barrier.flush().then(finished, finished);
  }

  #admitWaiting(): void {
    const journal = this.#journal;
    if (journal === undefined) return;
    for (let next = this.#waitingForRoom.peek(); next !== undefined; next = this.#waitingForRoom.peek()) {
      const problem = this.#refusal(next);
      if (problem === undefined && !journal.reserve(next)) {
        this.#makeRoom();
        return;
      }
      this.#waitingForRoom.shift();
      if (problem === undefined) this.#acquire(next);
      else next.reject(problem);
    }
  }

  // -- Losses ---------------------------------------------------------------------------------------------------

  /** The server is going down: the request will be sent to its successor. */
  #drain(request: Request, restored: boolean): void {
    this.#draining ??= request.error;
    if (!restored) this.#unanswered.push(request);
  }

  lost(error: BlockIoError): void {
    const session = this.#session;
    if (session === undefined) return;
    this.#takeBack(session);
    this.#log("warn", "the connection to the NBD server is lost", { error: error.message });
    if (this.#unflushed.any && this.#journal === undefined) this.#loseWrites(error);
    if (this.#options.patience === 0) {
      this.#die(error);
      return;
    }
    // Waiting counts across sessions that die young, or a request that kills servers would be tried for ever.
    const stable = this.#environment.clock.now() - session.since > this.#options.patience;
    for (const waiting of [this.#unanswered, this.#queue, this.#waitingForRoom]) {
      for (const request of waiting) {
        if (stable) request.waitingSince = Number.NaN;
        this.#wait(request);
      }
    }
    this.#reconnector.start();
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

  /** Starts the clock of a request that waits for a server. */
  #wait(request: Request): void {
    const { clock } = this.#environment;
    if (Number.isNaN(request.waitingSince)) request.waitingSince = clock.now();
    const until = request.waitingSince + this.#options.patience;
    if (until >= this.#deadlineAt || this.#dead !== undefined) return;
    this.#cancelDeadline();
    this.#deadlineAt = until;
    this.#deadline = clock.after(Math.max(0, until - clock.now()), () =>
      this.#die(this.#reconnector.despair()),
    );
  }

  #cancelDeadline(): void {
    this.#deadline?.cancel();
    this.#deadline = undefined;
    this.#deadlineAt = Number.POSITIVE_INFINITY;
  }

  #resume(session: Session): void {
    this.#cancelDeadline();
    this.#reconnects += 1;
    this.#session = session;
    this.#log("info", "the NBD server is back", { connections: session.connections });
    const mutations = this.#unanswered.filter((request) => request.mutates);
    this.#unanswered = this.#unanswered.filter((request) => !request.mutates);
    this.#replay = new Replay(this.#options.name, this.#journal?.entries() ?? [], mutations);
    session.owner = this;
    this.#advance();
  }

  /** The server is up to date: what was only asked can be asked again, ahead of what is new. */
  #afterReplay(): void {
    this.#replay = undefined;
    const again = [...this.#unanswered, ...this.#queue.drain()];
    this.#unanswered = [];
    for (const request of again) this.#queue.push(request);
  }

  // -- Failures ---------------------------------------------------------------------------------------------------

  #refuseWrites(error: BlockIoError): void {
    if (this.#refusesWrites !== undefined) return;
    this.#refusesWrites = error;
    this.#failed(error);
    this.#rejectRefused();
  }

  /** Something acknowledged is gone. */
  #loseWrites(cause: BlockIoError): void {
    this.#inDoubt ??= new BlockIoError("the server went away with writes that were not flushed", {
      code: "EIO",
      device: this.#options.name,
      hint: "Check what is on the server, then reopen the device; with a replay buffer such writes are repeated.",
      cause,
    });
    this.#refusesWrites ??= this.#inDoubt;
    this.#failed(this.#inDoubt);
    this.#rejectRefused();
  }

  #die(error: BlockIoError): void {
    if (this.#dead !== undefined) return;
    this.#dead = error;
    this.#cancelDeadline();
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
    this.#admitWaiting();
  }

  #rejectIfRefused(request: Request): boolean {
    const problem = this.#refusal(request);
    if (problem !== undefined) this.#settle(request, problem);
    return problem !== undefined;
  }

  #log(level: LogLevel, message: string, fields: Readonly<Record<string, unknown>>): void {
    this.#environment.logger.log(level, message, { device: this.#options.name, ...fields });
  }
}
