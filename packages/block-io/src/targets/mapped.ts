/**
 * Devices that hand every request on to devices below them, cut into pieces where it crosses from one to the
 * next: linear, striped, and the segments of a table.
 *
 * The abilities of such a device are the least of what the devices below it can do.
 */
import { stackLimits } from "../contract/limits.ts";
import {
  type BlockDevice,
  type Extent,
  type Place,
  type StorageFacts,
  FUA,
  type WriteZeroesOptions,
  done,
  storageBelow,
  withCapabilities,
} from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";
import { join } from "../sync/join.ts";
import { GuardedTarget } from "../dm/target.ts";

/** A run of bytes on a lower device. */
export interface Piece {
  readonly device: BlockDevice;
  /** Bytes on the lower device. */
  readonly offset: number;
  /** Bytes from the start of the piece that stay on the same device; at least 1. */
  readonly length: number;
}

/**
 * The base of devices that hand every request on, cut into pieces where it crosses from one lower device to the next.
 */
export abstract class MappedDevice extends GuardedTarget {
  readonly #lowers: readonly BlockDevice[];

  /** @param joints as {@link stackLimits} has them. */
  constructor(
    name: string,
    size: number,
    lowers: readonly BlockDevice[],
    joints: readonly number[],
    { optimalTransfer, readOnly = false }: { optimalTransfer?: number | undefined; readOnly?: boolean } = {},
  ) {
    const limits = stackLimits(lowers, joints);
    const own = optimalTransfer === undefined ? limits : { ...limits, optimalTransfer };
    super(name, size, readOnly ? withCapabilities(own, { readOnly }) : own);
    // A device that is used twice needs one flush only.
    this.#lowers = [...new Set(lowers)];
  }

  /** Where the byte at `offset` lives, and for how long the mapping goes on from there. */
  protected abstract locate(offset: number): Piece;

  places(offset: number, length: number): readonly Place[] {
    const places: Place[] = [];
    for (let at = 0; at < length; ) {
      const piece = this.locate(offset + at);
      const count = Math.min(piece.length, length - at);
      places.push({ on: piece.device, offset: piece.offset, length: count });
      at += count;
    }
    return places;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const { device, offset: below, length } = this.locate(offset);
    if (into.length <= length) return device.read(below, into);
    return this.#pieces(offset, into.length, (piece, at) =>
      piece.device.read(piece.offset, into.subarray(at, at + piece.length)),
    );
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const { device, offset: below, length } = this.locate(offset);
    if (from.length <= length) return device.write(below, from, fua ? FUA : undefined);
    return this.#pieces(offset, from.length, (piece, at) =>
      piece.device.write(piece.offset, from.subarray(at, at + piece.length), fua ? FUA : undefined),
    );
  }

  protected override doFlush(): Promise<void> {
    const [only, second] = this.#lowers;
    if (only === undefined) return done;
    return second === undefined ? only.flush() : join(this.#lowers.map((device) => device.flush()));
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#pieces(offset, length, (piece) => piece.device.discard(piece.offset, piece.length));
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    const first = this.locate(offset);
    // A fast zero that fails half way would have changed something: pieces cannot promise it.
    if (options.fast && length > first.length) {
      throw new BlockIoError("zeroing across devices is not fast", {
        code: "ENOTSUP",
        device: this.name,
        op: "writeZeroes",
        offset,
        length,
      });
    }
    await this.#pieces(offset, length, (piece) =>
      piece.device.writeZeroes(piece.offset, piece.length, options),
    );
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    for (let at = 0; at < length; ) {
      const piece = this.locate(offset + at);
      const count = Math.min(piece.length, length - at);
      for await (const extent of piece.device.extents(piece.offset, count)) {
        yield { offset: offset + at, length: extent.length, kind: extent.kind };
        at += extent.length;
      }
    }
  }

  async storage(): Promise<readonly StorageFacts[]> {
    return storageBelow(this.#lowers);
  }

  #pieces(offset: number, length: number, work: (piece: Piece, at: number) => Promise<void>): Promise<void> {
    const running: Promise<void>[] = [];
    for (let at = 0; at < length; ) {
      const piece = this.locate(offset + at);
      const count = Math.min(piece.length, length - at);
      running.push(work({ ...piece, length: count }, at));
      at += count;
    }
    return join(running);
  }
}
