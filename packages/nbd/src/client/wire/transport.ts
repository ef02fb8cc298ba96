/**
 * The bytes of one connection: a Unix or TCP socket, or what TLS makes of it, whose events go to one receiver.
 *
 * Invariants:
 *
 * - after {@link Transport.destroy}, or once the receiver has been told of the end, it hears nothing more;
 * - a chunk belongs to the receiver only until `received` returns: the buffer is used again for the next;
 * - what a receiver gave for the next bytes is written to until they have come, or the connection is destroyed.
 */
import { type Socket, connect } from "node:net";
import { BlockIoError, codeOf, refuse } from "@dmkit/block-io";
import type { BeginTls } from "../../tls/client-tls.ts";
import type { NbdAddress } from "../../uri.ts";

/** Who is told what happens on a connection. */
export interface Receiver {
  /** Bytes arrived; `chunk` is valid during the call only. */
  received(chunk: Buffer): void;
  /** Where the system may put what comes next: a buffer of its own, or all or a part of `common`, which is the default. */
  space?(common: Buffer): Buffer;
  /** The connection is no more, and not because of {@link Transport.destroy}. Called once at most. */
  ended(error: BlockIoError): void;
}

// Enough for the replies of one turn under load; one for each connection. What is large goes past it: see
// ReplyReader.space.
const RECEIVE_BUFFER = 256 * 1024;
// TCP asks an idle peer whether it is still there after this long.
const KEEP_ALIVE_MS = 15_000;

const nobody: Receiver = { received() {}, ended() {} };

export class Transport {
  #socket: Socket;
  readonly #peer: string;
  #receiver: Receiver = nobody;
  #error: BlockIoError | undefined;
  #destroyed = false;
  // TLS has begun, and the server has said nothing yet: in 1.3 it looks at a client's certificate last.
  #distrusted = false;
  #closed: (() => void)[] = [];

