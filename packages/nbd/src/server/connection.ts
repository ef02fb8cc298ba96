/**
 * One connection: its stream, its two phases and its end.
 *
 *     handshake --agreed--> transmission --finished--> lingering --> closed
 *      |     ^   '----------------'--- violated, stalled, dropped ----^
 *      '-TLS-'   of another stream: the one the TLS engine makes of the first
 *
 * Lingering: our side is closed, what the peer still sends is thrown away until it closes its side, so that
 * the last replies are not lost in a reset connection.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import { BlockIoError, type Timer, toBlockIoError } from "@dmkit/block-io";
import { REP } from "../protocol.ts";
import type { ClientStatus } from "./client-status.ts";
import type { Phase, ServerContext } from "./context.ts";
import type { Access } from "./exports/access.ts";
import type { Export, ExportClient } from "./exports/export.ts";
import { type ChunkOrigin, type Intake, type IntakeSink, openIntake } from "./io/intake.ts";
import type { ServerTls } from "../tls/server-tls.ts";
import { Handshake, type HandshakeEvents, type HandshakeProgress } from "./handshake.ts";
import type { Agreement, Denial, TlsState } from "./negotiation.ts";
import { Transmission, type TransmissionEvents } from "./transmission.ts";

const LINGER = 1000;
const KEEP_ALIVE = 60_000;

// Of this process, ever.
let connections = 0;

/** By which way a client comes. */
export interface Entrance {
  /** A socket that was accepted just now and has not been read. */
  readonly accepted: boolean;
  readonly tls: ServerTls | undefined;
  /** What is asked of all who come that way. */
  readonly access: Access;
}

/** Whatever arrives is thrown away. */
const lingering: Phase = {
  receive() {},
  space: () => undefined,
  filled() {},
  ended() {},
  stop() {},
  stalled: () => undefined,
  closed() {},
};

export class Connection implements ExportClient, HandshakeEvents, TransmissionEvents, IntakeSink {
  #stream: Duplex;
  #intake: Intake;
  readonly #context: ServerContext;
  readonly #tls: ServerTls | undefined;
  readonly #access: Access;
  #address: string | undefined;
  // By which it is known in the log, once that is sure.
  #identity: string | undefined;
  readonly #denial: Denial | undefined;
  readonly #onClosed: (connection: Connection) => void;
  #phase: Phase = lingering;
  #exported: Export | undefined;
  readonly #id: number = (connections += 1);
  readonly #since: number;
  #isSecure = false;
  #readOnly = false;
  #timer: Timer | undefined;
  #closed = false;
  #transmission: Transmission | undefined;

  /**
   * @param denial why the client gets nothing but an error, if it does not.
   * @param time milliseconds for the handshake.
   */
  constructor(
    given: Duplex,
    { accepted, tls, access }: Entrance,
    context: ServerContext,
    time: number,
    denial: Denial | undefined,
    onClosed: (connection: Connection) => void,
  ) {
    this.#context = context;
    this.#since = context.environment.clock.wallTime();
    this.#denial = denial;
    this.#onClosed = onClosed;
    this.#tls = tls;
    this.#access = access;
    this.#intake = openIntake(given, accepted, this, context.buffers);
    const { stream } = this.#intake;
    this.#stream = stream;
    if (stream instanceof Socket) {
      stream.setNoDelay(true);
      stream.setKeepAlive(true, KEEP_ALIVE);
      this.#address = stream.remoteAddress;
    }
    this.#timer = context.environment.clock.after(time, () => this.drop("it did not complete the handshake"));
    this.#shakeHands(tls === undefined ? "off" : tls.required ? "required" : "offered", []);
  }

