import { lookup } from "node:dns";
import { stat } from "node:fs";
import { expect, it } from "vitest";
import { threadsAtWork } from "../src/end-process.ts";

it.each([
  ["a file", (over: () => void) => stat(".", over)],
  ["the address of a host", (over: () => void) => lookup("localhost", over)],
] as const)("an end that does not wait for threads sees those that look for %s", async (_what, start) => {
  await new Promise<void>((over) => {
    start(() => over());
    expect(threadsAtWork()).toBe(true);
  });
});
