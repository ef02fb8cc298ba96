/**
 * Reads exact numbers of bytes during the handshake, where speed does not matter.
 *
 * Invariant: at most {@link MAX_UNREAD} bytes are kept. A server speaks only when it was asked, so one that
 * sends more than that ahead of the questions is hostile or no NBD server.
 */
import { BlockIoError } from "@dmkit/block-io";
import { protocolError } from "../protocol.ts";
import type { Receiver } from "./transport.ts";

const MAX_UNREAD = 1024 * 1024;

export class HandshakeReader implements Receiver {
  #chunks: Buffer[] = [];
  #unread = 0;
  #failure: BlockIoError | undefined;
  #wake: (() => void) | undefined;

  received(chunk: Buffer): void {
    if (this.#unread + chunk.length > MAX_UNREAD) {
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
    const all = this.rest();
    if (all.length > length) this.received(all.subarray(length));
    return all.subarray(0, length);
  }

  /** Takes everything that was not read. */
  rest(): Buffer {
    const all = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
    this.#chunks = [];
    this.#unread = 0;
    return all;
  }

  /** What ended the connection, if anything did. */
  get failure(): BlockIoError | undefined {
    return this.#failure;
  }
}
