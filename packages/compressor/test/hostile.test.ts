// Vitest runs this file in a child process: a crash of native code ends that process, and the run fails.
// The long run is `npm run fuzz`.
import { describe, expect, test } from "vitest";
import { attackBackend } from "../src/testing/index.ts";
import type { Backend } from "../src/index.ts";
import { createCompressor, CompressorError } from "../src/index.ts";
import { loadedBackends } from "./support/backends.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 1_000_000);
const counts: Readonly<Record<string, number>> = {
  lzo: 100_000,
  "lz4-library": 60_000,
  "lz4-package": 60_000,
  deflate: 15_000,
  "zstd-library": 30_000,
  "zstd-wasm": 15_000,
  "zstd-native": 15_000,
  none: 5_000,
};
const backends = await loadedBackends();

describe.each(backends)("$name", (backend) => {
  test(`damaged input gives a result or EFORMAT, seed ${seed}`, { timeout: 300_000 }, () => {
    const count = counts[backend.name] ?? 1000;
    const { refused, accepted } = attackBackend(backend, { seed, count });
    expect(refused + accepted).toBe(count);
  });

  test("the same through the asynchronous call", async () => {
    const compressor = await createCompressor(backend);
    const dst = Buffer.alloc(131072);
    for (let n = 0; n < 200; n += 1) {
      const input = Buffer.alloc(1 + (n % 50), n);
      await compressor.decompress(input, dst).then(
        (length) => expect(length).toBeLessThanOrEqual(dst.length),
        (error: unknown) => expect((error as CompressorError).code).toBe("EFORMAT"),
      );
    }
    await compressor.close();
  });
});

describe("the attack itself can fail", () => {
  const context = { createContext: () => undefined, destroyContext: () => undefined };
  const bad: Backend = {
    ...context,
    name: "bad",
    description: "a copy",
    syncCompress: 0,
    syncDecompress: 0,
    bound: (length) => length,
    compress: (src, dst) => (dst.set(src), src.length),
    decompress: () => 0,
  };

  test.each<[string, Backend["decompress"]]>([
    ["another error", (src) => Reflect.get(src, "x").y as number],
    ["a length beyond the buffer", (_src, dst) => dst.length + 1],
    ["a write outside the buffer", (src, dst) => (new Uint8Array(dst.buffer).fill(1), src.length && 0)],
    ["a change of the input", (src) => (src.fill(7), 0)],
  ])("%s", (_what, decompress) => {
    expect(() => attackBackend({ ...bad, decompress }, { seed: 1, count: 200 })).toThrow(
      /bad, seed 1, case \d+/,
    );
  });

  test("case n is the same whether or not others ran before it", () => {
    const seen: string[] = [];
    const spy: Backend = { ...bad, decompress: (src) => (seen.push(Buffer.from(src).toString("hex")), 0) };
    attackBackend(spy, { seed: 9, count: 20 });
    attackBackend(spy, { seed: 9, from: 13, count: 1 });
    expect(seen[20]).toBe(seen[13]);
  });
});
