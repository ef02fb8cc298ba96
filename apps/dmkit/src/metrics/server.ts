/**
 * The optional HTTP listener: `/metrics` for Prometheus, `/healthz` for whoever wants to know whether all is well, and
 * `/livez` for whoever restarts servers that do not answer.
 *
 * It changes nothing and takes no input but a path. `/healthz` answers 503 with the reasons, one a line, when a device
 * is not in order (see `Health` in @dmkit/block-io); a restart may not be what helps.
 */
import { type IncomingMessage, type ServerResponse, createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fewDescriptors, printable, toBlockIoError } from "@dmkit/block-io";
import { describeHealth } from "../manager/health-watch.ts";
import type { Snapshot } from "../top/snapshot.ts";

export interface MetricsListener {
  readonly port: number;
  /** Where `/metrics` is. */
  readonly url: string;
  close(): Promise<void>;
}

// Milliseconds a client has to send its request, and clients at a time.
const REQUEST_TIME = 10_000;
const CONNECTIONS = 16;
// Descriptors that these clients leave to devices and the control socket.
const DESCRIPTORS_LEFT = 8;

/** @param port 0 picks a free one. @param requestTime milliseconds. Errors: EADDRINUSE, EACCES and the like. */
export async function startMetrics(
  { host, port }: { readonly host: string; readonly port: number },
  snapshot: () => Snapshot,
  requestTime: number = REQUEST_TIME,
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
      answer(request, response, snapshot).catch((error: unknown) => {
        send(response, 500, "text/plain", `${(error as Error).message}\n`);
      });
    },
  );
  server.maxConnections = CONNECTIONS;
  server.on("connection", (socket) => {
    if (fewDescriptors(DESCRIPTORS_LEFT)) socket.destroy();
  });
  const bare = host.replaceAll(/^\[|\]$/g, "");
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
    server.listen({ host: bare, port }, resolve);
  });
  // Nothing here keeps a server running that has nothing else to do.
  server.unref();
  const { port: chosen } = server.address() as AddressInfo;
  return {
    port: chosen,
    url: `http://${bare.includes(":") ? `[${bare}]` : bare}:${chosen}/metrics`,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  snapshot: () => Snapshot,
): Promise<void> {
  if (request.method !== "GET" && request.method !== "HEAD") {
    response.setHeader("allow", "GET, HEAD");
    send(response, 405, "text/plain", "GET /metrics or /healthz\n");
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
      send(response, 404, "text/plain", "There are /metrics, /healthz and /livez.\n");
  }
}

/** What is wrong, one line each. A suspended device is as somebody wanted it. */
function illsOf({ devices }: Snapshot): string[] {
  return devices.flatMap(({ name, health }) =>
    health.state === "ok"
      ? []
      : [`${name} is ${printable(describeHealth(health).replaceAll(/\s+/g, " "))}\n`],
  );
}

function send(response: ServerResponse, status: number, type: string, body: string): void {
  if (response.headersSent) return;
  response.writeHead(status, {
    "content-type": type.includes("charset") ? type : `${type}; charset=utf-8`,
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
  });
  response.end(response.req.method === "HEAD" ? undefined : body);
}
