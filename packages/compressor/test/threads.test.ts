import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import type { Backend } from "../src/index.ts";
import { builtUrl, importBuilt, removeBuilt } from "./support/built.ts";
import { corpus } from "./support/inputs.ts";

type Package = Awaited<ReturnType<typeof importBuilt>>;

let built: Package;
let rendezvous: Backend;
const folders: string[] = [];

beforeAll(async () => {
  built = await importBuilt();
  const file = new URL("support/rendezvous.mjs", import.meta.url).href;
  rendezvous = ((await import(/* @vite-ignore */ file)) as { rendezvous: Backend }).rendezvous;
  // Vitest gives modules it has transformed a URL of its own; the worker needs the file.
  rendezvous = { ...rendezvous, worker: { module: file, exportName: "rendezvous" } };
});

afterAll(() => {
  removeBuilt();
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

function meetingPlace(): Buffer {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-rendezvous-"));
  folders.push(folder);
  return Buffer.from(folder);
}

describe("worker threads", () => {
  test("two compressions run at the same time", async () => {
    const compressor = await built.createCompressor(rendezvous, { maxStreams: 2, threads: 2 });
    const place = meetingPlace();
    const lengths = [1, 2].map(async () => {
      const stream = await compressor.acquire();
      const length = await stream.compress(place);
      expect(stream.output.subarray(0, length).equals(place)).toBe(true);
      stream.release();
      return length;
    });
    expect(await Promise.all(lengths)).toEqual([place.length, place.length]);
    await compressor.close();
  });

  test.each(["lzo", "zstd-wasm"])("%s gives the same on a thread as on ours", async (name) => {
    const exported = name === "lzo" ? name : "zstdWasm";
    const backend = ((await import(builtUrl(`backends/${name}.js`))) as Record<string, Backend>)[
      exported
    ] as Backend;
    const compressor = await built.createCompressor(backend, { maxStreams: 3, threads: 2 });
    expect(compressor.status().threads).toBe(2);
    await Promise.all(
      corpus().map(async ({ name: input, bytes }) => {
        const stream = await compressor.acquire();
        const length = await stream.compress(bytes);
        const compressed = Buffer.from(stream.output.subarray(0, length));
        expect(stream.compressSync(bytes), input).toBe(length);
        expect(stream.output.subarray(0, length).equals(compressed), input).toBe(true);
        if (length > 0) expect(await stream.compress(bytes, length - 1), input).toBe(-1);
        stream.release();
        const dst = Buffer.alloc(bytes.length + 1, 0xee);
        expect(await compressor.decompress(compressed, dst), input).toBe(bytes.length);
        expect(dst.subarray(0, -1).equals(bytes), input).toBe(true);
        expect(dst.at(-1)).toBe(0xee);
      }),
    );
    await compressor.close();
    expect(compressor.status().threads).toBe(0);
  });

  test("malformed input comes back as EFORMAT", async () => {
    const compressor = await built.createCompressor("lzo");
    const dst = Buffer.alloc(131072);
    await expect(compressor.decompress(Buffer.from("110000ff", "hex"), dst)).rejects.toMatchObject({
      code: "EFORMAT",
      backend: "lzo",
    });
    await expect(compressor.decompress(Buffer.alloc(100_000), dst)).rejects.toMatchObject({
      code: "EFORMAT",
    });
    await compressor.close();
  });

  test("a thread that dies takes no job with it; when all are gone the work is done here", async () => {
    const compressor = await built.createCompressor(rendezvous, { maxStreams: 2, threads: 2 });
    const stream = await compressor.acquire();
    for (const left of [1, 0, 0]) {
      expect(await stream.compress(Buffer.from("die"))).toBe(3);
      expect(compressor.status().threads).toBe(left);
    }
    stream.release();
    await compressor.close();
  });

  test("jobs beyond the number of threads wait for one", async () => {
    const compressor = await built.createCompressor(rendezvous, { maxStreams: 6, threads: 2 });
    const places = [meetingPlace(), meetingPlace(), meetingPlace()];
    await Promise.all(
      places
        .flatMap((place) => [place, place])
        .map(async (place) => {
          const stream = await compressor.acquire();
          expect(await stream.compress(place)).toBe(place.length);
          stream.release();
        }),
    );
    await compressor.close();
  });

  test("threads follow the number of streams when it is changed", async () => {
    const threadsFor = (streams: number): number => Math.min(streams, availableParallelism());
    const compressor = await built.createCompressor(rendezvous, { maxStreams: 1 });
    expect(compressor.status().threads).toBe(1);
    await compressor.setMaxStreams(3);
    expect(compressor.status()).toMatchObject({ maxStreams: 3, threads: threadsFor(3) });
    // All of them work.
    const place = meetingPlace();
    const both = Array.from({ length: threadsFor(2) }, async () => {
      const stream = await compressor.acquire();
      if (threadsFor(2) === 2) expect(await stream.compress(place)).toBe(place.length);
      // One that still works ends afterwards.
      await compressor.setMaxStreams(1);
      stream.release();
    });
    await Promise.all(both);
    expect(compressor.status()).toMatchObject({ maxStreams: 1, threads: 1 });
    const src = Buffer.from("still there");
    const dst = Buffer.alloc(src.length);
    expect(await compressor.decompress(src, dst)).toBe(src.length);
    // Closed while others start: none of them is left.
    const growing = compressor.setMaxStreams(4);
    await compressor.close();
    await growing;
    await compressor.setMaxStreams(2);
    expect(compressor.status().threads).toBe(0);
    const fixed = await built.createCompressor(rendezvous, { maxStreams: 1, threads: 1 });
    await fixed.setMaxStreams(2);
    expect(fixed.status().threads).toBe(1);
    await fixed.close();
  });

  test("a module that does not load is reported, and nothing is left running", async () => {
    const worker = { module: "file:///nowhere/at-all.mjs", exportName: "nothing" };
    await expect(built.createCompressor({ ...rendezvous, worker })).rejects.toMatchObject({
      code: "ENOTSUP",
    });
  });

  test("an open compressor does not keep the process alive, a compression under way does", () => {
    const program = `
      const { createCompressor } = await import(${JSON.stringify(builtUrl())});
      const compressor = await createCompressor("lzo", { threads: 2 });
      const stream = await compressor.acquire();
      stream.compress(Buffer.alloc(131072)).then((length) => console.log(length));
    `;
    const { status, stdout } = spawnSync(process.execPath, ["--input-type=module", "--eval", program], {
      encoding: "utf8",
      timeout: 120_000,
    });
    expect([status, stdout]).toEqual([0, "522\n"]);
  });

  test("none are started where they would never be used, or when told not to", async () => {
    for (const options of [{ maxInput: 4096 }, { threads: 0 }]) {
      const compressor = await built.createCompressor("lzo", options);
      expect(compressor.status().threads).toBe(0);
      await compressor.close();
    }
  });
});
