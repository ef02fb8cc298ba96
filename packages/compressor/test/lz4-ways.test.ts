import { afterEach, describe, expect, test, vi } from "vitest";
import { type Backend, createCompressor } from "../src/index.ts";
import { makeSample } from "../src/testing/index.ts";
import { compressWith, decompressWith, waysToLz4 } from "./support/backends.ts";
import { corpus } from "./support/inputs.ts";
import { restoreKoffi, shortOfDescriptors, withoutLibrary } from "./support/koffi.ts";

const ways = await waysToLz4();
const system = ways.find(({ name }) => name === "lz4-library");
const inputs = [...corpus(), { name: "an extent", bytes: makeSample("mixed", 524_288, 3).bytes }];

describe.each(ways)("what $name writes", (writer) => {
  test.each(ways)("$name reads", (reader) => {
    for (const { name, bytes } of inputs) {
      const back = decompressWith(reader, compressWith(writer, bytes), bytes.length);
      expect(back.equals(bytes), name).toBe(true);
    }
  });
});

describe.runIf(system)("the system's library", () => {
  const backend = { ...system, syncCompress: 0 } as Backend;

  test("writes into the output and nowhere else, and as much room makes no other block", () => {
    for (const { name, bytes } of inputs) {
      const whole = compressWith(backend, bytes);
      for (const room of [whole.length, whole.length - 1, 1, 0]) {
        if (room < 0) continue;
        const around = Buffer.alloc(room + 128, 0xa5);
        const context = backend.createContext({ level: 0 });
        const length = backend.compress(bytes, around.subarray(64, 64 + room), context);
        expect(length, name).toBe(room < whole.length ? -1 : whole.length);
        if (length > 0) expect(around.subarray(64, 64 + length).equals(whole), name).toBe(true);
        around.fill(0xa5, 64, 64 + room);
        expect(
          around.every((byte) => byte === 0xa5),
          name,
        ).toBe(true);
      }
    }
  });

  test("more calls on other threads than may be made at a time", async () => {
    const compressor = await createCompressor(backend, { maxStreams: 300 });
    await Promise.all(
      Array.from({ length: 300 }, async (_, n) => {
        const source = makeSample("mixed", 20_000 + n, n).bytes;
        const stream = await compressor.acquire();
        const block = Buffer.from(stream.output.subarray(0, await stream.compress(source)));
        stream.release();
        expect(block.equals(compressWith(backend, source))).toBe(true);
        expect(decompressWith(backend, block, source.length).equals(source)).toBe(true);
      }),
    );
    await compressor.close();
  });

  test("a context of somebody else is refused, not written to", () => {
    for (const context of [Buffer.alloc(16), Buffer.alloc(100_000)])
      expect(() => backend.compress(Buffer.alloc(9), Buffer.alloc(99), context)).toThrow("another one's");
  });
});

describe.runIf(system)("once the library could not be loaded for a moment", () => {
  afterEach(restoreKoffi);

  test("streams from before go on as they are, and later ones use it", async () => {
    const end = await shortOfDescriptors();
    const fresh = await import("../src/index.ts");
    const source = makeSample("text", 100_000, 5).bytes;
    const first = await fresh.createCompressor("lz4");
    const early = await first.acquire();
    end();
    const second = await fresh.createCompressor("lz4");
    const late = await second.acquire();
    for (const stream of [early, late]) {
      for (const bytes of [source, source.subarray(0, 4096)]) {
        const sync = Buffer.from(stream.output.subarray(0, stream.compressSync(bytes)));
        const later = Buffer.from(stream.output.subarray(0, await stream.compress(bytes)));
        for (const block of [sync, later]) {
          const dst = Buffer.alloc(bytes.length);
          expect(await second.decompress(block, dst)).toBe(bytes.length);
          expect(dst.equals(bytes)).toBe(true);
        }
      }
      stream.release();
    }
    await first.close();
    await second.close();
  });
});

describe("without the system's library", () => {
  afterEach(restoreKoffi);

  test.each(withoutLibrary(10802))("%s: the package does it", async (_what, koffi) => {
    vi.resetModules();
    vi.doMock("koffi", koffi);
    const { lz4 } = await import("../src/backends/lz4.ts");
    const { lz4Package } = await import("../src/backends/lz4-package.ts");
    const { lz4Library } = await import("../src/backends/lz4-library.ts");
    await lz4.load?.();
    expect(lz4.syncCompress).toBe(lz4Package.syncCompress);
    expect(lz4.createContext({ level: 0 })).toBeUndefined();
    await expect(lz4Library.load?.()).rejects.toMatchObject({ code: "ENOTSUP" });
    const bytes = makeSample("text", 4096, 1).bytes;
    expect(decompressWith(lz4, compressWith(lz4, bytes), 4096).equals(bytes)).toBe(true);
  });
});
