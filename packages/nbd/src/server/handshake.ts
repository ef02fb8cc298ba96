/**
 * The handshake's bytes: greeting out, client flags and options in, one at a time.
 *
 * Invariant: a peer that has not entered an export holds at most one received chunk, one option's data and
 * the unsent rest of one option's replies. No option is looked at while replies are waiting to leave.
 *
 * TLS begins between two options, and what follows is another handshake on another stream: it has no greeting, and
 * counts on from where this one was. A client that does not wait for TLS to be granted is hung up on: what it sent in
 * plain text might have been put there by somebody else.
 */
import type { Duplex } from "node:stream";
import {
  CLIENT_FLAGS_LENGTH,
  HANDSHAKE_FLAG,
  OPTION_HEADER_LENGTH,
  type OptionHeader,
  decodeClientFlags,
  decodeOptionHeader,
  encodeGreeting,
} from "../protocol.ts";
import type { Phase, ServerContext } from "./context.ts";
import type { Peer } from "./exports/access.ts";
import type { ChunkOrigin } from "./io/intake.ts";
import { type Agreement, type Denial, Negotiation, type Step, type TlsState } from "./negotiation.ts";

/** What becomes of the connection. */
export interface HandshakeEvents {
  /** The handshake is over; `rest` arrived behind it. */
  agreed(agreement: Agreement, rest: Buffer, origin: ChunkOrigin): void;
  /** TLS was granted: another handshake goes on where this one was. */
  secure(before: HandshakeProgress): void;
  /** Say goodbye. */
  finished(): void;
  /** Hang up. */
  violated(reason: string): void;
}

/** What outlives the beginning of TLS: the client's flags, and what it has used of its limits. */
export interface HandshakeProgress {
  readonly flags: number;
  readonly options: number;
  readonly bytes: number;
}

const FLAGS = HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES;
const nothing = Buffer.alloc(0);

type Expecting = "flags" | "header" | "data" | "skipped" | "nothing";

export class Handshake implements Phase {
  readonly #stream: Duplex;
  readonly #context: ServerContext;
  readonly #events: HandshakeEvents;
  readonly #negotiation: Negotiation;
  #chunk: Buffer = nothing;
  #origin: ChunkOrigin | undefined;
  #at = 0;
  #expecting: Expecting = "flags";
  // What is being collected, and how much of it is there.
  #piece: Buffer = Buffer.alloc(CLIENT_FLAGS_LENGTH);
  #filled = 0;
  #header: OptionHeader = { option: 0, length: 0 };
  #skip = 0;
  #options = 0;
  #bytes = 0;
  #draining = false;

