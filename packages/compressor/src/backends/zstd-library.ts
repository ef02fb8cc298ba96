/**
 * Zstandard through the system's own library, libzstd.so.1, which the optional package koffi calls. Nearly every Linux
 * has it; where it or koffi is missing, zstd.ts falls back to another way.
 *
 * Invariants, on which the memory of the whole process hangs:
 * - the library is told of no more bytes than a buffer has, and writes no more than it is told of. The size of what
 *   comes out of a frame is known, and compared with the buffer, before a byte of it is decoded;
 * - a context is used by one call at a time, and by none once it was given up: a stream has its own for compressing,
 *   synchronous calls share one for decompressing, and each call on another thread has one of {@link places};
 * - buffers of a call on another thread are referred to until it has ended: see system-library.ts.
 *
 * Where the line lies (bench/boundary.mjs; processor time in µs here → all in all on other threads, Node 20,
 * 2 busy cores): compress 1 KiB 6 → 65, 4 KiB 33 → 49, 8 KiB 48 → 77, 64 KiB 278 → 334, 512 KiB 2911 → 2845; decompress
 * 4 KiB 7 → 24, 32 KiB 25 → 61, 64 KiB 50 → 91, 128 KiB 133 → 157, 512 KiB 486 → 529. A hand-over costs some 35 µs.
 */
import assert from "node:assert";
import { type Backend, type ContextSettings, deliver } from "../backend.ts";
import { realClock } from "../clock.ts";
import { CompressorError } from "../errors.ts";
import { zstdContentSize } from "../format/zstd-frame.ts";
import { Pool } from "../pool.ts";
import { CALLS, type Call, type Loaded, SystemLibrary, elsewhere, requireVersion } from "./system-library.ts";
import { NAME, type ZstdContext, bound, description, levels, malformed, wrongSize } from "./zstd-common.ts";

/** 1.4.4. One before 1.3.8 could write behind an output shorter than the bound (CVE-2019-11922). */
const OLDEST = 10404;
/** The most the library is given at a time; far above what a compressor lets through. */
const MOST = 2 ** 31 - 1;
/** ZSTD_error_memory_allocation, as results state errors. */
const NO_MEMORY = -64;
/** Milliseconds after which what only many calls at a time needed begins to be given up. */
const IDLE_TIME = 10_000;

/** The address of a context. */
type Pointer = bigint;

interface Library {
  readonly createCCtx: () => Pointer | null;
  readonly freeCCtx: (context: Pointer) => number;
  readonly createDCtx: () => Pointer | null;
  readonly freeDCtx: (context: Pointer) => number;
  readonly compress: Call<[Pointer, Uint8Array, number, Uint8Array, number, number]>;
  readonly decompress: Call<[Pointer, Uint8Array, number, Uint8Array, number]>;
  /** The one context of synchronous calls. */
  readonly decoding: Pointer;
  readonly places: Pool<Place>;
}

/** What a call on another thread has to itself. */
interface Place {
  decoding: Pointer | undefined;
}

interface Context extends ZstdContext {
  pointer: Pointer | undefined;
  /** Where frames are made that are to go into less than {@link bound}; grows to what was needed. */
  scratch: Buffer;
}

const library = new SystemLibrary<Library>({
  backend: NAME,
  file: "libzstd.so.1",
  packages: "libzstd1 or libzstd",
  declare,
});

function declare(loaded: Loaded): Library {
  requireVersion(loaded.func("uint ZSTD_versionNumber()")(), OLDEST);
  // Lengths that are errors are the largest there are. So results are declared as signed: errors are negative.
  const compress =
    "intptr_t ZSTD_compressCCtx(void *context, void *to, size_t room, const void *from, size_t length, int level)";
  const decompress =
    "intptr_t ZSTD_decompressDCtx(void *context, void *to, size_t room, const void *from, size_t length)";
  const createDCtx = loaded.func("void *ZSTD_createDCtx()") as Library["createDCtx"];
  const freeDCtx = loaded.func("size_t ZSTD_freeDCtx(void *context)") as (context: Pointer) => number;
  return {
    createCCtx: loaded.func("void *ZSTD_createCCtx()") as Library["createCCtx"],
    freeCCtx: loaded.func("size_t ZSTD_freeCCtx(void *context)") as (context: Pointer) => number,
    createDCtx,
    freeDCtx,
    compress: loaded.func(compress),
    decompress: loaded.func(decompress),
    decoding: made(createDCtx()),
    places: new Pool<Place>({
      create: () => ({ decoding: undefined }),
      destroy: ({ decoding }) => {
        if (decoding !== undefined) freeDCtx(decoding);
      },
      max: CALLS,
      idleTime: IDLE_TIME,
      clock: realClock,
    }),
  };
}

