/**
 * A little NBD server that can be made to misbehave: to say anything at any point, to hold answers back, and
 * to lose, when it "crashes", whatever was not flushed.
 */
import { rmSync } from "node:fs";
import { type Socket, createServer } from "node:net";
import type { Random } from "@dmkit/block-io";
import {
  type BlockSizes,
  CHUNK,
  CMD,
  CMD_FLAG,
  DEFAULT_MAX_PAYLOAD,
  ERRNO,
  FLAG,
  HANDSHAKE_FLAG,
  OPT,
  OPTION_HEADER_LENGTH,
  REP,
  REPLY_FLAG,
  type RequestHeader,
  chunkHeaderLength,
  dataChunkOverhead,
  decodeInfoRequest,
  decodeOptionHeader,
  decodeRequest,
  encodeBlockStatusChunk,
  encodeChunkHeader,
  encodeDataChunkHeader,
  encodeErrorChunk,
  encodeExportAnswer,
  encodeGreeting,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeMetaContextReply,
  encodeOptionError,
  encodeOptionReply,
  encodeServerEntry,
  encodeSimpleReply,
  payloadLength,
  requestLength,
} from "../src/protocol.ts";
import { freshSocket, uriOf } from "./client-servers.ts";

const SECTOR = 512;
export const CONTEXT_ID = 7;
export const COMMON_FLAGS: number =
  FLAG.HAS_FLAGS |
  FLAG.SEND_FLUSH |
  FLAG.SEND_FUA |
  FLAG.SEND_TRIM |
  FLAG.SEND_WRITE_ZEROES |
  FLAG.SEND_FAST_ZERO;

/** What the server is and where it misbehaves. All of it may be changed while it runs. */
export interface Behaviour {
  size: number;
  flags: number;
  handshakeFlags: number;
  blockSizes: BlockSizes | undefined;
  structured: boolean;
  extended: boolean;
  /** Answers an option in another way: bytes to send, or "drop". */
  onOption: (option: number) => Uint8Array | "drop" | undefined;
  /** Answers a request in another way: bytes to send, "drop", or "hold" to never answer. */
  onRequest: (request: RequestHeader, payload: Buffer) => Uint8Array | "drop" | "hold" | undefined;
  /** Instead of the greeting. */
  greeting: Uint8Array | undefined;
  /** Milliseconds before each answer. */
  delay: () => number;
}

/** A request as the server got it. */
export interface Seen {
  readonly type: number;
  readonly flags: number;
  readonly offset: number;
  readonly length: number;
  readonly connection: number;
}

export class FakeServer {
  readonly socket = freshSocket();
  readonly behaviour: Behaviour;
  readonly seen: Seen[] = [];
  /** What survives a crash. */
  readonly stable: Buffer;
  /** What clients see. */
  readonly current: Buffer;
  connections = 0;
  crashes = 0;
  #dirty = new Set<number>();
  #listening = createServer();
  readonly #sockets = new Set<Socket>();

  constructor(behaviour: Partial<Behaviour> = {}) {
    this.behaviour = {
      size: 1024 * 1024,
      flags: COMMON_FLAGS,
      handshakeFlags: HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES,
      blockSizes: { minimum: 1, preferred: 4096, maximumPayload: DEFAULT_MAX_PAYLOAD },
      structured: true,
      extended: false,
      onOption: () => undefined,
      onRequest: () => undefined,
      greeting: undefined,
      delay: () => 0,
      ...behaviour,
    };
    this.stable = Buffer.alloc(this.behaviour.size);
    this.current = Buffer.alloc(this.behaviour.size);
  }

  get uri(): string {
    return uriOf(this.socket);
  }

