/** The other end of the control socket: what the verbs of the command line, and `top`, talk to a server with. */
import { type Socket, connect } from "node:net";
import { BlockIoError, realEnvironment, toBlockIoError } from "@dmkit/block-io";
import { Lines } from "./lines.ts";
import {
  type Hello,
  LONGEST_ANSWER,
  LONGEST_REQUEST,
  PROTOCOL,
  questions,
  type RpcError,
  fromRpcError,
  lineOf,
  isObject,
} from "./protocol.ts";
import type { SpeedFigures } from "./speed.ts";

// Milliseconds that a server that runs needs less for, when it is only asked.
const PATIENCE = 10_000;

export interface CallProgress extends SpeedFigures {
  readonly done: number;
  readonly total: number;
  readonly unit: string;
}

export interface CallOptions {
  readonly progress?: ((progress: CallProgress) => void) | undefined;
  /** Cancels the request on the server; the call still ends with the server's answer. */
  readonly signal?: AbortSignal | undefined;
}

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly progress: CallOptions["progress"];
}

export class ControlClient {
  readonly #socket: Socket;
  readonly #path: string;
  readonly #patience: number;
  readonly #waiting: Map<number, Waiting> = new Map();
  #next = 0;
  #lost: Error | undefined;
  /** What the server said of itself. */
  hello!: Hello;

  private constructor(socket: Socket, path: string, patience: number) {
    this.#socket = socket;
    this.#path = path;
    this.#patience = patience;
    const lines = new Lines(
      LONGEST_ANSWER,
      (line) => this.#received(line),
      () => this.#lose("its answer is too long"),
    );
    socket.on("data", (chunk: Buffer) => lines.receive(chunk));
    socket.on("error", (error) => this.#lose(error.message));
    socket.on("close", () => this.#lose("it has hung up"));
  }

  /**
   * Connects and says hello. Errors: ENOENT, ENOTCONN (nobody there), EACCES, EPROTO (another version), ETIMEDOUT.
   * @param patience milliseconds to wait for answers to what is only asked, its hello among it.
   */
  static async connect(path: string, patience: number = PATIENCE): Promise<ControlClient> {
    const client = new ControlClient(await open(path), path, patience);
    try {
      client.hello = await client.call<Hello>("hello", { protocol: PROTOCOL });
      return client;
    } catch (error) {
      client.close();
      throw error;
    }
  }

  /** Carries out a method. Rejects with the server's error, ENOTCONN if it is lost, or ETIMEDOUT if it says nothing. */
  call<Result>(
    method: string,
    params: Readonly<Record<string, unknown>>,
    options: CallOptions = {},
  ): Promise<Result> {
    if (this.#lost !== undefined) return Promise.reject(this.#lost);
    const id = this.#next;
    const request = lineOf({ id, method, params });
    if (Buffer.byteLength(request) > LONGEST_REQUEST) return Promise.reject(tooLong());
    this.#next += 1;
    const answer = new Promise<unknown>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject, progress: options.progress });
    });
    this.#send(request);
    const cancel = (): void => this.#send(lineOf({ method: "cancel", params: { id } }));
    if (options.signal?.aborted) cancel();
    options.signal?.addEventListener("abort", cancel, { once: true });
    const timer = questions.has(method)
      ? realEnvironment.clock.after(this.#patience, () => this.#fail(silent(this.#path, this.#patience)))
      : undefined;
    return answer.finally(() => {
      timer?.cancel();
      options.signal?.removeEventListener("abort", cancel);
    }) as Promise<Result>;
  }

  close(): void {
    this.#socket.destroy();
  }

  #send(line: string): void {
    this.#socket.write(`${line}\n`);
  }

  #received(line: string): void {
    let message: unknown;
    try {
      message = JSON.parse(line);
    } catch {
      message = undefined;
    }
    if (!isObject(message)) {
      this.#lose("it does not speak the control protocol");
      return;
    }
    const { id, method, params, result, error } = message;
    if (method === "progress" && isObject(params)) {
      this.#waiting.get(params["id"] as number)?.progress?.(params as unknown as CallProgress);
      return;
    }
    if (id === null && error !== undefined) {
      this.#fail(fromRpcError(error as RpcError));
      return;
    }
    const waiting = this.#waiting.get(id as number);
    this.#waiting.delete(id as number);
    if (error === undefined) waiting?.resolve(result);
    else waiting?.reject(fromRpcError(error as RpcError));
  }

  #lose(why: string): void {
    const refused = this.hello === undefined;
    this.#fail(
      new BlockIoError(refused ? "the server hangs up at once" : `the server is lost: ${why}`, {
        code: "ENOTCONN",
        device: this.#path,
        op: "connect",
        hint: refused
          ? "It may have too few open files left: see what it logs, and its ulimit -n."
          : undefined,
      }),
    );
  }

  #fail(error: Error): void {
    this.#lost ??= error;
    this.#socket.destroy();
    for (const { reject } of this.#waiting.values()) reject(this.#lost);
    this.#waiting.clear();
  }
}

function silent(path: string, patience: number): BlockIoError {
  return new BlockIoError(`the server has not answered for ${patience / 1000} s`, {
    code: "ETIMEDOUT",
    device: path,
    op: "connect",
    hint: "It may be stopped, or its machine overloaded. If it is stopped: kill -CONT PID",
  });
}

/** What a server is not even asked. */
export function tooLong(): BlockIoError {
  return new BlockIoError(`a request has at most ${LONGEST_REQUEST} bytes, with its table`, {
    code: "EOVERFLOW",
    hint: "Make several devices of the table, and one that stands on them.",
  });
}

function open(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ path });
    socket.once("connect", () => resolve(socket));
    socket.once("error", (error: NodeJS.ErrnoException) => {
      const nobody = error.code === "ENOENT" || error.code === "ECONNREFUSED";
      reject(
        nobody
          ? new BlockIoError("no dmkit server answers on this socket", {
              code: "ENOTCONN",
              device: path,
              op: "connect",
              hint: "Start the server with --control PATH, or name the socket of one that runs: -C PATH",
            })
          : toBlockIoError(error, { device: path, op: "connect" }),
      );
    });
  });
}
