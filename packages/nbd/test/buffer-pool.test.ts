import { describe, expect, it } from "vitest";
import { SizedBufferPool, bufferSize } from "../src/server/io/buffer-pool.ts";

const KiB = 1024;

describe("SizedBufferPool", () => {
  it("has sizes that fit data and header without waste", () => {
    expect(bufferSize(0)).toBe(68 * KiB);
    expect(bufferSize(64 * KiB + 28)).toBe(68 * KiB);
    expect(bufferSize(128 * KiB + 28)).toBe(132 * KiB);
    expect(bufferSize(1024 * KiB + 28)).toBe(1028 * KiB);
    for (let length = 1; length < 6_000_000; length += 4099) {
      const size = bufferSize(length);
      expect(size).toBeGreaterThanOrEqual(length);
      expect(size - length).toBeLessThan(69 * KiB);
    }
  });

  it("uses buffers again, by size", () => {
    const pool = new SizedBufferPool(1024 * KiB);
    const one = pool.take(100 * KiB);
    expect(one.length).toBe(132 * KiB);
    pool.give(one);
    expect(pool.take(200 * KiB)).not.toBe(one);
    expect(pool.take(130 * KiB)).toBe(one);
    expect(pool.take(130 * KiB)).not.toBe(one);
    expect(pool.kept).toBe(0);
  });

  it("keeps no more than it should; what was used longest ago goes first", () => {
    const pool = new SizedBufferPool(300 * KiB);
    const small = [pool.take(1), pool.take(1)];
    const large = pool.take(200 * KiB);
    for (const buffer of small) pool.give(buffer);
    pool.give(large);
    expect(pool.kept).toBeLessThanOrEqual(300 * KiB);
    expect(pool.take(200 * KiB)).toBe(large);
    // Huge ones are never kept.
    pool.give(pool.take(64 * 1024 * KiB));
    expect(pool.kept).toBeLessThanOrEqual(300 * KiB);
  });
});
