/**
 * The control socket: who is connected, what they ask for, and what they are told.
 *
 * Invariants:
 *
 * - nothing a client sends, or fails to send or take, costs more than bounded memory, or another client anything;
 * - every request with an id is answered exactly once, unless its client is gone;
 * - a client that is gone, or cancels, ends what it asked for, where that can be ended. What is carried out, or fails,
 *   all the same is told to the log: there may be nobody else who hears of it.
 */
import type { Socket } from "node:net";
import { BlockIoError, type Environment, type Timer } from "@dmkit/block-io";
import { type Listener, listenStreams } from "@dmkit/nbd";
import { Lines } from "./lines.ts";
import {
  BadRequest,
  Cancelled,
  type Hello,
  LONGEST_REQUEST,
  PROTOCOL,
  type Request,
  type RequestId,
  parseRequest,
  questions,
  rpcCodes,
  toRpcError,
  lineOf,
} from "./protocol.ts";
import { Speed } from "./speed.ts";

/** What a method is given besides its parameters. */
export interface CallContext {
  /** The client has cancelled the request, or is gone. */
  readonly signal: AbortSignal;
  /** Tells the client how far it is; at most ten times a second get through. */
  readonly progress: (progress: { done: number; total: number; unit: string }) => void;
}

/** Carries out a method; what it returns goes to the client as JSON. Throws BlockIoError, BadRequest. */
export type Method = (params: Request["params"], context: CallContext) => unknown;

export interface ControlOptions {
  readonly environment: Environment;
  readonly methods: ReadonlyMap<string, Method>;
  /** `dmkit 1.2.3`. */
  readonly version: string;
}

type Answer =
  | { readonly result: unknown; readonly error?: undefined }
  | { readonly error: ReturnType<typeof toRpcError> };

const MAX_CLIENTS = 64;
const MAX_REQUESTS = 16;
// Descriptors that these clients leave: fewer than devices and others do, so that there is a way in.
const DESCRIPTORS_LEFT = 2;
// Bytes of answers a client may leave unread before it is dropped.
const MAX_UNREAD = 32 * 1024 * 1024;
// Milliseconds to say hello.
const HELLO_TIME = 10_000;
// Milliseconds between two reports of progress.
const PROGRESS_INTERVAL = 100;

export class ControlServer {
  readonly #options: ControlOptions;
  readonly #clients: Set<Client> = new Set();
  #listener: Listener | undefined;

  constructor(options: ControlOptions) {
    this.#options = options;
  }

