/**
 * Zstandard frames, by the first of three ways that there is; each reads what the others write:
 *
 * 1. libzstd of the system, through the package koffi: a third of the processor time of WebAssembly for what is read, and
 *    nothing new to be collected;
 * 2. node:zlib, from Node 22.15 on;
 * 3. the package @bokuweb/zstd-wasm: maintained, MIT-licensed, the same file on every platform, without a compiler or a
 *    download when it is installed.
 *
 * Which it is, is found out when it is loaded: a process that never compresses with it loads none of them. A copy of the
 * backend that is to have other limits has to be made after that.
 */
import type { Backend } from "../backend.ts";
import { zstdLibrary } from "./zstd-library.ts";
import { hasNativeZstd, zstdNative } from "./zstd-native.ts";
import { zstdWasm } from "./zstd-wasm.ts";

const fallback: Backend = hasNativeZstd ? zstdNative : zstdWasm;

async function load(): Promise<void> {
  try {
    await zstdLibrary.load?.();
  } catch {
    return fallback.load?.();
  }
  delete (zstd as { worker?: unknown }).worker;
  Object.assign(zstd, zstdLibrary, { load });
}

/** The third way has them wherever it is, node:zlib in later versions only; whichever it is, the format is the same. */
function withDictionary(dictionary: Uint8Array): Backend {
  return (zstdWasm as Required<Pick<Backend, "withDictionary">>).withDictionary(dictionary);
}

export const zstd: Backend = { ...fallback, load, withDictionary };
