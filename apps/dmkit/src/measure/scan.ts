/**
 * What a device holds: holes, zeroes, blocks that are equal. Every byte that is no hole is read once.
 *
 * A block of 4 KiB is a hole where no part of it is data, and zero where it is data and all of it reads as zeroes. So the
 * sizes of holes, zeroes and data add up to that of the device.
 */
import { hash } from "node:crypto";
import { type BlockDevice, inOrder, isZero } from "@dmkit/block-io";
import { Distinct } from "./distinct.ts";
import { EvenSample } from "./even-sample.ts";

/** Bytes of what holes, zeroes and equal blocks are counted in. */
export const BLOCK = 4096;

/** Bytes that are read together, aligned; a multiple of every unit. */
export const WINDOW: number = 2 ** 20;

/** Windows that are read ahead. */
const AHEAD = 4;

export interface ScanOptions {
  /** Units in which data are stored together, in bytes: powers of two, {@link BLOCK} … {@link WINDOW}. */
  readonly units: readonly number[];
  /** Pieces of the largest unit that are chosen, at the most. */
  readonly samples: number;
  readonly signal?: AbortSignal | undefined;
  /** Called with the bytes done so far. */
  readonly progress?: ((bytes: number) => void) | undefined;
}

/** What there is of units that are not zero. */
export interface Counted {
  /** Bytes in such units. */
  readonly bytes: number;
  /** Which share of the units is left if equal ones count once: 1 if there are none. */
  readonly distinct: number;
  /** Whether that was counted, and not estimated. */
  readonly exact: boolean;
}

/** All sizes in bytes. */
export interface Scan {
  readonly holes: number;
  readonly zeroes: number;
  readonly data: number;
  /** By unit; {@link BLOCK} is among them. */
  readonly counts: ReadonlyMap<number, Counted>;
  /** Where pieces of the largest unit begin that are not zero, evenly spread over all of them. */
  readonly sample: readonly number[];
}

interface Window {
  readonly offset: number;
  /** What of it is data, ascending. */
  readonly parts: { readonly offset: number; readonly length: number }[];
}

/** Errors: those of reading, the signal's reason. */
export async function scan(device: BlockDevice, options: ScanOptions): Promise<Scan> {
  const { signal, progress } = options;
  const units = [...new Set([BLOCK, ...options.units])];
  const counters = units.map((unit) => new Counter(unit));
  const largest = Math.max(...units);
  const sample = new EvenSample(options.samples);
  let touched = 0;
  let data = 0;
  const read = inOrder(windowsOf(device), { most: AHEAD }, async (window) => {
    signal?.throwIfAborted();
    return { window, bytes: await readWindow(device, window) };
  });
  for await (const { window, bytes } of read) {
    touched += touchedBytes(window, bytes.length);
    for (const counter of counters) {
      for (let at = 0; at < bytes.length; at += counter.unit) {
        const unit = bytes.subarray(at, at + counter.unit);
        if (isZero(unit)) continue;
        counter.add(unit);
        if (counter.unit === BLOCK) data += unit.length;
        if (counter.unit === largest) sample.offer(window.offset + at);
      }
    }
    progress?.(window.offset + bytes.length);
  }
  return {
    holes: device.size - touched,
    zeroes: touched - data,
    data,
    counts: new Map(counters.map((counter) => [counter.unit, counter.counted])),
    sample: sample.chosen,
  };
}

class Counter {
  readonly unit: number;
  readonly #distinct = new Distinct();
  #units = 0;
  #bytes = 0;

  constructor(unit: number) {
    this.unit = unit;
  }

  add(bytes: Buffer): void {
    this.#units += 1;
    this.#bytes += bytes.length;
    // 52 bits, which a number holds.
    this.#distinct.add(Number.parseInt(hash("sha256", bytes, "hex").slice(0, 13), 16));
  }

  get counted(): Counted {
    const { estimate, exact } = this.#distinct;
    const distinct = this.#units === 0 ? 1 : Math.min(1, estimate / this.#units);
    return { bytes: this.#bytes, distinct, exact };
  }
}

/** Windows with data in them, in order. */
async function* windowsOf(device: BlockDevice): AsyncGenerator<Window> {
  let window: Window | undefined;
  for await (const { offset, length, kind } of device.extents(0, device.size)) {
    if (kind !== "data") continue;
    for (let at = offset; at < offset + length; ) {
      const start = at - (at % WINDOW);
      const end = Math.min(start + WINDOW, offset + length);
      if (window?.offset !== start) {
        if (window !== undefined) yield window;
        window = { offset: start, parts: [] };
      }
      window.parts.push({ offset: at, length: end - at });
      at = end;
    }
  }
  if (window !== undefined) yield window;
}

async function readWindow(device: BlockDevice, { offset, parts }: Window): Promise<Buffer> {
  const bytes = Buffer.alloc(Math.min(WINDOW, device.size - offset));
  for (const part of parts)
    await device.read(part.offset, bytes.subarray(part.offset - offset).subarray(0, part.length));
  return bytes;
}

/** Bytes of the blocks of which some part is data. */
function touchedBytes({ offset, parts }: Window, length: number): number {
  let bytes = 0;
  let end = 0;
  for (const part of parts) {
    const first = Math.max(end, part.offset - offset - ((part.offset - offset) % BLOCK));
    end = Math.min(length, Math.ceil((part.offset + part.length - offset) / BLOCK) * BLOCK);
    bytes += Math.max(0, end - first);
  }
  return bytes;
}
