/**
 * GETs over plain HTTP whose bodies are received where they belong: the memory of the reader is what the socket reads into.
 * What Node's own client makes of a blob, 64 KiB of new memory at a time, costs four to seven times as much (a cold stream of
 * an image, docs/design/performance.md). TLS gives no choice of the memory, so it is not for that.
 *
 * Invariants:
 * - it takes the plain kind of answer only, HTTP/1.1 with one Content-Length; for all else, whatever it is, the caller asks
 *   again by Node's client, and goes on with that;
 * - memory is given back only when its connection reads into it no more: after the last byte, or once it is destroyed;
 * - a connection is used again only if nothing came behind the answer, and the server did not say that it closes it.
 */
import { type Socket, connect } from "node:net";
import {
  type Answer,
  type Exchange,
  ExchangeError,
  IDLE_TIME,
  cutShort,
  lent,
  outOfTime,
  tooLong,
} from "./http.ts";

// Of a head, in bytes: what Node allows.
const LONGEST_HEAD = 16 * 1024;

interface Head {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Bytes of the body. */
  readonly length: number;
}

/** Who waits for an answer. */
interface Asking {
  readonly wanted: Exchange;
  /** Undefined: the answer is of another kind. */
  readonly resolve: (answer: Answer | undefined) => void;
  readonly reject: (error: ExchangeError) => void;
  readonly abort: () => void;
}

/** Connections to one server. */
export class DirectConnections {
  readonly #host: string;
  readonly #port: number;
  readonly #idle = new Set<Connection>();
  readonly #all = new Set<Connection>();
  #isOther = false;

  constructor(host: string, port: number) {
    this.#host = host;
    this.#port = port;
  }

  /** Undefined where it has to be asked in another way. Rejects with {@link ExchangeError}. */
  async get(wanted: Exchange): Promise<Answer | undefined> {
    const request = this.#isOther ? undefined : encodeRequest(wanted);
    if (request === undefined) return undefined;
    const connection = this.#take();
    try {
      const answer = await connection.ask(request, wanted);
      if (answer === undefined) this.#isOther = true;
      return answer;
    } finally {
      if (connection.isOpen) this.#idle.add(connection);
    }
  }

  close(): void {
    for (const connection of this.#all) connection.destroy();
  }

  #take(): Connection {
    for (const connection of this.#idle) {
      this.#idle.delete(connection);
      return connection;
    }
    const made = new Connection(this.#host, this.#port, () => {
      this.#idle.delete(made);
      this.#all.delete(made);
    });
    this.#all.add(made);
    return made;
  }
}

class Connection {
  readonly #socket: Socket;
  readonly #scratch: Buffer = Buffer.allocUnsafeSlow(LONGEST_HEAD);
  #asking: Asking | undefined;
  /** What has come of a head. */
  #begun: Buffer = Buffer.alloc(0);
  #head: Head | undefined;
  #body: Buffer | undefined;
  /** Whether the body is in memory of the reader's. */
  #isLent = false;
  #received = 0;
  #isConnected = false;
  #isLast = false;

