/**
 * One attempt at an S3-compatible store: signed requests over node:http(s) with connections that are kept.
 *
 *     get       GET    /key            Range: bytes=a-b
 *     head      HEAD   /key
 *     create    PUT    /key            If-None-Match: *     412 is "exists"; 409 is "two at once, try again"
 *     put       PUT    /key
 *     list      GET    /?list-type=2   prefix, start-after
 *     remove    DELETE /key
 *
 * Bodies that have their place already come by direct-get.ts where there is no TLS.
 *
 * No other condition is used: If-Match is answered differently by different stores. A status of 500 and above, and a
 * connection that ends after the request was begun, leave open whether a PUT was done.
 */
import { readFileSync } from "node:fs";
import type { Agent, OutgoingHttpHeaders } from "node:http";
import aws4, { type Credentials as SignerCredentials } from "aws4";
import { BlockIoError, type ErrorCode, type Operation, codeOf, toBlockIoError } from "@dmkit/block-io";
import type { BodyMemory, ObjectEntry, ObjectRange } from "../store.ts";
import {
  type Attempt,
  type Created,
  type Failure,
  type ListPage,
  type ObjectTransport,
  failed,
  succeeded,
  tooLarge,
} from "../transport.ts";
import type { CredentialProvider, Credentials } from "./credentials.ts";
import { DirectConnections } from "./direct-get.ts";
import { type Answer, type Endpoint, ExchangeError, IDLE_TIME, exchange } from "./http.ts";
import { parseError, parseListing } from "./listing.ts";
import type { S3Location } from "./location.ts";

// An answer without a body worth having: an error, the receipt of a PUT. In bytes.
const SHORT = 1 << 20;
// A page of 1000 entries with the longest keys. In bytes.
const LISTING = 16 << 20;

type Method = "GET" | "HEAD" | "PUT" | "DELETE";

interface Call {
  readonly method: Method;
  readonly key: string;
  readonly query?: string;
  readonly headers?: OutgoingHttpHeaders;
  readonly body?: Uint8Array;
  readonly most: number;
  readonly signal: AbortSignal;
  readonly memory?: BodyMemory | undefined;
}

export interface S3TransportOptions {
  readonly credentials: CredentialProvider;
  /** Connections at the most. 64 unless given. */
  readonly connections?: number | undefined;
}

export class S3Transport implements ObjectTransport {
  readonly name: string;
  readonly #location: S3Location;
  readonly #credentials: CredentialProvider;
  readonly #connections: number;
  readonly #host: string;
  #endpoint: Promise<Endpoint> | undefined;
  #agent: Agent | undefined;
  /** For bodies that have their place already, where there is no TLS. */
  readonly #direct: DirectConnections | undefined;

