/**
 * An export of an NBD server as a block device.
 *
 * Here requests are cut into pieces that the server and its connections accept, and abilities the server
 * lacks are put together from those it has. How pieces travel, and what happens when the server goes away, is
 * in link.ts.
 *
 * Invariant: a method settles only when all its pieces have settled, so the caller's buffer is free then.
 */
import {
  BlockIoError,
  type Extent,
  GuardedDevice,
  type Health,
  type Place,
  type WatchedFacts,
  type WriteZeroesOptions,
  done,
  worstHealth,
  join,
} from "@dmkit/block-io";
import { CMD, CMD_FLAG, FLAG } from "../protocol.ts";
import { placeOf } from "../place.ts";
import type { NbdUri } from "../uri.ts";
import { ExtentMerger, kindOf } from "./wire/extents.ts";
import { Link } from "./link.ts";
import { named } from "./named.ts";
import { type CheckedOptions, checkOptions } from "./options.ts";
import type { NbdClientOptions } from "./client-options.ts";
import { openSession } from "./recovery/reconnector.ts";
import { Request } from "./requests/request.ts";
import { type Session, stripeOf } from "./recovery/session.ts";
import { limitsOf, payloadLimit, usableSize } from "./terms.ts";

/** What a client is doing; for status displays. */
export interface NbdClientStatus {
  /** Connections in use; 0 while the server is away. */
  readonly connections: number;
  /** How often the server was lost and found again. */
  readonly reconnects: number;
  /** Requests on the wire. */
  readonly inFlight: number;
  /** Bytes of unflushed writes kept to be repeated. */
  readonly replayBytes: number;
}

// Larger reads and writes are cut, so that the server can work on the parts at the same time.
const PIECE = 4 * 1024 * 1024;
// Bytes of a request without payload, where a compact header has room for less than 4 GiB.
const WIDE_PIECE = 1024 * 1024 * 1024;
// Pieces of one request that are under way at a time.
const PIECES = 16;

/** Connects to an export. Rejects with the reason if the server cannot be reached or does not suit. */
export async function openNbd(target: string | NbdUri, options: NbdClientOptions = {}): Promise<NbdDevice> {
  const checked = checkOptions(target, options);
  const { link, environment } = checked;
  let session: Session | undefined;
  try {
    session = await openSession(link.uri, link.connections, link.connectTimeout, environment);
    return new NbdDevice(session, checked);
  } catch (error) {
    session?.abandon();
    throw named(error, link.name);
  }
}

export class NbdDevice extends GuardedDevice {
  readonly #link: Link;
  /** The server granted extended headers: what has no payload is asked for at once, however long it is. */
  readonly extendedHeaders: boolean;
  /** The server takes no writes, whatever the device was opened for. */
  readonly isReadOnlyExport: boolean;
  readonly #uri: NbdUri;
  #place: string;
  readonly #flags: number;
  readonly #piece: number;
  // Bytes; pieces do not cross multiples of it.
  readonly #stripe: number;
  readonly #fuaFlag: number;
  // Shrinks when the server turns out to take less at once.
  #widePiece: number;

  /** For {@link openNbd}. */
  constructor(session: Session, { link, environment, choices }: CheckedOptions) {
    const { terms } = session;
    const limits = limitsOf(terms, choices);
    super(link.name, usableSize(terms, choices), limits);
    this.#uri = link.uri;
    this.#place = placeOf(link.uri);
    this.#flags = terms.flags;
    this.isReadOnlyExport = (terms.flags & FLAG.READ_ONLY) !== 0;
    this.#piece = Math.min(payloadLimit(terms, limits.logicalBlockSize), PIECE);
    this.extendedHeaders = terms.extended;
    this.#widePiece = terms.extended ? Number.POSITIVE_INFINITY : WIDE_PIECE;
    this.#stripe = session.connections > 1 ? stripeOf(terms.size) : Number.POSITIVE_INFINITY;
    this.#fuaFlag = (terms.flags & FLAG.SEND_FUA) === 0 ? 0 : CMD_FLAG.FUA;
    // Belief is for servers that cannot be asked.
    const writeThrough = link.writeThrough && (terms.flags & (FLAG.SEND_FLUSH | FLAG.SEND_FUA)) === 0;
    this.#link = new Link(session, { ...link, writeThrough }, environment, (error) => this.fail(error));
    this.#link.start();
  }

  get status(): NbdClientStatus {
    const { connections, reconnects, inFlight, journalBytes } = this.#link;
    return { connections, reconnects, inFlight, replayBytes: journalBytes };
  }

  protected override watched(): WatchedFacts {
    const { connections, reconnects, replayBytes } = this.status;
    return { connections, reconnects, replay_bytes: replayBytes };
  }

  /** Also whether the server is there. */
  override health(): Health {
    const { state, ...rest } = this.#link.health();
    return state === "ok" ? worstHealth([super.health(), this.spaceHealth()]) : { state, ...rest };
  }

  // What makes flushes uncertain for good the link knows, and tells. One that failed because the server is away, with
  // everything kept that it should have covered, does not.
  protected override get failsForGood(): boolean {
    return this.failure !== undefined;
  }