  /** Listens on a unix socket with mode 0600. Errors: EADDRINUSE, EEXIST, EINVAL (path too long), EACCES. */
  async listen(path: string): Promise<void> {
    const { environment } = this.#options;
    const accept = (socket: Socket): void => this.#accept(socket);
    this.#listener = await listenStreams(
      { path },
      { what: "control", environment, reserve: DESCRIPTORS_LEFT, accept },
    );
  }

  /** Hangs up on everybody. */
  async close(): Promise<void> {
    const closing = this.#listener?.close();
    for (const client of this.#clients) client.end();
    await closing;
  }

  #accept(socket: Socket): void {
    const client = new Client(socket, this.#options, () => this.#clients.delete(client));
    this.#clients.add(client);
    if (this.#clients.size > MAX_CLIENTS) client.refuse(`there are ${MAX_CLIENTS} control clients already`);
  }
}

class Client {
  readonly #socket: Socket;
  readonly #options: ControlOptions;
  readonly #lines: Lines;
  readonly #running: Map<RequestId, AbortController> = new Map();
  #greeted = false;
  #timer: Timer | undefined;

  constructor(socket: Socket, options: ControlOptions, gone: () => void) {
    this.#socket = socket;
    this.#options = options;
    this.#lines = new Lines(
      LONGEST_REQUEST,
      (line) => this.#received(line),
      () => this.refuse(`a line is longer than ${LONGEST_REQUEST} bytes`),
    );
    this.#timer = options.environment.clock.after(HELLO_TIME, () => this.refuse("no hello in time"));
    socket.on("data", (chunk: Buffer) => this.#lines.receive(chunk));
    // Half-closed: what was asked for is still answered; without requests there is nothing to wait for.
    socket.on("end", () => {
      this.#lines.end();
      if (this.#running.size === 0) socket.end();
    });
    socket.on("error", () => socket.destroy());
    socket.on("close", () => {
      this.#timer?.cancel();
      this.#lines.end();
      for (const running of this.#running.values()) running.abort(goneError());
      gone();
    });
    socket.resume();
  }

  /** Says why, and hangs up. */
  refuse(reason: string): void {
    this.#lines.end();
    this.#send({ id: null, error: toRpcError(new BadRequest(rpcCodes.invalidRequest, reason)) });
    this.end();
  }

  /** Sends what is to be sent, and hangs up whether or not the client does. */
  end(): void {
    this.#lines.end();
    if (this.#socket.destroyed) return;
    this.#timer?.cancel();
    this.#timer = this.#options.environment.clock.after(1000, () => this.#socket.destroy());
    // It may still be sending, and would not read why if it were cut off.
    this.#socket.end();
    this.#socket.resume();
  }

  #received(line: string): void {
    try {
      const request = parseRequest(line);
      if (!this.#greeted) this.#hello(request);
      else if (request.id === undefined) this.#notified(request);
      else this.#call(request.id, request);
    } catch (error) {
      const id = error instanceof BadRequest ? error.id : null;
      this.#send({ id, error: toRpcError(error) });
    }
  }

  /** The first request: whether both sides speak the same version. */
  #hello({ id, method, params }: Request): void {
    if (method !== "hello" || id === undefined) {
      this.refuse('the first request must be "hello"');
      return;
    }
    const { version } = this.#options;
    if (params["protocol"] !== PROTOCOL) {
      const reason = `this server (${version}) speaks control protocol ${PROTOCOL}, not ${JSON.stringify(params["protocol"]) ?? "none"}`;
      const hint = "Use the dmkit the server was started with, or restart the server with this one.";
      this.#send({ id, error: toRpcError(new BlockIoError(reason, { code: "EPROTO", hint })) });
      this.end();
      return;
    }
    this.#greeted = true;
    this.#timer?.cancel();
    const result: Hello = { protocol: PROTOCOL, server: version, pid: process.pid, folder: process.cwd() };
    this.#send({ id, result });
  }

  #notified({ method, params }: Request): void {
    if (method !== "cancel") return;
    const id = params["id"];
    if (typeof id !== "number" && typeof id !== "string") return;
    this.#running.get(id)?.abort(new Cancelled("was cancelled; what was done stays done"));
  }

  #call(id: RequestId, { method, params }: Request): void {
    if (this.#running.has(id)) {
      throw new BadRequest(rpcCodes.invalidRequest, "a request with this id is being carried out", id);
    }
    const carryOut = this.#options.methods.get(method);
    if (carryOut === undefined) {
      throw new BadRequest(
        rpcCodes.noMethod,
        `there is no method ${JSON.stringify(method.slice(0, 100))}`,
        id,
      );
    }
    const ending = new AbortController();
    this.#running.set(id, ending);
    if (this.#running.size >= MAX_REQUESTS) this.#socket.pause();
    void this.#carryOut(id, carryOut, params, ending.signal).then((answer) => {
      this.#running.delete(id);
      // That a client is gone may be known only now: one that closes its own side may still want its answer.
      const tell = (): void => this.#tellAllTheSame(method, params, answer);
      this.#send({ id, ...answer }, ending.signal.aborted ? undefined : tell);
      if (ending.signal.aborted) tell();
      this.#socket.resume();
      if (this.#socket.readableEnded && this.#running.size === 0) this.#socket.end();
    });
  }

  async #carryOut(
    id: RequestId,
    method: Method,
    params: Request["params"],
    signal: AbortSignal,
  ): Promise<Answer> {
    try {
      const result = await method(params, { signal, progress: this.#reporter(id, signal) });
      return { result: result ?? null };
    } catch (error) {
      return { error: toRpcError(error) };
    }
  }

  #tellAllTheSame(method: string, params: Request["params"], answer: Answer): void {
    const { error } = answer;
    // What only asks changes nothing, and what was ended has been told as that.
    if (questions.has(method) || error?.data?.code === "ECANCELED") return;
    const isGone = this.#socket.destroyed || this.#socket.errored !== null;
    const asked = isGone ? "the client that asked for it is gone" : "its client has cancelled it";
    const outcome = error === undefined ? "was carried out all the same" : "has failed";
    const { name } = params;
    this.#options.environment.logger.log("warn", `${method} ${outcome}: ${asked}`, {
      ...(typeof name === "string" ? { name: name.slice(0, 200) } : {}),
      ...(error === undefined ? {} : { message: error.message }),
    });
  }

  #reporter(id: RequestId, signal: AbortSignal): CallContext["progress"] {
    const { clock } = this.#options.environment;
    let last = Number.NEGATIVE_INFINITY;
    const speed = new Speed(clock);
    return ({ done, total, unit }) => {
      const now = clock.now();
      if (signal.aborted || now - last < PROGRESS_INTERVAL) return;
      last = now;
      this.#send({ method: "progress", params: { id, done, total, unit, ...speed.at(done, total) } });
    };
  }

  /** @param lost called if nobody can take it. */
  #send(message: Readonly<Record<string, unknown>>, lost: () => void = () => {}): void {
    if (this.#socket.destroyed || !this.#socket.writable) {
      lost();
      return;
    }
    this.#socket.write(`${lineOf(message)}\n`, (error) => {
      if (error !== undefined && error !== null) lost();
    });
    if (this.#socket.writableLength > MAX_UNREAD) this.#socket.destroy();
  }
}

function goneError(): BlockIoError {
  return new BlockIoError("whoever asked for it is gone", { code: "ENOTCONN", op: "message" });
}
