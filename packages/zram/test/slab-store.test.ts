import { describe, expect, it } from "vitest";
import { SeededRandom } from "@dmkit/block-io/testing";
import { MAX_COMPRESSED, PAGE, classOf, classSizes } from "../src/core/size-classes.ts";
import { NO_ROOM, SLAB, SlabStore } from "../src/core/slab-store.ts";

describe("size classes", () => {
  it("fit every length with little waste", () => {
    for (let length = 1; length <= MAX_COMPRESSED; length += 1) {
      const size = classSizes[classOf(length)] ?? 0;
      expect(size).toBeGreaterThanOrEqual(length);
      expect(size - length).toBeLessThan(length <= 256 ? 16 : 32);
    }
    expect(classSizes[classOf(MAX_COMPRESSED + 1)]).toBe(PAGE);
    expect(classSizes[classOf(PAGE)]).toBe(PAGE);
  });
});

describe("the slab store", () => {
  it("keeps what a model keeps", () => {
    const seed = 1 + (process.pid % 1000);
    const random = new SeededRandom(seed);
    const store = new SlabStore();
    const model = new Map<number, Buffer>();
    for (let step = 0; step < 30_000; step += 1) {
      const growing = Math.floor(step / 6000) % 2 === 0;
      if (model.size === 0 || random.chance(growing ? 0.7 : 0.2)) {
        const length = 1 + random.below(random.chance(0.2) ? PAGE : 600);
        const bytes = Buffer.alloc(length, step);
        const address = store.put(bytes, length);
        expect(model.has(address), `seed ${seed}: an address twice`).toBe(false);
        model.set(address, bytes);
      } else {
        const [address, bytes] = [...model].at(random.below(Math.min(model.size, 50))) as [number, Buffer];
        expect(store.get(address, bytes.length).equals(bytes), `seed ${seed}`).toBe(true);
        store.free(address);
        model.delete(address);
      }
    }
    for (const [address, bytes] of model) {
      expect(store.get(address, bytes.length).equals(bytes), `seed ${seed}`).toBe(true);
      store.free(address);
    }
    expect(store.usedBytes).toBe(0);
  });

  it("replaces in place what needs the same room", () => {
    const store = new SlabStore();
    const address = store.put(Buffer.alloc(1000, 1), 1000);
    expect(store.replace(address, Buffer.alloc(1010, 2), 1010)).toBe(true);
    expect(store.get(address, 1010).equals(Buffer.alloc(1010, 2))).toBe(true);
    expect(store.replace(address, Buffer.alloc(2000, 3), 2000)).toBe(false);
    expect(store.get(address, 1010).equals(Buffer.alloc(1010, 2))).toBe(true);
  });

  it("stays within its limit, and wastes little", () => {
    const store = new SlabStore();
    store.limit = 100 * SLAB;
    let bytes = 0;
    for (let length = 500; ; length = 500 + ((length * 7) % 1500)) {
      if (store.put(Buffer.alloc(length), length) === NO_ROOM) break;
      bytes += length;
    }
    expect(store.usedBytes).toBe(100 * SLAB);
    expect(store.peakBytes).toBe(100 * SLAB);
    expect(bytes).toBeGreaterThan(0);
  });

  it("takes less than a tenth more than is stored", () => {
    const store = new SlabStore();
    const random = new SeededRandom(5);
    let bytes = 0;
    for (let count = 0; count < 60_000; count += 1) {
      const length = 400 + random.below(2200);
      store.put(Buffer.alloc(length), length);
      bytes += length;
    }
    expect(store.usedBytes).toBeLessThan(bytes * 1.1);
  });
});