  #shakeHands(tls: TlsState, identities: readonly string[], before?: HandshakeProgress): void {
    const stream = this.#stream;
    const peer = { address: this.#address, identities, entrance: this.#access };
    this.#phase = new Handshake(stream, this.#context, this, () => this.#denied(), tls, peer, before);
    stream.on("end", () => {
      if (stream === this.#stream) this.#phase.ended();
    });
    stream.on("error", (error) => this.#failed(error));
    // The stream below TLS goes with it.
    stream.on("close", () => {
      if (stream === this.#stream) this.#closedNow();
    });
  }

  /** Undefined unless it has entered an export, and is there. */
  get status(): ClientStatus | undefined {
    const [exported, counts] = [this.#exported, this.#transmission?.counts];
    if (exported === undefined || counts === undefined || this.#closed) return undefined;
    return {
      id: this.#id,
      export: exported.name,
      address: this.#address,
      identity: this.#identity,
      tls: this.#isSecure,
      readOnly: this.#readOnly,
      since: this.#since,
      ...counts,
    };
  }

  /** Whether the client has entered an export and has not said goodbye. */
  get transmitting(): boolean {
    return this.#exported !== undefined && !this.#closed;
  }

  /** The server is being shut down: finish what is in flight. */
  stop(): void {
    this.#phase.stop();
  }

  /** Drops the client if it made no progress for too long. @param now milliseconds. */
  check(now: number): void {
    // A lingering client may still have replies to take.
    const reason = this.#phase.stalled(now) ?? this.#transmission?.stalled(now);
    if (reason !== undefined) this.drop(reason);
  }

  /** Hangs up without another word. What is in flight is finished, and its replies are thrown away. */
  drop(reason: string): void {
    if (this.#closed) return;
    this.#context.environment.logger.log("warn", "NBD client dropped", {
      export: this.#exported?.name,
      reason,
    });
    this.#stream.destroy();
  }

  // -- What the intake asks --

  get trusted(): boolean {
    return this.#exported !== undefined;
  }

  receive(chunk: Buffer, origin: ChunkOrigin): void {
    try {
      this.#phase.receive(chunk, origin);
    } catch (error) {
      // A bug of ours must not take the other clients down with it.
      this.broken(error);
    }
  }

  space(): Buffer | undefined {
    return this.#phase.space();
  }

  filled(count: number): void {
    try {
      this.#phase.filled(count);
    } catch (error) {
      this.broken(error);
    }
  }

  charge(bytes: number): boolean {
    return this.#transmission?.charge(bytes) ?? false;
  }

  refund(bytes: number): void {
    this.#transmission?.refund(bytes);
  }

  // -- What the phases report --

  agreed(agreement: Agreement, rest: Buffer, origin: ChunkOrigin): void {
    this.#timer?.cancel();
    this.#exported = agreement.exported;
    this.#readOnly = agreement.readOnly;
    agreement.exported.joined(this);
    this.#context.environment.logger.log("info", "NBD client connected", {
      export: this.#exported.name,
      address: this.#address,
      identity: this.#identity,
      readOnly: agreement.readOnly,
    });
    this.#transmission = new Transmission(this.#stream, this.#context, agreement, this);
    this.#phase = this.#transmission;
    if (rest.length > 0) this.receive(rest, origin);
  }

  secure(before: HandshakeProgress): void {
    if (this.#closed || this.#tls === undefined) return;
    this.#phase = lingering;
    this.#intake.detach();
    this.#tls.start(this.#stream, {
      secured: (socket, identities) => {
        if (this.#closed) {
          socket.destroy();
          return;
        }
        this.#stream = socket;
        this.#isSecure = true;
        this.#intake = openIntake(socket, false, this, this.#context.buffers);
        this.#identity = identities[0];
        this.#shakeHands("secure", identities, before);
      },
      failed: (reason) => this.drop(reason),
    });
  }

  violated(reason: string): void {
    this.drop(reason);
  }

  broken(error: unknown): void {
    const { message, stack } = error instanceof Error ? error : new Error(String(error));
    this.#context.environment.logger.log("error", "NBD connection ended by a failure of the server", {
      export: this.#exported?.name,
      message,
      stack,
    });
    this.#stream.destroy();
  }

  finished(): void {
    if (this.#closed) return;
    this.#phase = lingering;
    this.#stream.end(() => {
      if (this.#closed) return;
      this.#timer?.cancel();
      this.#timer = this.#context.environment.clock.after(LINGER, () => this.#stream.destroy());
    });
    // The peer's end of the stream is only seen by reading.
    this.#stream.resume();
  }

  #denied(): Denial | undefined {
    return this.#context.stopping ? shutdown : this.#denial;
  }

  #failed(error: unknown): void {
    const { code, message } = toBlockIoError(error, { op: "connect" });
    const level = error instanceof BlockIoError || code === "ENOTCONN" ? "info" : "warn";
    this.#context.environment.logger.log(level, "NBD connection failed", { code, message });
    this.#stream.destroy();
  }

  #closedNow(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#timer?.cancel();
    this.#phase.closed();
    this.#transmission?.closed();
    this.#exported?.left(this);
    this.#onClosed(this);
  }
}

const shutdown: Denial = { type: REP.ERR_SHUTDOWN, text: "the server is being shut down" };
