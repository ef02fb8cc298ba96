/**
 * TLS of a server: from an accepted connection to one that is encrypted, and who is at the other end.
 *
 * Invariants:
 *
 * - certificates and keys are those of the files at the time a client connects; if those cannot be used, the ones
 *   before, and the log says so;
 * - sessions are not resumed, nothing is sent early and nothing is negotiated anew: whoever was let in was looked at in
 *   this very connection;
 * - a client whose certificate was asked for and is not right never gets as far as being told of.
 *
 * How much a client can send before it is let in is bounded by OpenSSL: a hello of 128 KiB, certificates of 100 KiB.
 */
import { constants } from "node:crypto";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";
import { type Logger, type SettingsTable, checkSettings, setting, toBlockIoError } from "@dmkit/block-io";
import type { NamedAccess } from "../server/exports/access.ts";
import { invalid } from "../server/limits.ts";
import { MIN_VERSION, PSK_CIPHERS } from "./ciphers.ts";
import { type Material, MaterialStore } from "./material.ts";

/** Whether there is TLS: never, for those who ask for it, or for everybody. */
export const tlsModes = ["off", "on", "require"] as const;

/** How a listener speaks TLS. */
export interface ServerTlsOptions {
  /** `on`: with those who ask for it; `require`: nobody gets anything without it. */
  readonly mode: (typeof tlsModes)[number];
  /** A folder with server-cert.pem and server-key.pem, and perhaps ca-cert.pem and ca-crl.pem. */
  readonly certificates?: string | undefined;
  /** A file of pre-shared keys, instead of certificates. */
  readonly psk?: string | undefined;
  /** Only clients with a certificate that ca-cert.pem vouches for. */
  readonly verifyPeer?: boolean | undefined;
}

/** What each takes; what goes together: {@link checkServerTls}. */
export const tlsSettings: SettingsTable<ServerTlsOptions> = {
  mode: setting.needed(setting.choice(...tlsModes)),
  certificates: setting.text,
  psk: setting.text,
  verifyPeer: setting.flag,
};

/** Who is told how a handshake went. Exactly one of the two, once. */
export interface ServerTlsEvents {
  /** @param identities names of the client's certificate, or the identity of its key; none if it was not asked. */
  secured(socket: TLSSocket, identities: readonly string[]): void;
  failed(reason: string): void;
}

type Tls = typeof import("node:tls");

export class ServerTls {
  readonly required: boolean;
  readonly place: { readonly certificates?: string | undefined; readonly psk?: string | undefined };
  readonly #tls: Tls;
  readonly #store: MaterialStore;
  readonly #verifies: boolean;
  readonly #logger: Logger;
  #complained = "";