  constructor(host: string, port: number, closed: () => void) {
    this.#socket = connect({
      host,
      port,
      noDelay: true,
      timeout: IDLE_TIME,
      onread: {
        buffer: () => this.#body?.subarray(this.#received) ?? this.#scratch,
        callback: (length, buffer) => {
          this.#take(buffer.subarray(0, length) as Buffer);
          return true;
        },
      },
    });
    this.#socket.on("connect", () => (this.#isConnected = true));
    this.#socket.on("timeout", () => {
      if (this.#asking === undefined) this.destroy();
    });
    this.#socket.on("error", (error) => {
      this.#fail(new ExchangeError(error.message, "connection", !this.#isConnected, error));
    });
    // No more will come, and nobody listens who could be answered.
    this.#socket.on("end", () => this.#cutOff());
    this.#socket.on("close", () => {
      this.#cutOff();
      closed();
    });
  }

  /** Whether it can be asked again. */
  get isOpen(): boolean {
    return !this.#socket.destroyed && !this.#isLast;
  }

  /** One at a time. Resolves with undefined, and is closed, where the answer is of another kind. */
  ask(request: string, wanted: Exchange): Promise<Answer | undefined> {
    return new Promise((resolve, reject) => {
      const abort = (): void => this.#fail(outOfTime(!this.#isConnected));
      this.#asking = { wanted, resolve, reject, abort };
      if (wanted.signal.aborted) return abort();
      wanted.signal.addEventListener("abort", abort);
      this.#socket.ref();
      this.#socket.write(request, "latin1");
    });
  }

  destroy(): void {
    this.#fail(new ExchangeError("the store was closed", "aborted", !this.#isConnected));
  }

  #take(part: Buffer): void {
    if (this.#asking === undefined) return this.destroy();
    if (this.#head !== undefined) {
      this.#received += part.length;
      return this.#endIfWhole(0);
    }
    this.#begun = this.#begun.length === 0 ? part : Buffer.concat([this.#begun, part]);
    const end = this.#begun.indexOf("\r\n\r\n");
    if (end < 0) {
      if (this.#begun.length >= LONGEST_HEAD)
        return this.#settle((asking) => asking.resolve(undefined), true);
      // The next part is received where this one lies.
      this.#begun = Buffer.from(this.#begun);
      return;
    }
    this.#takeHead(decodeHead(this.#begun.toString("latin1", 0, end)), this.#begun.subarray(end + 4));
  }

  #takeHead(head: Head | undefined, rest: Buffer): void {
    const { most, memory } = (this.#asking as Asking).wanted;
    if (head === undefined) return this.#settle((asking) => asking.resolve(undefined), true);
    const { status, length, headers } = head;
    if (length > most) return this.#fail(tooLong(length, most));
    this.#head = head;
    this.#isLast =
      headers["connection"] !== undefined && headers["connection"].toLowerCase() !== "keep-alive";
    const body = lent(status, length, memory);
    this.#isLent = body !== undefined;
    this.#body = body ?? Buffer.allocUnsafeSlow(length);
    this.#received = Math.min(rest.length, length);
    this.#body.set(rest.subarray(0, length));
    this.#endIfWhole(rest.length - this.#received);
  }

  /** @param more bytes that came behind it. */
  #endIfWhole(more: number): void {
    const { status, headers, length } = this.#head as Head;
    if (this.#received < length) return;
    const body = this.#body as Buffer;
    this.#body = undefined;
    this.#settle(({ resolve }) => resolve({ status, headers, body }), this.#isLast || more > 0);
  }

  #cutOff(): void {
    if (this.#head === undefined) {
      const cause = Object.assign(new Error("the connection was closed"), { code: "ECONNRESET" });
      return this.#fail(new ExchangeError(cause.message, "connection", !this.#isConnected, cause));
    }
    this.#fail(cutShort(this.#received, this.#head.length));
  }

  #fail(error: ExchangeError): void {
    this.#settle(({ reject }) => reject(error), true);
  }

  #settle(tell: (asking: Asking) => void, isOver: boolean): void {
    const [asking, body, isLent] = [this.#asking, this.#body, this.#isLent];
    this.#asking = undefined;
    this.#head = undefined;
    this.#body = undefined;
    this.#begun = Buffer.alloc(0);
    this.#received = 0;
    if (isOver) this.#socket.destroy();
    // A server that is asked nothing keeps no process alive.
    else this.#socket.unref();
    if (asking === undefined) return;
    if (body !== undefined && isLent) asking.wanted.memory?.give(body);
    asking.wanted.signal.removeEventListener("abort", asking.abort);
    tell(asking);
  }
}

/** Undefined for what has characters that Node's client has to judge. */
function encodeRequest({ method, path, headers }: Exchange): string | undefined {
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${String(value)}\r\n`);
  const isPlain =
    /^[\u0021-\u007e]+$/.test(path) && lines.every((line) => /^[\u0020-\u007e]+\r\n$/.test(line));
  return isPlain ? `${method} ${path} HTTP/1.1\r\n${lines.join("")}\r\n` : undefined;
}

/** Undefined for an answer of another kind. */
function decodeHead(text: string): Head | undefined {
  const [first = "", ...lines] = text.split("\r\n");
  const status = Number(/^HTTP\/1\.1 ([2-5]\d\d)(?: |$)/.exec(first)?.[1]);
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*(.*?)[ \t]*$/.exec(line) ?? [];
    if (name === undefined || value === undefined) return undefined;
    const key = name.toLowerCase();
    if (key === "transfer-encoding" || (key === "content-length" && headers[key] !== undefined))
      return undefined;
    headers[key] = value;
  }
  const length = headers["content-length"];
  // Those have no body, whatever they say.
  if (Number.isNaN(status) || status === 204 || status === 304) return undefined;
  if (length === undefined || !/^\d{1,15}$/.test(length)) return undefined;
  return { status, headers, length: Number(length) };
}
