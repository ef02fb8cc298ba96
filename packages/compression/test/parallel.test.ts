/** Compressions run beside each other, and no two of them in one stream. */
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { type Backend, createCompressor } from "@dmkit/compressor";
import { describe, expect, it } from "vitest";
import { Codec } from "../src/device/codec.ts";
import { openOn } from "../src/testing/sim-targets.ts";

interface Context {
  busy: boolean;
}

/** Leaves the trailing zeroes out, slowly, and watches who uses which context. */
function watched(): { backend: Backend<Context>; most: () => number; shared: () => boolean } {
  let running = 0;
  let most = 0;
  let shared = false;
  const compress = (src: Uint8Array, dst: Uint8Array): number => {
    let length = src.length;
    while (length > 0 && src[length - 1] === 0) length -= 1;
    if (length > dst.length) return -1;
    dst.set(src.subarray(0, length));
    return length;
  };
  const backend: Backend<Context> = {
    name: "watched",
    description: "for this test",
    syncCompress: 0,
    syncDecompress: Number.POSITIVE_INFINITY,
    createContext: () => ({ busy: false }),
    destroyContext: () => undefined,
    bound: (length) => length,
    compress,
    async compressAsync(src, dst, context) {
      if (context.busy) shared = true;
      context.busy = true;
      running += 1;
      most = Math.max(most, running);
      const length = compress(src, dst);
      for (let turn = 0; turn < 3; turn += 1) await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
      context.busy = false;
      return length;
    },
    decompress(src, dst) {
      dst.fill(0);
      dst.set(src);
      return dst.length;
    },
  };
  return { backend, most: () => most, shared: () => shared };
}

describe("compressions", () => {
  it("are as many at a time as there are streams, each with a stream and a result of its own", async () => {
    const { backend, most, shared } = watched();
    const compressor = await createCompressor(backend, { maxStreams: 3 });
    const codec = new Codec(compressor, false);
    const inputs = Array.from({ length: 40 }, (_, index) => {
      const data = Buffer.alloc(16_384);
      new SeededRandom(index + 1).fill(data.subarray(0, 200 + index * 300));
      return data;
    });
    const payloads = await Promise.all(inputs.map((data) => codec.encode(data)));
    for (const [index, payload] of payloads.entries()) {
      const contents = Buffer.alloc(16_384, 1);
      expect(payload.length).toBeLessThan(16_384);
      expect(await codec.decode(payload, contents)).toBeUndefined();
      expect(contents.equals(inputs[index] as Buffer)).toBe(true);
    }
    expect(most()).toBe(3);
    expect(shared()).toBe(false);
    await codec.close();
  });

  it("of one commit run beside each other, and store the right bytes", async () => {
    const lower = new MemoryDevice(8 * 2 ** 20);
    const device = await openOn(lower, 2 ** 20, { algorithm: "lz4" }, realEnvironment, {
      synchronous: false,
    });
    const data = Buffer.from(Array.from({ length: 2 ** 20 }, (_, at) => 97 + ((at * 7 + (at >> 12)) % 11)));
    await device.write(0, data);
    await device.flush();
    const into = Buffer.alloc(data.length);
    await device.read(0, into);
    expect(into.equals(data)).toBe(true);
    await device.close();
  });
});
