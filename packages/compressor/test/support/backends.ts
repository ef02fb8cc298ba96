/** The backends under test, loaded; one whose package is missing is left out, except under CI=true. */
import type { Backend } from "../../src/index.ts";
import { describeBackends, findBackend } from "../../src/index.ts";

export async function loadedBackends(): Promise<Backend[]> {
  const loaded: Backend[] = [];
  for (const { name, problem } of await describeBackends()) {
    if (problem === undefined) loaded.push(findBackend(name));
    else if (process.env["CI"] === "true") throw problem;
    else console.warn(`${name} is not tested: ${problem.message}`);
  }
  return loaded;
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