  /** The same export is the same bytes, over however many connections. Who else serves them nobody can tell here. */
  places(offset: number, length: number): readonly Place[] {
    this.#place = placeOf(this.#uri, this.#place);
    return [{ on: `nbd ${this.#place}`, offset, length }];
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#isOnePiece(offset, into.length)) {
      return this.#submit(CMD.READ, 0, offset, into.length, into);
    }
    return this.#inPieces(offset, into.length, this.#piece, (at, length) =>
      this.#submit(CMD.READ, 0, at, length, into.subarray(at - offset, at - offset + length)),
    );
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const flags = this.#mutationFlags(fua);
    return this.#isOnePiece(offset, from.length)
      ? this.#submit(CMD.WRITE, flags, offset, from.length, from)
      : this.#inPieces(offset, from.length, this.#piece, (at, length) =>
          this.#submit(CMD.WRITE, flags, at, length, from.subarray(at - offset, at - offset + length)),
        );
  }

  /**
   * A server without FLUSH is asked for FUA on every write instead, so nothing is left to flush; one without
   * either was opened with `writeThrough`, which says the same.
   */
  protected override doFlush(): Promise<void> {
    return (this.#flags & FLAG.SEND_FLUSH) === 0 ? done : this.#link.flush();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    if (this.limits.capabilities.discard === "none") return done;
    const flags = this.#mutationFlags(false);
    return this.#inPieces(offset, length, this.#widePiece, (at, count) =>
      this.#submitWide(CMD.TRIM, flags, at, count),
    );
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    if (this.limits.capabilities.writeZeroes !== "native") {
      await super.doWriteZeroes(offset, length, options);
      return;
    }
    const flags =
      this.#mutationFlags(options.fua === true) | (options.mayUnmap === true ? 0 : CMD_FLAG.NO_HOLE);
    const rest = options.fast === true ? offset + (await this.#zeroFast(flags, offset, length)) : offset;
    await this.#inPieces(rest, offset + length - rest, this.#widePiece, (at, count) =>
      this.#submitWide(CMD.WRITE_ZEROES, flags, at, count),
    );
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    if (!this.limits.capabilities.extents) {
      yield* super.doExtents(offset, length);
      return;
    }
    // Connections may have to be brought together before one of them can speak for all.
    if (this.#stripe !== Number.POSITIVE_INFINITY && !this.limits.capabilities.readOnly) await this.doFlush();
    const end = offset + length;
    const merger = new ExtentMerger(this.limits.logicalBlockSize, offset);
    for (let at = offset; at < end; ) {
      const request = new Request(this.name, CMD.BLOCK_STATUS, 0, at, Math.min(end - at, this.#widePiece));
      try {
        await this.#link.submit(request);
      } catch (error) {
        if (this.#shrinks(error, request.length)) continue;
        throw error;
      }
      const asked = at + request.length;
      const descriptors = request.descriptors ?? [];
      for (let index = 0; index < descriptors.length && at < asked; index += 2) {
        // Only the last descriptor may reach past what was asked for.
        const count = Math.min(descriptors[index] as number, asked - at);
        merger.add(count, kindOf(descriptors[index + 1] as number));
        at += count;
      }
      yield* merger.take();
    }
    yield* merger.finish();
  }

  protected override doClose(): Promise<void> {
    return this.#link.close();
  }

  #submit(type: number, flags: number, offset: number, length: number, data?: Buffer): Promise<void> {
    return this.#link.submit(new Request(this.name, type, flags, offset, length, data));
  }

  /** Sends a request without payload, in smaller pieces if the server finds it too large. */
  async #submitWide(type: number, flags: number, offset: number, length: number): Promise<void> {
    try {
      await this.#submit(type, flags, offset, length);
    } catch (error) {
      if (!this.#shrinks(error, length)) throw error;
      await this.#inPieces(offset, length, this.#widePiece, (at, count) =>
        this.#submitWide(type, flags, at, count),
      );
    }
  }

  /** Zeroes a first piece and returns its length. Only that one may fail for not being fast: nothing has changed then. */
  async #zeroFast(flags: number, offset: number, length: number): Promise<number> {
    const first = Math.min(length, this.#pieceLength(offset, this.#widePiece));
    try {
      await this.#submit(CMD.WRITE_ZEROES, flags | CMD_FLAG.FAST_ZERO, offset, first);
      return first;
    } catch (error) {
      if (!this.#shrinks(error, first)) throw error;
      return this.#zeroFast(flags, offset, length);
    }
  }

  /** Whether the server may have found a request without payload too large; smaller ones are sent from now on. */
  #shrinks(error: unknown, length: number): boolean {
    const tooLarge = error instanceof BlockIoError && (error.code === "EINVAL" || error.code === "EOVERFLOW");
    if (!tooLarge || length <= this.#piece) return false;
    this.#widePiece = Math.min(this.#widePiece, length > WIDE_PIECE ? WIDE_PIECE : this.#piece);
    return true;
  }

  /** A server without FLUSH cannot be asked later, so it is asked with every mutation. */
  #mutationFlags(fua: boolean): number {
    return fua || (this.#flags & FLAG.SEND_FLUSH) === 0 ? this.#fuaFlag : 0;
  }

  #isOnePiece(offset: number, length: number): boolean {
    return length <= this.#piece && length <= this.#pieceLength(offset, this.#piece);
  }

  /** How long a piece at `offset` may be. */
  #pieceLength(offset: number, limit: number): number {
    if (this.#stripe === Number.POSITIVE_INFINITY) return limit;
    return Math.min(limit, this.#stripe - (offset % this.#stripe));
  }

  /** Runs `work` on all pieces of a range, some at a time; rejects with the first error when all have settled. */
  async #inPieces(
    offset: number,
    length: number,
    limit: number,
    work: (offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const pieces: Promise<void>[] = [];
      while (at < end && pieces.length < PIECES) {
        const count = Math.min(end - at, this.#pieceLength(at, limit));
        pieces.push(work(at, count));
        at += count;
      }
      await join(pieces);
    }
  }
}
