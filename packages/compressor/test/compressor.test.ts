import { describe, expect, test, vi } from "vitest";
import {
  type Backend,
  CompressorError,
  type CompressorOptions,
  compressorErrorCodes,
  createCompressor,
  describeBackends,
  findBackend,
  listBackends,
  registerBackend,
} from "../src/index.ts";
import { makeSample } from "../src/testing/index.ts";
import { ManualClock } from "./support/manual-clock.ts";

const page = makeSample("text", 4096, 1).bytes;
const extent = makeSample("text", 131072, 2).bytes;

/** Refused with this code. */
function coded(code: keyof typeof compressorErrorCodes): unknown {
  return expect.objectContaining({ name: "CompressorError", code });
}

/** A backend whose every call can be replaced. */
function fake(changes: Partial<Backend> = {}): Backend {
  return {
    name: "fake",
    description: "for tests",
    syncCompress: 4096,
    syncDecompress: 4096,
    createContext: () => undefined,
    destroyContext: () => undefined,
    bound: (length) => length,
    compress: (src, dst) => (dst.set(src), src.length),
    decompress: (src, dst) => (dst.set(src), src.length),
    ...changes,
  };
}

/** A backend whose asynchronous compression ends when told to, and how often one was started. */
interface Slow {
  readonly backend: Backend;
  readonly started: () => number;
  readonly finish: (length: number) => void;
}

function slow(): Slow {
  const running: ((length: number) => void)[] = [];
  let started = 0;
  return {
    backend: fake({
      compressAsync: () => {
        started += 1;
        return new Promise((resolve) => running.push(resolve));
      },
    }),
    started: () => started,
    finish: (length) => running.shift()?.(length),
  };
}

describe("createCompressor", () => {
  test("refuses an unknown name, listing the known ones", async () => {
    const error = await createCompressor("lz5").catch((reason: unknown) => reason as CompressorError);
    expect(error).toEqual(coded("ENOENT"));
    for (const name of listBackends()) expect((error as CompressorError).hint).toContain(name);
  });

  test.each<[string, CompressorOptions]>([
    ["no stream", { maxStreams: 0 }],
    ["too many streams", { maxStreams: 1025 }],
    ["half a stream", { maxStreams: 1.5 }],
    ["no input", { maxInput: 0 }],
    ["too long an input", { maxInput: 16 * 1024 * 1024 + 1 }],
    ["a level where there is none", { level: 1 }],
    ["a negative time", { idleTime: -1 }],
    ["not a number", { idleTime: Number.NaN }],
    ["too many threads", { threads: 65 }],
  ])("refuses %s", async (_what, options) => {
    await expect(createCompressor("lzo", options)).rejects.toEqual(coded("EINVAL"));
  });

  test("refuses a level out of range, and takes those in range", async () => {
    await expect(createCompressor("deflate", { level: 10 })).rejects.toEqual(coded("EINVAL"));
    const [fast, small] = [
      await createCompressor("deflate", { level: 1 }),
      await createCompressor("deflate", { level: 9 }),
    ];
    const [a, b] = [await fast.acquire(), await small.acquire()];
    expect(a.compressSync(extent)).toBeGreaterThan(b.compressSync(extent));
  });

  test("says so when not even one stream can be created", async () => {
    const createContext = (): never => {
      throw new Error("no memory");
    };
    await expect(createCompressor(fake({ createContext }))).rejects.toEqual(coded("ENOMEM"));
  });

  test("goes on without the package of lz4: what either writes the other reads", async () => {
    const native = await createCompressor("lz4");
    vi.resetModules();
    vi.doMock("lz4-napi", () => {
      throw new Error("Cannot find module 'lz4-napi'");
    });
    const fresh = await import("../src/index.ts");
    const portable = await fresh.createCompressor("lz4");
    for (const length of [0, 1, 12, 13, 4096, 32 * 1024, 130_000]) {
      for (const step of [0, 1, 7, 1 << 30]) {
        const bytes = Buffer.from(
          Array.from({ length }, (_, index) => Math.imul(index, step) >>> (step > 9 ? 23 : 3)),
        );
        for (const [from, to] of [
          [native, portable],
          [portable, native],
          [portable, portable],
        ] as const) {
          const stream = await from.acquire();
          const block = Buffer.from(stream.output.subarray(0, stream.compressSync(bytes)));
          stream.release();
          const into = Buffer.alloc(length);
          expect(to.decompressSync(block, into)).toBe(length);
          expect(into.equals(bytes)).toBe(true);
          expect(await to.decompress(block, into)).toBe(length);
        }
      }
    }
    await native.close();
    await portable.close();
    vi.doUnmock("lz4-napi");
  });
});

