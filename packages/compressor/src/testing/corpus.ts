/** Inputs of every kind that backends are tested with; the same for the same seed. */
import { SeededRandom } from "./random.ts";

/** Bytes, and what they are like. */
export interface Sample {
  readonly kind: SampleKind;
  readonly bytes: Buffer;
}

export const sampleKinds = ["text", "binary", "zeroes", "random", "pattern", "mixed"] as const;
export type SampleKind = (typeof sampleKinds)[number];

/** Lengths around which encodings change: tiny, length fields, pages, windows, the largest extent. */
export const sampleLengths: readonly number[] = [
  0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 16, 17, 18, 19, 20, 31, 33, 64, 237, 238, 239, 255, 256, 272, 273, 512,
  1000, 2048, 2049, 4095, 4096, 4097, 8192, 16384, 16385, 32768, 49151, 49152, 65536, 131072,
];

const words =
  "sector block device mapper target table segment cache dirty clean flush the a of and to is in superblock extent".split(
    " ",
  );

export function makeSample(kind: SampleKind, length: number, seed: number): Sample {
  const random = new SeededRandom(seed);
  const bytes = Buffer.alloc(length);
  fillers[kind](bytes, random);
  return { kind, bytes };
}

const fillers: Readonly<Record<SampleKind, (bytes: Buffer, random: SeededRandom) => void>> = {
  zeroes() {},
  random: (bytes, random) => random.fill(bytes),
  text(bytes, random) {
    for (let at = 0; at < bytes.length; ) {
      const word = `${random.pick(words)}${random.below(9) === 0 ? `-${random.below(1000)}.\n` : " "}`;
      at += bytes.write(word, at, "latin1");
    }
  },
  // Records: a counter, a few flags, a pointer-like number, padding; as in tables of metadata.
  binary(bytes, random) {
    for (let at = 0; at < bytes.length; at += 1) {
      const field = at % 24;
      if (field === 0) bytes[at] = at / 24;
      else if (field < 3) bytes[at] = random.below(4);
      else if (field < 9) bytes[at] = random.below(256);
      else if (field === 9) bytes[at] = 0x7f;
    }
  },
  // A short period, so that matches overlap what they produce.
  pattern(bytes, random) {
    const period = 1 + random.below(40);
    for (let at = 0; at < bytes.length; at += 1)
      bytes[at] = at < period ? random.below(256) : (bytes[at - period] as number);
  },
  // Pieces of everything, with repeats from far back: long and short runs, near and far matches.
  mixed(bytes, random) {
    for (let at = 0; at < bytes.length; ) {
      const length = 1 + random.below(random.pick([4, 20, 300, 3000]));
      const piece = bytes.subarray(at, at + length);
      if (at > 0 && random.below(2) === 0) bytes.copy(piece, 0, random.below(at), at);
      else random.fill(piece);
      at += length;
    }
  },
};
