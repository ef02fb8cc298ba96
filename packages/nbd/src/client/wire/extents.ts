/**
 * From block status to extents: whole blocks, merged, in order. Pure.
 *
 * A server may describe pieces smaller than a block. A block of several kinds is `data` if any of it is, and
 * `zero` if all of it reads as zeroes.
 */
import type { Extent, ExtentKind } from "@dmkit/block-io";
import { STATE } from "../../protocol.ts";

/** What status flags of `base:allocation` say. Storage that is not allocated need not read as zeroes. */
export function kindOf(flags: number): ExtentKind {
  if ((flags & STATE.ZERO) === 0) return "data";
  return (flags & STATE.HOLE) === 0 ? "zero" : "hole";
}

export class ExtentMerger {
  readonly #block: number;
  #offset: number;
  // The extent that may still grow.
  #length = 0;
  #kind: ExtentKind = "data";
  // The beginning of a block that is not complete.
  #part = 0;
  #partKind: ExtentKind = "data";
  #complete: Extent[] = [];

  /** @param offset bytes; where the first extent begins. A multiple of `block`. */
  constructor(block: number, offset: number) {
    this.#block = block;
    this.#offset = offset;
  }

  /** The next `length` bytes are of this kind. */
  add(length: number, kind: ExtentKind): void {
    let left = length;
    if (this.#part > 0) {
      const count = Math.min(left, this.#block - this.#part);
      this.#partKind = mixture(this.#partKind, kind);
      this.#part += count;
      left -= count;
      if (this.#part < this.#block) return;
      this.#append(this.#block, this.#partKind);
    }
    this.#part = left % this.#block;
    this.#partKind = kind;
    if (left > this.#part) this.#append(left - this.#part, kind);
  }

  /** Takes the extents that cannot grow any more. */
  take(): Extent[] {
    const extents = this.#complete;
    this.#complete = [];
    return extents;
  }

  /** Takes the rest. */
  finish(): Extent[] {
    this.#append(0, this.#kind === "data" ? "hole" : "data");
    return this.take();
  }

  #append(length: number, kind: ExtentKind): void {
    if (kind !== this.#kind && this.#length > 0) {
      this.#complete.push({ offset: this.#offset, length: this.#length, kind: this.#kind });
      this.#offset += this.#length;
      this.#length = 0;
    }
    this.#kind = kind;
    this.#length += length;
  }
}

function mixture(a: ExtentKind, b: ExtentKind): ExtentKind {
  if (a === b) return a;
  return a === "data" || b === "data" ? "data" : "zero";
}
