import fc from "fast-check";
import { describe, expect, it, vi } from "vitest";
import {
  Bitmap,
  BlockIoError,
  BufferPool,
  ByteAccess,
  FlushGroup,
  MemoryDevice,
  RangeLock,
  SparseBitmap,
  acceleratedCrc32c,
  codeOf,
  crc32c,
  describeRange,
  describeSize,
  formatSize,
  getU16,
  getU32,
  getU64,
  getU8,
  isZero,
  parseOptions,
  parseSize,
  portableCrc32c,
  rawCrc32c,
  setU16,
  setU32,
  setU64,
  setU8,
  tryU64,
  latencyBucket,
} from "../src/index.ts";
import { Limiter } from "../src/sync/limiter.ts";

describe("a limiter", () => {
  it("lets the others wait, in order, and goes on after a failure", async () => {
    const limiter = new Limiter(2);
    const begun: number[] = [];
    const end: ((error?: Error) => void)[] = [];
    const results = Array.from({ length: 5 }, (_, index) =>
      limiter.run(
        () =>
          new Promise<void>((resolve, reject) => {
            begun.push(index);
            end[index] = (error) => (error === undefined ? resolve() : reject(error));
          }),
      ),
    );
    const settled = Promise.allSettled(results);
    expect(begun).toEqual([0, 1]);
    end[1]?.(new Error("lost"));
    await expect.poll(() => begun).toEqual([0, 1, 2]);
    end[2]?.();
    end[0]?.();
    await expect.poll(() => begun).toEqual([0, 1, 2, 3, 4]);
    end[3]?.();
    end[4]?.();
    expect((await settled).map(({ status }) => status)).toEqual([
      "fulfilled",
      "rejected",
      "fulfilled",
      "fulfilled",
      "fulfilled",
    ]);
  });
});

describe("sizes", () => {
  it.each([
    ["0", 0],
    ["512", 512],
    ["64K", 65_536],
    ["64k", 65_536],
    ["1.5M", 1_572_864],
    ["10GiB", 10 * 2 ** 30],
    ["2 TB", 2 * 2 ** 40],
    ["8s", 4096],
    ["7b", 7],
  ])("%s is %d bytes", (text, bytes) => {
    expect(parseSize(text)).toBe(bytes);
  });

  it.each(["", "x", "-1", "1.3", "1e3", "0x10", "9999999P", "1 2", "K"])("%j is refused", (text) => {
    expect(() => parseSize(text)).toThrow(expect.objectContaining({ code: "EPARSE" }));
  });

  it("prints what it parses", () => {
    fc.assert(fc.property(fc.maxSafeNat(), (bytes) => parseSize(formatSize(bytes)) === bytes));
    expect(formatSize(65_536)).toBe("64K");
    expect(describeSize(1_610_612_736)).toBe("1.50 GiB");
  });
});

describe("options", () => {
  const table = {
    device: { type: "device", help: "below" },
    blocks: { type: "integer", min: 1, max: 10, default: 3, help: "how many" },
    mode: { type: "choice", values: ["fast", "safe"], default: "safe", help: "how" },
    size: { type: "size", min: 0, max: 2 ** 40, optional: true, help: "how large" },
    on: { type: "flag", default: false, help: "whether" },
    parts: {
      type: "list",
      min: 0,
      max: 2,
      optional: true,
      of: { name: { type: "text", help: "n" } },
      help: "parts",
    },
  } as const;

  it("fills in defaults and converts", () => {
    expect(parseOptions(table, { device: "a", size: "64K", on: "1", parts: [{ name: "x" }] })).toEqual({
      device: "a",
      blocks: 3,
      mode: "safe",
      size: 65_536,
      on: true,
      parts: [{ name: "x" }],
    });
  });

  it.each([
    [{}, /device is missing/],
    [{ device: "" }, /device/],
    [{ device: "a", blocks: 11 }, /blocks: 11 is not allowed/],
    [{ device: "a", blocks: 1.5 }, /blocks/],
    [{ device: "a", mode: "slow" }, /mode/],
    [{ device: "a", size: "many" }, /size/],
    [{ device: "a", on: 2 }, /on/],
    [{ device: "a", other: 1 }, /no option "other"/],
    [{ device: "a", parts: [{}, {}, {}] }, /parts/],
    [null, /null is not a set of options/],
    [[], /not a set/],
    [{ device: "a", __proto__: null, constructor: 1 }, /constructor/],
  ])("refuses %j", (values, says) => {
    expect(() => parseOptions(table, values)).toThrow(
      expect.objectContaining({ code: "EPARSE", message: expect.stringMatching(says) as string }),
    );
  });

  it("describes ranges", () => {
    expect(Object.values(table).map(describeRange)).toEqual([
      "path, URI or device name",
      "1 … 10",
      "fast, safe",
      "0 … 1099511627776 bytes",
      "0, 1",
      "0 … 2 groups of: name",
    ]);
  });
});

