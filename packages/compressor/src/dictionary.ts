/** Dictionaries: who can have one, and whether it works. */
import type { Backend } from "./backend.ts";
import { CompressorError } from "./errors.ts";
import { integerOption } from "./options.ts";
import { namesWithDictionary } from "./registry.ts";

/** The library for zstd takes no shorter one. */
const MIN_DICTIONARY = 8;
const MAX_DICTIONARY = 1024 * 1024;

/** The backend with a dictionary. Throws `EINVAL` (its length), `ENOTSUP` where the backend has none. */
export function withDictionary(backend: Backend, dictionary: Uint8Array): Backend {
  const { name } = backend;
  integerOption(name, "the dictionary's length", dictionary.length, MIN_DICTIONARY, MAX_DICTIONARY, 0);
  if (backend.withDictionary === undefined) {
    throw new CompressorError("it has no dictionaries", {
      code: "ENOTSUP",
      backend: name,
      hint: `Do without one, or choose one of: ${namesWithDictionary().join(", ")}`,
    });
  }
  // Whoever gave it may change his bytes.
  return backend.withDictionary(Buffer.from(dictionary));
}

/**
 * Throws `EINVAL` unless a backend, loaded, works with its dictionary: one that looks like a trained one and is not
 * well-formed is refused by the library only when it is used.
 */
export function tryDictionary(backend: Backend, level: number): void {
  const sample = Buffer.alloc(4096, "what comes back is what there was");
  const packed = Buffer.alloc(backend.bound(sample.length));
  const back = Buffer.alloc(sample.length);
  const context = backend.createContext({ level });
  try {
    const length = backend.compress(sample, packed, context);
    if (backend.decompress(packed.subarray(0, length), back) === sample.length && back.equals(sample)) return;
    throw new Error("other bytes come back");
  } catch (cause) {
    throw new CompressorError("the dictionary is none of this algorithm, or damaged", {
      code: "EINVAL",
      backend: backend.name,
      cause,
      hint: "Give the one that was made for it, or train it again",
    });
  } finally {
    backend.destroyContext(context);
  }
}
