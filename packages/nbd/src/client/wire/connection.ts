/**
 * One connection in transmission: requests out, answers in.
 *
 * Invariants:
 *
 * - a request is in the table from {@link Connection.send} until it is answered or the connection is lost;
 *   afterwards nothing here refers to it or to its buffer;
 * - a cookie is the slot in the table and a running number, so that a late or invented reply is not taken for
 *   the answer to another request;
 * - `lost` is reported once, and after that nothing is answered; but the socket, and the buffers of requests
 *   that are still being sent, are let go of only by {@link Connection.retire}.
 */
import { BlockIoError, type Clock, toBlockIoError } from "@dmkit/block-io";
import { encodeDisconnect, protocolError } from "../../protocol.ts";
import type { NbdUri } from "../../uri.ts";
import { Handshake } from "./handshake.ts";
import { ReplyReader, type RequestTable } from "./reply-reader.ts";
import type { Request } from "../requests/request.ts";
import { SendBatch } from "./send-batch.ts";
import { type Terms, agree } from "../terms.ts";
import { type Receiver, Transport } from "./transport.ts";

/** Who is told how requests fare. */
export interface ConnectionOwner {
  /** `request.error` says whether it succeeded. */
  answered(request: Request): void;
  /** The connection is of no more use; its unanswered requests are still in {@link Connection.unanswered}. */
  lost(error: BlockIoError): void;
}

export class Connection implements Receiver, RequestTable {
  readonly terms: Terms;
  readonly #transport: Transport;
  readonly #reader: ReplyReader;
  readonly #batch: SendBatch;
  readonly #slots: (Request | undefined)[] = [];
  readonly #free: number[] = [];
  #owner: ConnectionOwner | undefined;
  #generation = 0;
  #inFlight = 0;
  #ended: BlockIoError | undefined;
  #retired: Promise<void> | undefined;
  #scheduled = false;

  private constructor(transport: Transport, terms: Terms) {
    this.terms = terms;
    this.#transport = transport;
    this.#batch = new SendBatch(terms.extended);
    this.#reader = new ReplyReader(this, terms);
  }

  /** Connects and shakes hands. Rejects with what went wrong, or with the reason of the abort. */
  static async open(uri: NbdUri, signal: AbortSignal): Promise<Connection> {
    const transport = await Transport.open(uri.address, signal);
    const abort = (): void => transport.fail(signal.reason as BlockIoError);
    signal.addEventListener("abort", abort);
    const handshake = new Handshake(transport);
    try {
      await handshake.begin(uri);
      const terms = await agree(handshake, uri.exportName);
      const connection = new Connection(transport, terms);
      transport.receiver = connection;
      const { bytes, failure } = handshake.leftOver();
      if (failure !== undefined) throw failure;
      if (bytes.length > 0) throw protocolError("the server answers before it was asked");
      return connection;
    } catch (error) {
      handshake.leave();
      throw toBlockIoError(error, { op: "open" });
    } finally {
      signal.removeEventListener("abort", abort);
    }
  }

  /** Requests that have not been answered. */
  get inFlight(): number {
    return this.#inFlight;
  }

  /** When the oldest request was sent that is not answered, in milliseconds of the clock; infinity without any. */
  get oldest(): number {
    let oldest = Number.POSITIVE_INFINITY;
    for (const request of this.#slots) if (request !== undefined) oldest = Math.min(oldest, request.sentAt);
    return oldest;
  }

  /** Names who is told from now on; at once if the connection is lost already. */
  set owner(owner: ConnectionOwner) {
    this.#owner = owner;
    if (this.#ended !== undefined) owner.lost(this.#ended);
  }

  /** Sends a request with all others of this turn. Its buffer is used until it is answered. */
  send(request: Request): void {
    const slot = this.#free.pop() ?? this.#slots.length;
    this.#generation = (this.#generation + 1) >>> 0;
    request.cookieHigh = this.#generation;
    request.cookieLow = slot;
    this.#slots[slot] = request;
    this.#inFlight += 1;
    this.#batch.add(request);
    if (this.#scheduled) return;
    this.#scheduled = true;
    // Runs after all promises that are ready by now, which is where the requests of a turn come from.
    process.nextTick(this.#sendBatch);
  }

  /** Takes all requests that were not answered, in no order. */
  unanswered(): Request[] {
    const requests = this.#slots.filter((request) => request !== undefined);
    this.#slots.length = 0;
    this.#free.length = 0;
    this.#inFlight = 0;
    return requests;
  }

  /**
   * Sends no more requests, says good-bye, and resolves when the server has hung up, or after `limit`
   * milliseconds. A server hangs up when it has finished what it was sent: after that nothing of it can take
   * effect any more.
   */
  retire(clock: Clock, limit: number): Promise<void> {
    this.#ended ??= new BlockIoError("the connection is closed", { code: "ESHUTDOWN" });
    this.#retired ??= this.#retire(clock, limit);
    return this.#retired;
  }

  /** Hangs up at once; nobody is told. */
  destroy(): void {
    this.#ended ??= new BlockIoError("the connection is closed", { code: "ESHUTDOWN" });
    this.#transport.destroy();
  }

  space(common: Buffer): Buffer {
    return this.#ended === undefined ? this.#reader.space(common) : common;
  }

  received(chunk: Buffer): void {
    // A stream that broke the protocol once is not understood any more.
    if (this.#ended !== undefined) return;
    try {
      this.#reader.push(chunk);
    } catch (error) {
      this.ended(toBlockIoError(error, {}));
    }
  }

  ended(error: BlockIoError): void {
    if (this.#ended !== undefined) return;
    this.#ended = error;
    this.#owner?.lost(error);
  }

  find(cookieHigh: number, cookieLow: number): Request | undefined {
    const request = this.#slots[cookieLow];
    return request?.cookieHigh === cookieHigh ? request : undefined;
  }

  answered(request: Request): void {
    this.#slots[request.cookieLow] = undefined;
    this.#free.push(request.cookieLow);
    this.#inFlight -= 1;
    this.#owner?.answered(request);
  }

  async #retire(clock: Clock, limit: number): Promise<void> {
    if (limit <= 0) this.#transport.destroy();
    if (this.#transport.isClosed) return;
    const patience = new AbortController();
    const timer = clock.after(limit, () => patience.abort());
    await this.#transport.end(encodeDisconnect(this.terms.extended), patience.signal);
    timer.cancel();
  }

  readonly #sendBatch = (): void => {
    this.#scheduled = false;
    const { pieces, borrowed } = this.#batch.take();
    if (pieces.length === 0 || this.#ended !== undefined) return;
    this.#transport.write(pieces, () => this.#batch.recycle(borrowed));
  };
}
