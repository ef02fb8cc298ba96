/**
 * Raw deflate (RFC 1951, neither zlib nor gzip header, no checksum) through node:zlib.
 *
 * Where the line to libuv's threads lies (bench/boundary.mjs; processor time in µs here → all in all on other
 * threads, Node 20, 2 busy cores): compress 4 KiB 231 → 439, 8 KiB 406 → 561, 128 KiB 7472 → 6261; decompress
 * 8 KiB 52 → 101, 16 KiB 77 → 134, 32 KiB 124 → 173, 128 KiB 606 → 555.
 */
import { deflateRaw, deflateRawSync, inflateRaw, inflateRawSync, type ZlibOptions } from "node:zlib";
import { type Backend, type ContextSettings, atOnce, deliver } from "../backend.ts";
import { type CompressorError, corrupt } from "../errors.ts";

const NAME = "deflate";
/** Bytes, the furthest that a match goes back. */
const WINDOW = 32_768;

/** With `info: true` node:zlib returns the engine, which knows how much of the input was consumed. */
interface Inflated {
  readonly buffer: Buffer;
  readonly engine: { readonly bytesWritten: number };
}

interface DeflateContext {
  readonly level: number;
}

function createContext({ level }: ContextSettings): DeflateContext {
  return { level };
}

/**
 * Deflate's worst case is incompressible data in stored blocks, 5 bytes each. zlib ends a block after 16383
 * literals with its default buffers; twice as many blocks are counted here.
 */
function bound(length: number): number {
  return length + 5 * (Math.ceil(length / 8192) + 1) + 8;
}

function compress(
  src: Uint8Array,
  dst: Uint8Array,
  context: DeflateContext,
  dictionary?: Uint8Array,
): number {
  const options = { ...deflateOptions(src, context), ...(dictionary && { dictionary }) };
  return deliver(deflateRawSync(src, options), dst);
}

function compressAsync(src: Uint8Array, dst: Uint8Array, context: DeflateContext): Promise<number> {
  return new Promise((resolve, reject) => {
    deflateRaw(src, deflateOptions(src, context), (error, output) => {
      if (error === null) resolve(deliver(output, dst));
      else reject(error);
    });
  });
}

function deflateOptions(src: Uint8Array, { level }: DeflateContext): ZlibOptions {
  // One output buffer that holds everything: no list of chunks to be joined.
  return { level, chunkSize: Math.max(64, bound(src.length)) };
}

function decompress(src: Uint8Array, dst: Uint8Array, dictionary?: Uint8Array): number {
  let result: Inflated;
  try {
    const options = { ...inflateOptions(dst), ...(dictionary && { dictionary }) };
    result = inflateRawSync(src, options) as unknown as Inflated;
  } catch (cause) {
    throw malformed(cause);
  }
  return deliverInflated(result, src, dst);
}

function decompressAsync(src: Uint8Array, dst: Uint8Array): Promise<number> {
  return new Promise((resolve, reject) => {
    inflateRaw(src, inflateOptions(dst), (error, output) => {
      if (error !== null) {
        reject(malformed(error));
        return;
      }
      try {
        resolve(deliverInflated(output as unknown as Inflated, src, dst));
      } catch (reason) {
        reject(reason);
      }
    });
  });
}

function inflateOptions(dst: Uint8Array): ZlibOptions {
  // zlib stops as soon as it has produced more than dst holds, however much a hostile input would yield.
  return { chunkSize: Math.max(64, dst.length), maxOutputLength: Math.max(1, dst.length), info: true };
}

function deliverInflated({ buffer, engine }: Inflated, src: Uint8Array, dst: Uint8Array): number {
  if (engine.bytesWritten !== src.length) {
    throw corrupt(NAME, "bytes follow the end of the stream", engine.bytesWritten);
  }
  const length = deliver(buffer, dst);
  if (length < 0) throw corrupt(NAME, "the output is longer than its buffer");
  return length;
}

function malformed(cause: unknown): CompressorError {
  return corrupt(NAME, "the input is not a well-formed deflate stream", undefined, cause);
}

export const deflate: Backend<DeflateContext> = {
  name: NAME,
  description: "raw deflate (RFC 1951) through node:zlib; smaller and slower, needs no package",
  levels: { min: 1, max: 9, default: 6 },
  syncCompress: 4096,
  syncDecompress: 16384,
  createContext,
  destroyContext: () => undefined,
  bound,
  compress: (src, dst, context) => compress(src, dst, context),
  decompress: (src, dst) => decompress(src, dst),
  compressAsync,
  decompressAsync,
  withDictionary(dictionary) {
    // The rest is out of reach of any match, and would be copied for every call.
    const reached = dictionary.subarray(-WINDOW);
    return atOnce(deflate, {
      compress: (src, dst, context) => compress(src, dst, context, reached),
      decompress: (src, dst) => decompress(src, dst, reached),
    });
  },
};
