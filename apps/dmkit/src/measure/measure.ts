/** What a device holds, and what that would take where targets store it otherwise: see scan.ts. */
import {
  type BlockDevice,
  type Footprint,
  type OfflineWork,
  type Scale,
  codeOf,
  isZero,
  nextTurn,
} from "@dmkit/block-io";
import { BLOCK, type Scan, scan } from "./scan.ts";

/** A footprint with one of its algorithms. */
export interface Way {
  readonly target: string;
  readonly footprint: Footprint;
  readonly algorithm: string;
  /** Undefined: the algorithm's own. */
  readonly level: number | undefined;
}

/** What all data would take in one way; in bytes, metadata included. */
export interface Taken {
  readonly target: string;
  readonly algorithm: string;
  readonly level: number | undefined;
  /** Undefined: a library that it takes is missing. */
  readonly bytes: number | undefined;
  /** Bytes of data for each byte they are stored in. */
  readonly ratio: number | undefined;
}

/** What a device holds; in bytes. */
export interface Measured {
  readonly size: number;
  readonly holes: number;
  readonly zeroes: number;
  readonly data: number;
  /** Of the data, in blocks of 4 KiB of which there is an equal one that is counted. */
  readonly equal: number;
  /** Whether equal blocks were counted, and not estimated from some of them. */
  readonly exact: boolean;
  /** Data that were compressed to find out about the rest. */
  readonly sampled: number;
  readonly stored: readonly Taken[];
}

/** @param sample bytes that are compressed, at the most. Errors: those of reading, the signal's reason. */
export async function measure(
  device: BlockDevice,
  ways: readonly Way[],
  sample: number,
  work: OfflineWork,
): Promise<Measured> {
  const units = ways.map(({ footprint }) => footprint.unit);
  const piece = Math.max(BLOCK, ...units);
  const samples = Math.max(1, Math.floor(sample / piece));
  // Compressing is slower than reading: it counts several times.
  const weighing = (found: number): number => found * piece * ways.length * 4;
  const weighed = weighing(Math.min(samples, Math.ceil(device.size / piece)));
  const total = device.size + weighed;
  const found = await scan(device, {
    units,
    samples,
    signal: work.signal,
    progress: (bytes) => work.progress?.(bytes, total),
  });
  const pieces = await readSample(device, found.sample, piece, work);
  const stored: Taken[] = [];
  for (const way of ways) {
    const taken = await take(way, pieces, found, device.size, work);
    stored.push(taken);
    work.progress?.(device.size + (weighed / ways.length) * stored.length, total);
  }
  const { holes, zeroes, data, counts } = found;
  const { distinct = 1, exact = true } = counts.get(BLOCK) ?? {};
  const sampled = pieces.reduce((sum, { length }) => sum + length, 0);
  const equal = Math.round(data * (1 - distinct));
  return { size: device.size, holes, zeroes, data, equal, exact, sampled, stored };
}

async function readSample(
  device: BlockDevice,
  offsets: readonly number[],
  length: number,
  { signal }: OfflineWork,
): Promise<Buffer[]> {
  const pieces: Buffer[] = [];
  for (const offset of offsets) {
    signal?.throwIfAborted();
    const bytes = Buffer.allocUnsafeSlow(Math.min(length, device.size - offset));
    await device.read(offset, bytes);
    pieces.push(bytes);
  }
  return pieces;
}

async function take(
  { target, footprint, algorithm, level }: Way,
  pieces: readonly Buffer[],
  { data, counts }: Scan,
  size: number,
  work: OfflineWork,
): Promise<Taken> {
  const ratio = await weigh(footprint, algorithm, level, pieces, work);
  const counted = counts.get(footprint.unit);
  if (ratio === undefined || counted === undefined)
    return { target, algorithm, level, bytes: undefined, ratio: undefined };
  const all = counted.bytes * (footprint.sharesEqual === true ? counted.distinct : 1) * ratio;
  return {
    target,
    algorithm,
    level,
    bytes: Math.round(all + footprint.overhead(size)),
    ratio: all === 0 ? 1 : data / all,
  };
}

/** Bytes that a byte in units that are not zero takes. Undefined where a library is missing. */
async function weigh(
  footprint: Footprint,
  algorithm: string,
  level: number | undefined,
  pieces: readonly Buffer[],
  { signal, environment }: OfflineWork,
): Promise<number | undefined> {
  const { unit } = footprint;
  let scale: Scale | undefined;
  let [plain, weight] = [0, 0];
  try {
    scale = await footprint.open(algorithm, level);
    for (const piece of pieces) {
      await nextTurn(environment.scheduler);
      signal?.throwIfAborted();
      for (let at = 0; at < piece.length; at += unit) {
        const bytes = piece.subarray(at, at + unit);
        if (isZero(bytes)) continue;
        plain += bytes.length;
        weight += await scale.weigh(bytes);
      }
    }
  } catch (error) {
    if (codeOf(error) !== "ENOTSUP") throw error;
    return undefined;
  } finally {
    await scale?.close();
  }
  return plain === 0 ? 1 : weight / plain;
}
