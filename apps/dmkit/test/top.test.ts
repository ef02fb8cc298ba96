/** `dmkit top`: counting, rates, percentiles, and the command as it is typed. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Clock, done } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import type { DeviceSnapshot, SegmentStatus } from "../src/manager/snapshot.ts";
import { type Figures, figuresOf, grown, percentile } from "../src/top/figures.ts";
import { gaugesOf } from "../src/top/gauges.ts";
import { Meter, STRIDE, untimed } from "../src/top/meter.ts";
import { duration, number, time } from "../src/top/columns.ts";
import { screenOf } from "../src/top/screen.ts";
import type { SampledDevice, Snapshot } from "../src/top/snapshot.ts";
import { cli } from "./cli.ts";
import { dmkit, serve, tempFolder } from "./support.ts";

/** A clock that stands where it is put. */
class StillClock implements Clock {
  at = 0;
  reads = 0;

  now(): number {
    this.reads += 1;
    return this.at;
  }

  wallTime(): number {
    return 0;
  }

  after(): never {
    throw new Error("a meter sets no timers");
  }
}

describe("a meter", () => {
  it("counts every request and reads the clock for one in some", () => {
    const clock = new StillClock();
    const meter = new Meter(clock);
    const timed = Array.from({ length: 10 * STRIDE }, () => meter.read(4096)).filter((at) => at !== untimed);
    expect(timed).toHaveLength(10);
    expect(clock.reads).toBe(10);
    meter.write(512);
    meter.flush();
    meter.discard();
    meter.writeZeroes();
    expect(meter.traffic()).toMatchObject({
      reads: 10 * STRIDE,
      readBytes: 10 * STRIDE * 4096,
      writes: 1,
      writtenBytes: 512,
      flushes: 1,
      discards: 1,
      zeroes: 1,
    });
  });

  it("puts what it times into buckets of doubling width, failures too", async () => {
    const clock = new StillClock();
    const meter = new Meter(clock);
    const started = meter.write(1);
    expect(meter.timed("write", started, done)).toBe(done);
    let settle!: () => void;
    let fail!: (error: Error) => void;
    const slow = new Promise<void>((resolve) => (settle = resolve));
    const failing = new Promise<void>((_resolve, reject) => (fail = reject));
    expect(meter.timed("write", started, slow)).toBe(slow);
    const failed = meter.timed("read", started, failing).catch(() => "failed");
    clock.at = 0.005;
    settle();
    await slow;
    clock.at = 1e9;
    fail(new Error("no"));
    expect(await failed).toBe("failed");
    const { latency } = meter.traffic();
    expect(latency?.write.slice(0, 4)).toEqual([1, 0, 1, 0]);
    expect(latency?.read.at(-1)).toBe(1);
  });
});

