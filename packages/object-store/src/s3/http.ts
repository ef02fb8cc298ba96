/**
 * One HTTP exchange with bounds: the answer's body is read up to a limit, its length is compared with what the header
 * said, and an abort ends it wherever it is. Rejections say whether the request may have been carried out.
 */
import type { BodyMemory } from "../store.ts";
import type { Agent, ClientRequest, IncomingMessage, OutgoingHttpHeaders, RequestOptions } from "node:http";

/** What is sent. */
export interface Exchange {
  readonly method: string;
  readonly path: string;
  readonly headers: OutgoingHttpHeaders;
  readonly body: Uint8Array | undefined;
  /** Bytes of the answer at the most. */
  readonly most: number;
  readonly signal: AbortSignal;
  /** Where the body of an answer goes that is what was asked for, and says how long it is. */
  readonly memory?: BodyMemory | undefined;
}

/** What came back, whole. */
export interface Answer {
  readonly status: number;
  readonly headers: IncomingMessage["headers"];
  readonly body: Buffer;
}

/** Where requests go. */
export interface Endpoint {
  readonly request: (options: RequestOptions) => ClientRequest;
  readonly agent: Agent;
  readonly host: string;
  readonly port: number | undefined;
}

/** Why there is no answer. */
export class ExchangeError extends Error {
  override readonly name: string = "ExchangeError";
  /** True if not one byte of the request can have reached the server. */
  readonly unsent: boolean;
  readonly reason: "connection" | "aborted" | "length" | "most";

  constructor(message: string, reason: ExchangeError["reason"], unsent: boolean, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
    this.unsent = unsent;
  }
}

/** Milliseconds. As long as gateways keep an idle connection; one that was closed meanwhile costs a repetition. */
export const IDLE_TIME = 60_000;

/** @param unsent see {@link ExchangeError}. */
export function outOfTime(unsent: boolean): ExchangeError {
  return new ExchangeError("no answer in the time allowed", "aborted", unsent);
}

/** Both in bytes. */
export function tooLong(length: number, most: number): ExchangeError {
  return new ExchangeError(`the answer has ${length} bytes where ${most} are the most`, "most", false);
}

/** Both in bytes. */
export function cutShort(received: number, length: number | undefined): ExchangeError {
  return new ExchangeError(`the answer ended after ${received} of ${length} bytes`, "length", false);
}

/** The reader's memory for a body, if it is one that was asked for: of an error nobody does. */
export function lent(
  status: number | undefined,
  length: number,
  memory: BodyMemory | undefined,
): Buffer | undefined {
  return (status === 200 || status === 206) && length > 0 ? memory?.take(length) : undefined;
}

/**
 * Sends a request and collects the answer; rejects with {@link ExchangeError}. The body is not looked at any more once it
 * has settled.
 */
export function exchange(endpoint: Endpoint, wanted: Exchange): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const { signal, most } = wanted;
    if (signal.aborted) {
      reject(new ExchangeError("the request was ended", "aborted", true));
      return;
    }
    const request = endpoint.request({
      agent: endpoint.agent,
      host: endpoint.host,
      port: endpoint.port,
      method: wanted.method,
      path: wanted.path,
      headers: wanted.headers,
    });
    let connected = false;
    const abort = (): void => fail(outOfTime(!connected));
    const finish = (): void => signal.removeEventListener("abort", abort);
    const fail = (error: ExchangeError): void => {
      finish();
      // With its socket: what may still arrive on it belongs to nobody.
      request.destroy();
      reject(error);
    };
    signal.addEventListener("abort", abort);
    request.on("socket", (socket) => {
      if (!socket.connecting) connected = true;
      else socket.once("connect", () => (connected = true));
    });
    request.on("error", (error) => fail(new ExchangeError(error.message, "connection", !connected, error)));
    request.on("response", (response) => {
      collect(response, most, request.method === "HEAD", wanted.memory).then(
        (body) => {
          finish();
          // An answer that came before all was sent: whoever asked may use the memory of what is still on its way.
          if (!request.writableFinished) request.destroy();
          resolve({ status: response.statusCode ?? 0, headers: response.headers, body });
        },
        (error: unknown) => {
          fail(
            error instanceof ExchangeError
              ? error
              : new ExchangeError(String(error), "connection", false, error),
          );
        },
      );
    });
    request.end(wanted.body);
  });
}

function collect(
  response: IncomingMessage,
  most: number,
  bodiless: boolean,
  memory: BodyMemory | undefined,
): Promise<Buffer> {
  const said = response.headers["content-length"];
  const length = said === undefined ? undefined : Number(said);
  return new Promise((resolve, refused) => {
    let whole: Buffer | undefined;
    const reject = (error: ExchangeError): void => {
      if (whole !== undefined) memory?.give(whole);
      whole = undefined;
      refused(error);
    };
    if (!bodiless && length !== undefined && length > most) {
      reject(tooLong(length, most));
      return;
    }
    // Nothing of it is written to once it was given back: the parts of what was rejected go to nobody.
    if (!bodiless && length !== undefined) whole = lent(response.statusCode, length, memory);
    const keepsParts = whole === undefined;
    const parts: Buffer[] = [];
    let received = 0;
    response.on("data", (part: Buffer) => {
      received += part.length;
      if (received > Math.min(most, length ?? most)) {
        reject(new ExchangeError(`the answer has more than ${most} bytes`, "most", false));
      } else if (keepsParts) parts.push(part);
      else whole?.set(part, received - part.length);
    });
    response.on("error", (error) => reject(new ExchangeError(error.message, "connection", false, error)));
    response.on("close", () => {
      if (!response.readableEnded) reject(new ExchangeError("the answer was cut off", "length", false));
    });
    response.on("end", () => {
      if (!response.complete || (length !== undefined && length !== received && !bodiless)) {
        reject(cutShort(received, length));
      } else resolve(whole ?? (parts.length === 1 ? (parts[0] as Buffer) : Buffer.concat(parts, received)));
    });
  });
}
