/** Figures of the last five minutes, hour and day, against a list of everything that happened. */
import { describe, expect, it } from "vitest";
import { History, LATENCY_BUCKETS, latencies } from "../src/core/history.ts";

const MINUTE = 60_000;
const lengths = { "5min": 5 * MINUTE, hour: 60 * MINUTE, day: 24 * 60 * MINUTE } as const;

describe("history", () => {
  it("counts what is as old as it says, and a 30th older at most", () => {
    let seed = 12_345;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const counts = { reads: 0, readHits: 0, writes: 0, writeHits: 0 };
    let now = 77.5;
    const history = new History(counts, now);
    const events: number[] = [];
    for (let step = 0; step < 20_000; step += 1) {
      // Mostly busy, sometimes idle for minutes, hours, or days.
      now +=
        random(1000) < 5
          ? random([MINUTE, 60 * MINUTE, 50 * 60 * MINUTE][random(3)] as number)
          : random(2000);
      history.advance(now);
      counts.reads += 1;
      events.push(now);
      if (step % 97 !== 0) continue;
      for (const [span, length] of Object.entries(lengths)) {
        const { reads } = history.of(span as keyof typeof lengths, now);
        const since = (age: number): number => events.filter((time) => time > now - age).length;
        expect(reads, `seed 12345, step ${step}, ${span}`).toBeGreaterThanOrEqual(
          since(length - length / 30),
        );
        expect(reads, `seed 12345, step ${step}, ${span}`).toBeLessThanOrEqual(since(length * (1 + 1 / 15)));
      }
    }
    expect(history.of("total", now).reads).toBe(20_000);
    expect(history.of("day", now + 3 * lengths.day).reads).toBe(0);
  });

  it("sorts latencies into buckets of doubling width", () => {
    const history = new History({ reads: 0, readHits: 0, writes: 0, writeHits: 0 }, 0);
    for (const milliseconds of [0, 0.0005, 0.001, 0.0019, 0.002, 1, 1e9])
      history.took(latencies.read, milliseconds);
    history.took(latencies.write, 0.005);
    const { read_latency, write_latency } = history.of("5min", 1);
    const expected = Array.from({ length: LATENCY_BUCKETS }, () => 0);
    expect(read_latency).toEqual(
      expected
        .with(0, 4)
        .with(1, 1)
        .with(9, 1)
        .with(LATENCY_BUCKETS - 1, 1),
    );
    expect(write_latency).toEqual(expected.with(2, 1));
  });
});