  /**
   * @param denial why this client gets nothing, if it does not.
   * @param peer who it is, as far as that is sure by now.
   * @param before what was before TLS began; without it this begins with a greeting.
   */
  constructor(
    stream: Duplex,
    context: ServerContext,
    events: HandshakeEvents,
    denial: () => Denial | undefined,
    tls: TlsState,
    peer: Peer,
    before?: HandshakeProgress,
  ) {
    this.#stream = stream;
    this.#context = context;
    this.#events = events;
    const { exports, limits } = context;
    this.#negotiation = new Negotiation({
      exports,
      maximumPayload: limits.maximumPayload,
      connections: limits.connections,
      denial,
      tls,
      peer,
    });
    if (before === undefined) {
      stream.write(encodeGreeting(FLAGS));
      return;
    }
    this.#negotiation.flags = before.flags;
    this.#options = before.options;
    this.#bytes = before.bytes;
    this.#expect("header", OPTION_HEADER_LENGTH);
  }

  receive(chunk: Buffer, origin: ChunkOrigin): void {
    this.#chunk = chunk;
    this.#origin = origin;
    this.#at = 0;
    this.#parse();
    // What cannot be looked at yet is kept.
    if (this.#draining) origin.hold();
  }

  space(): undefined {
    return undefined;
  }

  filled(): void {}

  ended(): void {
    this.#expecting = "nothing";
    this.#events.finished();
  }

  stop(): void {
    // Options get ERR_SHUTDOWN from now on; the server hangs up when its other clients are done.
  }

  stalled(): string | undefined {
    // The handshake as a whole has a time limit, which the connection keeps.
    return undefined;
  }

  closed(): void {
    this.#expecting = "nothing";
    this.#chunk = nothing;
  }

  #parse(): void {
    while (!this.#draining && this.#expecting !== "nothing" && this.#at < this.#chunk.length) {
      if (this.#expecting === "skipped") this.#skipData();
      else this.#collect();
    }
  }

  #collect(): void {
    const count = Math.min(this.#piece.length - this.#filled, this.#chunk.length - this.#at);
    this.#chunk.copy(this.#piece, this.#filled, this.#at, this.#at + count);
    this.#filled += count;
    this.#at += count;
    if (this.#filled < this.#piece.length) return;
    if (this.#expecting === "flags") this.#takeFlags(decodeClientFlags(this.#piece));
    else if (this.#expecting === "header") this.#takeHeader(this.#piece);
    else this.#take(this.#negotiation.option(this.#header.option, this.#piece));
  }

  #skipData(): void {
    const count = Math.min(this.#skip, this.#chunk.length - this.#at);
    this.#skip -= count;
    this.#at += count;
    if (this.#skip > 0) return;
    const { option, length } = this.#header;
    this.#take(this.#negotiation.tooLong(option, length, this.#context.limits.optionLength));
  }

  #takeFlags(flags: number): void {
    if ((flags & ~FLAGS) !== 0) {
      this.#violated(`unknown client flags 0x${flags.toString(16)}`);
      return;
    }
    this.#negotiation.flags = flags;
    this.#expect("header", OPTION_HEADER_LENGTH);
  }

  #takeHeader(piece: Buffer): void {
    const { handshakeOptions, handshakeBytes, optionLength } = this.#context.limits;
    try {
      this.#header = decodeOptionHeader(piece);
    } catch (error) {
      this.#violated((error as Error).message);
      return;
    }
    const { option, length } = this.#header;
    this.#options += 1;
    this.#bytes += length;
    if (this.#options > handshakeOptions || this.#bytes > handshakeBytes) {
      this.#violated(`${this.#options} options with ${this.#bytes} bytes are too many for one handshake`);
    } else if (length === 0) {
      this.#take(this.#negotiation.option(option, nothing));
    } else if (length <= optionLength) {
      this.#expect("data", length);
    } else {
      this.#skip = length;
      this.#expecting = "skipped";
    }
  }

  #take({ replies, next, agreement }: Step): void {
    this.#expect("header", OPTION_HEADER_LENGTH);
    if (next === "secure") {
      this.#secure(replies);
      return;
    }
    this.#stream.cork();
    for (const reply of replies) this.#stream.write(reply);
    this.#stream.uncork();
    if (next === "close") {
      this.#expecting = "nothing";
      this.#events.finished();
    } else if (next === "transmit" && agreement !== undefined) {
      this.#expecting = "nothing";
      const rest = this.#chunk.subarray(this.#at);
      this.#chunk = nothing;
      this.#events.agreed(agreement, rest, this.#origin as ChunkOrigin);
    } else if (this.#stream.writableNeedDrain) {
      this.#awaitDrain();
    }
  }

  /** Nothing is read any more once the client knows: what it sends then is not for us. */
  #secure(replies: readonly Buffer[]): void {
    if (this.#at < this.#chunk.length) {
      this.#violated("it sent something in plain text behind its request for TLS");
      return;
    }
    this.#expecting = "nothing";
    this.#stream.pause();
    this.#stream.write(Buffer.concat(replies), () => {
      this.#events.secure({
        flags: this.#negotiation.flags,
        options: this.#options,
        bytes: this.#bytes,
      });
    });
  }

  #awaitDrain(): void {
    this.#draining = true;
    this.#stream.pause();
    this.#stream.once("drain", () => {
      this.#draining = false;
      // Before the rest is looked at: what comes after the handshake may want to pause it again.
      this.#stream.resume();
      this.#parse();
      if (!this.#draining) this.#origin?.release();
    });
  }

  #expect(what: Expecting, length: number): void {
    this.#expecting = what;
    this.#piece = Buffer.allocUnsafe(length);
    this.#filled = 0;
  }

  #violated(reason: string): void {
    this.#expecting = "nothing";
    this.#events.violated(reason);
  }
}