describe("figures", () => {
  it("say what a share of requests took", () => {
    expect(percentile([0, 0, 0], 0.5)).toBeUndefined();
    // Ten between 4 and 8 microseconds, and one between 1024 and 2048.
    const counts = [0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 1];
    expect(percentile(counts, 0.5)).toBeCloseTo(6.2);
    expect(percentile(counts, 0.99)).toBeGreaterThan(1024);
    expect(percentile([4], 0.5)).toBe(1);
    expect(percentile([4], 1)).toBe(2);
  });

  it("begin anew where a counter does", () => {
    expect([grown(undefined, 5), grown(3, 5), grown(9, 5)]).toEqual([5, 2, 5]);
  });

  const segment = (fields: SegmentStatus["fields"]): SegmentStatus => ({
    start: 0,
    length: 8,
    target: "any",
    status: "",
    fields,
  });

  const nothing = {
    hits: undefined,
    dirty: undefined,
    dirtyBytes: undefined,
    oldestDirty: undefined,
    segments: undefined,
    ratio: undefined,
  };

  it("read what targets say of themselves", () => {
    const cache = {
      capacity_bytes: 400,
      dirty_bytes: 100,
      oldest_dirty_seconds: 12,
      dirty_segments: 5,
      hits: 30,
      misses: 10,
    };
    const shown = {
      hits: 0.75,
      dirty: 0.25,
      dirtyBytes: 100,
      oldestDirty: 12,
      segments: 5,
      ratio: undefined,
    };
    expect(gaugesOf([], [segment(cache)])).toEqual(shown);
    const later = { ...cache, misses: 20 };
    expect(gaugesOf([segment(cache)], [segment(later)]).hits).toBe(0);
    // It was opened again meanwhile, and its counters with it.
    expect(gaugesOf([segment(later)], [segment(cache)]).hits).toBe(0.75);
    expect(gaugesOf([], [segment(cache), segment({ ...cache, oldest_dirty_seconds: 99 })])).toMatchObject({
      dirty: 0.25,
      dirtyBytes: 200,
      oldestDirty: 99,
    });
    expect(gaugesOf([], [segment({ compressed_from_bytes: 300, compressed_to_bytes: 100 })]).ratio).toBe(3);
    expect(gaugesOf([], [segment({ data_bytes: 8192, stored_bytes: 4096 })]).ratio).toBe(2);
    expect(gaugesOf([], [segment({})])).toEqual(nothing);
  });

  const device = (reads: number): SampledDevice =>
    ({
      name: "d",
      state: "live",
      health: { state: "ok" },
      segments: [],
      traffic: {
        reads,
        readBytes: reads * 4096,
        writes: 0,
        writtenBytes: 0,
        flushes: 0,
        discards: 0,
        zeroes: 0,
      },
    }) as unknown as DeviceSnapshot;
  const snapshot = (at: number, devices: readonly SampledDevice[]): Snapshot => ({
    time: at,
    wallTime: at,
    uptime: at,
    pid: 1,
    version: "dmkit 1.2.3",
    connections: 0,
    accepted: 0,
    refused: 0,
    bytesInFlight: 0,
    clients: [],
    devices,
    exports: [],
  });

  it("are rates over the time between two looks; what is new counts from nothing", () => {
    const [d] = figuresOf(snapshot(1000, [device(100)]), snapshot(3000, [device(300)])).devices;
    expect(d?.read).toEqual({ iops: 100, rate: 409_600, p50: undefined, p99: undefined });
    expect(figuresOf(snapshot(1000, []), snapshot(2000, [device(300)])).devices[0]?.read.iops).toBe(300);
    expect(figuresOf(snapshot(1000, []), snapshot(1000, [device(1)])).devices[0]?.read.iops).toBeLessThan(
      Infinity,
    );
  });

  it("are printed in columns, and names cannot talk to the terminal", () => {
    const figures = figuresOf(snapshot(0, []), snapshot(1000, [{ ...device(5), name: "a\u001b[2Jb" }]));
    const lines = screenOf(figures);
    expect(lines.join("")).not.toMatch(/\p{Cc}/u);
    expect(lines.at(-1)).toContain("a\\x1b[2Jb");
    expect(lines.at(-1)?.indexOf("live")).toBe((lines.at(-2)?.indexOf("STATE") ?? 0) + 1);
  });

  it("are short", () => {
    expect([0, 0.123, 12.34, 123.4, 123_456].map(number)).toEqual(["0", "0.12", "12.3", "123", "123k"]);
    expect([undefined, 12, 1234, 123_456, 12_345_678].map(time)).toEqual([
      "",
      "12 µs",
      "1.2 ms",
      "123 ms",
      "12.3 s",
    ]);
    expect([5000, 65_000, 3_700_000, 90_000_000].map(duration)).toEqual([
      "5 s",
      "1 min 5 s",
      "1 h 1 min",
      "1 d 1 h",
    ]);
  });
});

describe("dmkit top", () => {
  it("shows what a server does, as a table and as JSON", async () => {
    const folder = tempFolder();
    const stack = join(folder, "s.yaml");
    writeFileSync(
      stack,
      "devices: { low: mem:1M, d: low }\nexports: [d]\nlisten: { unix: nbd.sock }\ncontrol: c.sock\n",
    );
    const server = await serve([stack, "-U", join(folder, "nbd.sock")]);
    const client = await openNbd(server.uri);
    const buffer = Buffer.alloc(4096);
    const ending = new AbortController();
    const work = (async () => {
      while (!ending.signal.aborted) {
        await client.write(0, buffer);
        await client.read(0, buffer);
      }
    })();
    const control = join(folder, "c.sock");
    const json = await dmkit(["top", "-C", control, "--json", "-n", "2"]);
    const table = await dmkit(["top", "-C", control, "--once"]);
    ending.abort();
    await work;
    await client.close();
    expect({ json: json.code, table: table.code }).toEqual({ json: 0, table: 0 });
    const looks = json.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Figures);
    expect(looks).toHaveLength(2);
    for (const { exports, devices } of looks) {
      expect(exports.map(({ name, clients }) => [name, clients])).toEqual([["d", 1]]);
      expect(devices.map(({ name }) => name)).toEqual(["low", "d"]);
      for (const one of [...exports, ...devices]) {
        expect(one.read.iops).toBeGreaterThan(0);
        expect(one.write.p99).toBeGreaterThan(0);
      }
    }
    expect(table.stdout).toMatch(/^dmkit \d+ {2}up /);
    expect(table.stdout).toMatch(/^low +live /m);
  });

  it("says what to do where there is no server", async () => {
    const { code, stderr } = await cli("top", "-C", join(tempFolder(), "none.sock"));
    expect(code).toBe(1);
    expect(stderr).not.toBe("");
    expect((await cli("top", "--interval", "0")).code).toBe(2);
  });
});
