/**
 * LZ4 blocks, by the first of the ways that there is; each reads what the others write:
 *
 * 1. liblz4 of the system makes them, through the package koffi: a third of the processor time of the next for a page;
 * 2. the package lz4-napi, or what format/lz4-portable.ts does where it does not load.
 *
 * Which it is, is found out when it is loaded. A copy of the backend that is to have other limits has to be made after that.
 */
import type { Backend } from "../backend.ts";
import { lz4Library } from "./lz4-library.ts";
import { lz4Package } from "./lz4-package.ts";

async function load(): Promise<void> {
  try {
    await lz4Library.load?.();
  } catch {
    return lz4Package.load?.();
  }
  // A compressor from before goes on with the copy that it has.
  Object.assign(lz4, lz4Library, { load });
}

export const lz4: Backend = { ...lz4Package, load };
