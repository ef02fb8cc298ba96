/**
 * A small S3 server for tests: one bucket in memory, conditional creation, ranges and listings; with latency, counters
 * and faults. It looks at the access key of a request and not at its signature: for that there is a real engine.
 * It listens on 127.0.0.1 only.
 */
import { createHash } from "node:crypto";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";

/** What goes wrong, with which requests. */
export interface ServerFault {
  readonly method: "GET" | "PUT" | "LIST" | "DELETE";
  /** Counted from 1 over the requests of that method since the fault was set. */
  readonly when: (count: number) => boolean;
  /**
   * - `409`, `500`, `503`: answered so, nothing is done
   * - `500 done`, `lost`: carried out; answered with 500, or the connection ends instead
   * - `dropped`: the connection ends, nothing is done
   * - `hang`: nothing is done, no answer ever
   * - `hang done`: carried out, no answer ever
   * - `truncated`: a body of half the length that was announced
   * - `flipped`: one bit of the body is another
   */
  readonly kind:
    | "409"
    | "500"
    | "503"
    | "500 done"
    | "lost"
    | "dropped"
    | "hang"
    | "hang done"
    | "truncated"
    | "flipped";
}

export interface S3TestServerOptions {
  readonly bucket?: string;
  /** The one access key that is let in. */
  readonly accessKeyId?: string;
  /** Milliseconds before a GET, and before a PUT, is carried out. */
  readonly getLatency?: number;
  readonly putLatency?: number;
  /** Overwrites whatever the condition says, as some stores do. */
  readonly ignoresConditions?: boolean;
  /** Finds every request to be of another time, as of a machine whose clock is wrong. */
  readonly isSkewed?: boolean;
}

interface Stored {
  readonly body: Buffer;
  readonly modified: Date;
  /** Made when it is asked for first. */
  etag?: string;
}

/**
 * As it came in: parts that were put together at once would be half of what the benchmark of an archive spends, since
 * memory that is touched for the first time costs most there (docs/design/performance.md, object stores).
 */
class Received implements Stored {
  readonly modified: Date = new Date();
  etag?: string;
  #parts: readonly Buffer[];

  constructor(parts: readonly Buffer[]) {
    this.#parts = parts;
  }

  get body(): Buffer {
    if (this.#parts.length !== 1) this.#parts = [Buffer.concat(this.#parts)];
    return this.#parts[0] as Buffer;
  }
}

export class S3TestServer {
  readonly objects: Map<string, Stored> = new Map();
  /** Requests since the start, by method; HEAD counts as GET. */
  readonly counts: Record<ServerFault["method"], number> = { GET: 0, PUT: 0, LIST: 0, DELETE: 0 };
  /** Bytes of bodies since the start, both ways. */
  bytes = 0;
  readonly #options: Required<S3TestServerOptions>;
  readonly #server: Server;
  #fault: ServerFault | undefined;
  #matched = 0;