describe("CRC-32C", () => {
  // From the iSCSI standard's examples (RFC 3720, B.4) and the well-known check value.
  it.each([
    ["123456789", Buffer.from("123456789"), 0xe3069283],
    ["32 zero bytes", Buffer.alloc(32), 0x8a9136aa],
    ["32 bytes of 0xff", Buffer.alloc(32, 0xff), 0x62a8ab43],
    ["0 to 31", Buffer.from(Array.from({ length: 32 }, (_, i) => i)), 0x46dd794e],
    ["nothing", Buffer.alloc(0), 0],
  ])("of %s", (_name, bytes, expected) => {
    expect(crc32c(bytes)).toBe(expected);
    expect(portableCrc32c(bytes)).toBe(expected);
  });

  it("without the final inversion, as the kernel computes it", () => {
    expect(rawCrc32c(Buffer.from("123456789"))).toBe(486_108_540);
    expect(rawCrc32c(Buffer.alloc(512))).toBe(3_473_084_991);
    expect(rawCrc32c(Buffer.alloc(3584))).toBe(4_151_263_722);
    expect(rawCrc32c(Buffer.alloc(4096))).toBe(1_728_495_222);
  });

  it("is the same in both implementations, in one piece or two", () => {
    const accelerated = acceleratedCrc32c();
    expect(accelerated).toBeDefined();
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 5000 }), fc.nat(), (bytes, at) => {
        const cut = bytes.length === 0 ? 0 : at % bytes.length;
        const whole = portableCrc32c(bytes);
        expect(accelerated?.(bytes)).toBe(whole);
        expect(portableCrc32c(bytes.subarray(cut), portableCrc32c(bytes.subarray(0, cut)))).toBe(whole);
        expect(accelerated?.(bytes.subarray(cut), accelerated(bytes.subarray(0, cut)))).toBe(whole);
      }),
    );
  });
});

describe("little-endian integers", () => {
  it("lie in memory as the format says", () => {
    const bytes = Buffer.alloc(15);
    setU64(bytes, 0, 0x0004_0302_0102_0304);
    setU32(bytes, 8, 0xfffefdfc);
    setU16(bytes, 12, 0x1234);
    setU8(bytes, 14, 0x56);
    expect(bytes.toString("hex")).toBe("0403020102030400fcfdfeff341256");
    expect([getU64(bytes, 0), getU32(bytes, 8), getU16(bytes, 12), getU8(bytes, 14)]).toEqual([
      0x0004_0302_0102_0304, 0xfffefdfc, 0x1234, 0x56,
    ]);
  });

  it("keep every safe integer and refuse the rest", () => {
    const bytes = Buffer.alloc(8);
    fc.assert(
      fc.property(fc.maxSafeNat(), (value) => {
        setU64(bytes, 0, value);
        return getU64(bytes, 0) === value && bytes.readBigUInt64LE() === BigInt(value);
      }),
    );
    bytes.fill(0xff);
    expect(tryU64(bytes, 0)).toBeNaN();
    expect(() => getU64(bytes, 0)).toThrow(expect.objectContaining({ code: "EFORMAT" }));
    expect(() => setU64(bytes, 0, -1)).toThrow(RangeError);
    expect(() => setU32(bytes, 0, 2 ** 32)).toThrow(RangeError);
    expect(() => getU32(bytes, 5)).toThrow(RangeError);
    expect(() => setU16(bytes, 7, 1)).toThrow(RangeError);
  });

  it("finds a byte that is not zero wherever it is", () => {
    fc.assert(
      fc.property(fc.nat(3000), fc.nat(3000), (length, at) => {
        const bytes = Buffer.alloc(length);
        if (!isZero(bytes)) return false;
        if (at >= length) return true;
        bytes[at] = 1;
        return !isZero(bytes) && isZero(bytes, at + 1) && isZero(bytes, 0, at);
      }),
    );
  });
});