describe("a stream", () => {
  test("has at least two pages of output, and enough for the longest input", async () => {
    for (const name of listBackends()) {
      const small = await createCompressor(name, { maxInput: 4096 });
      const large = await createCompressor(name);
      expect((await small.acquire()).output.length, name).toBeGreaterThanOrEqual(8192);
      expect((await large.acquire()).output.length, name).toBeGreaterThanOrEqual(large.bound(131072));
    }
  });

  test("refuses an input that is too long, and an impossible limit", async () => {
    const compressor = await createCompressor("lzo", { maxInput: 4096 });
    const stream = await compressor.acquire();
    const long = Buffer.alloc(4097);
    expect(() => stream.compressSync(long)).toThrow(coded("EOVERFLOW"));
    await expect(stream.compress(long)).rejects.toEqual(coded("EOVERFLOW"));
    for (const limit of [-1, 0.5, Number.NaN, stream.output.length + 1]) {
      expect(() => stream.compressSync(page, limit)).toThrow(coded("EINVAL"));
      await expect(stream.compress(page, limit)).rejects.toEqual(coded("EINVAL"));
    }
    expect(stream.compressSync(page, 0)).toBe(-1);
  });

  test("is dead once released, even for whoever kept it", async () => {
    const compressor = await createCompressor("lzo", { maxStreams: 1 });
    const stream = await compressor.acquire();
    stream.release();
    const other = await compressor.acquire();
    other.compressSync(page);
    expect(() => stream.compressSync(page)).toThrow(coded("ESHUTDOWN"));
    expect(() => stream.output).toThrow(coded("ESHUTDOWN"));
    expect(() => stream.release()).toThrow(coded("ESHUTDOWN"));
    await expect(stream.compress(extent)).rejects.toEqual(coded("ESHUTDOWN"));
    expect(compressor.status()).toMatchObject({ streams: 1, idle: 0 });
  });

  test("runs one compression at a time", async () => {
    const { backend, finish } = slow();
    const stream = await (await createCompressor(backend)).acquire();
    const running = stream.compress(extent);
    expect(() => stream.compressSync(page)).toThrow(coded("EBUSY"));
    await expect(stream.compress(extent)).rejects.toEqual(coded("EBUSY"));
    finish(7);
    expect(await running).toBe(7);
    expect(stream.compressSync(page)).toBe(4096);
  });

  test("released in mid-compression goes to the next user only when that has ended", async () => {
    const { backend, finish } = slow();
    const compressor = await createCompressor(backend, { maxStreams: 1 });
    const stream = await compressor.acquire();
    const running = stream.compress(extent);
    stream.release();
    let got = false;
    const next = compressor.acquire().then((other) => ((got = true), other));
    await new Promise((resolve) => setImmediate(resolve));
    expect(got).toBe(false);
    expect(compressor.tryAcquire()).toBeUndefined();
    finish(1);
    await running;
    (await next).release();
    expect(compressor.status()).toMatchObject({ streams: 1, idle: 1, waiting: 0 });
  });

  test("several compress at the same time", async () => {
    const { backend, started, finish } = slow();
    const compressor = await createCompressor(backend, { maxStreams: 3 });
    const running = [1, 2, 3, 4].map(async () => {
      const stream = await compressor.acquire();
      await stream.compress(extent);
      stream.release();
    });
    await new Promise((resolve) => setImmediate(resolve));
    expect(started()).toBe(3);
    expect(compressor.status()).toMatchObject({ streams: 3, waiting: 1 });
    for (let n = 0; n < 4; n += 1) {
      finish(1);
      await new Promise((resolve) => setImmediate(resolve));
    }
    await Promise.all(running);
    expect(started()).toBe(4);
  });

  test("large inputs leave the event loop free", async () => {
    for (const name of ["lz4", "deflate"]) {
      const compressor = await createCompressor(name, { maxStreams: 2 });
      const streams = [await compressor.acquire(), await compressor.acquire()];
      const order: string[] = [];
      const running = streams.map(async (stream) => {
        await stream.compress(extent);
        order.push("done");
      });
      order.push("both started");
      await Promise.all(running);
      expect(order, name).toEqual(["both started", "done", "done"]);
      for (const stream of streams) stream.release();
      await compressor.close();
    }
  });
});

describe("a backend that misbehaves", () => {
  test("by throwing anything gets EIO out of both ways: it says nothing of the data", async () => {
    const fail = (): never => {
      throw new TypeError("oops");
    };
    const broken = fake({ compress: fail, decompress: fail, compressAsync: fail, decompressAsync: fail });
    const compressor = await createCompressor(broken);
    const stream = await compressor.acquire();
    expect(() => stream.compressSync(page)).toThrow(coded("EIO"));
    await expect(stream.compress(extent)).rejects.toEqual(coded("EIO"));
    expect(() => compressor.decompressSync(page, page)).toThrow(coded("EIO"));
    await expect(compressor.decompress(page, extent)).rejects.toEqual(coded("EIO"));
    stream.release();
    await compressor.close();
  });

  test.each([-2, 1e9, 1.5, Number.NaN])("by returning %s as a length gets EIO", async (length) => {
    const compressor = await createCompressor(fake({ compress: () => length, decompress: () => length }));
    const stream = await compressor.acquire();
    expect(() => stream.compressSync(page)).toThrow(coded("EIO"));
    expect(() => compressor.decompressSync(page, Buffer.alloc(10))).toThrow(coded("EIO"));
  });
});

