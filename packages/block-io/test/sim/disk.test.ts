/** The virtual disk: what a flush covers, what a crash may take, and what each fault does. */
import { describe, expect, it } from "vitest";
import { codeOf } from "../../src/index.ts";
import {
  type DiskHandle,
  type FaultKind,
  FaultInjector,
  Prng,
  SimDisk,
  World,
  countCandidates,
  openDisk,
} from "../../src/testing/sim/index.ts";
import { Trace } from "../../src/testing/sim/trace.ts";
import { settleTurn } from "../../src/testing/sim/disk/world.ts";

const SECTORS = 16;

class Bench {
  readonly world = new World(new Trace());
  readonly disk = new SimDisk({ name: "disk", size: SECTORS * 512 }, 0, this.world, 1);
  handle: DiskHandle = openDisk(this.disk, 1);

  faults(kind: FaultKind, ordinal = 1, persistent = false): this {
    this.disk.faults = new FaultInjector([{ kind, ordinal, persistent }]);
    return this;
  }

  /** Issues a request and lets it, and all before it, complete. */
  async done<T>(request: Promise<T>): Promise<T> {
    request.catch(() => {});
    while (this.world.parked.length > 0) {
      this.world.completeIo(0);
      await settleTurn();
    }
    return request;
  }

  write(sector: number, value: number, count = 1, fua = false): Promise<void> {
    return this.handle.write(sector * 512, Buffer.alloc(count * 512, value), { fua });
  }

  /** The first byte of each sector, as reads see them. */
  async read(): Promise<number[]> {
    const into = Buffer.alloc(SECTORS * 512);
    await this.done(this.handle.read(0, into));
    return values(into);
  }

  /** The power fails; the handle is a new one. */
  crash(landed: (number: number) => boolean): number[] {
    let number = -1;
    this.disk.crash(() => landed((number += 1)));
    this.world.crash();
    this.handle = openDisk(this.disk, 2);
    expect(this.disk.current.equals(this.disk.stable)).toBe(true);
    return values(this.disk.stable);
  }
}

function values(bytes: Buffer): number[] {
  return Array.from({ length: SECTORS }, (_, index) => bytes[index * 512] as number);
}

describe("virtual disk", () => {
  it("parks requests until they are completed, and shows a write only then", async () => {
    const bench = new Bench();
    const write = bench.write(0, 1);
    expect(bench.world.parked).toHaveLength(1);
    expect(bench.disk.current[0]).toBe(0);
    await bench.done(write);
    expect((await bench.read())[0]).toBe(1);
  });

  it("loses any subset of the sectors of unflushed writes", async () => {
    const bench = new Bench();
    await bench.done(bench.write(0, 1, 4));
    expect(countCandidates([bench.disk])).toBe(4);
    expect(bench.crash((number) => number % 2 === 0).slice(0, 5)).toEqual([1, 0, 1, 0, 0]);
  });

  it("shows after a kill what was written, and may lose it in the next crash", async () => {
    const bench = new Bench();
    await bench.done(bench.write(0, 1));
    void bench.write(1, 2, 8);
    bench.disk.kill(new Prng(1, 1));
    bench.world.crash();
    bench.handle = openDisk(bench.disk, 2);
    const shown = await bench.read();
    expect(shown[0]).toBe(1);
    expect(new Set(shown.slice(1, 9))).toEqual(new Set([0, 2]));
    await bench.done(bench.handle.write(0, Buffer.alloc(512, 3), { fua: true }));
    expect(bench.crash(() => false).every((value, sector) => value === (sector === 0 ? 3 : 0))).toBe(true);
  });

  it("keeps what a flush covers: completed before it was issued", async () => {
    const bench = new Bench();
    await bench.done(bench.write(0, 1));
    const inFlight = bench.write(1, 2);
    const flush = bench.handle.flush();
    await bench.done(Promise.all([inFlight, flush]));
    expect(bench.crash(() => false).slice(0, 3)).toEqual([1, 0, 0]);
  });

  it("lets a write in flight land, and swallows what is asked after a crash", async () => {
    const bench = new Bench();
    const old = bench.handle;
    void bench.write(0, 1, 2);
    expect(bench.crash((number) => number === 1).slice(0, 3)).toEqual([0, 1, 0]);
    let answered = false;
    void old.read(0, Buffer.alloc(512)).then(() => (answered = true));
    await settleTurn();
    expect(answered).toBe(false);
    expect(bench.world.parked).toHaveLength(0);
  });

  it("never brings back a version older than the stable one", async () => {
    const bench = new Bench();
    await bench.done(bench.write(0, 1));
    await bench.done(bench.write(0, 2, 1, true));
    expect(countCandidates([bench.disk])).toBe(0);
    expect(bench.crash(() => true)[0]).toBe(2);
  });

  it("makes a FUA write stable, and nothing else", async () => {
    const bench = new Bench();
    await bench.done(bench.write(1, 1));
    await bench.done(bench.write(0, 2, 1, true));
    expect(bench.crash(() => false).slice(0, 2)).toEqual([2, 0]);
  });

  it("chooses among several versions of a sector", async () => {
    for (const [landed, expected] of [
      [[false, false], 0],
      [[true, false], 1],
      [[true, true], 2],
      [[false, true], 2],
    ] as const) {
      const bench = new Bench();
      await bench.done(bench.write(0, 1));
      await bench.done(bench.write(0, 2));
      expect(bench.crash((number) => landed.at(number) ?? false)[0]).toBe(expected);
    }
  });

  it("crashes again from a snapshot", async () => {
    const bench = new Bench();
    await bench.done(bench.write(0, 1, 2));
    const snapshot = bench.disk.snapshot();
    expect(bench.crash(() => true).slice(0, 2)).toEqual([1, 1]);
    bench.disk.restore(snapshot);
    expect(bench.crash((number) => number === 0).slice(0, 2)).toEqual([1, 0]);
  });

  it("zeroes and discards", async () => {
    const bench = new Bench();
    await bench.done(bench.write(0, 1, 4));
    await bench.done(bench.handle.flush());
    await bench.done(bench.handle.writeZeroes(0, 512));
    await bench.done(bench.handle.discard(512, 512));
    expect((await bench.read()).slice(0, 4)).toEqual([0, 0, 1, 1]);
    expect(bench.crash(() => false).slice(0, 4)).toEqual([1, 1, 1, 1]);
  });
});

