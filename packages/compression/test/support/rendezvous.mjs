// An algorithm that only returns when two threads are at it: compress() marks its arrival in a folder and waits for
// somebody else's mark. It stores the first eight bytes, which the contents repeat.
import { mkdtempSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isMainThread } from "node:worker_threads";

export const rendezvous = {
  name: "rendezvous",
  description: "returns when two run at the same time",
  syncCompress: 0,
  syncDecompress: Number.POSITIVE_INFINITY,
  worker: { module: import.meta.url, exportName: "rendezvous" },
  createContext: () => undefined,
  destroyContext: () => undefined,
  bound: (length) => length,
  compress(src, dst) {
    if (isMainThread) throw new Error("this is the main thread");
    const folder = process.env.DMKIT_RENDEZVOUS;
    mkdtempSync(join(folder, "here-"));
    const sleep = new Int32Array(new SharedArrayBuffer(4));
    for (let turns = 0; turns < 4000; turns += 1) {
      if (readdirSync(folder).length >= 2) {
        dst.set(src.subarray(0, 8));
        return 8;
      }
      Atomics.wait(sleep, 0, 0, 5);
    }
    throw new Error("nobody else came");
  },
  decompress(src, dst) {
    dst.fill(Buffer.from(src));
    return dst.length;
  },
};
