/** What every backend must do with every input: the checks behind the round-trip tests. */
import assert from "node:assert";
import type { Backend } from "../backend.ts";

/**
 * Compresses `input` and checks everything the contract says about it: the result fits {@link Backend.bound},
 * does not depend on what the context was used for before, fits a buffer of exactly its length and no shorter
 * one, decompresses to the same bytes into a buffer of exactly that length and into a longer one, and is
 * refused by a shorter one.
 *
 * @param context any context of the backend.
 * @returns the compressed bytes.
 * @throws AssertionError, or what the backend throws.
 */
export function checkRoundTrip<Context>(
  backend: Backend<Context>,
  context: Context,
  input: Uint8Array,
): Buffer {
  const { name } = backend;
  const before = Buffer.from(input);
  const output = Buffer.alloc(backend.bound(input.length));
  const length = backend.compress(input, output, context);
  assert(length >= 0, `${name}: ${input.length} bytes do not fit their bound`);
  assert(before.equals(input), `${name}: compress changed its input`);
  const compressed = output.subarray(0, length);

  const exact = Buffer.alloc(length);
  assert.equal(backend.compress(input, exact, context), length, `${name}: an exact fit is refused`);
  assert(exact.equals(compressed), `${name}: the output depends on the context's past`);
  if (length > 0) {
    assert.equal(
      backend.compress(input, Buffer.alloc(length - 1), context),
      -1,
      `${name}: no -1 one byte short`,
    );
  }

  for (const extra of [0, 1, 100]) {
    const dst = Buffer.alloc(input.length + extra);
    assert.equal(backend.decompress(compressed, dst), input.length, `${name}: wrong length`);
    assert(dst.subarray(0, input.length).equals(before), `${name}: wrong bytes`);
  }
  if (input.length > 0) {
    assert.throws(() => backend.decompress(compressed, Buffer.alloc(input.length - 1)), { code: "EFORMAT" });
  }
  return compressed;
}
