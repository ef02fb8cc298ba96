/**
 * The bytes of one connection: a Unix or TCP socket whose events go to one receiver.
 *
 * Invariants:
 *
 * - after {@link Transport.destroy}, or once the receiver has been told of the end, it hears nothing more;
 * - a chunk belongs to the receiver only until `received` returns: the buffer is used again for the next.
 */
import { type Socket, connect } from "node:net";
import { BlockIoError, codeOf, refuse } from "@dmkit/block-io";
import type { NbdAddress } from "../../uri.ts";

/** Who is told what happens on a connection. */
export interface Receiver {
  /** Bytes arrived; `chunk` is valid during the call only. */
  received(chunk: Buffer): void;
  /** The connection is no more, and not because of {@link Transport.destroy}. Called once at most. */
  ended(error: BlockIoError): void;
}

// Enough for the replies of one turn under load; one for each connection. Data are copied from here into the
// caller's buffer: to let the system write there itself takes more reads, and was slower at 128 KiB.
const RECEIVE_BUFFER = 256 * 1024;
// TCP asks an idle peer whether it is still there after this long.
const KEEP_ALIVE_MS = 15_000;

const nobody: Receiver = { received() {}, ended() {} };

export class Transport {
  readonly #socket: Socket;
  readonly #peer: string;
  #receiver: Receiver = nobody;
  #error: BlockIoError | undefined;
  #destroyed = false;
  #closed: (() => void)[] = [];

  private constructor(address: NbdAddress, connected: (error?: BlockIoError) => void) {
    const target =
      address.kind === "unix" ? { path: address.path } : { host: address.host, port: address.port };
    this.#peer = address.kind === "unix" ? address.path : `${address.host}:${address.port}`;
    const onread = {
      buffer: Buffer.allocUnsafeSlow(RECEIVE_BUFFER),
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
    this.#socket.on("error", (error) => {
      this.#error ??= describe(this.#peer, error);
      connected(this.#error);
    });
    this.#socket.once("end", () => this.#socket.destroy());
    this.#socket.once("close", () => {
      connected(this.#reason());
      for (const wake of this.#closed.splice(0)) wake();
      if (this.#destroyed) return;
      this.#destroyed = true;
      this.#receiver.ended(this.#reason());
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
    const receiver = this.#receiver;
    this.destroy();
    receiver.ended(error);
  }

  #reason(): BlockIoError {
    return (
      this.#error ??
      refuse(undefined, "ENOTCONN", `the server at ${this.#peer} closed the connection`, undefined, "connect")
    );
  }
}

const hints: Readonly<Record<string, string>> = {
  ENOENT: "Start the server, or correct the path of its socket.",
  ENOTSOCK: "Name the server's Unix socket, not another file.",
  ECONNREFUSED: "Start the server, or correct its address.",
  EACCES: "Ask for access to the server's socket.",
  ENOTFOUND: "Correct the name of the host.",
};

/** What the system says of a connection. */
function describe(peer: string, error: NodeJS.ErrnoException): BlockIoError {
  const reason = error.code ?? error.message;
  return new BlockIoError(`no connection to a server at ${peer}: ${reason}`, {
    code: reason === "ENOTFOUND" || reason === "EAI_AGAIN" ? "ENOENT" : codeOf(error),
    op: "connect",
    hint: hints[reason],
    cause: error,
  });
}
