import { describe, expect, it, vi } from "vitest";
import {
  BlockIoError,
  ByteAccess,
  type Extent,
  GuardedDevice,
  type Health,
  MemoryDevice,
  plainLimits,
  withCapabilities,
  worstHealth,
} from "../src/index.ts";

/** Each request waits until the test lets it go on or fail. */
class Puppet extends GuardedDevice {
  readonly calls: { op: string; resolve: () => void; reject: (error: unknown) => void }[] = [];
  extentsGiven: Extent[] | undefined;
  closed = 0;

  constructor(limits = plainLimits, size = 64 * 1024) {
    super("puppet", size, limits);
  }

  #park(op: string): Promise<void> {
    return new Promise((resolve, reject) => this.calls.push({ op, resolve, reject }));
  }

  protected override doRead(): Promise<void> {
    return this.#park("read");
  }

  protected override doWrite(): Promise<void> {
    return this.#park("write");
  }

  protected override doFlush(): Promise<void> {
    return this.#park("flush");
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    yield* this.extentsGiven ?? [{ offset, length, kind: "data" }];
  }

  protected override async doClose(): Promise<void> {
    this.closed += 1;
  }

  /** Lets the oldest request go on. */
  next(error?: unknown): string {
    const call = this.calls.shift();
    if (call === undefined) return "nothing";
    if (error === undefined) call.resolve();
    else call.reject(error);
    return call.op;
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const sector = Buffer.alloc(512);

/** The lowest one: its data is nowhere else. */
class Store extends Puppet {
  override health(): Health {
    return worstHealth([super.health(), this.spaceHealth()]);
  }
}

/** Tells what its guard does with it. */
class Restless extends MemoryDevice {
  readonly story: string[] = [];
  /** What does not succeed, and loses nothing by it. */
  failing: string | undefined;

  async #tell(what: string): Promise<void> {
    this.story.push(what);
    if (this.failing === what) throw new BlockIoError("full", { code: "ENOSPC", lossless: true });
  }

  quietly(what: string): Promise<void> {
    return this.inTurn(async (quiet) => {
      await quiet();
      this.story.push(what);
    });
  }

  protected override willDrain(): void {
    this.story.push("drain");
  }

  protected override doFlush(): Promise<void> {
    return this.#tell("flush");
  }

  protected override doSuspend(): Promise<void> {
    return this.#tell("rest");
  }

  protected override async doResume(): Promise<void> {
    this.story.push("wake");
  }

  protected override async doClose(): Promise<void> {
    this.story.push("end");
  }
}