describe("bitmap", () => {
  it("behaves like an array of booleans", () => {
    const commands = fc.array(fc.tuple(fc.nat(199), fc.nat(80), fc.boolean()), { maxLength: 30 });
    fc.assert(
      fc.property(commands, (steps) => {
        const bitmap = new Bitmap(200);
        const model = Array.from({ length: 200 }, () => false);
        for (const [at, wanted, value] of steps) {
          const count = Math.min(wanted, 200 - at);
          bitmap.fill(at, count, value);
          model.fill(value, at, at + count);
        }
        for (let at = 0; at < 200; at += 1) {
          expect(bitmap.get(at)).toBe(model[at]);
          const change = model.findIndex((bit, index) => index > at && bit !== model[at]);
          expect(bitmap.runEnd(at)).toBe(change < 0 ? 200 : change);
          const found = model.indexOf(true, at);
          expect(bitmap.find(true, at)).toBe(found < 0 ? 200 : found);
        }
        expect(bitmap.count()).toBe(model.filter(Boolean).length);
        expect(bitmap.count(3, 190)).toBe(model.slice(3, 190).filter(Boolean).length);
      }),
    );
  });

  it("puts bit n at bit n % 8 of byte n / 8", () => {
    const bitmap = new Bitmap(5008);
    bitmap.set(5000);
    expect(bitmap.bytes[625]).toBe(1);
    expect(() => bitmap.get(5008)).toThrow(RangeError);
    expect(() => bitmap.set(5000, 9)).toThrow(RangeError);
  });
});

describe("sparse bitmap", () => {
  const PART = 262_144;

  it("behaves like an array of booleans, over the ends of its parts", () => {
    // A model of the last and first bits of four parts.
    const places = [PART, 2 * PART, 5 * PART].flatMap((end) =>
      Array.from({ length: 20 }, (_, index) => end - 10 + index),
    );
    const commands = fc.array(fc.tuple(fc.nat(places.length - 1), fc.nat(9)), { maxLength: 20 });
    fc.assert(
      fc.property(commands, fc.boolean(), (steps, value) => {
        const bitmap = new SparseBitmap();
        const model = new Set<number>();
        for (const [place, count] of steps) {
          const first = places[place] as number;
          bitmap.set(first, count);
          for (let at = first; at < first + count; at += 1) model.add(at);
        }
        expect(bitmap.count).toBe(model.size);
        const runs = [...bitmap.runs(value, PART - 20, 5 * PART + 20)];
        for (const at of places) {
          const inside = runs.some(({ first, count }) => at >= first && at < first + count);
          expect(inside, String(at)).toBe(model.has(at) === value);
        }
        // As long as they can be.
        for (const [index, { first }] of runs.entries()) {
          const before = runs[index - 1];
          if (before !== undefined) expect(first).toBeGreaterThan(before.first + before.count);
        }
      }),
    );
  });

  it("takes the bytes of a part", () => {
    const bitmap = new SparseBitmap();
    bitmap.put(1, Buffer.alloc(PART / 8, 0xff));
    bitmap.set(2 * PART, 1);
    expect([...bitmap.runs(true, 0, 3 * PART)]).toEqual([{ first: PART, count: PART + 1 }]);
    bitmap.put(1, Buffer.alloc(PART / 8));
    expect([...bitmap.runs(false, 0, 3 * PART)]).toEqual([
      { first: 0, count: 2 * PART },
      { first: 2 * PART + 1, count: PART - 1 },
    ]);
  });
});

