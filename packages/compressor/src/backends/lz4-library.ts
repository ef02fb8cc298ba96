/**
 * LZ4 blocks made by the system's own library, liblz4.so.1, which the optional package koffi calls. It puts them where they
 * are to be: lz4-napi makes a new buffer for each, outside of the heap, which is copied and left to be collected.
 *
 * Invariants, on which the memory of the whole process hangs:
 * - the library is told of no more bytes than a buffer has, and writes no more than it is told of;
 * - a context is used by one call at a time, on whatever thread;
 * - buffers of a call on another thread are referred to until it has ended: see system-library.ts.
 *
 * Only compressing goes there. Short blocks are decoded here (format/lz4-decode.ts), long and hostile ones by Rust.
 *
 * Where the line lies (processor time in µs here, lz4-napi here, lz4-napi on other threads; Node 20, 2 busy cores, machine
 * code): 4 KiB 8, 27, 100; 16 KiB 38, 39, 263; 64 KiB 121, 297, 863; 128 KiB 224, 1401, 1776; 512 KiB 897, 1577, 2666. A
 * hand-over costs some 35 µs, and is made where that is a quarter of the work or less.
 */
import assert from "node:assert";
import type { Backend } from "../backend.ts";
import { realClock } from "../clock.ts";
import { CompressorError } from "../errors.ts";
import { Pool } from "../pool.ts";
import { lz4Package } from "./lz4-package.ts";
import { CALLS, type Call, type Loaded, SystemLibrary, elsewhere, requireVersion } from "./system-library.ts";

const LZ4 = lz4Package.name;
/** 1.8.3, the oldest that was looked at. */
const OLDEST = 10803;
/** LZ4_MAX_INPUT_SIZE, and all lengths are int. */
const MOST = 0x7e00_0000;
/** How much faster, and worse, it may be: 1 is the library's own. */
const ACCELERATION = 1;

interface Library {
  readonly compress: Call<[Buffer, Uint8Array, Uint8Array, number, number, number]>;
  /** Bytes of the working memory of a call. */
  readonly stateSize: number;
  readonly places: Pool<object>;
}

const library = new SystemLibrary<Library>({
  backend: LZ4,
  file: "liblz4.so.1",
  packages: "liblz4-1 or lz4-libs",
  declare,
});

function declare(loaded: Loaded): Library {
  requireVersion(loaded.func("int LZ4_versionNumber()")(), OLDEST);
  return {
    compress: loaded.func(
      "int LZ4_compress_fast_extState(void *state, const void *from, void *to, int length, int room, int acceleration)",
    ),
    stateSize: Number(loaded.func("int LZ4_sizeofState()")()),
    places: new Pool<object>({
      create: () => ({}),
      destroy: () => undefined,
      max: CALLS,
      idleTime: 0,
      clock: realClock,
    }),
  };
}

function compression(
  src: Uint8Array,
  dst: Uint8Array,
  state: Buffer,
): [Buffer, Uint8Array, Uint8Array, number, number, number] {
  assert(state.length === library.functions.stateSize, "the context is another one's");
  assert(src.length <= MOST && src.byteLength === src.length, "too much at once");
  assert(dst.byteLength === dst.length, "the output is no bytes");
  return [state, src, dst, src.length, Math.min(dst.length, MOST), ACCELERATION];
}

/** Bytes in `dst`; -1 if they do not fit. */
function compressed(result: number, dst: Uint8Array): number {
  if (!Number.isInteger(result) || result < 0 || result > dst.length) {
    throw new CompressorError(`the library returned ${result}`, { code: "EIO", backend: LZ4 });
  }
  return result === 0 ? -1 : result;
}

/** LZ4 through liblz4; {@link Backend.load} fails where there is none. */
export const lz4Library: Backend<Buffer> = {
  ...(lz4Package as unknown as Backend<Buffer>),
  syncCompress: 32_768,
  async load() {
    // Long blocks are decoded there.
    await lz4Package.load?.();
    await library.load();
  },
  createContext: () => Buffer.allocUnsafeSlow(library.functions.stateSize),
  destroyContext: () => undefined,
  compress: (src, dst, state) => compressed(library.functions.compress(...compression(src, dst, state)), dst),
  async compressAsync(src, dst, state) {
    const { compress, places } = library.functions;
    return places.with(async () =>
      compressed(await elsewhere(LZ4, compress, compression(src, dst, state)), dst),
    );
  },
};
