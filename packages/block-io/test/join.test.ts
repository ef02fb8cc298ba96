import { describe, expect, it } from "vitest";
import { BlockIoError, inParallel, join, refuse } from "../src/index.ts";

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
