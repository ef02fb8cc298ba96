import { afterEach, describe, expect, test, vi } from "vitest";
import { zstdLibrary } from "../src/backends/zstd-library.ts";
import { type Backend, createCompressor } from "../src/index.ts";
import { makeSample } from "../src/testing/index.ts";
import { compressWith, decompressWith, waysToZstd } from "./support/backends.ts";
import { corpus } from "./support/inputs.ts";
import { restoreKoffi, shortOfDescriptors, withoutLibrary } from "./support/koffi.ts";

const ways = await waysToZstd();
const system = ways.find(({ name }) => name === "zstd-library");
const inputs = [...corpus(), { name: "a chunk of an image", bytes: makeSample("mixed", 524_288, 3).bytes }];

const decoderOf = (backend: object): unknown => Reflect.get(backend, "decompress");

describe.each(ways)("what $name writes", (writer) => {
  test.each(ways)("$name reads", (reader) => {
    for (const { name, bytes } of inputs) {
      expect(decompressWith(reader, compressWith(writer, bytes), bytes.length).equals(bytes), name).toBe(
        true,
      );
    }
  });
});

describe.runIf(system)("the system's library", () => {
  const backend = { ...system, syncCompress: 0, syncDecompress: 0 } as Backend;

  test("more calls on other threads than may be made at a time, and levels that take the most memory", async () => {
    const sources = Array.from({ length: 300 }, (_, n) => makeSample("mixed", 20_000 + n, n).bytes);
    for (const level of [1, 19]) {
      const compressor = await createCompressor(backend, { maxStreams: 300, level });
      await Promise.all(
        sources.map(async (source) => {
          const stream = await compressor.acquire();
          const frame = Buffer.from(stream.output.subarray(0, await stream.compress(source)));
          stream.release();
          // In the middle of what others have: not a byte beside it is touched.
          const around = Buffer.alloc(source.length + 128, 0xa5);
          const dst = around.subarray(64, 64 + source.length);
          expect(await compressor.decompress(frame, dst)).toBe(source.length);
          expect(dst.equals(source)).toBe(true);
          around.fill(0xa5, 64, 64 + source.length);
          expect(around.every((byte) => byte === 0xa5)).toBe(true);
        }),
      );
      await compressor.close();
    }
  });

  test("what is not well-formed costs no place for calls", async () => {
    const compressor = await createCompressor(backend);
    const source = makeSample("text", 20_000, 5).bytes;
    const frame = compressWith(backend, source);
    const damaged = Buffer.from(frame).fill(0xff, 20, frame.length - 10);
    const dst = Buffer.alloc(source.length);
    const results = await Promise.allSettled(
      Array.from({ length: 100 }, () => compressor.decompress(damaged, Buffer.alloc(source.length))),
    );
    for (const result of results) expect(result).toMatchObject({ reason: { code: "EFORMAT" } });
    expect(await compressor.decompress(frame, dst)).toBe(source.length);
    expect(dst.equals(source)).toBe(true);
    await compressor.close();
  });

  test("what koffi refuses is no damage of the data", async () => {
    const source = makeSample("text", 20_000, 5).bytes;
    const frame = compressWith(backend, source);
    for (const [message, code] of [
      ["Too many asynchronous calls are running", "ENOMEM"],
      ["Unexpected Object value for argument", "EIO"],
    ]) {
      const refusing = {
        ...backend,
        decompressAsync: () => Promise.reject(new TypeError(message)),
        decompress: () => {
          throw new TypeError(message);
        },
      } as unknown as Backend;
      const compressor = await createCompressor(refusing);
      await expect(compressor.decompress(frame, Buffer.alloc(source.length))).rejects.toMatchObject({ code });
      expect(() => compressor.decompressSync(frame, Buffer.alloc(source.length))).toThrow(
        expect.objectContaining({ code }),
      );
      await compressor.close();
    }
  });

  test("no frame is made in a context that was given up", () => {
    const context = backend.createContext({ level: 3 });
    backend.destroyContext(context);
    backend.destroyContext(context);
    expect(() => backend.compress(Buffer.alloc(9), Buffer.alloc(99), context)).toThrow("given up");
  });

  test("is what the backend is, once loaded", async () => {
    const { zstd } = await import("../src/backends/zstd.ts");
    await zstd.load?.();
    expect(decoderOf(zstd)).toBe(decoderOf(zstdLibrary));
    expect(zstd.worker).toBeUndefined();
  });
});

describe.runIf(system)("a system's library that could not be loaded for a moment", () => {
  afterEach(restoreKoffi);

  test("is tried again with the next compressor, and those before go on as they are", async () => {
    const end = await shortOfDescriptors();
    const { zstd } = await import("../src/backends/zstd.ts");
    const again = await import("../src/index.ts");
    const source = makeSample("text", 20_000, 5).bytes;
    const first = await again.createCompressor("zstd", { threads: 0 });
    const stream = await first.acquire();
    end();
    const second = await again.createCompressor("zstd");
    const { zstdLibrary } = await import("../src/backends/zstd-library.ts");
    expect(decoderOf(zstd)).toBe(decoderOf(zstdLibrary));
    const frame = Buffer.from(stream.output.subarray(0, stream.compressSync(source)));
    stream.release();
    for (const compressor of [first, second]) {
      const dst = Buffer.alloc(source.length);
      expect(await compressor.decompress(frame, dst)).toBe(source.length);
      expect(dst.equals(source)).toBe(true);
      await compressor.close();
    }
  });
});

describe("without the system's library", () => {
  afterEach(restoreKoffi);

  test.each(withoutLibrary(10308))(
    "%s: another way is taken, and the library says why it is not",
    async (_what, koffi) => {
      vi.resetModules();
      vi.doMock("koffi", koffi);
      const { zstd } = await import("../src/backends/zstd.ts");
      const missing = await import("../src/backends/zstd-library.ts");
      await zstd.load?.();
      const others = [
        (await import("../src/backends/zstd-native.ts")).zstdNative,
        (await import("../src/backends/zstd-wasm.ts")).zstdWasm,
      ];
      expect(others.map(decoderOf)).toContain(decoderOf(zstd));
      await expect(missing.zstdLibrary.load?.()).rejects.toMatchObject({ code: "ENOTSUP" });
    },
  );
});