  async start(): Promise<this> {
    rmSync(this.socket, { force: true });
    // Half-open: a client may hang up and have what it sent carried out all the same.
    this.#listening = createServer({ allowHalfOpen: true }, (socket) => this.#accept(socket));
    await new Promise<void>((resolve) => this.#listening.listen({ path: this.socket }, resolve));
    return this;
  }

  /** Hangs up on everybody and stops listening. */
  async stop(): Promise<void> {
    this.drop();
    await new Promise((resolve) => this.#listening.close(resolve));
  }

  /** Hangs up on everybody; nothing is lost. */
  drop(): void {
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  /** Hangs up, and each sector that was not flushed falls back to what is stable, or not. */
  crash(random: Random, survival = 0.5): void {
    this.crashes += 1;
    this.drop();
    for (const sector of this.#dirty) {
      const [start, end] = [sector * SECTOR, (sector + 1) * SECTOR];
      if (random.next() < survival) this.current.copy(this.stable, start, start, end);
      else this.stable.copy(this.current, start, start, end);
    }
    this.#dirty.clear();
  }

  /** Forgets everything that was written. */
  reset(): void {
    this.stable.fill(0);
    this.current.fill(0);
    this.#dirty.clear();
  }

  #accept(socket: Socket): void {
    this.connections += 1;
    this.#sockets.add(socket);
    socket.on("error", () => {});
    socket.on("close", () => this.#sockets.delete(socket));
    const { greeting, handshakeFlags } = this.behaviour;
    socket.write(greeting ?? encodeGreeting(handshakeFlags));
    void this.#serve(new Bytes(socket), socket, this.connections).catch(() => socket.destroy());
  }

  async #serve(bytes: Bytes, socket: Socket, connection: number): Promise<void> {
    const pending = new Set<Promise<void>>();
    try {
      await bytes.read(4);
      await this.#transmit(bytes, socket, connection, pending);
    } finally {
      await Promise.all(pending);
      socket.end();
    }
  }

  async #transmit(
    bytes: Bytes,
    socket: Socket,
    connection: number,
    pending: Set<Promise<void>>,
  ): Promise<void> {
    const { structured, extended } = await this.#negotiate(bytes, socket);
    for (;;) {
      const empty = { flags: 0, type: 0, cookieHigh: 0, cookieLow: 0, offset: 0, length: 0 };
      const request: RequestHeader = { extended, ...empty };
      if (!decodeRequest(await bytes.read(requestLength(extended)), 0, request))
        throw new Error("bad request");
      const payload = await bytes.read(payloadLength(request));
      const { type, flags, offset, length } = request;
      this.seen.push({ type, flags, offset, length, connection });
      if (request.type === CMD.DISC) return;
      const delay = this.behaviour.delay();
      if (delay > 0) {
        const answered = new Promise<void>((resolve) => setTimeout(resolve, delay)).then(() =>
          this.#answer(socket, request, payload, structured),
        );
        pending.add(answered);
        void answered.then(() => pending.delete(answered));
      } else {
        this.#answer(socket, request, payload, structured);
      }
    }
  }

  /** Which kinds of replies and headers were agreed on. */
  async #negotiate(bytes: Bytes, socket: Socket): Promise<{ structured: boolean; extended: boolean }> {
    let structured = false;
    let extended = false;
    for (;;) {
      const { option, length } = decodeOptionHeader(await bytes.read(OPTION_HEADER_LENGTH));
      const data = await bytes.read(length);
      const special = this.behaviour.onOption(option);
      if (special !== undefined) {
        if (special === "drop") throw new Error("dropped");
        socket.write(special);
      } else if (option === OPT.EXPORT_NAME) {
        const noZeroes = (this.behaviour.handshakeFlags & HANDSHAKE_FLAG.NO_ZEROES) !== 0;
        socket.write(encodeExportAnswer(this.behaviour, !noZeroes));
      } else {
        socket.write(this.#optionReply(option, data));
      }
      if (option === OPT.STRUCTURED_REPLY) structured = this.behaviour.structured;
      if (option === OPT.EXTENDED_HEADERS) structured = extended = this.behaviour.extended;
      const isGranted = special === undefined && option === OPT.GO && decodeInfoRequest(data).name === "";
      if (option === OPT.EXPORT_NAME || isGranted) {
        return { structured, extended };
      }
    }
  }

  #optionReply(option: number, data: Buffer): Buffer {
    const { size, flags, blockSizes, structured, extended } = this.behaviour;
    const ack = encodeOptionReply(option, REP.ACK);
    const unsupported = encodeOptionError(option, REP.ERR_UNSUP, "not here");
    switch (option) {
      case OPT.STRUCTURED_REPLY:
        return structured ? ack : unsupported;
      case OPT.EXTENDED_HEADERS:
        return extended ? ack : unsupported;
      case OPT.SET_META_CONTEXT: {
        const context = encodeMetaContextReply({ id: CONTEXT_ID, name: "base:allocation" });
        return Buffer.concat([encodeOptionReply(option, REP.META_CONTEXT, context), ack]);
      }
      case OPT.LIST:
        return Buffer.concat([
          encodeOptionReply(option, REP.SERVER, encodeServerEntry({ name: "", description: "a fake" })),
          ack,
        ]);
      case OPT.INFO:
      case OPT.GO: {
        if (decodeInfoRequest(data).name !== "")
          return encodeOptionError(option, REP.ERR_UNKNOWN, "no such export");
        const sizes = blockSizes && encodeOptionReply(option, REP.INFO, encodeInfoBlockSize(blockSizes));
        const info = encodeOptionReply(option, REP.INFO, encodeInfoExport(size, flags));
        return Buffer.concat([info, ...(sizes === undefined ? [] : [sizes]), ack]);
      }
      default:
        return unsupported;
    }
  }

