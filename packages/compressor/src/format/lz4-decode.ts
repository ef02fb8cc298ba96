/**
 * Decoding LZ4 blocks that are wanted at once. A block is sequences one after the other; the last ends with its literals:
 *
 *     | token | more of the literals' length | literals | offset, u16 | more of the match's length |
 *
 * | part | what |
 * |---|---|
 * | token | high 4 bits: literals, 15 = more follows; low 4 bits: length of the match minus 4, 15 = more follows |
 * | more | bytes that are added up, to the first that is not 255 |
 * | offset | little-endian, from 1: how far back in the output the match begins; it may overlap itself |
 *
 * The decoder is WebAssembly (wasm/lz4-decode.wat): a call of the native library costs more than decoding a page, and
 * leaves a buffer to the garbage collector each time. Where part of the content is wanted, what is behind it is not decoded.
 * Processor time in µs on a busy machine, Node 20, native library → this → 4 KiB of it, anywhere:
 *
 * | | 4 KiB | 16 KiB | 64 KiB | 128 KiB |
 * |---|---|---|---|---|
 * | zeroes behind random bytes, 4 KiB each | 8.5 → 0.6 | 17 → 1.7 → 1.0 | 71 → 7.5 → 3.2 | 91 → 15 → 6 |
 * | text | 7.5 → 4.5 | 21 → 18 → 14 | 73 → 87 → 43 | 124 → 129 → 55 |
 * | machine code | 5.8 → 2.6 | 19 → 15 → 11 | 64 → 69 → 35 | 95 → 125 → 48 |
 * | random bytes | 6.1 → 1.3 | 10 → 2.1 → 1.4 | 26 → 6.8 → 4.6 | 59 → 14 → 9.3 |
 */
import { lz4DecodeModule } from "./lz4-decode-module.ts";

/** Bytes of content that can be decoded here. */
export const LONGEST: number = 128 * 1024;
/** Bytes of a block: content that cannot be compressed gets longer. */
const LONGEST_BLOCK = LONGEST + 1024;

// Bytes behind each range, see wasm/lz4-decode.wat.
const ROOM = 8;
const DST: number = LONGEST_BLOCK + ROOM;
const NO_STOP = -1;

interface Decoder {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly decode: (from: number, fromEnd: number, dst: number, dstEnd: number, stop: number) => number;
}

/** As much of it as is used here: the types of Node leave it to those of browsers. */
declare const WebAssembly: {
  readonly Module: new (bytes: Uint8Array) => object;
  readonly Instance: new (module: object) => { readonly exports: unknown };
};

interface Loaded {
  readonly bytes: Uint8Array;
  readonly decode: Decoder["decode"];
}

let loaded: Loaded | undefined;

function load(): Loaded {
  const module = new WebAssembly.Module(Buffer.from(lz4DecodeModule, "base64"));
  const { memory, decode } = new WebAssembly.Instance(module).exports as Decoder;
  return { bytes: new Uint8Array(memory.buffer), decode };
}

/** Whether {@link lz4Decode} takes a block with at most `length` bytes of content. */
export function fitsLz4Decoder(src: Uint8Array, length: number): boolean {
  return length <= LONGEST && src.length <= LONGEST_BLOCK;
}

/**
 * Decodes one block that fits: into `dst`, what its content has from byte `from` on. Of what is behind that no more than a
 * sequence is looked at.
 * @param length the most bytes the content has.
 * @returns bytes written to `dst`; -1: no block as far as was looked, or it yields more than `length`.
 */
export function lz4Decode(src: Uint8Array, dst: Uint8Array, from = 0, length: number = dst.length): number {
  loaded ??= load();
  const { bytes, decode } = loaded;
  bytes.set(src);
  const wanted = from + dst.length;
  const decoded = decode(0, src.length, DST, DST + length, wanted < length ? DST + wanted : NO_STOP);
  if (decoded < 0) return -1;
  const end = Math.min(decoded, wanted);
  if (end > from) dst.set(bytes.subarray(DST + from, DST + end));
  return Math.max(0, end - from);
}