  constructor(options: S3TestServerOptions = {}) {
    this.#options = {
      bucket: "bucket",
      accessKeyId: "test",
      getLatency: 0,
      putLatency: 0,
      ignoresConditions: false,
      isSkewed: false,
      ...options,
    };
    this.#server = createServer((request, response) => {
      this.#serve(request, response).catch(() => request.socket.destroy());
    });
  }

  /** Resolves with the endpoint: `http://127.0.0.1:PORT`. */
  listen(): Promise<string> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen(0, "127.0.0.1", () => {
        resolve(`http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`);
      });
    });
  }

  close(): Promise<void> {
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
      this.#server.closeAllConnections();
    });
  }

  /** Sets or takes away the fault; counting begins anew. */
  fail(fault: ServerFault | undefined): void {
    this.#fault = fault;
    this.#matched = 0;
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = new URL(request.url ?? "/", "http://127.0.0.1");
    const [, bucket, ...rest] = url.pathname.split("/");
    const key = decodeURIComponent(rest.join("/"));
    const plain = request.method === "HEAD" ? "GET" : (request.method as ServerFault["method"]);
    const method = plain === "GET" && key === "" ? "LIST" : plain;
    this.counts[method] += 1;
    const body = await partsOf(request);
    for (const { length } of body) this.bytes += length;
    await pause(method === "PUT" ? this.#options.putLatency : this.#options.getLatency);
    const kind = this.#faultOf(method);
    if (kind === "dropped") return void request.socket.destroy();
    if (kind === "hang") return;
    if (kind === "409" || kind === "500" || kind === "503")
      return refuse(response, Number(kind), answers[kind]);
    const authorization = request.headers.authorization ?? "";
    if (!authorization.includes(`Credential=${this.#options.accessKeyId}/`))
      return refuse(response, 403, "InvalidAccessKeyId");
    if (this.#options.isSkewed) return refuse(response, 403, "RequestTimeTooSkewed");
    if (bucket !== this.#options.bucket) return refuse(response, 404, "NoSuchBucket");
    if (kind === "lost" || kind === "hang done" || kind === "500 done") {
      if (method === "PUT") this.#put(request, key, body);
      if (method === "DELETE") this.objects.delete(key);
      if (kind === "500 done") refuse(response, 500, "InternalError");
      if (kind === "lost") request.socket.destroy();
      return;
    }
    if (method === "LIST") return this.#list(url, response);
    if (method === "GET") return this.#get(request, key, response, kind);
    if (method === "DELETE") {
      this.objects.delete(key);
      response.writeHead(204).end();
      return;
    }
    if (this.#put(request, key, body)) response.writeHead(200).end();
    else refuse(response, 412, "PreconditionFailed");
  }

  #faultOf(method: ServerFault["method"]): ServerFault["kind"] | undefined {
    if (this.#fault?.method !== method) return undefined;
    this.#matched += 1;
    return this.#fault.when(this.#matched) ? this.#fault.kind : undefined;
  }

  #put(request: IncomingMessage, key: string, body: readonly Buffer[]): boolean {
    const conditional = request.headers["if-none-match"] === "*" && !this.#options.ignoresConditions;
    if (conditional && this.objects.has(key)) return false;
    this.objects.set(key, new Received(body));
    return true;
  }

  #get(
    request: IncomingMessage,
    key: string,
    response: ServerResponse,
    kind: ServerFault["kind"] | undefined,
  ): void {
    const stored = this.objects.get(key);
    if (stored === undefined) return refuse(response, 404, "NoSuchKey");
    const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? "");
    const from = Number(range?.[1] ?? 0);
    const kept = stored.body.subarray(from, range === null ? undefined : Number(range[2]) + 1);
    const part = kind === "flipped" ? Buffer.from(kept) : kept;
    if (range !== null && from >= stored.body.length) return refuse(response, 416, "InvalidRange");
    stored.etag ??= `"${createHash("md5").update(stored.body).digest("hex")}"`;
    const headers = {
      "content-length": part.length,
      etag: stored.etag,
      "last-modified": stored.modified.toUTCString(),
    };
    response.writeHead(range === null ? 200 : 206, headers);
    if (request.method === "HEAD") {
      response.end();
      return;
    }
    if (kind === "truncated") {
      response.write(part.subarray(0, part.length >> 1), () => request.socket.destroy());
      return;
    }
    if (kind === "flipped" && part.length > 0) part[part.length >> 1] = (part[part.length >> 1] ?? 0) ^ 4;
    this.bytes += part.length;
    response.end(part);
  }

  #list(url: URL, response: ServerResponse): void {
    const prefix = url.searchParams.get("prefix") ?? "";
    const after = url.searchParams.get("start-after") ?? "";
    const most = Number(url.searchParams.get("max-keys") ?? 1000);
    const keys = [...this.objects.keys()].filter((key) => key.startsWith(prefix) && key > after).toSorted();
    const contents = keys.slice(0, most).map((key) => {
      const { body, modified } = this.objects.get(key) as Stored;
      return `<Contents><Key>${key}</Key><LastModified>${modified.toISOString()}</LastModified><Size>${body.length}</Size></Contents>`;
    });
    const truncated = keys.length > most;
    response
      .writeHead(200, { "content-type": "application/xml" })
      .end(
        `<?xml version="1.0"?><ListBucketResult><IsTruncated>${truncated}</IsTruncated>${contents.join("")}</ListBucketResult>`,
      );
  }
}

function partsOf(request: IncomingMessage): Promise<readonly Buffer[]> {
  const parts: Buffer[] = [];
  return new Promise((resolve, reject) => {
    request.on("data", (part: Buffer) => parts.push(part));
    request.on("end", () => resolve(parts));
    request.on("error", reject);
  });
}

const answers = { 409: "ConditionalRequestConflict", 500: "InternalError", 503: "SlowDown" } as const;

function refuse(response: ServerResponse, status: number, code: string): void {
  response
    .writeHead(status, { "content-type": "application/xml" })
    .end(`<?xml version="1.0"?><Error><Code>${code}</Code><Message>test server</Message></Error>`);
}

function pause(milliseconds: number): Promise<void> {
  return milliseconds === 0 ? Promise.resolve() : new Promise((resolve) => setTimeout(resolve, milliseconds));
}
