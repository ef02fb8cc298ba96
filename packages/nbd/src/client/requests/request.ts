/** One request as it goes over the wire, from its submission to its answer. */
import { BlockIoError, type Operation, type RangeGrant, printable } from "@dmkit/block-io";
import { CMD, CMD_FLAG, codeOfErrno } from "../../protocol.ts";
import type { Coverage } from "../wire/coverage.ts";

export class Request {
  /** Name of the device, for messages. */
  readonly device: string;
  /** Of {@link CMD}. */
  readonly type: number;
  /** Of {@link CMD_FLAG}. */
  flags: number;
  /** Bytes. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** Where a READ goes, or what is to be written; the caller's. */
  readonly data: Buffer | undefined;

  // -- On the wire: kept by the connection.
  cookieHigh = 0;
  cookieLow = 0;

  // -- The answer so far: kept by the reply reader.
  coverage: Coverage | undefined;
  error: BlockIoError | undefined;
  /** Block status: pairs of length and flags. */
  descriptors: readonly number[] | undefined;

  // -- Its way through the link.
  /** Order of submission. */
  sequence = 0;
  /** Milliseconds of the clock when it was sent, last if it was sent again. */
  sentAt = 0;
  /** Milliseconds of the clock since when it waits for a server to come back; NaN while it does not. */
  waitingSince: number = Number.NaN;
  /** What a flush will have made stable, see {@link Unflushed.mark}. */
  mark = 0;
  /** Bytes reserved for it in the journal. */
  reserved = 0;
  grant: RangeGrant | undefined;
  resolve: () => void = ignore;
  reject: (error: BlockIoError) => void = ignore;

  constructor(device: string, type: number, flags: number, offset: number, length: number, data?: Buffer) {
    this.device = device;
    this.type = type;
    this.flags = flags;
    this.offset = offset;
    this.length = length;
    this.data = data;
  }

  /** Whether it changes what the server holds. */
  get mutates(): boolean {
    return this.type === CMD.WRITE || this.type === CMD.WRITE_ZEROES || this.type === CMD.TRIM;
  }

  /** Whether its answer means that it is on stable storage. */
  get forced(): boolean {
    return (this.flags & CMD_FLAG.FUA) !== 0;
  }

  /** Bytes of payload, in either direction. */
  get payload(): number {
    return this.data === undefined ? 0 : this.length;
  }

  /** Forgets what was answered so far: the request is to be sent again. */
  renew(): void {
    // It may have been carried out; "not fast, nothing changed" would no longer be true.
    this.flags &= ~CMD_FLAG.FAST_ZERO;
    this.coverage = undefined;
    this.error = undefined;
    this.descriptors = undefined;
  }

  /** Remembers the first error the server reports. @param errno of the wire. */
  refuse(errno: number, text: string, at?: number): void {
    const code = codeOfErrno(errno);
    const where = at === undefined ? "" : ` at byte ${at}`;
    this.error ??= this.failure(
      code,
      // A text on several lines could pass for more than an error.
      text === "" ? `the server reports errno ${errno}${where}` : `${printable(text)}${where}`,
    );
  }

  /** @param cause whose hint helps here, too. */
  failure(code: BlockIoError["code"], reason: string, cause?: BlockIoError): BlockIoError {
    const range = this.type === CMD.FLUSH ? {} : { offset: this.offset, length: this.length };
    return new BlockIoError(reason, {
      code,
      device: this.device,
      op: operations[this.type],
      ...range,
      hint: cause?.hint,
      cause,
    });
  }
}

const operations: Readonly<Record<number, Operation>> = {
  [CMD.READ]: "read",
  [CMD.WRITE]: "write",
  [CMD.FLUSH]: "flush",
  [CMD.TRIM]: "discard",
  [CMD.WRITE_ZEROES]: "writeZeroes",
  [CMD.BLOCK_STATUS]: "extents",
};

function ignore(): void {}