describe("range lock", () => {
  it("never grants conflicting ranges and leaves nobody waiting", async () => {
    const request = fc.record({
      offset: fc.nat(20),
      length: fc.integer({ min: 1, max: 10 }),
      exclusive: fc.boolean(),
    });
    await fc.assert(
      fc.asyncProperty(
        fc.array(request, { minLength: 1, maxLength: 40 }),
        fc.infiniteStream(fc.nat()),
        async (requests, choices) => {
          const lock = new RangeLock();
          const held = new Set<(typeof requests)[number]>();
          const releases: (() => void)[] = [];
          const all = requests.map((wanted) =>
            lock.with(wanted.offset, wanted.length, wanted.exclusive, async () => {
              for (const other of held) {
                const overlap =
                  wanted.offset < other.offset + other.length && other.offset < wanted.offset + wanted.length;
                expect(overlap && (wanted.exclusive || other.exclusive)).toBe(false);
              }
              held.add(wanted);
              await new Promise<void>((resolve) => releases.push(resolve));
              held.delete(wanted);
            }),
          );
          while (lock.pending > 0) {
            await new Promise((resolve) => setImmediate(resolve));
            if (releases.length > 0)
              releases.splice((choices.next().value as number) % releases.length, 1)[0]?.();
          }
          await Promise.all(all);
        },
      ),
      { numRuns: 50 },
    );
  });

  it("does not let a later request pass an earlier one it overlaps", async () => {
    const lock = new RangeLock();
    const first = await lock.acquire(0, 10, false);
    const order: string[] = [];
    const writer = lock.acquire(5, 10, true).then((grant) => (order.push("writer"), grant));
    const reader = lock.acquire(12, 1, false).then((grant) => (order.push("reader"), grant));
    expect(lock.tryAcquire(14, 1, false)).toBeUndefined();
    expect(lock.tryAcquire(15, 1, false)).toBeDefined();
    lock.release(first);
    lock.release(await writer);
    lock.release(await reader);
    expect(order).toEqual(["writer", "reader"]);
    expect(() => lock.release(first)).toThrow(/twice/);
  });
});

describe("flush group", () => {
  it("covers every caller by a barrier that began after the call, sharing where it can", async () => {
    const finish: ((error?: Error) => void)[] = [];
    const group = new FlushGroup(
      () =>
        new Promise<void>((resolve, reject) => finish.push((error) => (error ? reject(error) : resolve()))),
    );
    const first = group.flush();
    const second = group.flush();
    const third = group.flush();
    expect(finish.length).toBe(1);
    finish[0]?.(new Error("lost"));
    await expect(first).rejects.toThrow("lost");
    await new Promise((resolve) => setImmediate(resolve));
    expect(finish.length).toBe(2);
    const fourth = group.flush();
    finish[1]?.();
    await Promise.all([second, third]);
    await new Promise((resolve) => setImmediate(resolve));
    finish[2]?.();
    await fourth;
  });

  it("lets a caller join the barrier that runs if nothing has changed since it began", async () => {
    const finish: (() => void)[] = [];
    let changes = 0;
    const group = new FlushGroup(
      () => new Promise<void>((resolve) => finish.push(resolve)),
      () => changes,
    );
    changes += 1;
    const first = group.flush();
    expect(group.flush()).toBe(first);
    changes += 1;
    const second = group.flush();
    expect(second).not.toBe(first);
    expect(group.flush()).toBe(second);
    let over = false;
    void second.then(() => (over = true));
    finish[0]?.();
    await first;
    await new Promise((resolve) => setImmediate(resolve));
    expect(over).toBe(false);
    expect(finish.length).toBe(2);
    const third = group.flush();
    finish[1]?.();
    await Promise.all([second, third]);
    expect(finish.length).toBe(2);
  });

  it("never runs two barriers at once, whenever somebody asks", async () => {
    let running = 0;
    const group = new FlushGroup(async () => {
      running += 1;
      expect(running).toBe(1);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
    });
    // Somebody asks in each of the microtasks between the end of a barrier and the start of the next.
    for (let ticks = 0; ticks < 8; ticks += 1) {
      const first = group.flush();
      const waiting = group.flush();
      let asked = first;
      for (let tick = 0; tick < ticks; tick += 1) asked = asked.then(() => {});
      const late = asked.then(() => group.flush());
      await Promise.all([first, waiting, late]);
    }
  });
});

describe("latency buckets", () => {
  it.each([
    [0, 0],
    [0.0009, 0],
    [0.001, 0],
    [0.002, 1],
    [1, 9],
    [1.024, 10],
    [2 ** 27 / 1000, 27],
    [2 ** 27 / 1000 - 1, 26],
    [2 ** 40, 27],
  ])("%d ms is in bucket %d of 28", (milliseconds, bucket) => {
    expect(latencyBucket(milliseconds, 28)).toBe(bucket);
  });
});