describe("the guard", () => {
  it("counts what fails, and knows when a flush last succeeded", async () => {
    const device = new Restless(4096, {});
    expect(device.facts()).toEqual({ in_flight: 0, errors: 0 });
    device.failing = "flush";
    await expect(device.flush()).rejects.toMatchObject({ code: "ENOSPC" });
    expect(device.facts()).toEqual({ in_flight: 0, errors: 1 });
    device.failing = undefined;
    const before = Date.now() / 1000;
    await device.flush();
    expect(device.facts()["last_flush"]).toBeGreaterThanOrEqual(before - 0.01);
    await device.close();
  });

  it("after a failed flush refuses writes, flushes and discards for good, but still reads", async () => {
    const device = new Puppet();
    const flush = device.flush();
    device.next(Object.assign(new Error("medium error"), { code: "EIO" }));
    await expect(flush).rejects.toMatchObject({ code: "EIO", device: "puppet", op: "flush" });
    await expect(device.write(0, sector)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    await expect(device.discard(0, 512)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.writeZeroes(0, 512)).rejects.toMatchObject({ code: "EIO" });
    expect(device.failure?.code).toBe("EIO");
    const read = device.read(0, Buffer.alloc(512));
    device.next();
    await read;
    await device.close();
    expect(device.closed).toBe(1);
  });

  it("fails every flush that waited on the one that failed", async () => {
    const device = new Puppet();
    const flushes = [device.flush(), device.flush()];
    device.next(new Error("a"));
    device.next(new Error("a"));
    for (const flush of flushes) await expect(flush).rejects.toMatchObject({ code: "EIO" });
  });

  it("lets no flush succeed that was under way when another one failed", async () => {
    const device = new Puppet();
    const [first, second] = [device.flush(), device.flush()];
    device.next(new Error("lost"));
    await expect(first).rejects.toMatchObject({ code: "EIO" });
    // The kernel has marked the pages clean: this one finds nothing to write.
    device.next();
    await expect(second).rejects.toMatchObject({ code: "EIO" });
  });

  it("is degraded when nothing it was asked is answered between two looks, until something is", async () => {
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
    try {
      const device = new Puppet();
      expect(device.health()).toEqual({ state: "ok" });
      const requests = [device.read(0, Buffer.alloc(512)), device.write(0, sector)];
      expect(device.health()).toEqual({ state: "ok" });
      vi.advanceTimersByTime(29_999);
      expect(device.health()).toEqual({ state: "ok" });
      vi.advanceTimersByTime(1);
      expect(device.health()).toMatchObject({
        state: "degraded",
        since: Date.now() - 30_000,
        why: "puppet: 2 requests wait, and none was answered for 30 s",
      });
      device.next();
      await requests[0];
      expect(device.health()).toEqual({ state: "ok" });
      device.next();
      await requests[1];
      vi.advanceTimersByTime(60_000);
      expect(device.health()).toEqual({ state: "ok" });
    } finally {
      vi.useRealTimers();
    }
  });

  it("counts as full, where it holds the data, for a minute after it had no space; past its end does not count", async () => {
    vi.useFakeTimers({ toFake: ["Date", "performance"] });
    try {
      const device = new Store();
      await expect(device.write(device.size, sector)).rejects.toMatchObject({ code: "ENOSPC" });
      expect(device.health()).toEqual({ state: "ok" });
      const write = device.write(0, sector);
      device.next(Object.assign(new Error("disk full"), { code: "EDQUOT" }));
      await expect(write).rejects.toMatchObject({ code: "ENOSPC" });
      expect(device.health()).toMatchObject({ state: "degraded", why: expect.stringContaining("disk full") });
      vi.advanceTimersByTime(60_001);
      expect(device.health()).toEqual({ state: "ok" });
    } finally {
      vi.useRealTimers();
    }
  });

  it("carries out emulated FUA as a write and a flush, and passes native FUA on", async () => {
    const flags: boolean[] = [];
    class Flags extends MemoryDevice {
      protected override doWrite(offset: number, from: Buffer, fua = false): Promise<void> {
        flags.push(fua);
        return super.doWrite(offset, from);
      }
    }
    await new Flags(4096).write(0, sector, { fua: true });
    expect(flags).toEqual([true]);
    const device = new Puppet();
    const write = device.write(0, sector, { fua: true });
    const suspended = device.suspend();
    expect(device.next()).toBe("write");
    await turn();
    expect(device.next()).toBe("flush");
    await write;
    // Suspending waits for both, and flushes for itself.
    await turn();
    expect(device.next()).toBe("flush");
    await suspended;
    await device.resume();
    const zeroes = device.writeZeroes(0, 512, { fua: true });
    expect(device.next()).toBe("write");
    await turn();
    device.next(new Error("lost"));
    await expect(zeroes).rejects.toMatchObject({ code: "EIO", op: "flush" });
    expect(device.failure?.message).toContain("lost");
    await expect(device.write(0, sector)).rejects.toMatchObject({ code: "EIO" });
  });

  it("rests and wakes in pairs, after the flush, and is awake when it is closed", async () => {
    const device = new Restless(4096, {});
    await device.suspend();
    await device.suspend();
    await device.resume();
    await device.resume();
    await device.suspend();
    await device.close();
    expect(device.story).toEqual([
      "drain",
      "flush",
      "rest",
      "wake",
      "drain",
      "flush",
      "rest",
      "drain",
      "wake",
      "flush",
      "end",
    ]);
  });

  it("flushes again when it is suspended again after a suspend that failed, and answers what waited", async () => {
    const device = new Restless(4096, {});
    device.failing = "flush";
    await expect(device.suspend()).rejects.toMatchObject({ code: "ENOSPC" });
    const write = device.write(0, sector);
    await expect(device.suspend()).rejects.toMatchObject({ code: "ENOSPC" });
    await expect(device.quietly("a")).rejects.toMatchObject({ code: "ENOSPC" });
    device.failing = "rest";
    await expect(device.suspend()).rejects.toMatchObject({ code: "ENOSPC" });
    device.failing = undefined;
    await device.quietly("b");
    await device.suspend();
    await device.resume();
    await write;
    const failed = ["drain", "flush"];
    const rest = ["drain", "flush", "rest"];
    expect(device.story).toEqual(
      [failed, failed, failed, rest, ["drain", "wake", "flush", "b"], rest, "wake"].flat(),
    );
  });

  it("does quietly what must not meet requests, open or suspended, and one after the other", async () => {
    const device = new Restless(4096, {});
    const first = device.quietly("a");
    const write = device.write(0, sector);
    await Promise.all([first, device.quietly("b"), write]);
    expect(device.story).toEqual(["drain", "flush", "a", "drain", "flush", "b"]);
    await device.suspend();
    await device.quietly("c");
    expect(device.story.slice(6)).toEqual(["drain", "flush", "rest", "c"]);
    await device.close();
    await expect(device.quietly("d")).rejects.toMatchObject({ code: "ESHUTDOWN" });
  });

  it("changes its state in the order it was told to", async () => {
    const device = new Puppet();
    const changes = [device.suspend(), device.resume(), device.suspend()];
    await turn();
    device.next();
    await turn();
    device.next();
    await Promise.all(changes);
    void device.write(0, sector);
    await turn();
    expect(device.next()).toBe("nothing");
    await device.resume();
    await turn();
    expect(device.next()).toBe("write");
  });

  it("stays closed whatever was asked for before", async () => {
    const device = new Puppet();
    const suspended = device.suspend();
    const resumed = device.resume();
    const closed = device.close();
    await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await turn();
    expect([device.next(), device.closed]).toEqual(["flush", 0]);
    await suspended;
    await expect(resumed).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await turn();
    expect([device.next(), device.closed]).toEqual(["flush", 0]);
    await closed;
    expect(device.closed).toBe(1);
    await expect(device.write(0, sector)).rejects.toMatchObject({ code: "ESHUTDOWN" });
  });

  it("close waits for requests in flight, then flushes, then lets go", async () => {
    const device = new Puppet();
    const write = device.write(0, sector);
    let closed = false;
    const closing = device.close().then(() => (closed = true));
    await turn();
    expect([closed, device.calls.length]).toEqual([false, 1]);
    expect(device.next()).toBe("write");
    await write;
    await turn();
    expect(closed).toBe(false);
    expect(device.next()).toBe("flush");
    await closing;
    expect(device.closed).toBe(1);
  });

  it("close lets go even if its flush fails, and says so", async () => {
    const device = new Puppet();
    const closing = device.close();
    await turn();
    device.next(new Error("no"));
    await expect(closing).rejects.toMatchObject({ code: "EIO" });
    expect(device.closed).toBe(1);
  });

  it("suspend waits, flushes, and resume during a suspend comes after it", async () => {
    const device = new Puppet();
    const write = device.write(0, sector);
    const suspended = device.suspend();
    const held = device.write(512, sector);
    const resumed = device.resume();
    await turn();
    expect(device.calls.map(({ op }) => op)).toEqual(["write"]);
    device.next();
    await write;
    await turn();
    expect(device.next()).toBe("flush");
    await suspended;
    await resumed;
    await turn();
    expect(device.next()).toBe("write");
    await held;
  });

  it("turns whatever is thrown inside into a BlockIoError that says where", async () => {
    const device = new Puppet();
    for (const thrown of [new Error("odd"), "a string", undefined, { code: "ENOSPC", message: "full" }]) {
      const write = device.write(1024, sector);
      device.next(thrown ?? null);
      await expect(write).rejects.toBeInstanceOf(BlockIoError);
      await expect(write).rejects.toMatchObject({ device: "puppet", op: "write", offset: 1024, length: 512 });
    }
    const own = new BlockIoError("lower", { code: "ENOTSUP", device: "below" });
    const write = device.write(0, sector);
    device.next(own);
    await expect(write).rejects.toBe(own);
  });

  it("does not let a device report extents with gaps, overlaps or excess", async () => {
    const device = new Puppet();
    const collect = async (): Promise<void> => {
      for await (const extent of device.extents(0, 2048)) void extent;
    };
    for (const given of [
      [],
      [{ offset: 512, length: 512 }],
      [{ offset: 0, length: 4096 }],
      [{ offset: 0, length: 1024 }],
      [{ offset: 0, length: 0 }],
      [
        { offset: 0, length: 1024 },
        { offset: 512, length: 1536 },
      ],
    ]) {
      device.extentsGiven = given.map((extent) => ({ ...extent, kind: "data" as const }));
      await expect(collect()).rejects.toMatchObject({ code: "EIO" });
    }
  });

  it("takes for data what a device cannot tell, and counts that as an error", async () => {
    const failing = (error: BlockIoError): Puppet =>
      new (class extends Puppet {
        protected override async *doExtents(offset: number): AsyncIterable<Extent> {
          yield { offset, length: 1024, kind: "hole" };
          throw error;
        }
      })();
    const device = failing(new BlockIoError("no answer", { code: "EIO" }));
    const found: Extent[] = [];
    for await (const extent of device.extents(512, 4096)) found.push(extent);
    expect(found).toEqual([
      { offset: 512, length: 1024, kind: "hole" },
      { offset: 1536, length: 3072, kind: "data" },
    ]);
    expect(device.facts()).toMatchObject({ errors: 1, in_flight: 0 });
    const closed = failing(new BlockIoError("closed", { code: "ESHUTDOWN" }));
    const all = async (): Promise<void> => {
      for await (const extent of closed.extents(0, 4096)) void extent;
    };
    await expect(all()).rejects.toMatchObject({ code: "ESHUTDOWN" });
  });

  it("zeroes by writing, with one barrier at the end for FUA", async () => {
    const device = new Puppet();
    const zeroing = device.writeZeroes(0, 4096, { fua: true });
    await turn();
    expect(device.next()).toBe("write");
    await turn();
    expect(device.next()).toBe("flush");
    await zeroing;
    await expect(device.writeZeroes(0, 4096, { fast: true })).rejects.toMatchObject({ code: "ENOTSUP" });
  });

  it("flushes nothing on a read-only device", async () => {
    const device = new Puppet(withCapabilities(plainLimits, { readOnly: true }));
    await device.flush();
    await device.suspend();
    await device.close();
    expect(device.calls).toEqual([]);
  });

  it("refuses sizes that are no whole blocks", () => {
    class Sized extends Puppet {
      constructor(size: number) {
        super(plainLimits, size);
      }
    }
    for (const size of [1000, -512, Number.NaN, 2 ** 53]) {
      expect(() => new Sized(size)).toThrow(expect.objectContaining({ code: "EINVAL" }));
    }
  });

  it("goes on after a flush that failed and lost nothing, and names the cause of one that did", async () => {
    const device = new Puppet();
    const failing = async (lossless: boolean): Promise<unknown> => {
      const flushing = device.flush();
      device.calls.shift()?.reject(new BlockIoError("no space", { code: "ENOSPC", lossless }));
      return flushing.catch((error: unknown) => error);
    };
    expect(await failing(true)).toMatchObject({ code: "ENOSPC", lossless: true });
    expect(device.failure).toBeUndefined();
    expect(await failing(false)).toMatchObject({ code: "ENOSPC", lossless: false });
    const refused = await device.write(0, Buffer.alloc(512)).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "EIO", message: expect.stringContaining("no space (ENOSPC)") });
  });

  it("takes a Uint8Array for a Buffer, and nothing else", async () => {
    const device = new MemoryDevice(8192);
    await device.write(512, new Uint8Array(512).fill(7) as Buffer);
    const into = new Uint8Array(1024);
    await device.read(512, into.subarray(512) as Buffer);
    expect([into[511], into[512], into[1023]]).toEqual([0, 7, 7]);
    const bytes = new ByteAccess(device);
    await bytes.write(1000, new Uint8Array(3).fill(9) as Buffer);
    await bytes.read(999, into.subarray(0, 5) as Buffer);
    expect([...into.subarray(0, 5)]).toEqual([7, 9, 9, 9, 7]);
    for (const wrong of ["text", [1, 2], undefined, new Float64Array(64)]) {
      await expect(device.write(0, wrong as unknown as Buffer)).rejects.toMatchObject({ code: "EINVAL" });
      await expect(device.read(0, wrong as unknown as Buffer)).rejects.toMatchObject({ code: "EINVAL" });
    }
  });
});
