/**
 * Where a connection's bytes come in.
 *
 *     socket --> receive buffer --> parsed in place; a WRITE's payload stays where it is
 *            '-> rest of a long payload, straight into its own buffer
 *
 * Invariant: a receive buffer is written to again, or given to somebody else, only when nobody holds it any
 * more; and memory the socket may still write to is never given away.
 *
 * Node allocates 64 KiB for every read of a socket that is listened to with `data`, and its page faults and
 * garbage cost more than the reading: 400 ms of CPU per gigabyte received, against 110 to 150 ms with buffers
 * of our own (4 GB in pieces of 128 KiB over a unix socket). Node offers that (`onread`) for sockets that
 * connect, but not for those that a server accepts; so an accepted socket's handle is moved into a new one.
 * The handle is an undocumented property. Where it is missing, everything works as before, only slower.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { type BufferPool, bufferSize } from "./buffer-pool.ts";

/** What a chunk of received bytes is a part of. Whoever keeps a chunk longer than a call holds it. */
export interface ChunkOrigin {
  hold(): void;
  release(): void;
}

/** Who takes the bytes. */
export interface IntakeSink {
  receive(chunk: Buffer, origin: ChunkOrigin): void;
  /** Memory for the next bytes, if they should go to a certain place. */
  space(): Buffer | undefined;
  /** So many bytes have been put there. */
  filled(count: number): void;
  /** Whether the peer is worth a large buffer. */
  readonly trusted: boolean;
}

const HANDLE = "_handle";
// Bytes; a peer that has not entered an export is not worth more.
const SMALL = 8 * 1024;
// Bytes; what a socket holds is taken at once, and a request pins no more than it is charged at least.
const LARGE = Number(process.env["RX"] ?? bufferSize(0));

/** For chunks that are nobody's: they live as long as anything refers to them. */
const garbageCollected: ChunkOrigin = { hold() {}, release() {} };

class ReceiveBuffer implements ChunkOrigin {
  readonly bytes: Buffer;
  readonly #pool: BufferPool | undefined;
  // The intake is one of them.
  #holders = 1;

  constructor(bytes: Buffer, pool: BufferPool | undefined) {
    this.bytes = bytes;
    this.#pool = pool;
  }

  get shared(): boolean {
    return this.#holders > 1;
  }

  hold(): void {
    this.#holders += 1;
  }

  release(): void {
    this.#holders -= 1;
    if (this.#holders === 0) this.#pool?.give(this.bytes);
  }
}

/** An accepted socket and its receive buffers. */
class SocketIntake {
  readonly socket: Socket;
  readonly #sink: IntakeSink;
  readonly #pool: BufferPool;
  #current: ReceiveBuffer = new ReceiveBuffer(Buffer.allocUnsafeSlow(SMALL), undefined);
  // Whether the socket reads into the sink's memory at present.
  #elsewhere = false;

  constructor(handle: object, sink: IntakeSink, pool: BufferPool) {
    this.#sink = sink;
    this.#pool = pool;
    const options = {
      handle,
      allowHalfOpen: true,
      readable: true,
      writable: true,
      onread: {
        buffer: () => this.#next(),
        callback: (count: number): boolean => {
          if (this.#elsewhere) sink.filled(count);
          else sink.receive(this.#current.bytes.subarray(0, count), this.#current);
          return true;
        },
      },
    };
    this.socket = new Socket(options);
    this.socket.on("close", () => this.#current.release());
  }

  /** Memory for the next read. The socket asks once at the start and then after every read. */
  #next(): Buffer {
    const space = this.#sink.space();
    this.#elsewhere = space !== undefined;
    if (space !== undefined) return space;
    const tooSmall = this.#sink.trusted && this.#current.bytes.length === SMALL;
    if (this.#current.shared || tooSmall) {
      this.#current.release();
      this.#current = this.#sink.trusted
        ? new ReceiveBuffer(this.#pool.take(LARGE), this.#pool)
        : new ReceiveBuffer(Buffer.allocUnsafeSlow(SMALL), undefined);
    }
    return this.#current.bytes;
  }
}

/**
 * Directs all that arrives on a stream to `sink`.
 * @param accepted whether it is a socket that was accepted just now and has not been read.
 * @returns the stream to use from now on, which may be another one.
 */
export function openIntake(stream: Duplex, accepted: boolean, sink: IntakeSink, pool: BufferPool): Duplex {
  const handle: unknown = accepted ? Reflect.get(stream, HANDLE) : undefined;
  if (typeof handle === "object" && handle !== null) {
    const { socket } = new SocketIntake(handle, sink, pool);
    if (Reflect.get(socket, HANDLE) === handle) {
      Reflect.set(stream, HANDLE, null);
      // Only so that its server does not count it any more: without a handle there is nothing to close.
      stream.destroy();
      return socket;
    }
  }
  stream.on("data", (chunk: Buffer) => sink.receive(chunk, garbageCollected));
  stream.resume();
  return stream;
}