describe("buffer pool", () => {
  it("bounds what is out, first come first served", async () => {
    const pool = new BufferPool(4096, 2);
    const first = await pool.acquire();
    const second = await pool.acquire();
    expect(pool.tryAcquire()).toBeUndefined();
    const third = pool.acquire();
    const fourth = pool.acquire();
    pool.release(first);
    expect(await third).toBe(first);
    expect(pool.outstanding).toBe(2);
    pool.release(second);
    expect(await fourth).toBe(second);
    pool.release(first);
    pool.release(second);
    expect(pool.outstanding).toBe(0);
    expect(() => pool.release(second)).toThrow(/not a buffer/);
    pool.trim();
  });

  it("gives no place away for an allocation that failed", () => {
    const pool = new BufferPool(4096, 1);
    const allocate = vi.spyOn(Buffer, "allocUnsafeSlow").mockImplementationOnce(() => {
      throw new RangeError("Array buffer allocation failed");
    });
    expect(() => pool.tryAcquire()).toThrow(/allocation failed/);
    expect(pool.outstanding).toBe(0);
    expect(pool.tryAcquire()).toHaveLength(4096);
    allocate.mockRestore();
  });
});

describe("byte access", () => {
  it("behaves like an array of bytes on 512- and 4096-byte blocks", async () => {
    const size = 32 * 1024;
    const step = fc.record({
      kind: fc.constantFrom("write", "zero", "read", "discard"),
      offset: fc.nat(size - 1),
      length: fc.nat(9000),
      byte: fc.integer({ min: 1, max: 255 }),
    });
    for (const logicalBlockSize of [512, 4096] as const) {
      await fc.assert(
        fc.asyncProperty(fc.array(step, { maxLength: 30 }), async (steps) => {
          const access = new ByteAccess(new MemoryDevice(size, { logicalBlockSize }));
          const model = Buffer.alloc(size);
          for (const { kind, offset, length: wanted, byte } of steps) {
            const length = Math.min(wanted, size - offset);
            if (kind === "write") {
              await access.write(offset, Buffer.alloc(length, byte));
              model.fill(byte, offset, offset + length);
            } else if (kind === "zero") {
              await access.writeZeroes(offset, length);
              model.fill(0, offset, offset + length);
            } else if (kind === "discard") {
              await access.discard(offset, length);
              const first = Math.ceil(offset / logicalBlockSize) * logicalBlockSize;
              const last = Math.floor((offset + length) / logicalBlockSize) * logicalBlockSize;
              if (last > first) model.fill(0, first, last);
            } else {
              const into = Buffer.alloc(length);
              await access.read(offset, into);
              expect(into.equals(model.subarray(offset, offset + length))).toBe(true);
            }
          }
          const all = Buffer.alloc(size);
          await access.read(0, all);
          expect(all.equals(model)).toBe(true);
        }),
        { numRuns: 60 },
      );
    }
  });

  it("loses no byte of neighbours written at the same time", async () => {
    class Slow extends MemoryDevice {
      protected override async doRead(offset: number, into: Buffer): Promise<void> {
        await new Promise((resolve) => setImmediate(resolve));
        await super.doRead(offset, into);
      }
    }
    const access = new ByteAccess(new Slow(64 * 1024));
    const expected = Buffer.alloc(4096);
    await Promise.all(
      Array.from({ length: 4096 / 64 }, async (_, index) => {
        expected.fill(index + 1, index * 64, index * 64 + 64);
        await access.write(index * 64, Buffer.alloc(64, index + 1));
      }),
    );
    const into = Buffer.alloc(4096);
    await access.read(0, into);
    expect(into.equals(expected)).toBe(true);
  });

  it("refuses what lies outside", async () => {
    const access = new ByteAccess(new MemoryDevice(4096));
    await expect(access.read(4095, Buffer.alloc(2))).rejects.toMatchObject({ code: "EINVAL" });
    await expect(access.write(4095, Buffer.alloc(2))).rejects.toMatchObject({ code: "ENOSPC" });
    await expect(access.writeZeroes(1, 4096)).rejects.toMatchObject({ code: "ENOSPC" });
    await expect(access.discard(1, 4096)).rejects.toMatchObject({ code: "EINVAL" });
    await expect(access.writeZeroes(1, 1024, { fast: true })).rejects.toMatchObject({ code: "ENOTSUP" });
  });
});

describe("errors", () => {
  it("say where and carry a stable code", () => {
    const error = new BlockIoError("it broke", {
      code: "EIO",
      device: "disk",
      op: "read",
      offset: 512,
      length: 1024,
    });
    expect(error.message).toBe("disk: read of 1024 bytes at offset 512: it broke (EIO)");
    expect(codeOf(Object.assign(new Error("x"), { code: "EDQUOT" }))).toBe("ENOSPC");
    expect(codeOf(Object.assign(new Error("x"), { code: "ESOMETHING" }))).toBe("EIO");
    expect(codeOf(undefined)).toBe("EIO");
  });
});
