// A backend for the test of worker threads. compress() marks its arrival in a folder (the input's text) and
// waits until two have arrived: it can only return if two compressions run at the same time. An input of "die"
// ends the thread.
import { mkdtempSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { isMainThread } from "node:worker_threads";

export const rendezvous = {
  name: "rendezvous",
  description: "returns when two run at the same time",
  syncCompress: 0,
  syncDecompress: 0,
  worker: { module: import.meta.url, exportName: "rendezvous" },
  createContext: () => undefined,
  destroyContext: () => undefined,
  bound: (length) => length + 100,
  compress(src, dst) {
    const folder = Buffer.from(src).toString();
    if (folder === "die") {
      if (isMainThread) return 3;
      process.exit(1);
    }
    if (isMainThread) throw new Error("this is the main thread");
    mkdtempSync(join(folder, "here-"));
    const sleep = new Int32Array(new SharedArrayBuffer(4));
    for (let turns = 0; turns < 20_000; turns += 1) {
      if (readdirSync(folder).length >= 2) {
        dst.set(src);
        return src.length;
      }
      Atomics.wait(sleep, 0, 0, 5);
    }
    throw new Error("nobody else came");
  },
  decompress(src, dst) {
    if (isMainThread) throw new Error("this is the main thread");
    dst.set(src);
    return src.length;
  },
};
