/** The backends under test, loaded; one whose package is missing is left out, except under CI=true. */
import { lz4Library } from "../../src/backends/lz4-library.ts";
import { lz4Package } from "../../src/backends/lz4-package.ts";
import { hasNativeZstd, zstdNative } from "../../src/backends/zstd-native.ts";
import { zstdLibrary } from "../../src/backends/zstd-library.ts";
import { zstdWasm } from "../../src/backends/zstd-wasm.ts";
import type { Backend } from "../../src/index.ts";
import { findBackend, listBackends } from "../../src/index.ts";

/** All of them; in place of zstd and lz4, what there is of the ways to these. */
export async function loadedBackends(): Promise<Backend[]> {
  const others = listBackends().filter((name) => name !== "zstd" && name !== "lz4");
  const found = await loaded(others.map((name) => findBackend(name)));
  return [...found, ...(await waysToLz4()), ...(await waysToZstd())];
}

/** Each way to LZ4 that there is here, under a name of its own. */
export async function waysToLz4(): Promise<Backend[]> {
  return loaded([
    { ...lz4Library, name: "lz4-library" },
    { ...lz4Package, name: "lz4-package" },
  ] as Backend[]);
}

/** Each way to Zstandard that there is here, under a name of its own. */
export async function waysToZstd(): Promise<Backend[]> {
  const ways: Backend[] = [
    { ...zstdLibrary, name: "zstd-library" },
    { ...zstdWasm, name: "zstd-wasm" },
  ];
  if (hasNativeZstd) ways.push({ ...zstdNative, name: "zstd-native" });
  return loaded(ways);
}

async function loaded(backends: readonly Backend[]): Promise<Backend[]> {
  const there: Backend[] = [];
  for (const backend of backends) {
    try {
      await backend.load?.();
      there.push(backend);
    } catch (problem) {
      if (process.env["CI"] === "true") throw problem;
      console.warn(`${backend.name} is not tested: ${(problem as Error).message}`);
    }
  }
  return there;
}

/** Compresses with a context of its own. */
export function compressWith(backend: Backend, bytes: Uint8Array, level?: number): Buffer {
  const context = backend.createContext({ level: level ?? backend.levels?.default ?? 0 });
  const dst = Buffer.alloc(backend.bound(bytes.length));
  const length = backend.compress(bytes, dst, context);
  backend.destroyContext(context);
  return dst.subarray(0, length);
}

export function decompressWith(backend: Backend, bytes: Uint8Array, length: number): Buffer {
  const dst = Buffer.alloc(length + 1);
  return dst.subarray(0, backend.decompress(bytes, dst));
}