describe("injected faults", () => {
  async function code(request: Promise<unknown>): Promise<string> {
    return request.then(() => "none", codeOf);
  }

  it.each([
    ["read-error", "EIO", "read"],
    ["write-error", "EIO", "write"],
    ["flush-error", "EIO", "flush"],
    ["flush-lossy", "EIO", "flush"],
    ["flush-lossless", "ENOSPC", "flush"],
    ["enospc", "ENOSPC", "write"],
    ["short", "EIO", "read"],
    ["short", "EIO", "write"],
    ["ignored-flush", "none", "flush"],
    ["misdirected", "none", "write"],
    ["rot", "none", "read"],
  ] as const)("%s answers %s to a %s", async (kind, expected, op) => {
    const bench = new Bench().faults(kind);
    const request =
      op === "read"
        ? bench.handle.read(0, Buffer.alloc(2048))
        : op === "write"
          ? bench.write(0, 1, 4)
          : bench.handle.flush();
    expect(await code(bench.done(request))).toBe(expected);
    expect([...bench.disk.faults.fired]).toEqual([[kind, 1]]);
  });

  it("strike the n-th request, once or from then on", async () => {
    const once = new Bench().faults("read-error", 2);
    const always = new Bench().faults("read-error", 2, true);
    for (const [bench, expected] of [
      [once, ["none", "EIO", "none", "none"]],
      [always, ["none", "EIO", "EIO", "EIO"]],
    ] as const) {
      const codes: string[] = [];
      for (let n = 0; n < 4; n += 1)
        codes.push(await code(bench.done(bench.handle.read(0, Buffer.alloc(512)))));
      expect(codes).toEqual(expected);
    }
  });

  it("a failed write leaves each sector old or new, and never lands later", async () => {
    const bench = new Bench().faults("write-error");
    await code(bench.done(bench.write(0, 1, 8)));
    const seen = await bench.read();
    await bench.done(bench.write(0, 2, 8));
    await bench.done(bench.handle.flush());
    expect(seen.every((value) => value === 0 || value === 1)).toBe(true);
    expect(bench.crash(() => true).slice(0, 8)).toEqual(Array(8).fill(2));
  });

  it("a failed flush takes with it all that were in flight", async () => {
    const bench = new Bench().faults("flush-lossy");
    const flushes = [bench.handle.flush(), bench.handle.flush()];
    for (const flush of flushes) flush.catch(() => {});
    expect(await Promise.all(flushes.map((flush) => code(bench.done(flush))))).toEqual(["EIO", "EIO"]);
  });

  it("a lossy flush forgets what reads still show", async () => {
    const bench = new Bench().faults("flush-lossy");
    for (let sector = 0; sector < SECTORS; sector += 1) await bench.done(bench.write(sector, 1));
    await code(bench.done(bench.handle.flush()));
    await bench.done(bench.handle.flush());
    expect(await bench.read()).toEqual(Array(SECTORS).fill(1));
    expect(bench.crash(() => false)).toContain(0);
  });

  it("a lossless flush keeps what it should have made stable for the next one", async () => {
    const bench = new Bench().faults("flush-lossless");
    await bench.done(bench.write(0, 1));
    const snapshot = bench.disk.snapshot();
    const failure = await bench.done(bench.handle.flush()).catch((error: unknown) => error);
    expect(failure).toMatchObject({ lossless: true });
    expect(bench.disk.snapshot()).toEqual(snapshot);
    await bench.done(bench.write(1, 2));
    await bench.done(bench.handle.flush());
    expect(bench.crash(() => false).slice(0, 3)).toEqual([1, 2, 0]);
  });

  it("an ignored flush makes nothing stable", async () => {
    const bench = new Bench().faults("ignored-flush");
    await bench.done(bench.write(0, 1));
    await bench.done(bench.handle.flush());
    expect(bench.crash(() => false)[0]).toBe(0);
  });

  it("a misdirected write is found elsewhere", async () => {
    const bench = new Bench().faults("misdirected");
    await bench.done(bench.write(0, 1));
    const seen = await bench.read();
    expect(seen[0]).toBe(0);
    expect(seen).toContain(1);
  });

  it("rot changes one bit of the medium for good", async () => {
    const bench = new Bench().faults("rot");
    await bench.read();
    const ones = [...bench.disk.stable].reduce(
      (sum, byte) => sum + byte.toString(2).replaceAll("0", "").length,
      0,
    );
    expect(ones).toBe(1);
  });

  it("a hanging request says so and is not completed by itself", async () => {
    const bench = new Bench().faults("hang", 1, true);
    void bench.handle.read(0, Buffer.alloc(512));
    await settleTurn();
    expect(bench.world.parked[0]?.hangs).toBe("for ever");
    const once = new Bench().faults("hang");
    void once.handle.read(0, Buffer.alloc(512));
    expect(once.world.parked[0]?.hangs).toBe("once");
  });
});
