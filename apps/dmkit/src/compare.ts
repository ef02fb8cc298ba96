/**
 * In which sectors two devices differ.
 *
 * What both call a hole is not read. Behind the end of the shorter one the other is compared with zeroes, so an image
 * equals a copy of it on a larger device whose rest was never written.
 */
import { type BlockDevice, ByteAccess, type Extent, SECTOR, inOrder, isZero, join } from "@dmkit/block-io";

/** How a comparison goes on; all may be left out. */
export interface CompareOptions {
  /** Bytes of each request; a multiple of 512. Default 1 MiB. */
  readonly requestSize?: number;
  /** Pieces that are read ahead, of both devices. Default 4. */
  readonly requests?: number;
  /** Bytes from the start that are compared. Default: all of the longer device. */
  readonly length?: number;
  /** Called with the bytes done so far, of the longer device. */
  readonly progress?: (bytes: number) => void;
  /** Ends it between requests. */
  readonly signal?: AbortSignal;
}

/** Sectors that differ, in bytes. */
export interface Difference {
  readonly offset: number;
  readonly length: number;
}

interface Piece {
  readonly offset: number;
  readonly length: number;
  /** Whether it has to be read; what need not reads as zeroes. */
  readonly reads: readonly [first: boolean, second: boolean];
}

/** The differences in order, neighbours in one. Errors: those of reading. */
export async function* differences(
  first: BlockDevice,
  second: BlockDevice,
  options: CompareOptions = {},
): AsyncGenerator<Difference> {
  let last: { readonly offset: number; length: number } | undefined;
  for await (const { offset, length } of unmerged(first, second, options)) {
    if (last !== undefined && last.offset + last.length === offset) {
      last.length += length;
      continue;
    }
    if (last !== undefined) yield last;
    last = length === 0 ? undefined : { offset, length };
  }
  if (last !== undefined) yield last;
}

/** Sectors in order, and nothing where a piece ends: what differs before that is known as a whole. */
async function* unmerged(
  first: BlockDevice,
  second: BlockDevice,
  { requestSize = 1 << 20, requests = 4, length: end, progress, signal }: CompareOptions,
): AsyncGenerator<Difference> {
  // A piece ends where an extent or the shorter device does, also inside of a block of the other one.
  const [one, other] = [new ByteAccess(first), new ByteAccess(second)];
  const compared = inOrder(pieces(first, second, requestSize, end), { most: requests }, async (piece) => {
    signal?.throwIfAborted();
    return { piece, found: await compare(piece, one, other) };
  });
  for await (const { piece, found } of compared) {
    yield* found;
    yield { offset: piece.offset + piece.length, length: 0 };
    progress?.(piece.offset + piece.length);
  }
}

async function compare(
  { offset, length, reads }: Piece,
  first: ByteAccess,
  second: ByteAccess,
): Promise<Difference[]> {
  const [one, other] = reads.map((isRead) => (isRead ? Buffer.allocUnsafeSlow(length) : undefined));
  await join(
    [one && first.read(offset, one), other && second.read(offset, other)].filter(
      (read) => read !== undefined,
    ),
  );
  const isSame = (from: number, to: number): boolean => {
    if (one !== undefined && other !== undefined)
      return one.subarray(from, to).equals(other.subarray(from, to));
    return isZero((one ?? other) as Buffer, from, to);
  };
  if (isSame(0, length)) return [];
  const found: Difference[] = [];
  for (let at = 0; at < length; at += SECTOR)
    if (!isSame(at, at + SECTOR)) found.push({ offset: offset + at, length: SECTOR });
  return found;
}

/** Pieces of at most `size` bytes that at least one device has to be read for, in order. */
async function* pieces(
  first: BlockDevice,
  second: BlockDevice,
  size: number,
  end = Math.max(first.size, second.size),
): AsyncGenerator<Piece> {
  const maps = [new Kinds(first), new Kinds(second)] as const;
  try {
    for (let offset = 0; offset < end; ) {
      const [one, other] = [await maps[0].at(offset), await maps[1].at(offset)];
      const until = Math.min(one.end, other.end, end);
      const reads = [one.isData, other.isData] as const;
      const length = one.isData || other.isData ? Math.min(until - offset, size) : until - offset;
      if (one.isData || other.isData) yield { offset, length, reads };
      offset += length;
    }
  } finally {
    await Promise.all(maps.map((map) => map.close()));
  }
}

interface Kind {
  readonly isData: boolean;
  /** Where it ends, at the earliest. */
  readonly end: number;
}

/** What is where on one device, asked in order. */
class Kinds {
  readonly #extents: AsyncIterator<Extent>;
  #current: Kind = { isData: false, end: 0 };

  constructor(device: BlockDevice) {
    this.#extents = device.extents(0, device.size)[Symbol.asyncIterator]();
  }

  /** @param offset not before an earlier one. Behind the end of the device there are zeroes. */
  async at(offset: number): Promise<Kind> {
    while (this.#current.end <= offset) {
      const next = await this.#extents.next();
      this.#current =
        next.done === true
          ? { isData: false, end: Number.POSITIVE_INFINITY }
          : { isData: next.value.kind === "data", end: next.value.offset + next.value.length };
    }
    return this.#current;
  }

  async close(): Promise<void> {
    await this.#extents.return?.();
  }
}
