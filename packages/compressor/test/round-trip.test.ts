import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { checkRoundTrip, makeSample, sampleKinds } from "../src/testing/index.ts";
import { createCompressor } from "../src/index.ts";
import { loadedBackends } from "./support/backends.ts";
import { corpus } from "./support/inputs.ts";

const backends = await loadedBackends();
const inputs = corpus();

/** Bytes with enough repetition to exercise matches, and shrinkable where fast-check made them itself. */
const anyInput = fc.oneof(
  fc.uint8Array({ maxLength: 600 }),
  fc.array(fc.constantFrom(0, 1, 97, 255), { maxLength: 2000 }).map((bytes) => Uint8Array.from(bytes)),
  fc
    .record({ kind: fc.constantFrom(...sampleKinds), length: fc.nat(70_000), seed: fc.nat() })
    .map(({ kind, length, seed }) => makeSample(kind, length, seed).bytes),
);

describe.each(backends)("$name", (backend) => {
  const context = backend.createContext({ level: backend.levels?.default ?? 0 });

  test("round trip of the whole corpus", () => {
    for (const { name, bytes } of inputs) {
      expect(checkRoundTrip(backend, context, bytes).length, name).toBeLessThanOrEqual(
        backend.bound(bytes.length),
      );
    }
  });

  test("round trip of anything (property)", () => {
    fc.assert(
      fc.property(anyInput, (input) => {
        checkRoundTrip(backend, context, input);
      }),
      { numRuns: 150 },
    );
  });

  test("compresses what can be compressed", () => {
    if (backend.name === "none") return;
    const { bytes } = makeSample("text", 4096, 1);
    expect(checkRoundTrip(backend, context, bytes).length).toBeLessThan(bytes.length * 0.75);
    expect(checkRoundTrip(backend, context, Buffer.alloc(131072)).length).toBeLessThan(600);
  });

  test("every level", () => {
    const { min, max } = backend.levels ?? { min: 0, max: 0 };
    for (let level = min; level <= max; level += 1) {
      checkRoundTrip(backend, backend.createContext({ level }), makeSample("mixed", 5000, level).bytes);
    }
  });

  test("synchronous and asynchronous calls give the same, at all lengths and in parallel", async () => {
    const compressor = await createCompressor(backend, { maxStreams: 4 });
    await Promise.all(
      inputs.map(async ({ name, bytes }) => {
        const stream = await compressor.acquire();
        const length = await stream.compress(bytes);
        const compressed = Buffer.from(stream.output.subarray(0, length));
        expect(stream.compressSync(bytes), name).toBe(length);
        expect(stream.output.subarray(0, length).equals(compressed), name).toBe(true);
        if (length > 0) expect(await stream.compress(bytes, length - 1), name).toBe(-1);
        stream.release();
        const dst = Buffer.alloc(bytes.length);
        expect(await compressor.decompress(compressed, dst), name).toBe(bytes.length);
        expect(dst.equals(bytes), name).toBe(true);
        if (bytes.length > 0) {
          const short = Buffer.alloc(bytes.length - 1);
          await expect(compressor.decompress(compressed, short)).rejects.toMatchObject({ code: "EFORMAT" });
        }
      }),
    );
    await compressor.close();
  });
});