  #answer(socket: Socket, request: RequestHeader, payload: Buffer, structured: boolean): void {
    if (socket.destroyed) return;
    const special = this.behaviour.onRequest(request, payload);
    if (special === "hold") return;
    if (special === "drop") this.drop();
    else socket.write(special ?? this.carryOut(request, payload, structured));
  }

  /** Does what the request asks for and returns the reply. */
  carryOut(request: RequestHeader, payload: Buffer, structured: boolean): Buffer {
    const { type, flags, offset, length } = request;
    if (offset > this.current.length || length > this.current.length - offset) {
      return errorReply(request, ERRNO.EINVAL, structured);
    }
    if (type === CMD.READ)
      return readReply(request, this.current.subarray(offset, offset + length), structured);
    if (type === CMD.BLOCK_STATUS) return statusReply(request, [length, 0]);
    if (type === CMD.FLUSH) this.#stabilise(0, this.current.length);
    if (type === CMD.WRITE) payload.copy(this.current, offset);
    if (type === CMD.WRITE_ZEROES) this.current.fill(0, offset, offset + length);
    if (type === CMD.WRITE || type === CMD.WRITE_ZEROES) this.#soil(offset, length);
    if ((flags & CMD_FLAG.FUA) !== 0) this.#stabilise(offset, length);
    return okReply(request);
  }

  #soil(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += SECTOR) this.#dirty.add(at / SECTOR);
  }

  #stabilise(offset: number, length: number): void {
    this.current.copy(this.stable, offset, offset, offset + length);
    for (const sector of this.#dirty) {
      if (sector * SECTOR >= offset && sector * SECTOR < offset + length) this.#dirty.delete(sector);
    }
  }
}

export function okReply(request: RequestHeader): Buffer {
  if (request.extended) return chunk(request, CHUNK.NONE, REPLY_FLAG.DONE, Buffer.alloc(0));
  const reply = Buffer.alloc(16);
  encodeSimpleReply(reply, 0, 0, request.cookieHigh, request.cookieLow);
  return reply;
}

export function errorReply(request: RequestHeader, errno: number, structured: boolean): Buffer {
  if (structured) return encodeErrorChunk(request, errno, "the fake server says so");
  const reply = Buffer.alloc(16);
  encodeSimpleReply(reply, 0, errno, request.cookieHigh, request.cookieLow);
  return reply;
}

export function readReply(request: RequestHeader, data: Buffer, structured: boolean): Buffer {
  if (!structured) return Buffer.concat([okReply(request), data]);
  return dataChunk(request, request.offset, data, REPLY_FLAG.DONE);
}

export function dataChunk(request: RequestHeader, offset: number, data: Buffer, flags: number): Buffer {
  const head = Buffer.alloc(dataChunkOverhead(request.extended));
  encodeDataChunkHeader(head, 0, request, flags, offset, data.length);
  return Buffer.concat([head, data]);
}

export function statusReply(request: RequestHeader, descriptors: number[], id: number = CONTEXT_ID): Buffer {
  return encodeBlockStatusChunk(request, REPLY_FLAG.DONE, id, descriptors);
}

/** A chunk of any type with any payload. */
export function chunk(
  request: RequestHeader,
  type: number,
  flags: number,
  payload: Buffer,
  length: number = payload.length,
): Buffer {
  const head = Buffer.alloc(chunkHeaderLength(request.extended));
  encodeChunkHeader(head, 0, request, flags, type, length);
  return Buffer.concat([head, payload]);
}

/** Exact reads from a socket. */
class Bytes {
  readonly #iterator: AsyncIterator<Buffer>;
  #kept: Buffer = Buffer.alloc(0);

  constructor(socket: Socket) {
    this.#iterator = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  }

  async read(length: number): Promise<Buffer> {
    while (this.#kept.length < length) {
      const next = await this.#iterator.next();
      if (next.done === true) throw new Error("ended");
      this.#kept = Buffer.concat([this.#kept, next.value]);
    }
    const bytes = this.#kept.subarray(0, length);
    this.#kept = this.#kept.subarray(length);
    return bytes;
  }
}
