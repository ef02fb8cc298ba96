/** What each command does to the device. Requests that come here have been found valid. */
import {
  type BlockDevice,
  type ByteAccess,
  type Environment,
  type Operation,
  Turnstile,
  done,
  FUA,
  nextTurn,
  refuse,
} from "@dmkit/block-io";
import { CMD, CMD_FLAG } from "../../protocol.ts";
import { RANGE_PIECE, statusReply } from "./block-status.ts";
import type { SizedBufferPool } from "../io/buffer-pool.ts";
import type { ServerContext } from "../context.ts";
import type { ServerLimits } from "../limits.ts";
import type { Agreement } from "../negotiation.ts";
import { slabOf } from "../io/outbox.ts";
import type { Replies } from "./replies.ts";
import type { Request } from "./request.ts";
import { HoleSense, sparseReply } from "./sparse-read.ts";

/** Bytes; what CACHE reads at a time. */
export const CACHE_PIECE: number = 256 * 1024;
// Bytes; what is zeroed at a time where that means writing zeroes.
const EMULATED_PIECE = 1024 * 1024 * 1024;

export class Operations {
  readonly #agreement: Agreement;
  readonly #access: ByteAccess;
  readonly #device: BlockDevice;
  readonly #limits: ServerLimits;
  readonly #buffers: SizedBufferPool;
  readonly #replies: Replies;
  readonly #holes: HoleSense;
  readonly #environment: Environment;
  // Ends with the last BLOCK_STATUS that was begun: they walk one after the other, so that a client's next one
  // costs the others no more than its first.
  readonly #walks = new Turnstile();
  #closed = false;

  constructor(agreement: Agreement, { environment, limits, buffers }: ServerContext, replies: Replies) {
    this.#environment = environment;
    this.#agreement = agreement;
    this.#access = agreement.exported.access;
    this.#device = agreement.exported.device;
    this.#limits = limits;
    this.#buffers = buffers;
    this.#replies = replies;
    const { capabilities } = this.#device.limits;
    this.#holes = new HoleSense(agreement.structured && capabilities.extents);
  }

  /**
   * Starts a request. What it has to say to the client beyond success is in the request when the promise
   * resolves: `slab` or `reply`.
   */
  start(request: Request, payload: Buffer): Promise<void> {
    const { type, offset, flags } = request;
    const fua = (flags & CMD_FLAG.FUA) !== 0;
    switch (type) {
      case CMD.READ:
        return this.#read(request);
      case CMD.WRITE:
        if (payload.length === 0) return fua ? this.#device.flush() : done;
        return this.#access.write(offset, payload, fua ? FUA : undefined);
      case CMD.FLUSH:
        return this.#device.flush();
      case CMD.TRIM:
        return this.#trim(request, fua);
      case CMD.CACHE:
        return this.#cache(request);
      case CMD.WRITE_ZEROES:
        return this.#zero(request, fua);
      default:
        return this.#status(request);
    }
  }

  /** The client is gone: nothing is begun any more that only it would want to know. */
  close(): void {
    this.#closed = true;
  }

  #read(request: Request): Promise<void> {
    const { offset, length, flags } = request;
    if (length === 0) return done;
    if ((flags & CMD_FLAG.DF) === 0 && this.#holes.worthAsking(length)) return this.#sparseRead(request);
    return this.#access.read(offset, this.#replies.reserve(request));
  }

  async #sparseRead(request: Request): Promise<void> {
    const { reply, holes } = await sparseReply(this.#access, this.#buffers, request);
    this.#holes.learned(holes);
    request.reply = reply;
  }

  async #trim({ offset, length }: Request, fua: boolean): Promise<void> {
    await this.#inPieces("discard", offset, length, RANGE_PIECE, (at, count) =>
      this.#access.discard(at, count),
    );
    if (fua) await this.#device.flush();
  }

  async #zero({ offset, length, flags }: Request, fua: boolean): Promise<void> {
    const mayUnmap = (flags & CMD_FLAG.NO_HOLE) === 0;
    const fast = (flags & CMD_FLAG.FAST_ZERO) !== 0;
    const native = this.#device.limits.capabilities.writeZeroes === "native";
    await this.#inPieces("writeZeroes", offset, length, native ? RANGE_PIECE : EMULATED_PIECE, (at, count) =>
      // Only the first may fail for not being fast: nothing has changed then.
      this.#access.writeZeroes(at, count, { fua, mayUnmap, fast: fast && at === offset }),
    );
    if (length === 0 && fua) await this.#device.flush();
  }

  /** Does what a header asks for piece by piece, whatever its length. Others have their turns between them. */
  async #inPieces(
    op: Operation,
    offset: number,
    length: number,
    step: number,
    work: (offset: number, length: number) => Promise<void>,
  ): Promise<void> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      if (at > offset) {
        await nextTurn(this.#environment.scheduler);
        this.#checkOpen(op);
      }
      const count = Math.min(end - at, step - (at % step));
      await work(at, count);
      at += count;
    }
  }

  #checkOpen(op: Operation): void {
    if (this.#closed) throw refuse(undefined, "ENOTCONN", "the connection is gone", undefined, op);
  }

  /** Reads the range, so that it is in whatever caches there are, and throws the bytes away. */
  async #cache({ offset, length }: Request): Promise<void> {
    // No more than a READ could ask for, or one header from a client would cost gigabytes of I/O.
    const end = offset + Math.min(length, this.#limits.maximumPayload);
    const scratch = Buffer.allocUnsafeSlow(Math.min(length, CACHE_PIECE));
    for (let at = offset; at < end; at += CACHE_PIECE) {
      await this.#access.read(at, scratch.subarray(0, Math.min(CACHE_PIECE, end - at)));
    }
  }

  #status(request: Request): Promise<void> {
    return this.#walks.pass(() => this.#walk(request));
  }

  async #walk(request: Request): Promise<void> {
    this.#checkOpen("extents");
    const limits = {
      scheduler: this.#environment.scheduler,
      descriptors: this.#limits.extentsPerReply,
    };
    const contexts = request.contexts ?? this.#agreement.contexts;
    request.reply = slabOf(await statusReply(contexts, this.#device, request, limits));
  }
}