  private constructor(tls: Tls, options: ServerTlsOptions, logger: Logger) {
    const { certificates, psk, verifyPeer = false } = options;
    this.#tls = tls;
    this.#logger = logger;
    this.#verifies = verifyPeer;
    this.required = options.mode === "require";
    this.place = certificates === undefined ? { psk } : { certificates };
    this.#store = new MaterialStore(this.place, "server", verifyPeer, ({ cert, key, ca, crl }) => {
      tls.createSecureContext({ cert, key, ca, crl });
    });
  }

  /**
   * Loads what is needed; nothing for mode `off`. Throws `EINVAL` for options that contradict each other, and `ENOENT`,
   * `EACCES`, `EFORMAT` for files that are not what they should be.
   */
  static async open(options: ServerTlsOptions | undefined, logger: Logger): Promise<ServerTls | undefined> {
    if (options === undefined) return undefined;
    checkServerTls(options);
    if (options.mode === "off") return undefined;
    const opened = new ServerTls(await import("node:tls"), options, logger);
    opened.#store.read();
    return opened;
  }

  /** Reads the files again if they have changed. Throws what is wrong with them; what was read before stays in use. */
  refresh(): void {
    this.#store.read();
  }

  /** One of those that have a key, if keys are shared. */
  get identity(): string | undefined {
    return this.#store.last?.psk?.keys().next().value;
  }

  /** Takes a connection over, whose client has been told to begin. */
  start(stream: Duplex, events: ServerTlsEvents): void {
    const { psk, ...certificates } = this.#material();
    // Who hangs up in the middle is gone: there is no reply that could still be wanted.
    stream.allowHalfOpen = false;
    let identity: string | undefined;
    // One for each client: it never listens, and the only public way to have a client's certificate checked is to
    // hand a server the connection. Its context costs less than the signature of the handshake.
    const server = this.#tls.createServer({
      minVersion: MIN_VERSION,
      // Without tickets and a session cache no client comes back unseen.
      secureOptions: constants.SSL_OP_NO_TICKET,
      ...(psk === undefined
        ? { ...certificates, requestCert: this.#verifies, rejectUnauthorized: this.#verifies }
        : {
            ciphers: PSK_CIPHERS,
            pskCallback: (_: TLSSocket, name: string) => {
              const key = psk.get(name);
              if (key !== undefined) identity = name;
              return key ?? null;
            },
          }),
    });
    let isOver = false;
    const failed = (error: Error): void => {
      if (isOver) return;
      isOver = true;
      events.failed(`TLS: ${error.message}`);
    };
    server.on("tlsClientError", failed);
    server.on("error", failed);
    server.once("secureConnection", (socket: TLSSocket) => {
      if (isOver) return;
      isOver = true;
      try {
        socket.allowHalfOpen = true;
        socket.disableRenegotiation();
        events.secured(socket, identity === undefined ? this.#namesOf(socket) : [identity]);
      } catch (error) {
        events.failed(`TLS: ${(error as Error).message}`);
      }
    });
    server.emit("connection", stream);
  }

  #material(): Material {
    try {
      const material = this.#store.read();
      this.#complained = "";
      return material;
    } catch (error) {
      const { message } = toBlockIoError(error, {});
      if (message !== this.#complained) {
        this.#complained = message;
        this.#logger.log("error", "TLS goes on with the certificates or keys it had", { message });
      }
      return this.#store.last as Material;
    }
  }

  #namesOf(socket: TLSSocket): readonly string[] {
    if (!this.#verifies) return [];
    const { subject, subjectaltname = "" } = socket.getPeerCertificate();
    // There may be several, which the types do not say.
    const common: unknown = (subject as { CN: unknown } | undefined)?.CN;
    return [
      ...new Set([common].flat().filter((name) => typeof name === "string")),
      ...namesIn(subjectaltname),
    ];
  }
}

/** Throws `EINVAL` for names that no client can show, because it is not asked who it is. */
export function checkNames({
  tls,
  identities,
  writers,
}: NamedAccess & { readonly tls?: ServerTlsOptions | undefined }): void {
  const given = identities === undefined ? (writers === undefined ? undefined : "writers") : "identities";
  const isAsked =
    tls !== undefined && tls.mode !== "off" && (tls.psk !== undefined || tls.verifyPeer === true);
  if (given === undefined || isAsked) return;
  throw invalid(
    `${given} has names, and nobody is asked for one`,
    "Ask for certificates of clients, or for pre-shared keys: tls-verify-peer or tls-psk.",
  );
}

const ownNames = { mode: "mode", certificates: "certificates", psk: "psk", verifyPeer: "verifyPeer" };

/**
 * Throws `EINVAL` for options that cannot be, or contradict each other.
 * @param names what the options are called where they were given.
 */
export function checkServerTls(
  options: ServerTlsOptions,
  names: Readonly<Record<keyof ServerTlsOptions, string>> = ownNames,
): void {
  const { mode, certificates, psk, verifyPeer } = checkSettings(tlsSettings, options, "listen");
  if (mode === "off") {
    const given = (["certificates", "psk", "verifyPeer"] as const).find((key) => options[key] !== undefined);
    if (given === undefined) return;
    const hint = `Set ${names.mode} to on or require, or leave out ${names[given]}.`;
    throw invalid(`TLS is off, and ${names[given]} is for TLS`, hint);
  }
  if ((certificates === undefined) === (psk === undefined)) {
    throw invalid(
      `TLS has ${psk === undefined ? "neither certificates nor" : "both certificates and"} pre-shared keys`,
      `Name one: a folder of certificates (${names.certificates}), or a file of keys (${names.psk}).`,
    );
  }
  if (verifyPeer === true && certificates === undefined) {
    throw invalid(
      "with pre-shared keys there are no certificates to verify",
      `Leave out ${names.verifyPeer}: who has no key is not let in anyway.`,
    );
  }
}

/** Names of a certificate as Node lists them, `DNS:a.example, email:"…"`; none behind one that is not understood. */
function namesIn(list: string): string[] {
  const names: string[] = [];
  const one = /([A-Za-z ]+):("(?:[^"\\]|\\.)*"|[^",]*)(?:, |$)/y;
  for (let match = one.exec(list); match !== null; match = one.exec(list)) {
    const [, kind = "", text = ""] = match;
    if (!["DNS", "email", "URI"].includes(kind)) continue;
    names.push(text.startsWith('"') ? (JSON.parse(text) as string) : text);
  }
  return names;
}
