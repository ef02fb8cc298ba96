/** What data would take in a target that stores it otherwise than it is: for whoever asks before using one. */

/** An algorithm that makes data smaller, and the levels it has, if any. */
export interface FootprintAlgorithm {
  readonly name: string;
  readonly levels?: { readonly min: number; readonly max: number } | undefined;
}

/** Weighs data, one unit at a time. */
export interface Scale {
  /** Bytes that a unit takes; the last one of a device may be shorter. Errors: `ENOTSUP` as of `open`. */
  weigh(unit: Buffer): Promise<number>;
  close(): Promise<void>;
}

/** How a target stores data. What is zero takes nothing. */
export interface Footprint {
  /** Bytes that are stored together: a multiple of 4096, a power of two, at most 1 MiB. */
  readonly unit: number;
  /** Units that are equal are stored once. Default false. */
  readonly sharesEqual?: boolean;
  readonly algorithms: readonly FootprintAlgorithm[];
  /** Bytes for metadata of a device of `size` bytes, whatever is in it. */
  overhead(size: number): number;
  /** Errors: `ENOTSUP` where a library is missing, `EINVAL` for a level that is out of range. */
  open(algorithm: string, level?: number): Promise<Scale>;
}

/** Of a target that stores data as they are. @param overhead bytes of metadata, by the bytes of the device. */
export function plainFootprint(overhead: (size: number) => number): Footprint {
  const scale: Scale = { weigh: async ({ length }) => length, close: async () => {} };
  return { unit: 4096, algorithms: [{ name: "none" }], overhead, open: async () => scale };
}