  private constructor(address: NbdAddress, connected: (error?: BlockIoError) => void) {
    const target =
      address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port };
    this.#peer = address.kind === "unix" ? address.path : `${address.host}:${address.port}`;
    const common = Buffer.allocUnsafeSlow(RECEIVE_BUFFER);
    const onread = {
      buffer: (): Buffer => this.#receiver.space?.(common) ?? common,
      callback: (length: number, buffer: Uint8Array): boolean => {
        if (!this.#destroyed) this.#receiver.received((buffer as Buffer).subarray(0, length));
        return true;
      },
    };
    this.#socket = connect({
      ...target,
      onread,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: KEEP_ALIVE_MS,
    });
    this.#socket.once("connect", () => connected());
    this.#watch(this.#socket, connected);
  }

  #watch(socket: Socket, failed: (error: BlockIoError) => void): void {
    socket.on("error", (error) => {
      this.#error ??= describe(this.#peer, error);
      failed(this.#error);
    });
    socket.once("end", () => socket.destroy());
    socket.once("close", () => {
      failed(this.#reason());
      // The socket below TLS goes with it.
      if (socket !== this.#socket) return;
      for (const wake of this.#closed.splice(0)) wake();
      if (this.#destroyed) return;
      this.#destroyed = true;
      this.#receiver.ended(this.#reason());
    });
  }

  /**
   * Goes on with TLS: resolves when the server has been found to be the right one, rejects with what it is not. The
   * connection is of no use then.
   */
  secure(begin: BeginTls): Promise<void> {
    return new Promise((resolve, reject) => {
      const socket = begin(this.#socket);
      this.#socket = socket;
      this.#distrusted = true;
      this.#watch(socket, reject);
      socket.once("secureConnect", resolve);
      socket.on("data", (chunk) => {
        this.#distrusted = false;
        if (!this.#destroyed) this.#receiver.received(chunk);
      });
    });
  }

  /** Rejects with what the system says (`ENOTCONN`, `ENOENT`, `EACCES` …), or with the reason of the abort. */
  static async open(address: NbdAddress, signal: AbortSignal): Promise<Transport> {
    signal.throwIfAborted();
    let transport: Transport | undefined;
    let abort: (() => void) | undefined;
    try {
      await new Promise<void>((resolve, reject) => {
        abort = () => reject(signal.reason as BlockIoError);
        signal.addEventListener("abort", abort);
        transport = new Transport(address, (error) => (error === undefined ? resolve() : reject(error)));
      });
      return transport as unknown as Transport;
    } catch (error) {
      transport?.destroy();
      throw error;
    } finally {
      if (abort !== undefined) signal.removeEventListener("abort", abort);
    }
  }

  /** The socket is gone, on both sides. */
  get isClosed(): boolean {
    return this.#socket.closed;
  }

  /** Who is told from now on. */
  set receiver(receiver: Receiver) {
    this.#receiver = receiver;
  }

  /** Hands bytes to the system in one go. The buffers must stay as they are until `sent` is called, or the end. */
  write(pieces: readonly Buffer[], sent?: () => void): void {
    if (this.#destroyed) return;
    const last = pieces.length - 1;
    this.#socket.cork();
    for (let index = 0; index <= last; index += 1) {
      const piece = pieces[index] as Buffer;
      if (index < last || sent === undefined) this.#socket.write(piece);
      else this.#socket.write(piece, (error) => (error ? undefined : sent()));
    }
    this.#socket.uncork();
  }

  /** Sends what is left and `last`, and resolves when the peer has hung up or `signal` says not to wait. */
  async end(last: Buffer, signal: AbortSignal): Promise<void> {
    if (this.isClosed) return;
    this.#receiver = nobody;
    const closed = new Promise<void>((resolve) => this.#closed.push(resolve));
    const abort = (): void => {
      this.#socket.destroy();
    };
    if (signal.aborted) abort();
    signal.addEventListener("abort", abort);
    this.#socket.end(last);
    await closed;
    signal.removeEventListener("abort", abort);
  }

  /** Hangs up at once. Nothing is read from a caller's buffer and nobody is told of anything afterwards. */
  destroy(): void {
    this.#destroyed = true;
    this.#receiver = nobody;
    this.#socket.destroy();
  }

  /** Hangs up at once and tells the receiver why. */
  fail(error: BlockIoError): void {
    if (this.#destroyed) return;
    this.#error ??= error;
    const receiver = this.#receiver;
    this.destroy();
    receiver.ended(error);
  }

  #reason(): BlockIoError {
    if (this.#error !== undefined) return this.#error;
    const hint = this.#distrusted
      ? "See the log of the server: it may not believe this client's certificate or key."
      : undefined;
    return refuse(
      undefined,
      "ENOTCONN",
      `the server at ${this.#peer} closed the connection`,
      hint,
      "connect",
    );
  }
}

/** Alerts of the other side come as `EPROTO`; what is wrong with a certificate, and of OpenSSL, has codes of its own. */
function isOfTls({ code = "" }: NodeJS.ErrnoException): boolean {
  return code === "EPROTO" || /CERT|CRL|ISSUER|SIGNATURE|SIGNED|^ERR_(TLS|SSL|OSSL)|^HOSTNAME/.test(code);
}

const hints: Readonly<Record<string, string>> = {
  ENOENT: "Start the server, or correct the path of its socket.",
  ENOTSOCK: "Name the server's Unix socket, not another file.",
  ECONNREFUSED: "Start the server, or correct its address.",
  EACCES: "Ask for access to the server's socket.",
  ENOTFOUND: "Correct the name of the host.",
};

/** What the system, or TLS, says of a connection. */
function describe(peer: string, error: NodeJS.ErrnoException): BlockIoError {
  if (isOfTls(error)) {
    return new BlockIoError(`no TLS with the server at ${peer}: ${error.message.trim()}`, {
      code: "EPERM",
      op: "connect",
      hint: "Check both sides' certificates or keys, and that the server's is for the name it is called by; tls-certificates, tls-psk-file and tls-hostname in the URI say what is expected.",
      cause: error,
    });
  }
  const reason = error.code ?? error.message;
  return new BlockIoError(`no connection to a server at ${peer}: ${reason}`, {
    code: reason === "ENOTFOUND" || reason === "EAI_AGAIN" ? "ENOENT" : codeOf(error),
    op: "connect",
    hint: hints[reason],
    cause: error,
  });
}
