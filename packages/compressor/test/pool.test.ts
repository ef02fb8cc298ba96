import assert from "node:assert";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { Pool } from "../src/pool.ts";
import { ManualClock } from "./support/manual-clock.ts";

const IDLE = 100;

/** A pool of numbered items with everything recorded that can go wrong. */
class Bench {
  readonly clock = new ManualClock();
  readonly alive = new Set<number>();
  failing = false;
  #next = 0;
  readonly pool: Pool<number>;

  constructor(max: number, idleTime = IDLE) {
    this.pool = new Pool<number>({
      create: () => {
        if (this.failing) throw new Error("no memory");
        this.alive.add(this.#next);
        return this.#next++;
      },
      destroy: (item) => assert(this.alive.delete(item), `item ${item} was destroyed twice`),
      max,
      idleTime,
      clock: this.clock,
    });
  }
}

/** Lets promises that are settled reach those who await them. */
async function settle(): Promise<void> {
  await new Promise((resolve) => setImmediate(resolve));
}

describe("acquire", () => {
  test("reuses what was released last", async () => {
    const { pool } = new Bench(3);
    const [a, b] = [await pool.acquire(), await pool.acquire()];
    pool.release(a);
    pool.release(b);
    expect(await pool.acquire()).toBe(b);
  });

  test("creates no more than max, then waits, first come first served", async () => {
    const { pool, alive } = new Bench(2);
    const held = [await pool.acquire(), await pool.acquire()];
    const order: string[] = [];
    const waiting = ["first", "second", "third"].map(async (name) => {
      const item = await pool.acquire();
      order.push(name);
      await settle();
      pool.release(item);
    });
    await settle();
    expect(pool.status()).toEqual({ total: 2, idle: 0, waiting: 3, failures: 0 });
    for (const item of held) pool.release(item);
    await Promise.all(waiting);
    expect(order).toEqual(["first", "second", "third"]);
    expect(alive.size).toBe(2);
  });

  test("when an item cannot be created, waits for one there is", async () => {
    const bench = new Bench(4);
    const held = await bench.pool.acquire();
    bench.failing = true;
    expect(bench.pool.tryAcquire()).toBeUndefined();
    const waiting = bench.pool.acquire();
    await settle();
    expect(bench.pool.status()).toMatchObject({ total: 1, waiting: 1 });
    expect(bench.pool.status().failures).toBeGreaterThan(0);
    bench.pool.release(held);
    expect(await waiting).toBe(held);
  });

  test("a newcomer for whom an item can be created again does not overtake those who wait", async () => {
    const bench = new Bench(3);
    await bench.pool.acquire();
    bench.failing = true;
    const first = bench.pool.acquire();
    await settle();
    bench.failing = false;
    expect(bench.pool.tryAcquire()).toBeUndefined();
    const order: number[] = [];
    const second = bench.pool.acquire();
    await Promise.all([first.then(() => order.push(1)), second.then(() => order.push(2))]);
    expect(order).toEqual([1, 2]);
  });

  test("the first item must be created", () => {
    const create = (): number => {
      throw new Error("no memory");
    };
    expect(() => new Pool({ create, destroy() {}, max: 1, idleTime: 0, clock: new ManualClock() })).toThrow(
      "no memory",
    );
  });
});

describe("release", () => {
  test("of what is not held is refused", async () => {
    const { pool } = new Bench(2);
    const item = await pool.acquire();
    pool.release(item);
    expect(() => pool.release(item)).toThrow(expect.objectContaining({ code: "EINVAL" }));
    expect(() => pool.release(77)).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });
});

describe("trimming", () => {
  test("items idle for a whole period go, but one stays and the timer ends", async () => {
    const { pool, clock, alive } = new Bench(8);
    const held = await Promise.all(Array.from({ length: 5 }, () => pool.acquire()));
    for (const item of held) pool.release(item);
    expect(clock.pending).toBe(1);
    clock.advance(2 * IDLE);
    expect(alive.size).toBe(1);
    expect(clock.pending).toBe(0);
  });

  test("items in use now and then stay", async () => {
    const { pool, clock, alive } = new Bench(8);
    for (let turn = 0; turn < 20; turn += 1) {
      const held = await Promise.all([pool.acquire(), pool.acquire(), pool.acquire()]);
      for (const item of held) pool.release(item);
      clock.advance(IDLE / 2);
    }
    expect(alive.size).toBe(3);
  });

  test("idleTime 0 keeps everything", async () => {
    const { pool, clock, alive } = new Bench(4, 0);
    const held = await Promise.all([pool.acquire(), pool.acquire()]);
    for (const item of held) pool.release(item);
    clock.advance(1e9);
    expect(alive.size).toBe(2);
  });
});

describe("resize", () => {
  test("down: idle items go at once, held ones when released", async () => {
    const { pool, alive } = new Bench(4);
    const held = await Promise.all([pool.acquire(), pool.acquire(), pool.acquire()]);
    pool.release(held[0]);
    pool.resize(1);
    expect(alive.size).toBe(2);
    pool.release(held[1]);
    pool.release(held[2]);
    expect(alive.size).toBe(1);
  });

  test("up: those who wait are served", async () => {
    const { pool } = new Bench(1);
    const first = await pool.acquire();
    const waiting = pool.acquire();
    pool.resize(2);
    expect(await waiting).not.toBe(first);
  });
});

describe("close", () => {
  test("refuses whoever waits, waits for whoever holds, destroys everything", async () => {
    const { pool, alive } = new Bench(3);
    const held = await Promise.all([pool.acquire(), pool.acquire(), pool.acquire()]);
    const waiting = pool.acquire();
    let closed = false;
    const closing = pool.close().then(() => (closed = true));
    await expect(waiting).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await expect(pool.acquire()).rejects.toMatchObject({ code: "ESHUTDOWN" });
    expect(() => pool.tryAcquire()).toThrow(expect.objectContaining({ code: "ESHUTDOWN" }));
    for (const item of held) {
      await settle();
      expect(closed).toBe(false);
      pool.release(item);
    }
    await closing;
    expect(alive.size).toBe(0);
  });

  test("destroys what is idle and takes the timer back", async () => {
    const { pool, alive, clock } = new Bench(3);
    const held = await Promise.all([pool.acquire(), pool.acquire()]);
    for (const item of held) pool.release(item);
    expect(clock.pending).toBe(1);
    await pool.close();
    await pool.close();
    expect(alive.size).toBe(0);
    expect(clock.pending).toBe(0);
  });
});

type Step =
  | { readonly do: "acquire" | "tryAcquire" | "toggleFailure" }
  | { readonly do: "release"; readonly which: number }
  | { readonly do: "advance"; readonly time: number }
  | { readonly do: "resize"; readonly max: number };

const anyStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: fc.record({ do: fc.constant("acquire" as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("tryAcquire" as const) }) },
  { weight: 5, arbitrary: fc.record({ do: fc.constant("release" as const), which: fc.nat(20) }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("toggleFailure" as const) }) },
  { weight: 2, arbitrary: fc.record({ do: fc.constant("advance" as const), time: fc.nat(3 * IDLE) }) },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("resize" as const), max: fc.integer({ min: 1, max: 6 }) }),
  },
);

