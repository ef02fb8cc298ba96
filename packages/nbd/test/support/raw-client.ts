/** An NBD client that sends any bytes it is told to, and looks at the answers byte by byte. */
import { type Socket, connect } from "node:net";
import type { Duplex } from "node:stream";
import { onTestFinished } from "vitest";
import {
  CHUNK,
  CMD,
  CMD_FLAG,
  type ErrorChunk,
  OPT,
  REP,
  type RequestHeader,
  SIMPLE_REPLY_LENGTH,
  decodeErrorChunk,
  decodeOptionReplyHeader,
  decodeReplyHeader,
  encodeClientFlags,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  encodeRequest,
  replyHeaderLength,
  requestLength,
} from "../../src/protocol.ts";

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Buffer;
}

export interface Chunk {
  readonly structured: boolean;
  readonly extended: boolean;
  /** The request's, in an extended one. */
  readonly offset: number;
  readonly cookie: number;
  readonly error: number;
  readonly flags: number;
  readonly type: number;
  readonly payload: Buffer;
}

/** A READ's reply, put together. */
export interface ReadReply {
  readonly error: number;
  readonly text: string;
  readonly offset: number | undefined;
  readonly data: Buffer;
  readonly chunks: readonly Chunk[];
}

export class ConnectionClosed extends Error {}

export type RequestFields = Partial<RequestHeader> & { cookie?: number };

export class RawClient {
  readonly stream: Duplex;
  #received: Buffer[] = [];
  #length = 0;
  #wake: (() => void) | undefined;
  #ended = false;
  readonly closed: Promise<void>;
  structured = false;
  extended = false;

  constructor(stream: Duplex) {
    this.stream = stream;
    stream.on("data", (chunk: Buffer) => {
      this.#received.push(chunk);
      this.#length += chunk.length;
      this.#wake?.();
    });
    this.closed = new Promise((resolve) => {
      const end = (): void => {
        this.#ended = true;
        this.#wake?.();
        resolve();
      };
      stream.on("end", end);
      stream.on("close", end);
      stream.on("error", end);
    });
  }

