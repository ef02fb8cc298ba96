/**
 * Zstandard through node:zlib, where this Node has it; its asynchronous calls run on libuv's thread pool.
 *
 * Where the line lies (bench/boundary.mjs; processor time in µs here → all in all on other threads, Node 22,
 * 2 busy cores): compress 4 KiB 78 → 114, 16 KiB 367 → 436, 128 KiB 2073 → 2395; decompress 4 KiB 47 → 112,
 * 8 KiB 80 → 98, 16 KiB 78 → 132, 128 KiB 395 → 487.
 */
import assert from "node:assert";
import zlib from "node:zlib";
import { type Backend, deliver } from "../backend.ts";
import { type CompressorError } from "../errors.ts";
import { zstdContentSize } from "../format/zstd-frame.ts";
import {
  NAME,
  type ZstdContext,
  bound,
  createContext,
  description,
  levels,
  malformed,
  wrongSize,
} from "./zstd-common.ts";

interface ZstdOptions {
  readonly params?: Readonly<Record<number, number>>;
  readonly pledgedSrcSize?: number;
  readonly chunkSize?: number;
  readonly maxOutputLength?: number;
}

type Callback = (error: Error | null, output: Buffer) => void;

/** The part of node:zlib that Node 20 and its types do not have. */
interface ZlibWithZstd {
  readonly constants: { readonly ZSTD_c_compressionLevel: number };
  zstdCompressSync(src: Uint8Array, options: ZstdOptions): Buffer;
  zstdDecompressSync(src: Uint8Array, options: ZstdOptions): Buffer;
  zstdCompress(src: Uint8Array, options: ZstdOptions, callback: Callback): void;
  zstdDecompress(src: Uint8Array, options: ZstdOptions, callback: Callback): void;
}

const native = zlib as unknown as ZlibWithZstd;

export const hasNativeZstd: boolean = typeof native.zstdCompressSync === "function";

function compress(src: Uint8Array, dst: Uint8Array, context: ZstdContext): number {
  return deliverFrame(native.zstdCompressSync(src, compressOptions(src, context)), src, dst);
}

function compressAsync(src: Uint8Array, dst: Uint8Array, context: ZstdContext): Promise<number> {
  return new Promise((resolve, reject) => {
    native.zstdCompress(src, compressOptions(src, context), (error, output) => {
      try {
        if (error !== null) throw error;
        resolve(deliverFrame(output, src, dst));
      } catch (reason) {
        reject(reason);
      }
    });
  });
}

function compressOptions(src: Uint8Array, { level }: ZstdContext): ZstdOptions {
  const params = { [native.constants.ZSTD_c_compressionLevel]: level };
  // Without the pledge, asynchronous calls write frames that do not state the size of their content.
  return { params, pledgedSrcSize: src.length, chunkSize: Math.max(64, bound(src.length)) };
}

/** Moves a frame to `dst`; -1 if it does not fit. Makes sure that we would read it again. */
function deliverFrame(frame: Buffer, src: Uint8Array, dst: Uint8Array): number {
  const stated = zstdContentSize(frame, src.length);
  assert.equal(stated, src.length, "the frame does not state the size of its content");
  return deliver(frame, dst);
}

function decompress(src: Uint8Array, dst: Uint8Array): number {
  const size = zstdContentSize(src, dst.length);
  let output: Buffer;
  try {
    output = native.zstdDecompressSync(src, decompressOptions(size));
  } catch (cause) {
    throw malformed(cause);
  }
  if (output.length !== size) throw wrongSize();
  return deliver(output, dst);
}

async function decompressAsync(src: Uint8Array, dst: Uint8Array): Promise<number> {
  const size = zstdContentSize(src, dst.length);
  const output = await new Promise<Buffer | CompressorError>((resolve) => {
    native.zstdDecompress(src, decompressOptions(size), (error, bytes) => {
      resolve(error === null ? bytes : malformed(error));
    });
  });
  if (output instanceof Error) throw output;
  if (output.length !== size) throw wrongSize();
  return deliver(output, dst);
}

function decompressOptions(size: number): ZstdOptions {
  return { chunkSize: Math.max(64, size), maxOutputLength: Math.max(1, size) };
}

export const zstdNative: Backend<ZstdContext> = {
  name: NAME,
  description,
  levels,
  syncCompress: 4096,
  syncDecompress: 16384,
  createContext,
  destroyContext: () => undefined,
  bound,
  compress,
  decompress,
  compressAsync,
  decompressAsync,
};