test("never one item for two users, first come first served, always at least one (property)", async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.integer({ min: 1, max: 6 }),
      fc.array(anyStep, { maxLength: 80 }),
      async (max, steps) => {
        const bench = new Bench(max);
        const { pool, alive } = bench;
        const held: number[] = [];
        const asked: number[] = [];
        const served: number[] = [];
        let next = 0;

        const take = (item: number): void => {
          assert(alive.has(item), `item ${item} was handed out after it was destroyed`);
          assert(!held.includes(item), `item ${item} has two users`);
          held.push(item);
        };
        const acquire = async (): Promise<void> => {
          const turn = next++;
          asked.push(turn);
          const item = await pool.acquire();
          served.push(turn);
          take(item);
        };

        const pending: Promise<void>[] = [];
        for (const step of steps) {
          switch (step.do) {
            case "acquire":
              pending.push(acquire());
              break;
            case "tryAcquire": {
              const waiting = pool.status().waiting;
              const item = pool.tryAcquire();
              if (item !== undefined) take(item);
              assert(item === undefined || waiting === 0, "somebody was overtaken");
              break;
            }
            case "release": {
              const [item] = held.splice(step.which % Math.max(1, held.length), 1);
              if (item !== undefined) pool.release(item);
              break;
            }
            case "toggleFailure":
              bench.failing = !bench.failing;
              break;
            case "advance":
              bench.clock.advance(step.time);
              break;
            case "resize":
              pool.resize(step.max);
              break;
          }
          await settle();
          const { total, idle, waiting } = pool.status();
          assert.equal(total, alive.size);
          assert.equal(total, idle + held.length);
          assert(total >= 1 && total <= Math.max(pool.max, held.length));
          assert(idle === 0 || waiting === 0, "somebody waits while an item is idle");
          assert.equal(waiting, asked.length - served.length);
        }

        // Liveness: whoever waits is served once the others let go, even if nothing can be created.
        bench.failing = true;
        while (served.length < asked.length) {
          assert(held.length > 0, "somebody waits for nobody");
          pool.release(held.shift() as number);
          await settle();
        }
        await Promise.all(pending);
        assert.deepEqual(served, asked);
        for (const item of held.splice(0)) pool.release(item);
        await pool.close();
        assert.equal(alive.size, 0);
      },
    ),
    { numRuns: 400 },
  );
});
