import { describe, expect, it } from "vitest";
import { BlockIoError, inOrder, inParallel, join, nextTurn, realEnvironment, refuse } from "../src/index.ts";

const lossless = new BlockIoError("kept", { code: "ENOSPC", op: "flush", lossless: true });
const full = refuse("disk", "ENOSPC", "full", undefined, "write");
const broken = refuse("disk", "EIO", "broken", undefined, "write");

describe("of several failures the worst is told", () => {
  const orders = [
    [[lossless, full], full],
    [[full, broken], broken],
    [[lossless, broken, full], broken],
    [[full, new Error("not ours")], new Error("not ours")],
    [[refuse("disk", "EPERM", "first", undefined), broken], refuse("disk", "EPERM", "first", undefined)],
  ] as const;

  it.each(orders)("by join: %s", async (errors, worst) => {
    await expect(join(errors.map((error) => Promise.reject(error)))).rejects.toThrow(worst.message);
  });

  it.each(orders)("by inParallel: %s", async (errors, worst) => {
    const running = inParallel(errors, errors.length, (error) => Promise.reject(error));
    await expect(running).rejects.toThrow(worst.message);
  });
});

describe("inParallel", () => {
  it("begins nothing new after a failure, and waits for what was begun", async () => {
    const log: string[] = [];
    const work = async (item: number): Promise<void> => {
      log.push(`begin ${item}`);
      if (item === 1) throw broken;
      await new Promise((resolve) => setImmediate(resolve));
      log.push(`end ${item}`);
    };
    await expect(inParallel([0, 1, 2, 3], 2, work)).rejects.toBe(broken);
    expect(log).toEqual(["begin 0", "begin 1", "end 0"]);
  });

  it("has as many under way as its width is then", async () => {
    let [width, underWay] = [1, 0];
    const seen: number[] = [];
    const work = async (item: number): Promise<void> => {
      underWay += 1;
      seen.push(underWay);
      await nextTurn(realEnvironment.scheduler);
      underWay -= 1;
      width = item < 3 ? 3 : 2;
    };
    await inParallel([0, 1, 2, 3, 4, 5, 6, 7], () => width, work);
    // One; then up to three; two from when the fourth is over, and two more had begun by then.
    expect(seen).toEqual([1, 1, 2, 3, 3, 3, 2, 2]);
  });

  it("waits for what was begun when the source of its items fails", async () => {
    let ended = false;
    async function* items(): AsyncGenerator<number> {
      yield 0;
      throw broken;
    }
    const work = async (): Promise<void> => {
      await new Promise((resolve) => setImmediate(resolve));
      ended = true;
    };
    await expect(inParallel(items(), 8, work)).rejects.toBe(broken);
    expect(ended).toBe(true);
  });
});

describe("inOrder", () => {
  it("gives results in the order of the items, with no more under way than is allowed", async () => {
    let [underWay, most] = [0, 0];
    const work = async (item: number): Promise<number> => {
      underWay += item;
      most = Math.max(most, underWay);
      // The first ones take longest.
      for (let turns = 20 - item; turns > 0; turns -= 1) await nextTurn(realEnvironment.scheduler);
      underWay -= item;
      return item;
    };
    const found: number[] = [];
    const items = [3, 1, 2, 9, 1, 1];
    for await (const item of inOrder(items, { most: 5, weightOf: (one) => one }, work)) found.push(item);
    expect(found).toEqual(items);
    // One that is too large by itself goes alone.
    expect(most).toBe(9);
  });

  it("throws when it is the turn of what failed, and leaves nothing under way", async () => {
    let underWay = 0;
    const work = async (item: number): Promise<number> => {
      underWay += 1;
      await nextTurn(realEnvironment.scheduler);
      underWay -= 1;
      if (item === 2) throw new BlockIoError("broken", { code: "EIO" });
      return item;
    };
    const found: number[] = [];
    const all = async (): Promise<void> => {
      for await (const item of inOrder([0, 1, 2, 3, 4], { most: 3 }, work)) found.push(item);
    };
    await expect(all()).rejects.toThrow("broken");
    expect([found, underWay]).toEqual([[0, 1], 0]);
    for await (const item of inOrder([0, 1, 3, 4], { most: 3 }, work)) if (item === 1) break;
    expect(underWay).toBe(0);
  });
});
