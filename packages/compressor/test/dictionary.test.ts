/** Dictionaries: what they are good for, what they are refused for, and that no other one does. */
import { describe, expect, it } from "vitest";
import { CompressorError, createCompressor, findBackend, listBackends } from "../src/index.ts";
import { zstdContentSize } from "../src/format/zstd-frame.ts";
import { attackBackend, checkRoundTrip } from "../src/testing/index.ts";

const names = ["lz4", "deflate", "zstd"] as const;
const lines = (from: number, count: number): Buffer =>
  Buffer.from(
    Array.from({ length: count }, (_, at) => `{"id":${from + at},"kind":"measurement","unit":"kelvin"}`).join(
      ",",
    ),
  );
/** What pages have in common: no page is in it. */
const dictionary = lines(5000, 200);
const page = lines(70_000, 200).subarray(0, 4096);

async function code(work: Promise<unknown>): Promise<string> {
  return work.then(
    () => "no error",
    (error: unknown) => (error instanceof CompressorError ? error.code : String(error)),
  );
}

async function packed(name: string, given?: Uint8Array): Promise<Buffer> {
  const compressor = await createCompressor(name, { maxInput: 4096, dictionary: given });
  const stream = await compressor.acquire();
  const bytes = Buffer.from(stream.output.subarray(0, await stream.compress(page)));
  stream.release();
  await compressor.close();
  return bytes;
}

async function unpacked(name: string, bytes: Buffer, given?: Uint8Array): Promise<Buffer | string> {
  const compressor = await createCompressor(name, { maxInput: 4096, dictionary: given });
  const into = Buffer.alloc(4096);
  const outcome = await code(compressor.decompress(bytes, into));
  await compressor.close();
  return outcome === "no error" ? into : outcome;
}

describe.each(names)("%s with a dictionary", (name) => {
  it("makes pages smaller that have in common with it what they have not in themselves", async () => {
    const sizes: number[] = [];
    for (const given of [undefined, dictionary]) {
      const compressor = await createCompressor(name, { dictionary: given });
      const stream = await compressor.acquire();
      sizes.push(stream.compressSync(page.subarray(0, 200)));
      stream.release();
      await compressor.close();
    }
    expect(sizes[1]).toBeLessThan((sizes[0] as number) * 0.7);
  });

  it("gives back what there was with the same bytes only", async () => {
    const bytes = await packed(name, dictionary);
    expect(await unpacked(name, bytes, Buffer.from(dictionary))).toEqual(page);
    for (const other of [undefined, lines(1, 200), dictionary.subarray(0, -1)]) {
      const found = await unpacked(name, bytes, other);
      expect(typeof found === "string" || !found.equals(page)).toBe(true);
    }
  });

  it("does not mind what becomes of the bytes that were given", async () => {
    const given = Buffer.from(dictionary);
    const compressor = await createCompressor(name, { dictionary: given });
    const expected = await packed(name, dictionary);
    given.fill(0);
    const stream = await compressor.acquire();
    const length = await stream.compress(page);
    expect(stream.output.subarray(0, length).equals(expected)).toBe(true);
    stream.release();
    await compressor.close();
  });

  it("keeps the contract, whatever it is given", async () => {
    await (await createCompressor(name, { dictionary })).close();
    const backend = findBackend(name).withDictionary?.(dictionary);
    if (backend === undefined) throw new Error("it has none");
    const context = backend.createContext({ level: backend.levels?.default ?? 0 });
    for (const length of [0, 1, 7, 64, 1000, 4096, 20_000])
      checkRoundTrip(backend, context, lines(3, 1000).subarray(0, length));
    backend.destroyContext(context);
    const report = attackBackend(backend, { seed: 5, count: 2000 });
    expect(report).toBeDefined();
  });

  it("is refused one that is too short, or too long", async () => {
    for (const length of [0, 7, 1024 * 1024 + 1])
      expect(await code(createCompressor(name, { dictionary: Buffer.alloc(length, 1) }))).toBe("EINVAL");
  });
});

it.each(listBackends().filter((name) => !(names as readonly string[]).includes(name)))(
  "%s has none, and says who has",
  async (name) => {
    const error = await createCompressor(name, { dictionary }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ code: "ENOTSUP", hint: expect.stringContaining("zstd") });
  },
);

it("zstd refuses what begins like a trained dictionary and is none", async () => {
  const broken = Buffer.concat([Buffer.from("37a430ec", "hex"), Buffer.alloc(200, 0xff)]);
  expect(await code(createCompressor("zstd", { dictionary: broken }))).toBe("EINVAL");
});

it("a frame that names its dictionary is taken only where there is one", () => {
  // A single segment of two bytes, stored; the dictionary's number is 0x1234, in two bytes.
  const frame = Buffer.from("28b52ffd 22 3412 02 110000 6162".replaceAll(" ", ""), "hex");
  expect(zstdContentSize(frame, 10, true)).toBe(2);
  expect(() => zstdContentSize(frame, 10)).toThrow(/needs a dictionary/);
  expect(() => zstdContentSize(frame.subarray(0, 6), 10, true)).toThrow(CompressorError);
});
