/**
 * Which requests a device refuses before it looks at them: outside of it, not aligned, or not possible in its state.
 * Lengths are compared without adding: nothing overflows.
 */
import type { Limits, WriteZeroesOptions } from "./device.ts";
import { BlockIoError, type ErrorCode, type Operation, refuse } from "./errors.ts";

const READ_ONLY = "Open it for writing: without --read-only, on a file system that can be written to.";
export const REOPEN = "Close and reopen the device; check the storage below it.";

export class Refusals {
  /** Requests that were refused because they are not aligned, or not inside the device. */
  count = 0;
  readonly #name: string;
  readonly #size: number;
  readonly #block: number;
  readonly #readOnly: boolean;

  /** Throws `EINVAL` for a size that no device can have. */
  constructor(name: string, size: number, { logicalBlockSize, capabilities }: Limits) {
    if (!Number.isSafeInteger(size) || size < 0) {
      throw refuse(
        name,
        "EINVAL",
        `${size} bytes are not from 0 to 2^53 - 1, the sizes a device can have`,
        "Use a smaller image, or a part of it: a table line such as 0 SECTORS linear IMAGE 0.",
      );
    }
    if (size % logicalBlockSize !== 0) {
      throw refuse(
        name,
        "EINVAL",
        `size ${size} is not a multiple of ${logicalBlockSize} bytes`,
        `Make it a multiple of ${logicalBlockSize}: a table by the lengths of its lines, a file with truncate -s %${logicalBlockSize} FILE`,
      );
    }
    this.#name = name;
    this.#size = size;
    this.#block = logicalBlockSize;
    this.#readOnly = capabilities.readOnly;
  }

  /** Why a request is refused, or undefined. @param failure why the device takes no writes any more, if it does not. */
  of(
    op: Operation,
    offset: number,
    length: number,
    failure: BlockIoError | undefined,
  ): BlockIoError | undefined {
    if (op !== "read" && op !== "extents") {
      if (this.#readOnly)
        return this.error("EROFS", "the device is read-only", op, offset, length, READ_ONLY);
      if (failure !== undefined) return this.#failed(failure, op, offset, length);
    }
    const mask = this.#block - 1;
    if (
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      offset <= this.#size &&
      length <= this.#size - offset &&
      // Numbers above 2^31 lose bits in &, but not the low ones a mask of a block looks at.
      (lowBits(offset) & mask) === 0 &&
      (lowBits(length) & mask) === 0
    ) {
      return undefined;
    }
    this.count += 1;
    const aligned = offset % this.#block === 0 && length % this.#block === 0;
    if (!aligned || offset < 0 || length < 0) {
      return this.error("EINVAL", `not a multiple of ${this.#block} bytes`, op, offset, length);
    }
    const code = op === "write" || op === "writeZeroes" ? "ENOSPC" : "EINVAL";
    return this.error(code, `past the end of the device (${this.#size} bytes)`, op, offset, length);
  }

  notBytes(op: Operation, offset: number): BlockIoError {
    return this.error("EINVAL", "the data is neither a Buffer nor a Uint8Array", op, offset, 0);
  }

  /** Why the words beside a request are refused: one that is misspelt would be a flush that never comes. */
  words(op: Operation, offset: number, length: number, given: WriteZeroesOptions): BlockIoError | undefined {
    for (const name in given) {
      const value: unknown = given[name as keyof WriteZeroesOptions];
      const isKnown = name === "fua" || name === "mayUnmap" || name === "fast";
      if (isKnown && (typeof value === "boolean" || value === undefined)) continue;
      const reason = isKnown ? `${name} is neither true nor false` : `there is no option ${name}`;
      return this.error("EINVAL", reason, op, offset, length, "Options: fua, mayUnmap, fast.");
    }
    return undefined;
  }

  #failed(failure: BlockIoError, op: Operation, offset: number, length: number): BlockIoError {
    return new BlockIoError(`the device refuses writes since a failure: ${failure.message}`, {
      code: "EIO",
      device: this.#name,
      op,
      offset,
      length,
      cause: failure,
      hint: REOPEN,
    });
  }

  error(
    code: ErrorCode,
    reason: string,
    op: Operation,
    offset: number,
    length: number,
    hint?: string,
  ): BlockIoError {
    return new BlockIoError(reason, { code, device: this.#name, op, offset, length, hint });
  }
}

/**
 * The same memory as a Buffer: programs that use a device directly may bring a plain Uint8Array. Undefined for
 * anything else.
 */
export function asBuffer(bytes: unknown): Buffer | undefined {
  if (Buffer.isBuffer(bytes)) return bytes;
  if (!(bytes instanceof Uint8Array)) return undefined;
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

// ToInt32 of a safe integer keeps its low 32 bits exactly (modulo 2^32), so this is just a name for it.
function lowBits(value: number): number {
  return value | 0;
}