  constructor(location: S3Location, options: S3TransportOptions) {
    this.#location = location;
    this.name = `s3://${location.bucket}/${location.prefix}`.replace(/\/$/, "");
    this.#credentials = options.credentials;
    this.#connections = options.connections ?? 64;
    this.#host = location.pathStyle ? location.endpoint.host : `${location.bucket}.${location.endpoint.host}`;
    const [host, port = 80] = splitHost(this.#host);
    this.#direct = location.endpoint.protocol === "http:" ? new DirectConnections(host, port) : undefined;
  }

  async get(
    key: string,
    range: ObjectRange | undefined,
    most: number,
    signal: AbortSignal,
    memory?: BodyMemory,
  ): Promise<Attempt<Buffer>> {
    const headers =
      range === undefined ? {} : { Range: `bytes=${range.offset}-${range.offset + range.length - 1}` };
    const result = await this.#call("read", {
      method: "GET",
      key,
      headers,
      most: Math.max(most, SHORT),
      signal,
      memory,
    });
    if (!result.done) return result;
    const { status, body } = result.value;
    // A range behind the end.
    if (status === 416) return succeeded(Buffer.alloc(0));
    if (status === 200 || status === 206) {
      const part = status === 200 && range !== undefined ? cut(body, range) : body;
      if (part.length > most) return failed(tooLarge(this.name, key, part.length, most), "nothing", "no");
      return succeeded(part);
    }
    return this.#refused("read", key, result.value);
  }

  async head(key: string, signal: AbortSignal): Promise<Attempt<ObjectEntry | undefined>> {
    const result = await this.#call("read", { method: "HEAD", key, most: SHORT, signal });
    if (!result.done) return result;
    const { status, headers } = result.value;
    // A HEAD has no body to say whether it is the bucket that is missing; the first PUT will.
    if (status === 404) return succeeded(undefined);
    if (status !== 200) return this.#refused("read", key, result.value);
    const size = Number(headers["content-length"]);
    const modified = Date.parse(headers["last-modified"] ?? "");
    if (Number.isSafeInteger(size) && !Number.isNaN(modified)) return succeeded({ key, size, modified });
    return failed(
      this.#error("EPROTO", "read", `${key}: the store tells neither size nor age`),
      "nothing",
      "no",
    );
  }

  async create(key: string, body: Uint8Array, signal: AbortSignal): Promise<Attempt<Created>> {
    const headers = { "If-None-Match": "*" };
    const result = await this.#call("write", { method: "PUT", key, headers, body, most: SHORT, signal });
    if (!result.done) return result;
    const { status } = result.value;
    if (status === 412) return succeeded("exists");
    return status === 200 ? succeeded("created") : this.#refused("write", key, result.value);
  }

  async put(key: string, body: Uint8Array, signal: AbortSignal): Promise<Attempt<void>> {
    const result = await this.#call("write", { method: "PUT", key, body, most: SHORT, signal });
    if (!result.done) return result;
    return result.value.status === 200 ? succeeded(undefined) : this.#refused("write", key, result.value);
  }

  async list(prefix: string, after: string, signal: AbortSignal): Promise<Attempt<ListPage>> {
    const own = this.#location.prefix;
    const query = new URLSearchParams({ "list-type": "2", "max-keys": "1000", prefix: own + prefix });
    if (after !== "") query.set("start-after", own + after);
    const result = await this.#call("read", {
      method: "GET",
      key: "",
      query: query.toString().replaceAll("+", "%20"),
      most: LISTING,
      signal,
    });
    if (!result.done) return result;
    if (result.value.status !== 200) return this.#refused("read", prefix, result.value);
    const listing = parseListing(result.value.body.toString("utf8"));
    if (listing === undefined || listing.entries.some(({ key }) => !key.startsWith(own))) {
      return failed(
        this.#error("EPROTO", "read", `the listing of ${prefix} is not one of S3`),
        "nothing",
        "yes",
      );
    }
    const entries = listing.entries.map((entry) => ({ ...entry, key: entry.key.slice(own.length) }));
    return succeeded({ entries, more: listing.more });
  }

  async remove(key: string, signal: AbortSignal): Promise<Attempt<void>> {
    const result = await this.#call("discard", { method: "DELETE", key, most: SHORT, signal });
    if (!result.done) return result;
    const { status } = result.value;
    // No bucket is also a 404, but then there is no object either.
    if (status === 200 || status === 204 || status === 404) return succeeded(undefined);
    return this.#refused("discard", key, result.value);
  }

  close(): Promise<void> {
    this.#agent?.destroy();
    this.#direct?.close();
    return Promise.resolve();
  }

  async #call(
    op: Operation,
    { method, key, query, headers, body, most, signal, memory }: Call,
  ): Promise<Attempt<Answer>> {
    const { bucket, prefix, pathStyle, region } = this.#location;
    const object = key === "" ? "" : prefix + key;
    const path = `${pathStyle ? `/${bucket}` : ""}/${object}${query === undefined ? "" : `?${query}`}`;
    try {
      const endpoint = await (this.#endpoint ??= this.#connect());
      const signed = aws4.sign(
        {
          service: "s3",
          region,
          host: this.#host,
          method,
          path,
          headers: { ...headers, ...(body === undefined ? {} : { "Content-Length": body.length }) },
          ...(body === undefined ? {} : { body: body as Buffer }),
        },
        withoutEmpty(await this.#credentials()),
      );
      const wanted = { method, path, headers: signed.headers ?? {}, body, most, signal, memory };
      const direct = memory && (await this.#direct?.get(wanted));
      return succeeded(direct ?? (await exchange(endpoint, wanted)));
    } catch (error) {
      return this.#broken(op, key, error);
    }
  }

  async #connect(): Promise<Endpoint> {
    const { endpoint, ca } = this.#location;
    const secure = endpoint.protocol === "https:";
    const { Agent: HttpAgent, request } = secure ? await import("node:https") : await import("node:http");
    const agent = new HttpAgent({
      keepAlive: true,
      maxSockets: this.#connections,
      timeout: IDLE_TIME,
      ...(secure && ca !== undefined ? { ca: readCertificates(ca) } : {}),
    });
    this.#agent = agent;
    const [host, port] = splitHost(this.#host);
    return { request, agent, host, port };
  }

  #broken(op: Operation, key: string, error: unknown): Attempt<never> {
    if (!(error instanceof ExchangeError)) {
      // No credentials, no certificates: nothing was sent.
      return failed(toBlockIoError(error, { device: this.name, op }), "nothing", "no");
    }
    const outcome = error.unsent ? "nothing" : "unclear";
    if (error.reason === "most") {
      return failed(this.#error("EOVERFLOW", op, `${key}: ${error.message}`), outcome, "no");
    }
    const late = error.reason === "aborted";
    const code = late ? "ETIMEDOUT" : error.reason === "length" ? "EIO" : codeOf(error.cause);
    const { protocol, host } = this.#location.endpoint;
    // As TLS calls it when the other side is not trusted; no number of attempts changes that.
    const isStrange = /CERT|VERIFY_LEAF/.test(String((error.cause as { code?: unknown } | undefined)?.code));
    const hint = isStrange
      ? "Give a file of the certificates to trust, PEM, as ?ca= or AWS_CA_BUNDLE."
      : `Check that ${protocol}//${host} is reachable from here.`;
    return failed(
      this.#error(code === "ENOENT" ? "ENOTCONN" : code, op, `${key}: ${error.message}`, hint, error),
      outcome,
      isStrange ? "no" : "yes",
    );
  }

  // An answer other than those a caller waits for.
  #refused(op: Operation, key: string, { status, headers, body }: Answer): Attempt<never> {
    const { code, message } = parseError(body.toString("utf8"));
    const said = [`the store answered ${status}`, code, message].filter((part) => part !== "").join(", ");
    const { code: errorCode, hint, again } = this.#meaning(op, key, status, code, headers["date"]);
    const outcome = status >= 500 ? "unclear" : "nothing";
    const reason = key === "" ? said : `${key}: ${said}`;
    return failed(this.#error(errorCode, op, reason, hint), outcome, again);
  }

  #meaning(
    op: Operation,
    key: string,
    status: number,
    code: string,
    date: string | undefined,
  ): { readonly code: ErrorCode; readonly hint: string | undefined; readonly again: Failure["again"] } {
    const { bucket, region, endpoint } = this.#location;
    if (status === 404 && code === "NoSuchBucket") {
      return {
        code: "ENOENT",
        hint: `Create the bucket ${bucket} at ${endpoint.host}, or correct its name.`,
        again: "no",
      };
    }
    if (status === 404) return { code: "ENOENT", hint: undefined, again: "no" };
    if (code === "RequestTimeTooSkewed") {
      const theirs = date ?? "unknown";
      return {
        code: "EACCES",
        hint: `Set this machine's clock: the store's time is ${theirs}.`,
        again: "no",
      };
    }
    if (status === 403 || status === 401) {
      const action = { read: "read", write: "write", discard: "remove" }[op as "read" | "write" | "discard"];
      const what = key === "" ? "list the bucket" : `${action} ${key}`;
      return {
        code: "EACCES",
        hint: `Check the access key, and that it may ${what} in ${this.name}.`,
        again: "no",
      };
    }
    if (status === 301 || status === 307 || code === "AuthorizationHeaderMalformed") {
      return {
        code: "EACCES",
        hint: `The bucket is not in the region ${region}: give ?region=.`,
        again: "no",
      };
    }
    if (status === 429 || status === 503)
      return { code: "EBUSY", hint: "The store is overloaded; try again later.", again: "slower" };
    if (status === 507 || code === "QuotaExceeded")
      return { code: "ENOSPC", hint: "Raise the quota of the bucket.", again: "no" };
    if (status === 408 || status === 409 || status >= 500)
      return { code: "EIO", hint: undefined, again: "yes" };
    return {
      code: "EIO",
      hint: "The store did not understand the request: is the endpoint one of S3?",
      again: "no",
    };
  }

  #error(code: ErrorCode, op: Operation, reason: string, hint?: string, cause?: unknown): BlockIoError {
    return new BlockIoError(reason, { code, device: this.name, op, hint, cause });
  }
}

// The signer tells an empty token from none.
function withoutEmpty({ accessKeyId, secretAccessKey, sessionToken }: Credentials): SignerCredentials {
  const keys = { accessKeyId, secretAccessKey };
  return sessionToken === undefined ? keys : { ...keys, sessionToken };
}

function cut(body: Buffer, { offset, length }: ObjectRange): Buffer {
  return body.subarray(Math.min(offset, body.length), Math.min(offset + length, body.length));
}

function splitHost(host: string): [string, number | undefined] {
  const match = /^(.*?)(?::(\d+))?$/.exec(host);
  const port = match?.[2];
  return [(match?.[1] ?? host).replaceAll(/[[\]]/g, ""), port === undefined ? undefined : Number(port)];
}

function readCertificates(path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (error) {
    throw new BlockIoError(`the certificates in ${path} cannot be read`, {
      code: codeOf(error),
      cause: error,
      hint: "Give a file of PEM certificates as ?ca= or AWS_CA_BUNDLE.",
    });
  }
}
