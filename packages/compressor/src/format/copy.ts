/**
 * The two copies every LZ decompressor is made of. Neither checks anything: callers have compared lengths and
 * distances with what is left, see the invariants in the decompressors.
 */

// Below these lengths a loop beats the call into the engine's memmove (measured, Node 20, x64).
const LITERAL_CALL = 64;
const MATCH_CALL = 64;

/** Copies `length` bytes of `src` from `ip` to `dst` at `op`. */
export function copyLiterals(src: Uint8Array, ip: number, dst: Uint8Array, op: number, length: number): void {
  if (length < LITERAL_CALL) {
    for (let i = 0; i < length; i += 1) dst[op + i] = src[ip + i] as number;
  } else {
    dst.set(src.subarray(ip, ip + length), op);
  }
}

/** Repeats at `op` the `length` bytes that begin `distance` before it; the two may overlap. */
export function copyMatch(dst: Uint8Array, op: number, distance: number, length: number): void {
  const from = op - distance;
  if (length < MATCH_CALL) {
    for (let i = 0; i < length; i += 1) dst[op + i] = dst[from + i] as number;
    return;
  }
  // What is there already repeats with period `distance`, so each turn can copy all of it: 1, 2, 4 … periods.
  let done = 0;
  for (let chunk = distance; done < length; chunk *= 2) {
    const size = chunk < length - done ? chunk : length - done;
    dst.copyWithin(op + done, from, from + size);
    done += size;
  }
}
