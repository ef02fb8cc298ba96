/**
 * Reads exact numbers of bytes during the handshake, where speed does not matter.
 *
 * Invariant: at most {@link HandshakeReader.most} bytes are kept. A server speaks only when it was asked, so one that
 * sends more than that ahead of the questions is hostile or no NBD server.
 */
import { BlockIoError } from "@dmkit/block-io";
import { protocolError } from "../../protocol.ts";
import type { Receiver } from "./transport.ts";

const MAX_UNREAD = 1024 * 1024;

export class HandshakeReader implements Receiver {
  /** Bytes that may wait to be read; more where a long answer was asked for. */
  most: number = MAX_UNREAD;
  #chunks: Buffer[] = [];
  // Bytes of the first chunk that were read.
  #at = 0;
  #unread = 0;
  #failure: BlockIoError | undefined;
  #wake: (() => void) | undefined;

  received(chunk: Buffer): void {
    if (this.#unread + chunk.length > this.most) {
      this.ended(protocolError("the server sends without being asked"));
      return;
    }
    this.#chunks.push(Buffer.from(chunk));
    this.#unread += chunk.length;
    this.#wake?.();
  }

  /** No more will come; bytes that are here already can still be read. */
  ended(error: BlockIoError): void {
    this.#failure ??= error;
    this.#wake?.();
  }

  /** The next `length` bytes, at most 1 MiB. Rejects when the connection ends before they are here. */
  async read(length: number): Promise<Buffer> {
    while (this.#unread < length) {
      if (this.#failure !== undefined) throw this.#failure;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
    const first = this.#chunks[0];
    if (first !== undefined && first.length - this.#at > length) {
      this.#unread -= length;
      this.#at += length;
      return first.subarray(this.#at - length, this.#at);
    }
    const read = Buffer.allocUnsafe(length);
    for (let done = 0; done < length; ) {
      const chunk = this.#chunks[0] as Buffer;
      const count = chunk.copy(read, done, this.#at);
      done += count;
      this.#at += count;
      if (this.#at < chunk.length) break;
      this.#chunks.shift();
      this.#at = 0;
    }
    this.#unread -= length;
    return read;
  }

  /** Takes everything that was not read. */
  rest(): Buffer {
    const all = Buffer.concat(this.#chunks).subarray(this.#at);
    this.#chunks = [];
    this.#at = 0;
    this.#unread = 0;
    return all;
  }

  /** What ended the connection, if anything did. */
  get failure(): BlockIoError | undefined {
    return this.#failure;
  }
}
