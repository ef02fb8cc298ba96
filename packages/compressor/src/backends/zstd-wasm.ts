/**
 * Zstandard through @bokuweb/zstd-wasm, which has no threads: large inputs go to worker threads.
 *
 * Where the line lies (bench/boundary.mjs; processor time in µs here → all in all on worker threads, Node 20,
 * 2 busy cores): compress 1 KiB 92 → 114, 4 KiB 167 → 205, 128 KiB 2424 → 2713; decompress 4 KiB 37 → 67, 8 KiB
 * 68 → 103, 32 KiB 205 → 275, 128 KiB 810 → 900. A hand-over costs some 30 µs.
 *
 * The module's memory is one for the whole thread. Should the code ever trap, that memory can no longer be
 * trusted, so from then on every call fails (`EIO`) rather than risk a wrong byte. So does every call once an output
 * is no frame of its input: a second `init()` exchanges the memory, but not the functions, of all who use the library.
 */
import type * as ZstdWasm from "@bokuweb/zstd-wasm";
import { type Backend, atOnce, deliver, missingPackage, notLoaded } from "../backend.ts";
import { CompressorError } from "../errors.ts";
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

const PACKAGE = "@bokuweb/zstd-wasm";

type Library = Pick<
  typeof ZstdWasm,
  | "init"
  | "compress"
  | "decompress"
  | "createCCtx"
  | "createDCtx"
  | "compressUsingDict"
  | "decompressUsingDict"
>;

let library: Library | undefined;
let trap: unknown;
/** Working memory of the library for dictionaries: one of each for the whole thread, since calls are made at once. */
let contexts: { readonly compressing: number; readonly decompressing: number } | undefined;

/** The library, begun once in a thread, whoever asks at the same time, and however many copies of this module there are. */
const BEGUN: unique symbol = Symbol.for("@dmkit/compressor: zstd-wasm");
const thread = globalThis as { [BEGUN]?: Promise<Library> };

async function begin(): Promise<Library> {
  const imported: Library = (await import("@bokuweb/zstd-wasm")).default;
  await imported.init();
  return imported;
}

async function load(): Promise<void> {
  const begun = (thread[BEGUN] ??= begin());
  try {
    library = await begun;
  } catch (cause) {
    if (thread[BEGUN] === begun) delete thread[BEGUN];
    throw missingPackage(NAME, PACKAGE, cause);
  }
}

function loaded(): Library {
  if (library === undefined) throw notLoaded(NAME);
  if (trap !== undefined) {
    throw new CompressorError("the WebAssembly module has failed before", {
      code: "EIO",
      backend: NAME,
      cause: trap,
      hint: "Restart the process, and report the input that preceded this",
    });
  }
  return library;
}

/** Remembers an error that is not one of the library's own answers. */
function noteTrap(error: unknown): void {
  if (error instanceof Error && error.name === "RuntimeError") trap = error;
}

function contextsOf(from: Library): NonNullable<typeof contexts> {
  contexts ??= { compressing: from.createCCtx(), decompressing: from.createDCtx() };
  return contexts;
}

function compress(src: Uint8Array, dst: Uint8Array, { level }: ZstdContext, dictionary?: Uint8Array): number {
  const from = loaded();
  try {
    const frame =
      dictionary === undefined
        ? from.compress(src, level)
        : from.compressUsingDict(contextsOf(from).compressing, src, dictionary, level);
    expectFrame(frame, src.length, dictionary !== undefined);
    return deliver(frame, dst);
  } catch (error) {
    noteTrap(error);
    throw error;
  }
}

/** Throws `EIO`, now and from then on, if an output is no frame of so many bytes. */
function expectFrame(output: Uint8Array, length: number, hasDictionary: boolean): void {
  try {
    if (zstdContentSize(output, length, hasDictionary) === length) return;
    trap = wrongSize();
  } catch (error) {
    trap = error;
  }
  loaded();
}

function decompress(src: Uint8Array, dst: Uint8Array, dictionary?: Uint8Array): number {
  const from = loaded();
  // The library allocates what the frame claims its content to be, and writes no more than that.
  const size = zstdContentSize(src, dst.length, dictionary !== undefined);
  let output: Uint8Array;
  try {
    output =
      dictionary === undefined
        ? from.decompress(src)
        : from.decompressUsingDict(contextsOf(from).decompressing, src, dictionary);
  } catch (cause) {
    noteTrap(cause);
    throw malformed(cause);
  }
  if (output.length !== size) throw wrongSize();
  return deliver(output, dst);
}

export const zstdWasm: Backend<ZstdContext> = {
  name: NAME,
  description,
  levels,
  syncCompress: 2048,
  syncDecompress: 8192,
  worker: { module: import.meta.url, exportName: "zstdWasm" },
  load,
  createContext,
  destroyContext: () => undefined,
  bound,
  compress: (src, dst, context) => compress(src, dst, context),
  decompress: (src, dst) => decompress(src, dst),
  withDictionary: (dictionary) =>
    atOnce(zstdWasm, {
      load,
      compress: (src, dst, context) => compress(src, dst, context, dictionary),
      decompress: (src, dst) => decompress(src, dst, dictionary),
    }),
};
