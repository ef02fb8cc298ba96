/**
 * Zstandard frames: through node:zlib where it has them (Node 22.15 and later), through the package
 * @bokuweb/zstd-wasm elsewhere. Both write and read the same format.
 *
 * Why that package: it is maintained, MIT-licensed, the same file on every platform, and needs neither a
 * compiler nor a download when it is installed; and being WebAssembly it cannot crash the process, whatever
 * bytes it is given.
 */
import type { Backend } from "../backend.ts";
import { hasNativeZstd, zstdNative } from "./zstd-native.ts";
import { zstdWasm } from "./zstd-wasm.ts";

export const zstd: Backend = hasNativeZstd ? zstdNative : zstdWasm;
