/**
 * The control protocol: JSON-RPC 2.0, one message a line, over a unix socket. See CONTROL.md.
 *
 *      client                                    server
 *      {"id":0,"method":"hello",…}          →
 *                                           ←    {"id":0,"result":{"protocol":1,…}}
 *      {"id":1,"method":"message",…}        →
 *                                           ←    {"method":"progress","params":{"id":1,"done":3,"total":9,…}}
 *      {"method":"cancel","params":{"id":1}} →
 *                                           ←    {"id":1,"error":{"code":-32000,"message":…,"data":{…}}}
 */
import { BlockIoError, codeOf, isErrorCode, isSystemError, toBlockIoError } from "@dmkit/block-io";

/** Changes when a client of the version before could misunderstand the server. */
export const PROTOCOL = 1;

/** Bytes of a line, either way. A request needs far less; an answer holds a whole server's state. */
export const LONGEST_REQUEST: number = 256 * 1024;
export const LONGEST_ANSWER: number = 16 * 1024 * 1024;

/** JSON-RPC's own codes, and one for all that went wrong while a valid request was carried out. */
export const rpcCodes = {
  parse: -32_700,
  invalidRequest: -32_600,
  noMethod: -32_601,
  invalidParams: -32_602,
  failed: -32_000,
} as const;

/** Methods that only ask: they change nothing, and are answered at once. */
export const questions: ReadonlySet<string> = new Set([
  "hello",
  "list",
  "table",
  "status",
  "statistics",
  "export.list",
]);

export type RequestId = number | string;

export interface Request {
  /** Left out: a notification, nobody wants an answer. */
  readonly id: RequestId | undefined;
  readonly method: string;
  readonly params: Readonly<Record<string, unknown>>;
}

/** What an error is beyond JSON-RPC's number: a stable code, what went wrong, and what to do. */
export interface ErrorData {
  readonly code: string;
  readonly reason: string;
  readonly hint?: string | undefined;
  readonly device?: string | undefined;
}

export interface RpcError {
  readonly code: number;
  readonly message: string;
  readonly data?: ErrorData | undefined;
}

export interface Hello {
  readonly protocol: number;
  /** `dmkit 1.2.3`. */
  readonly server: string;
  readonly pid: number;
  /** Where relative paths in messages start. */
  readonly folder: string;
}

/** A request that is none; `id` as far as it could be read. */
export class BadRequest extends Error {
  readonly code: number;
  readonly id: RequestId | null;

  constructor(code: number, reason: string, id: RequestId | null = null) {
    super(reason);
    this.code = code;
    this.id = id;
  }
}

/** A message as it is sent, without the end of its line. */
export function lineOf(message: object): string {
  return JSON.stringify({ jsonrpc: "2.0", ...message });
}

/** Reads a line from a client; throws {@link BadRequest}. */
export function parseRequest(line: string): Request {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new BadRequest(rpcCodes.parse, "this is not JSON");
  }
  if (!isObject(value)) throw new BadRequest(rpcCodes.invalidRequest, "a request is an object, one a line");
  const { jsonrpc, id, method, params = {} } = value;
  const isId = typeof id === "string" || typeof id === "number";
  const known = isId ? id : null;
  if (jsonrpc !== "2.0") throw new BadRequest(rpcCodes.invalidRequest, 'jsonrpc must be "2.0"', known);
  if (id !== undefined && !isId) {
    throw new BadRequest(rpcCodes.invalidRequest, "id must be a number or a string");
  }
  if (typeof method !== "string") {
    throw new BadRequest(rpcCodes.invalidRequest, "method must be a string", known);
  }
  if (!isObject(params)) throw new BadRequest(rpcCodes.invalidParams, "params must be an object", known);
  return { id: isId ? id : undefined, method, params };
}

export function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Why a request ended early: its client did not want it any more. */
export class Cancelled extends Error {
  readonly code = "ECANCELED";
}

/** Anything thrown, for the client. */
export function toRpcError(thrown: unknown): RpcError {
  const error = isSystemError(thrown) ? toBlockIoError(thrown, {}) : thrown;
  if (error instanceof BadRequest) {
    return { code: error.code, message: error.message, data: { code: "EPROTO", reason: error.message } };
  }
  if (error instanceof Cancelled) {
    return {
      code: rpcCodes.failed,
      message: error.message,
      data: { code: error.code, reason: error.message },
    };
  }
  const code = codeOf(error);
  if (error instanceof BlockIoError) {
    const { message, reason, hint, device } = error;
    return { code: rpcCodes.failed, message, data: { code, reason, hint, device } };
  }
  const reason = error instanceof Error ? error.message : String(error);
  return { code: rpcCodes.failed, message: reason, data: { code, reason } };
}

/** The error a server sent, as if it had been thrown here. */
export function fromRpcError({ message, data }: RpcError): BlockIoError | Cancelled {
  if (data?.code === "ECANCELED") return new Cancelled(data.reason);
  const code = isErrorCode(data?.code) ? data.code : "EPROTO";
  return new BlockIoError(data?.reason ?? message, { code, device: data?.device, hint: data?.hint });
}
