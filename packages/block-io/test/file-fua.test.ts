/** What a file device answers when the system reports a lost write once, and to somebody else. */
import * as fs from "node:fs";
import { join } from "node:path";
import { afterEach, expect, it, vi } from "vitest";
import { realEnvironment } from "../src/contract/environment.ts";
import { tempFolder } from "./temp.ts";

type Callback = (error: Error | null) => void;
const syncs: Callback[] = [];

vi.mock("node:fs", async (original) => {
  const real = await original<typeof fs>();
  const fdatasync = (_fd: number, callback: Callback): void => void syncs.push(callback);
  return { ...real, default: { ...real, fdatasync }, fdatasync };
});
const { openFile } = await import("../src/devices/file-open.ts");

afterEach(() => syncs.splice(0));

const turn = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 20));

it("zeroes with FUA are not acknowledged behind a flush that failed", async () => {
  const path = join(tempFolder(), "disk");
  fs.writeFileSync(path, Buffer.alloc(2 ** 20, 1));
  const device = await openFile(path, { environment: realEnvironment });
  await device.write(0, Buffer.alloc(4096, 7));
  const flush = device.flush();
  const zeroing = device.writeZeroes(0, 65_536, { fua: true });
  const state = { settled: false };
  const outcomes = Promise.allSettled([flush, zeroing]).finally(() => (state.settled = true));
  while (syncs.length === 0) await turn();
  syncs.shift()?.(Object.assign(new Error("lost"), { code: "EIO" }));
  // The next one meets no error: the system has reported it.
  while (!state.settled) {
    await turn();
    syncs.shift()?.(null);
  }
  expect((await outcomes).map(({ status }) => status)).toEqual(["rejected", "rejected"]);
  await device.close().catch(() => {});
});
