/** The library of zstd has one memory in a thread, which a second `init` exchanges under those who use it. */
import zstdLibrary from "@bokuweb/zstd-wasm";
import { expect, test, vi } from "vitest";
import type { Backend } from "../src/index.ts";

const input = Buffer.from("what was written, what was written, what was written");

function roundTrip(backend: Backend): boolean {
  const context = backend.createContext({ level: 3 });
  const dst = Buffer.alloc(backend.bound(input.length));
  const length = backend.compress(input, dst, context);
  const back = Buffer.alloc(input.length);
  return backend.decompress(dst.subarray(0, length), back) === input.length && back.equals(input);
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test("who loads it at the same time, or from another copy of the package, shares it; who exchanges it is noticed", async () => {
  const init = vi.spyOn(zstdLibrary, "init");
  const copies: Backend[] = [];
  for (let copy = 0; copy < 2; copy += 1) {
    vi.resetModules();
    copies.push((await import("../src/backends/zstd-wasm.ts")).zstdWasm);
  }
  expect(copies[0]).not.toBe(copies[1]);
  await Promise.all([...copies, ...copies].map(async (backend) => backend.load?.()));
  expect(init).toHaveBeenCalledTimes(1);
  expect(copies.map(roundTrip)).toEqual([true, true]);

  // Somebody else in the process: from some moment on what it returns is no frame any more.
  await zstdLibrary.init();
  const begins = (): boolean => Buffer.from(zstdLibrary.compress(input, 3)).readUInt32LE(0) === 0xfd2f_b528;
  while (begins()) await turn();
  const [first] = copies as [Backend];
  for (let again = 0; again < 2; again += 1)
    expect(() => roundTrip(first)).toThrow(expect.objectContaining({ code: "EIO" }));
});
