/**
 * The page of a server: what it answers to whoever asks the metrics listener for `/`, and to what that page asks for.
 *
 * Invariants:
 *
 * - it is read-only, takes nothing but a path and two names, and what it sends comes from this server alone;
 * - a browser runs none of what names and messages contain: scripts and styles are files of ours (the content security
 *   policy), and no text becomes markup (`require-trusted-types-for`);
 * - who reaches the listener under a name that is not its own is a page of somebody else, by DNS rebinding, and gets
 *   nothing;
 * - files are read when the server starts: one that is updated meanwhile does not mix two versions.
 */
import { readFileSync } from "node:fs";
import type { IncomingMessage } from "node:http";
import { createRequire } from "node:module";
import { type Environment, type TargetRegistry, type Timer, every } from "@dmkit/block-io";
import type { ServerSnapshot } from "../manager/snapshot.ts";
import { statusFeed } from "./feed.ts";
import { History, type Span, TICK, spans } from "./ring.ts";

export interface Answer {
  readonly status: number;
  readonly type: string;
  readonly body: string;
  readonly headers?: Readonly<Record<string, string>>;
}

export interface PageOptions {
  readonly environment: Environment;
  readonly snapshot: () => ServerSnapshot;
  readonly targets: TargetRegistry;
  /** Path of the control socket. */
  readonly control: string | undefined;
  /**
   * Where the listener is, which only this machine reaches; undefined for a unix socket, to which a browser comes by a port
   * that is forwarded.
   */
  readonly host: string | undefined;
}

const securityPolicy = [
  "default-src 'none'",
  ...["script", "style", "img", "connect"].map((what) => `${what}-src 'self'`),
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
  "require-trusted-types-for 'script'",
  "trusted-types 'none'",
].join("; ");

const headers = {
  "content-security-policy": securityPolicy,
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "referrer-policy": "no-referrer",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
} as const;

export class Page {
  readonly #options: PageOptions;
  readonly history: History = new History();
  readonly #files: ReadonlyMap<string, Answer>;
  readonly #looks: Timer;

  /** Looks at the server every second until it is closed. */
  constructor(options: PageOptions) {
    this.#options = options;
    this.#files = readFiles();
    const look = (): void => this.history.note(options.snapshot());
    look();
    this.#looks = every(options.environment.clock, TICK, look);
  }

  close(): void {
    this.#looks.cancel();
  }

  /** Undefined for what is none of its paths. */
  answer({ url = "/", headers: { host } }: IncomingMessage): Answer | undefined {
    const [path = "/", query = ""] = url.split("?", 2);
    if (!this.#files.has(path) && !path.startsWith("/v1/")) return undefined;
    if (!this.#isOwn(host)) {
      return plain(403, "This is not the name of this listener: open it as http://localhost with its port.");
    }
    return this.#files.get(path) ?? this.#feed(path, new URLSearchParams(query));
  }

  #feed(path: string, query: URLSearchParams): Answer {
    const { snapshot, targets, control } = this.#options;
    if (path === "/v1/status") {
      const { figures } = this.history;
      return json(statusFeed(snapshot(), { control, targets, figures }));
    }
    if (path !== "/v1/history")
      return plain(404, "There are /v1/status and /v1/history?device=NAME&span=5min.");
    const span = query.get("span") ?? "5min";
    if (!isSpan(span)) return plain(400, `A span is one of ${spans.join(", ")}.`);
    const series = this.history.series(query.get("device") ?? "", span);
    return series === undefined ? plain(404, "Nothing is kept of such a device (yet).") : json(series);
  }

  /** Whether the name a client used is one of this listener, with whatever port: it may be forwarded. */
  #isOwn(host: string | undefined): boolean {
    const own = (this.#options.host ?? "localhost").toLowerCase();
    const name = (host ?? "").replace(/:\d+$/, "").toLowerCase();
    return ["localhost", "127.0.0.1", "[::1]", own, `[${own}]`].includes(name);
  }
}

function isSpan(text: string): text is Span {
  return (spans as readonly string[]).includes(text);
}

function plain(status: number, text: string): Answer {
  return { status, type: "text/plain", body: `${text}\n`, headers };
}

function json(value: unknown): Answer {
  return { status: 200, type: "application/json", body: `${JSON.stringify(value)}\n`, headers };
}

/** By path. The same folder is beside the sources and beside the bundle; the chart library is a package of its own. */
function readFiles(): ReadonlyMap<string, Answer> {
  const own = (name: string): string => readFileSync(new URL(`files/${name}`, import.meta.url), "utf8");
  const { resolve } = createRequire(import.meta.url);
  const library = (name: string): string => readFileSync(resolve(`uplot/dist/${name}`), "utf8");
  const files: readonly (readonly [path: string, type: string, body: string])[] = [
    ["/", "text/html", own("page.html")],
    ["/page/page.css", "text/css", own("page.css")],
    ["/page/page.js", "text/javascript", own("page.js")],
    ["/page/icon.svg", "image/svg+xml", own("icon.svg")],
    ["/page/uplot.css", "text/css", library("uPlot.min.css")],
    ["/page/uplot.js", "text/javascript", library("uPlot.esm.js")],
  ];
  return new Map(files.map(([path, type, body]) => [path, { status: 200, type, body, headers }]));
}
