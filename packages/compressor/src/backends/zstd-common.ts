/** What the three ways to Zstandard have in common. */
import type { ContextSettings, Levels } from "../backend.ts";
import { type CompressorError, corrupt } from "../errors.ts";

export const NAME = "zstd";
/** One line for people: whoever lists backends does not care which way this system has. */
export const description =
  "Zstandard through libzstd, node:zlib or WebAssembly, whichever there is; the best ratio";
/** Levels 20 and above need windows that our decoder refuses; negative ones are left to lz4. */
export const levels: Levels = { min: 1, max: 19, default: 3 };

export interface ZstdContext {
  readonly level: number;
}

export function createContext({ level }: ContextSettings): ZstdContext {
  return { level };
}

/** The bound that the reference library states. */
export function bound(length: number): number {
  const margin = length < 131072 ? (131072 - length) >>> 11 : 0;
  return length + Math.floor(length / 256) + margin;
}

export function malformed(cause: unknown): CompressorError {
  return corrupt(NAME, "the input is not a well-formed Zstandard frame", undefined, cause);
}

/** The error for output that is not as long as the frame itself said. */
export function wrongSize(): CompressorError {
  return corrupt(NAME, "the frame's content is not of the size it states");
}