function made(context: Pointer | null): Pointer {
  if (context !== null && context !== 0n) return context;
  throw new CompressorError("there is no memory for a context", { code: "ENOMEM", backend: NAME });
}

function createContext({ level }: ContextSettings): Context {
  return { level, pointer: made(library.functions.createCCtx()), scratch: Buffer.alloc(0) };
}

function destroyContext(context: Context): void {
  const { pointer } = context;
  context.pointer = undefined;
  if (pointer !== undefined) library.functions.freeCCtx(pointer);
}

/** Arguments to compress `src` into `to`. */
type Compression = Parameters<Library["compress"]>;

/**
 * What to call the library with. Where `dst` has less than the bound, what comes out would depend on how much: parts are
 * stored plain once there is little room. So frames are made elsewhere then, and moved.
 */
function compression(src: Uint8Array, dst: Uint8Array, context: Context): Compression {
  const { pointer, level } = context;
  assert(pointer !== undefined, "the context was given up");
  assert(src.length <= MOST, "too much at once");
  const most = bound(src.length);
  if (dst.length < most && context.scratch.length < most) context.scratch = Buffer.allocUnsafeSlow(most);
  const to = dst.length < most ? context.scratch : dst;
  assert(to.length >= most && to.length <= MOST && to.byteLength === to.length, "the output is too short");
  return [pointer, to, to.length, src, src.length, level];
}

/** Bytes in `dst`; -1 if they do not fit. */
function compressed(result: number, [, to]: Compression, dst: Uint8Array): number {
  if (!(Number.isInteger(result) && result > 0 && result <= to.length)) {
    throw new CompressorError(`the library returned ${result}`, {
      code: result === NO_MEMORY ? "ENOMEM" : "EIO",
      backend: NAME,
    });
  }
  return to === dst ? result : deliver(to.subarray(0, result), dst);
}

function compress(src: Uint8Array, dst: Uint8Array, context: Context): number {
  const args = compression(src, dst, context);
  return compressed(library.functions.compress(...args), args, dst);
}

async function compressAsync(src: Uint8Array, dst: Uint8Array, context: Context): Promise<number> {
  return library.functions.places.with(async () => {
    const args = compression(src, dst, context);
    return compressed(await elsewhere(NAME, library.functions.compress, args), args, dst);
  });
}

/** Arguments to decompress `src` into `dst`, which is large enough for it. */
function decompression(
  decoding: Pointer,
  src: Uint8Array,
  dst: Uint8Array,
): Parameters<Library["decompress"]> {
  const size = zstdContentSize(src, dst.length);
  assert(
    Number.isInteger(size) && size >= 0 && size <= dst.length && dst.length <= MOST,
    "the output is too short",
  );
  assert(src.length <= MOST, "too much at once");
  return [decoding, dst, size, src, src.length];
}

function decompressed(result: number, size: number): number {
  if (result === NO_MEMORY) {
    throw new CompressorError("there is no memory to decompress with", { code: "ENOMEM", backend: NAME });
  }
  if (result < 0) throw malformed(new Error(`libzstd: error ${-result}`));
  if (result !== size) throw wrongSize();
  return size;
}

function decompress(src: Uint8Array, dst: Uint8Array): number {
  const { decompress, decoding } = library.functions;
  const args = decompression(decoding, src, dst);
  return decompressed(decompress(...args), args[2]);
}

async function decompressAsync(src: Uint8Array, dst: Uint8Array): Promise<number> {
  const { decompress, createDCtx, places } = library.functions;
  return places.with(async (place) => {
    place.decoding ??= made(createDCtx());
    const args = decompression(place.decoding, src, dst);
    return decompressed(await elsewhere(NAME, decompress, args), args[2]);
  });
}

/** Zstandard through libzstd; {@link Backend.load} fails where there is none. */
export const zstdLibrary: Backend<Context> = {
  name: NAME,
  description,
  levels,
  syncCompress: 4096,
  syncDecompress: 65536,
  load: () => library.load(),
  createContext,
  destroyContext,
  bound,
  compress,
  decompress,
  compressAsync,
  decompressAsync,
};
