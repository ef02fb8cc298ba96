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
 * leaves a buffer to the garbage collector each time. Processor time in µs on a busy machine, Node 20, native library →
 * this: 4 KiB of text 7.1 → 4.9, of machine code 6.9 → 3.9, of zeroes behind random bytes 11 → 3.9, random 3.8 → 0.6;
 * 16 KiB 25 → 23, 17 → 15, 27 → 8, 11 → 7; at 64 KiB of random bytes the two copies cost more than they save.
 */
import { lz4DecodeModule } from "./lz4-decode-module.ts";

/** Bytes of content, and of a block, that can be decoded here. */
export const LONGEST: number = 32 * 1024;

// Bytes behind each range, see wasm/lz4-decode.wat.
const ROOM = 8;
const DST: number = 2 * LONGEST + ROOM;

interface Decoder {
  readonly memory: { readonly buffer: ArrayBuffer };
  readonly decode: (from: number, fromEnd: number, dst: number, dstEnd: number) => number;
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

/** Whether {@link lz4Decode} takes them. */
export function fitsLz4Decoder(src: Uint8Array, dst: Uint8Array): boolean {
  return dst.length <= LONGEST && src.length <= 2 * LONGEST;
}

/** Decodes one whole block that fits. @returns bytes written to `dst`; -1: no block, or it yields more than `dst` holds. */
export function lz4Decode(src: Uint8Array, dst: Uint8Array): number {
  loaded ??= load();
  const { bytes, decode } = loaded;
  bytes.set(src);
  const length = decode(0, src.length, DST, DST + dst.length);
  if (length > 0) dst.set(bytes.subarray(DST, DST + length));
  return length;
}
