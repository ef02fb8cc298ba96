/**
 * Where a connection's bytes come in.
 *
 *     socket --> receive buffer --> parsed in place; a WRITE's payload stays where it is
 *            '-> rest of a long payload, straight into its own buffer
 *
 * Invariants:
 *
 * - a receive buffer is written to again, or given to somebody else, only when nobody holds it any more;
 * - memory the socket may still write to is never given away;
 * - a connection has one large buffer for nothing. More of them, because requests in flight hold the others,
 *   are charged to it; and when they cannot be paid for it makes do with small ones, which cost no more than
 *   the requests in them are charged anyway;
 * - a connection none of whose requests is in flight is charged nothing: when the buffer that costs nothing
 *   comes back while the socket reads into a charged one, that one is the free one from then on.
 *
 * Node allocates 64 KiB for every read of a socket that is listened to with `data`, and its page faults and
 * garbage cost more than the reading: 400 ms of CPU per gigabyte received, against 110 to 150 ms with buffers
 * of our own (4 GB in pieces of 128 KiB over a unix socket). Node offers that (`onread`) for sockets that
 * connect, but not for those that a server accepts; so an accepted socket's handle is moved into a new one.
 * The handle is an undocumented property. Where it is missing, everything works as before, only slower.
 *
 * When TLS begins the intake lets go of its stream, which becomes that of the TLS engine; what the engine makes of it
 * comes in as a stream of its own, which has no handle.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { SizedBufferPool } from "./buffer-pool.ts";
import { RECEIVE_BUFFER } from "../limits.ts";

/** What a chunk of received bytes is a part of. Whoever keeps a chunk longer than a call holds it. */
export interface ChunkOrigin {
  hold(): void;
  release(): void;
}

/** Who takes the bytes. */
export interface IntakeSink {
  /** Whether the peer is worth a large buffer. */
  readonly trusted: boolean;
  receive(chunk: Buffer, origin: ChunkOrigin): void;
  /** Memory for the next bytes, if they should go to a certain place. */
  space(): Buffer | undefined;
  /** So many bytes have been put there. */
  filled(count: number): void;
  /** Takes bytes from the connection's budget; false if there are not enough. */
  charge(bytes: number): boolean;
  /** Gives them back. */
  refund(bytes: number): void;
}

const HANDLE = "_handle";
// Bytes; enough for a handshake.
const SMALL = 8 * 1024;
// Bytes; as much as a unix socket holds, so that one read takes all there is. Against 64 KiB that is worth 40 %
// at 4 KiB and depth 32, and 100 % at 128 KiB and depth 16: client and server take turns less often.
const LARGE = RECEIVE_BUFFER;

/** For chunks that are nobody's: they live as long as anything refers to them. */
const garbageCollected: ChunkOrigin = { hold() {}, release() {} };

class ReceiveBuffer implements ChunkOrigin {
  readonly bytes: Buffer;
  /** Bytes it is charged. */
  charge: number;
  readonly #freed: (buffer: ReceiveBuffer) => void;
  // The intake is one of them.
  #holders = 1;

  constructor(bytes: Buffer, charge: number, freed: (buffer: ReceiveBuffer) => void) {
    this.bytes = bytes;
    this.charge = charge;
    this.#freed = freed;
  }

  get shared(): boolean {
    return this.#holders > 1;
  }

  hold(): void {
    this.#holders += 1;
  }

  release(): void {
    this.#holders -= 1;
    if (this.#holders === 0) this.#freed(this);
  }
}

/** An accepted socket and its receive buffers. */
class SocketIntake {
  readonly socket: Socket;
  #sink: IntakeSink;
  readonly #pool: SizedBufferPool;
  // The buffer the socket reads into, unless it reads into the sink's memory.
  #current: ReceiveBuffer;
  #elsewhere = false;
  // Whether the large buffer that costs nothing is in use.
  #freeUsed = false;

  constructor(handle: object, sink: IntakeSink, pool: SizedBufferPool) {
    this.#sink = sink;
    this.#pool = pool;
    this.#current = this.#small();
    const options = {
      handle,
      allowHalfOpen: true,
      readable: true,
      writable: true,
      onread: {
        buffer: () => this.#next(),
        callback: (count: number): boolean => {
          if (this.#elsewhere) this.#sink.filled(count);
          else this.#sink.receive(this.#current.bytes.subarray(0, count), this.#current);
          return true;
        },
      },
    };
    this.socket = new Socket(options);
    this.socket.on("close", () => this.#current.release());
  }

  detach(): void {
    this.#sink = nobody;
  }

  /** Memory for the next read. The socket asks once at the start and then after every read. */
  #next(): Buffer {
    const space = this.#sink.space();
    this.#elsewhere = space !== undefined;
    if (space !== undefined) return space;
    const small = this.#current.bytes.length === SMALL;
    if (this.#current.shared || (small && this.#sink.trusted)) {
      const next = this.#large() ?? (this.#current.shared ? this.#small() : this.#current);
      const before = this.#current;
      this.#current = next;
      // Last, because what is given back may set the parser going again.
      if (next !== before) before.release();
    }
    return this.#current.bytes;
  }

  #large(): ReceiveBuffer | undefined {
    if (!this.#sink.trusted) return undefined;
    const charge = this.#freeUsed ? LARGE : 0;
    if (charge > 0 && !this.#sink.charge(charge)) return undefined;
    this.#freeUsed = true;
    return new ReceiveBuffer(this.#pool.take(LARGE), charge, this.#freed);
  }

  #small(): ReceiveBuffer {
    return new ReceiveBuffer(Buffer.allocUnsafeSlow(SMALL), 0, this.#freed);
  }

  readonly #freed = (buffer: ReceiveBuffer): void => {
    if (buffer.bytes.length === SMALL) return;
    this.#pool.give(buffer.bytes);
    const paid = buffer.charge > 0 ? buffer : this.#current;
    const { charge } = paid;
    paid.charge = 0;
    // Last, because what is given back may set parsers going again.
    if (charge > 0) this.#sink.refund(charge);
    else this.#freeUsed = false;
  };
}

const nobody: IntakeSink = {
  trusted: false,
  receive() {},
  space: () => undefined,
  filled() {},
  charge: () => false,
  refund() {},
};

/** A stream whose bytes come in. */
export interface Intake {
  /** To be used from now on. */
  readonly stream: Duplex;
  /** Takes nothing more from the stream, which has to be paused. */
  detach(): void;
}

/**
 * Directs all that arrives on a stream to `sink`.
 * @param accepted whether it is a socket that was accepted just now and has not been read.
 * @returns the stream may be another one.
 */
export function openIntake(
  stream: Duplex,
  accepted: boolean,
  sink: IntakeSink,
  pool: SizedBufferPool,
): Intake {
  const handle: unknown = accepted ? Reflect.get(stream, HANDLE) : undefined;
  if (typeof handle === "object" && handle !== null) {
    const intake = new SocketIntake(handle, sink, pool);
    const { socket } = intake;
    if (Reflect.get(socket, HANDLE) === handle) {
      Reflect.set(stream, HANDLE, null);
      // Only so that its server does not count it any more: without a handle there is nothing to close.
      stream.destroy();
      return { stream: socket, detach: () => intake.detach() };
    }
  }
  const receive = (chunk: Buffer): void => sink.receive(chunk, garbageCollected);
  stream.on("data", receive);
  stream.resume();
  return { stream, detach: () => stream.off("data", receive) };
}