  /** For the test that is running: it goes with its end. */
  static async connect(where: { path: string } | { port: number; host: string }): Promise<RawClient> {
    for (;;) {
      const socket: Socket = connect({ ...where, allowHalfOpen: true });
      const failure = await new Promise<(Error & { code?: string }) | undefined>((resolve) => {
        socket.once("connect", () => resolve(undefined));
        socket.once("error", resolve);
      });
      if (failure === undefined) {
        onTestFinished(() => void socket.destroy());
        return new RawClient(socket);
      }
      // A full backlog; the server is busy accepting.
      if (failure.code !== "EAGAIN") throw failure;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  get buffered(): number {
    return this.#length;
  }

  send(...parts: Uint8Array[]): void {
    for (const part of parts) this.stream.write(part);
  }

  /** Rejects if the server hangs up first. */
  async read(length: number): Promise<Buffer> {
    while (this.#length < length) {
      if (this.#ended)
        throw new ConnectionClosed(`connection closed with ${this.#length} of ${length} bytes`);
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const [only = Buffer.alloc(0)] = this.#received;
    const all = this.#received.length === 1 ? only : Buffer.concat(this.#received);
    this.#received = all.length > length ? [all.subarray(length)] : [];
    this.#length = all.length - length;
    return Buffer.from(all.subarray(0, length));
  }

  close(): void {
    this.stream.destroy();
  }

  // -- Handshake --

  async greet(flags = 3): Promise<Buffer> {
    const greeting = await this.read(18);
    this.send(encodeClientFlags(flags));
    return greeting;
  }

  async optionReply(): Promise<OptionReply> {
    const { option, type, length } = decodeOptionReplyHeader(await this.read(20));
    return { option, type, data: await this.read(length) };
  }

  /** Sends an option and collects its replies up to the final one. */
  async option(option: number, data: Uint8Array = Buffer.alloc(0)): Promise<OptionReply[]> {
    this.send(encodeOption(option, data));
    return this.replies();
  }

  async replies(): Promise<OptionReply[]> {
    const replies: OptionReply[] = [];
    for (;;) {
      const reply = await this.optionReply();
      replies.push(reply);
      if (reply.type === REP.ACK || reply.type >= 0x8000_0000) return replies;
    }
  }

  /** Enters an export. */
  async go(
    name: string,
    { structured = false, extended = false, contexts = [] as readonly string[] } = {},
  ): Promise<this> {
    await this.greet();
    if (structured) await this.negotiate(OPT.STRUCTURED_REPLY);
    if (extended) await this.negotiate(OPT.EXTENDED_HEADERS);
    this.structured = structured || extended;
    this.extended = extended;
    if (contexts.length > 0) {
      await this.negotiate(
        OPT.SET_META_CONTEXT,
        encodeMetaContextRequest({ exportName: name, queries: contexts }),
      );
    }
    await this.negotiate(OPT.GO, encodeInfoRequest({ name, requests: [] }));
    return this;
  }

  async negotiate(option: number, data?: Uint8Array): Promise<OptionReply[]> {
    const replies = await this.option(option, data);
    const last = replies.at(-1) as OptionReply;
    if (last.type !== REP.ACK) throw new Error(`option ${option} refused: ${last.data.toString()}`);
    return replies;
  }

  // -- Transmission --

  static request({ cookie = 0, ...fields }: RequestFields): Buffer {
    const bytes = Buffer.alloc(requestLength(fields.extended === true));
    const header = { flags: 0, type: 0, cookieHigh: 0, cookieLow: cookie, offset: 0, length: 0, ...fields };
    encodeRequest(bytes, 0, header);
    return bytes;
  }

  request(fields: RequestFields, payload?: Uint8Array): void {
    const header = RawClient.request({ extended: this.extended, ...fields });
    if (payload === undefined) this.send(header);
    else this.send(Buffer.concat([header, payload]));
  }

  /** One reply or chunk; a simple reply's data are not read. */
  async reply(): Promise<Chunk> {
    const start = await this.read(4);
    const length = replyHeaderLength(start, 0);
    if (length === 0) throw new Error(`no reply: ${start.toString("hex")}`);
    const bytes = Buffer.concat([start, await this.read(length - 4)]);
    const header = {
      structured: false,
      extended: false,
      cookieHigh: 0,
      cookieLow: 0,
      error: 0,
      flags: 0,
      type: 0,
      offset: 0,
      length: 0,
    };
    decodeReplyHeader(bytes, 0, header);
    const payload = length === SIMPLE_REPLY_LENGTH ? Buffer.alloc(0) : await this.read(header.length);
    const { structured, extended, cookieHigh, cookieLow, error, flags, type, offset } = header;
    const cookie = cookieHigh * 2 ** 32 + cookieLow;
    return { structured, extended, cookie, error, flags, type, offset, payload };
  }

  /** A whole reply to anything but a READ: its error number, 0 on success, and the text that came with it. */
  async status(): Promise<{ error: number; text: string; cookie: number; chunk: Chunk }> {
    const chunk = await this.reply();
    if (!chunk.structured) return { error: chunk.error, text: "", cookie: chunk.cookie, chunk };
    if ((chunk.type & 0x8000) === 0) return { error: 0, text: "", cookie: chunk.cookie, chunk };
    const { error, text } = decodeErrorChunk(chunk.type, chunk.payload);
    return { error, text, cookie: chunk.cookie, chunk };
  }

  /** Sends a command without payload, or a WRITE with it, and returns its error number. */
  async command(fields: RequestFields, payload?: Uint8Array): Promise<number> {
    this.request(fields, payload);
    return (await this.status()).error;
  }

  write(offset: number, data: Uint8Array, flags = 0): Promise<number> {
    const all = this.extended ? flags | CMD_FLAG.PAYLOAD_LEN : flags;
    return this.command({ type: CMD.WRITE, flags: all, offset, length: data.length }, data);
  }

  /** Sends a READ and puts its reply together; holes become zeroes. */
  async readBack(offset: number, length: number, flags = 0): Promise<ReadReply> {
    this.request({ type: CMD.READ, flags, offset, length });
    return this.readReply(offset, length);
  }

  async readReply(offset: number, length: number): Promise<ReadReply> {
    if (!this.structured) {
      const chunk = await this.reply();
      const data = chunk.error === 0 ? await this.read(length) : Buffer.alloc(0);
      return { error: chunk.error, text: "", offset: undefined, data, chunks: [chunk] };
    }
    return this.restOfRead(await this.reply(), offset, length);
  }

  /** Puts a structured reply together, the first chunk of which has been read. Nothing may come in between. */
  async restOfRead(first: Chunk, offset: number, length: number): Promise<ReadReply> {
    const chunks: Chunk[] = [];
    // Bytes that no chunk covers stay recognizable.
    const data = Buffer.alloc(length, 0xaa);
    let failure: ErrorChunk = { error: 0, text: "", offset: undefined };
    for (let chunk = first; ; chunk = await this.reply()) {
      chunks.push(chunk);
      if (!chunk.structured) throw new Error("a simple reply to READ where structured ones were negotiated");
      if (chunk.cookie !== first.cookie) throw new Error("chunks of two replies are mixed");
      if (chunk.type === CHUNK.OFFSET_DATA) {
        chunk.payload.copy(data, Number(chunk.payload.readBigUInt64BE(0)) - offset, 8);
      } else if (chunk.type === CHUNK.OFFSET_HOLE) {
        const at = Number(chunk.payload.readBigUInt64BE(0)) - offset;
        data.fill(0, at, at + chunk.payload.readUInt32BE(8));
      } else if ((chunk.type & 0x8000) !== 0) {
        failure = decodeErrorChunk(chunk.type, chunk.payload);
      }
      if ((chunk.flags & 1) !== 0) return { ...failure, data, chunks };
    }
  }
}