describe("registerBackend", () => {
  test("makes a backend known by name and id", async () => {
    const mine = fake({ name: "mine", id: 200 });
    registerBackend(mine);
    expect(listBackends()).toContain("mine");
    expect(findBackend("mine")).toBe(mine);
    expect(findBackend(200)).toBe(mine);
    expect((await describeBackends()).find(({ name }) => name === "mine")).toMatchObject({
      available: true,
      id: 200,
    });
    const compressor = await createCompressor("mine");
    const stream = await compressor.acquire();
    expect(stream.compressSync(page)).toBe(4096);
    stream.release();
    await compressor.close();
  });

  test("refuses a name or id that is taken", () => {
    expect(() => registerBackend(fake({ name: "lzo" }))).toThrow(coded("EEXIST"));
    expect(() => registerBackend(fake({ name: "another", id: 0 }))).toThrow(coded("EEXIST"));
  });

  test.each<[string, Partial<Backend>]>([
    ["an empty name", { name: "" }],
    ["capitals", { name: "LZ4" }],
    ["a name too long for a superblock", { name: "x".repeat(33) }],
    ["an id beyond a byte", { id: 256 }],
    ["levels in disorder", { levels: { min: 3, default: 1, max: 9 } }],
    ["no limit", { syncCompress: Number.NaN }],
  ])("refuses %s", (_what, changes) => {
    expect(() => registerBackend(fake(changes))).toThrow(coded("EINVAL"));
  });

  test("refuses a missing method", () => {
    const broken = fake();
    Reflect.deleteProperty(broken, "decompress");
    expect(() => registerBackend(broken)).toThrow(coded("EINVAL"));
  });

  test("the number of the compression target's format 1 is lzo's", () => {
    expect(findBackend(0).name).toBe("lzo");
    expect(() => findBackend(1)).toThrow(coded("ENOENT"));
    // What is offered in the place of a name are names.
    expect(() => findBackend("lz5")).toThrow(
      expect.objectContaining({
        reason: 'there is no compression backend "lz5"',
        hint: expect.not.stringContaining("(id"),
      }),
    );
  });
});

describe("streams come and go", () => {
  test("idle ones are given up on the injected clock, and their contexts with them", async () => {
    const clock = new ManualClock();
    let contexts = 0;
    const counting = fake({
      createContext: () => (contexts += 1),
      destroyContext: () => void (contexts -= 1),
    });
    const compressor = await createCompressor(counting, { maxStreams: 4, clock, idleTime: 50 });
    const streams = await Promise.all([1, 2, 3, 4].map(() => compressor.acquire()));
    expect(contexts).toBe(4);
    for (const stream of streams) stream.release();
    clock.advance(100);
    expect(contexts).toBe(1);
    await compressor.setMaxStreams(2);
    expect(compressor.status()).toMatchObject({ maxStreams: 2, streams: 1, idle: 1 });
    await expect(compressor.setMaxStreams(0)).rejects.toThrow(coded("EINVAL"));
    await compressor.close();
    expect(contexts).toBe(0);
  });

  test("closed: no streams any more, decompression goes on", async () => {
    const compressor = await createCompressor("lzo");
    const stream = await compressor.acquire();
    const compressed = Buffer.from(stream.output.subarray(0, stream.compressSync(page)));
    const closing = compressor.close();
    await expect(compressor.acquire()).rejects.toEqual(coded("ESHUTDOWN"));
    stream.release();
    await closing;
    expect(compressor.decompressSync(compressed, Buffer.alloc(4096))).toBe(4096);
  });

  test("a part of the content is given by lz4, and by others not at all", async () => {
    const content = Buffer.alloc(40_000, "some words that come again, ");
    for (const name of ["lz4", "lzo"]) {
      const compressor = await createCompressor(name);
      const stream = await compressor.acquire();
      const compressed = Buffer.from(stream.output.subarray(0, stream.compressSync(content)));
      stream.release();
      const part = Buffer.alloc(100);
      const count = compressor.decompressPartSync(compressed, part, 20_001, content.length);
      expect(count).toBe(name === "lz4" ? 100 : undefined);
      if (count === 100) expect(part).toEqual(content.subarray(20_001, 20_101));
      const garbage = Buffer.alloc(50, 0xff);
      const broken = (): unknown => compressor.decompressPartSync(garbage, part, 0, content.length);
      if (name === "lz4") expect(broken).toThrow(coded("EFORMAT"));
      await compressor.close();
    }
  });

  test("decompression into an unreasonable buffer is refused before any work", async () => {
    const compressor = await createCompressor("lzo");
    const huge = { length: 2 ** 31 } as Uint8Array;
    expect(() => compressor.decompressSync(page, huge)).toThrow(coded("EOVERFLOW"));
    await expect(compressor.decompress(page, huge)).rejects.toEqual(coded("EOVERFLOW"));
  });
});
