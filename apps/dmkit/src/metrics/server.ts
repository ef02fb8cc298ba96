/**
 * The optional HTTP listener: `/metrics` for Prometheus, `/healthz` for whoever wants to know whether all is well,
 * `/livez` for whoever restarts servers that do not answer, and, where it is wanted, the page at `/`.
 *
 * It changes nothing and takes no input but a path. `/healthz` answers 503 with the reasons and what helps when a device
 * is not in order (see `Health` in @dmkit/block-io); a restart may not be what helps.
 */
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import type { AddressInfo, Socket } from "node:net";
import {
  type Environment,
  fewDescriptors,
  realEnvironment,
  shellQuote,
  toBlockIoError,
} from "@dmkit/block-io";
import { listenStreams } from "@dmkit/nbd";
import { healthLines } from "../manager/health-watch.ts";
import type { Page } from "../page/page.ts";
import type { History } from "../page/ring.ts";
import type { MetricsAddress } from "../stack-file/plan.ts";
import type { Snapshot } from "../top/snapshot.ts";

export interface MetricsListener {
  /** 0 at a unix socket. */
  readonly port: number;
  /** Where `/metrics` and the page are, as curl takes it; the page is undefined where there is none. */
  readonly url: string;
  readonly page: string | undefined;
  /** What the page keeps, where there is one. */
  readonly history: History | undefined;
  close(): Promise<void>;
}

// Milliseconds a client has to send its request, and clients at a time.
const REQUEST_TIME = 10_000;
const CONNECTIONS = 16;
// A browser opens some for each window with the page.
const CONNECTIONS_OF_PAGE = 64;
// Descriptors that these clients leave to devices and the control socket.
const DESCRIPTORS_LEFT = 8;

interface ListenerOptions {
  /** Closed with the listener. */
  readonly page?: Page | undefined;
  /** Milliseconds. */
  readonly requestTime?: number;
  readonly environment?: Environment;
}

/**
 * @param where port 0 picks a free one.
 * Errors: EADDRINUSE, EACCES and the like.
 */
export async function startMetrics(
  where: MetricsAddress,
  snapshot: () => Snapshot,
  { page, requestTime = REQUEST_TIME, environment = realEnvironment }: ListenerOptions = {},
): Promise<MetricsListener> {
  const server = createServer(
    {
      requestTimeout: requestTime,
      headersTimeout: requestTime,
      // Otherwise it is looked every 30 s, and clients that say nothing keep the others out as long.
      connectionsCheckingInterval: requestTime / 10,
      maxHeaderSize: 8192,
      keepAliveTimeout: 5000,
    },
    (request, response) => {
      answer(request, response, snapshot, page).catch((error: unknown) => {
        send(response, 500, "text/plain", `${(error as Error).message}\n`);
      });
    },
  );
  server.maxConnections = page === undefined ? CONNECTIONS : CONNECTIONS_OF_PAGE;
  const listening = await ("unix" in where
    ? listenUnix(server, where, environment)
    : listenTcp(server, where));
  return {
    port: listening.port,
    url: `${listening.base}metrics`,
    page: page && listening.base,
    history: page?.history,
    close() {
      page?.close();
      return listening.close();
    },
  };
}

interface Listening {
  readonly port: number;
  readonly base: string;
  close(): Promise<void>;
}

async function listenTcp(
  server: Server,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<Listening> {
  // The door of a unix socket looks by itself.
  server.on("connection", (socket) => {
    if (fewDescriptors(DESCRIPTORS_LEFT)) socket.destroy();
  });
  await new Promise<void>((resolve, reject) => {
    server.once("error", (error) =>
      reject(
        toBlockIoError(error, {
          device: `${host}:${port}`,
          op: "listen",
          hint: "Give metrics another port or host.",
        }),
      ),
    );
    server.listen({ host, port }, resolve);
  });
  // Nothing here keeps a server running that has nothing else to do.
  server.unref();
  const { port: chosen } = server.address() as AddressInfo;
  return {
    port: chosen,
    base: `http://${host.includes(":") ? `[${host}]` : host}:${chosen}/`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

/** A socket file is made, taken over and removed as those of NBD are; what comes by it is handed to the HTTP server. */
async function listenUnix(
  server: Server,
  { unix: path, mode, group }: Extract<MetricsAddress, { readonly unix: string }>,
  environment: Environment,
): Promise<Listening> {
  // The server does not listen itself, so it does not look who is slow; it ends who says nothing.
  server.setTimeout(server.headersTimeout);
  const sockets = new Set<Socket>();
  const accept = (socket: Socket): void => {
    if (sockets.size >= server.maxConnections) {
      socket.destroy();
      return;
    }
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    server.emit("connection", socket);
    socket.resume();
  };
  const listener = await listenStreams(
    { path, mode, group },
    { what: "metrics", environment, reserve: DESCRIPTORS_LEFT, accept },
  );
  return {
    port: 0,
    base: `--unix-socket ${shellQuote(path)} http://localhost/`,
    async close() {
      const closed = listener.close();
      for (const socket of sockets) socket.destroy();
      server.close();
      await closed;
    },
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  snapshot: () => Snapshot,
  page: Page | undefined,
): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    send(response, 405, "text/plain", "GET /metrics or /healthz\n");
    return;
  }
  const shown = page?.answer(request);
  if (shown !== undefined) {
    send(response, shown.status, shown.type, shown.body, shown.headers);
    return;
  }
  switch ((request.url ?? "").split("?", 1)[0] ?? "") {
    case "/metrics": {
      // Loaded by the first who asks.
      const { expose } = await import("./exposition.ts");
      const { text, type } = await expose(snapshot());
      send(response, 200, type, text);
      return;
    }
    case "/healthz": {
      const ills = illsOf(snapshot());
      send(response, ills.length === 0 ? 200 : 503, "text/plain", ills.length === 0 ? "ok\n" : ills.join(""));
      return;
    }
    case "/livez":
      send(response, 200, "text/plain", "ok\n");
      return;
    default:
      send(
        response,
        404,
        "text/plain",
        `There are ${page === undefined ? "" : "/, "}/metrics, /healthz and /livez.\n`,
      );
  }
}

/** What is wrong and what helps. A suspended device is as somebody wanted it. */
function illsOf({ devices }: Snapshot): string[] {
  return devices.flatMap(({ name, health }) => healthLines(name, health)).map((line) => `${line}\n`);
}

function send(
  response: ServerResponse,
  status: number,
  type: string,
  body: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  if (response.headersSent) return;
  response.writeHead(status, {
    ...headers,
    "content-type": type.includes("charset") ? type : `${type}; charset=utf-8`,
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
  });
  response.end(response.req.method === "HEAD" ? undefined : body);
}
