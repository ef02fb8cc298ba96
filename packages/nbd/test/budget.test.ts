/** Bytes in flight: never more than there are, shared fairly, nobody forgotten. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { type Account, ByteBudget } from "../src/server/io/budget.ts";
import { runs } from "./support/runs.ts";

describe("ByteBudget", () => {
  it("limits one account and all together", () => {
    // A guarantee of 10 each, and 100 shared.
    const budget = new ByteBudget(200, 60, 10);
    const one = budget.open(() => {});
    expect(one.take(61)).toBe(false);
    expect(one.take(60)).toBe(true);
    expect(one.take(1)).toBe(false);
    const two = budget.open(() => {});
    // 50 of the shared half are left: it may take all of them at once, or about half of them little by little.
    expect(two.take(61)).toBe(false);
    expect(two.take(60)).toBe(true);
    two.give(60);
    while (two.take(1));
    expect(two.held).toBe(35);
    expect(budget.used).toBe(95);
    one.give(60);
    two.give(35);
    expect([budget.used, one.held]).toEqual([0, 0]);
  });

  it("keeps its guarantee for whoever comes, however greedy the others are", () => {
    const budget = new ByteBudget(100_000, 50_000, 50);
    const accounts = Array.from({ length: 50 }, () => budget.open(() => {}));
    for (const greedy of accounts.slice(0, 49)) while (greedy.take(10));
    expect(accounts[49]?.take(1000)).toBe(true);
    expect(budget.used).toBeLessThanOrEqual(100_000);
  });

  it("wakes those who wait, in order", () => {
    const budget = new ByteBudget(200, 100, 100);
    const woken: string[] = [];
    const holder = budget.open(() => {});
    expect(holder.take(51)).toBe(true);
    const waiters = ["a", "b"].map((name): Account => {
      const account = budget.open(() => {
        woken.push(name);
        expect(account.take(60)).toBe(true);
      });
      return account;
    });
    for (const waiter of waiters) expect(waiter.take(60)).toBe(false);
    holder.give(51);
    expect(woken).toEqual(["a"]);
    waiters[0]?.give(60);
    expect(woken).toEqual(["a", "b"]);
  });

  it("lets nobody be overtaken for ever", () => {
    const budget = new ByteBudget(2000, 1000, 100);
    const small = Array.from({ length: 20 }, () => budget.open(() => {}));
    for (const account of small) while (account.held < 50) expect(account.take(10)).toBe(true);
    const outcome = { served: false };
    const big = budget.open(() => {
      outcome.served = big.take(900);
    });
    expect(big.take(900)).toBe(false);
    // Twenty clients that always have another request.
    for (let turn = 0; turn < 10_000 && !outcome.served; turn += 1) {
      const account = small[turn % small.length];
      if (account === undefined) throw new Error("no account");
      if (account.held > 0) account.give(10);
      account.take(10);
    }
    expect(outcome.served).toBe(true);
  });

  it("holds its invariants whatever happens", () => {
    const step = fc.record({ who: fc.nat(4), charge: fc.integer({ min: 1, max: 60 }), give: fc.boolean() });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const budget = new ByteBudget(140, 70, 5);
        const taken: number[][] = [[], [], [], [], []];
        const wanted: (number | undefined)[] = [];
        const accounts: Account[] = taken.map((list, who) => {
          const account = budget.open(() => {
            const charge = wanted[who] as number;
            if (!account.take(charge)) return;
            list.push(charge);
            wanted[who] = undefined;
          });
          return account;
        });
        const check = (): void => {
          const sums = taken.map((list) => list.reduce((sum, charge) => sum + charge, 0));
          expect(accounts.map(({ held }) => held)).toEqual(sums);
          expect(budget.used).toBe(sums.reduce((sum, held) => sum + held));
          expect(budget.used).toBeLessThanOrEqual(140);
          for (const held of sums) expect(held).toBeLessThanOrEqual(70);
        };
        for (const { who, charge, give } of steps) {
          const account = accounts[who];
          if (account === undefined) throw new Error("no account");
          if (give) {
            const last = taken[who]?.pop();
            if (last !== undefined) account.give(last);
          } else if (wanted[who] === undefined) {
            if (account.take(charge)) taken[who]?.push(charge);
            else wanted[who] = charge;
          }
          check();
        }
        // When everybody gives back, everybody who waits is served.
        for (let round = 0; round < 10; round += 1) {
          for (const [who, list] of taken.entries()) {
            const charge = list.pop();
            if (charge !== undefined) accounts[who]?.give(charge);
          }
        }
        expect(wanted.every((charge) => charge === undefined)).toBe(true);
      }),
      { numRuns: runs(150) },
    );
  });
});
