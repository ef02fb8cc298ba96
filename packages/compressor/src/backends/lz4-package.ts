/**
 * LZ4 blocks through lz4-napi (native, memory-safe Rust), and short ones decoded here, see format/lz4-decode.ts. It is the
 * reference, and what decodes long ones whoever has made them. Where that package cannot be loaded, format/lz4-portable.ts
 * does the same, slower. Only the raw block leaves or enters this file: the four bytes of length that the library puts in
 * front are taken off and put back, see format/lz4-prefix.ts.
 * The length put back is our own `dst.length`, never an untrusted number, and the library yields at most that.
 *
 * Where the line to libuv's threads lies (bench/boundary.mjs; processor time in µs here → all in all on other
 * threads, Node 20, 2 busy cores): compress 4 KiB 28 → 49, 8 KiB 49 → 80, 16 KiB 97 → 114, 128 KiB 679 → 550;
 * decompress 16 KiB 34 → 67, 64 KiB 108 → 153, 128 KiB 248 → 276. A hand-over costs some 30 µs.
 */
import { type Backend, asBuffer, atOnce, deliver, missingPackage, notLoaded } from "../backend.ts";
import { type CompressorError, corrupt } from "../errors.ts";
import { fitsLz4Decoder, lz4Decode } from "../format/lz4-decode.ts";
import { lz4Compress, lz4Decompress } from "../format/lz4-portable.ts";
import { PREFIX_LENGTH, lengthInPrefix, writePrefixed } from "../format/lz4-prefix.ts";

const NAME = "lz4";
/** Bytes, the furthest that a match goes back. */
const WINDOW = 65_536;
const MAX_SCRATCH = 256 * 1024;

/** Blocks have a prefix, as lz4-napi has them. */
interface Library {
  compress(src: Uint8Array): Promise<Buffer>;
  compressSync(src: Buffer, dictionary?: Buffer): Buffer;
  uncompress(src: Buffer): Promise<Buffer>;
  uncompressSync(src: Buffer, dictionary?: Buffer): Buffer;
}

const portable: Library = {
  compressSync: (src) => Buffer.concat([Buffer.alloc(PREFIX_LENGTH), lz4Compress(src)]),
  compress: async (src) => portable.compressSync(asBuffer(src)),
  uncompressSync(src) {
    const dst = Buffer.allocUnsafe(lengthInPrefix(src));
    const length = lz4Decompress(src.subarray(PREFIX_LENGTH), dst);
    if (length < 0) throw malformed(undefined);
    return dst.subarray(0, length);
  },
  uncompress: async (src) => portable.uncompressSync(src),
};

let library: Library | undefined;
/** Prefix and block for one synchronous decompression at a time; grows to what is used, up to a limit. */
let scratch: Buffer = Buffer.alloc(0);

async function load(): Promise<void> {
  if (library !== undefined) return;
  try {
    library = (await import("lz4-napi")).default;
  } catch {
    library = portable;
  }
}

function loaded(): Library {
  if (library === undefined) throw notLoaded(NAME);
  return library;
}

/** What is portable has no dictionaries. */
async function loadPackage(): Promise<void> {
  await load();
  if (library === portable) throw missingPackage(NAME, "lz4-napi", undefined);
}

function compress(src: Uint8Array, dst: Uint8Array, dictionary?: Buffer): number {
  return deliver(loaded().compressSync(asBuffer(src), dictionary).subarray(PREFIX_LENGTH), dst);
}

async function compressAsync(src: Uint8Array, dst: Uint8Array): Promise<number> {
  return deliver((await loaded().compress(src)).subarray(PREFIX_LENGTH), dst);
}

function decompress(src: Uint8Array, dst: Uint8Array): number {
  return decompressPart(src, dst, 0, dst.length) ?? decompressInLibrary(src, dst);
}

function decompressInLibrary(src: Uint8Array, dst: Uint8Array, dictionary?: Buffer): number {
  const from = loaded();
  const prefixed = scratchFor(src.length);
  writePrefixed(prefixed, src, dst.length);
  let output: Buffer;
  try {
    output = from.uncompressSync(prefixed, dictionary);
  } catch (cause) {
    throw malformed(cause);
  }
  return deliverDecompressed(output, dst);
}

function decompressPart(src: Uint8Array, dst: Uint8Array, from: number, length: number): number | undefined {
  if (!fitsLz4Decoder(src, length)) return undefined;
  const decoded = lz4Decode(src, dst, from, length);
  if (decoded < 0) throw malformed(undefined);
  return decoded;
}

async function decompressAsync(src: Uint8Array, dst: Uint8Array): Promise<number> {
  const from = loaded();
  const prefixed = Buffer.allocUnsafe(src.length + PREFIX_LENGTH);
  writePrefixed(prefixed, src, dst.length);
  let output: Buffer;
  try {
    output = await from.uncompress(prefixed);
  } catch (cause) {
    throw malformed(cause);
  }
  return deliverDecompressed(output, dst);
}

function scratchFor(length: number): Buffer {
  const needed = length + PREFIX_LENGTH;
  if (needed > MAX_SCRATCH) return Buffer.allocUnsafeSlow(needed);
  if (needed > scratch.length) scratch = Buffer.allocUnsafeSlow(needed);
  return scratch.subarray(0, needed);
}

function deliverDecompressed(output: Buffer, dst: Uint8Array): number {
  const length = deliver(output, dst);
  if (length < 0) throw corrupt(NAME, "the output is longer than its buffer");
  return length;
}

function malformed(cause: unknown): CompressorError {
  return corrupt(NAME, "the input is not a well-formed LZ4 block", undefined, cause);
}

/** LZ4 through lz4-napi. */
export const lz4Package: Backend<undefined> = {
  name: NAME,
  description:
    "LZ4 blocks through the system's liblz4 or lz4-napi, or slower where neither can be loaded; fast, the default",
  syncCompress: 8192,
  syncDecompress: 65536,
  load,
  createContext: () => undefined,
  destroyContext: () => undefined,
  // The reference library's bound for its fast mode.
  bound: (length) => length + Math.floor(length / 255) + 16,
  compress: (src, dst) => compress(src, dst),
  decompress,
  decompressPart,
  compressAsync,
  decompressAsync,
  withDictionary(dictionary) {
    // The rest is out of reach of any match, and would be copied for every call.
    const reached = asBuffer(dictionary.subarray(-WINDOW));
    return atOnce(lz4Package, {
      load: loadPackage,
      compress: (src, dst) => compress(src, dst, reached),
      decompress: (src, dst) => decompressInLibrary(src, dst, reached),
    });
  },
};
