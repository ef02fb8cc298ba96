/** What counts as damage of a payload: what the algorithm says of it, and nothing else. */
import { type Compressor, CompressorError } from "@dmkit/compressor";
import { expect, it } from "vitest";
import { Codec, openCodec } from "../src/device/codec.ts";
import { BLOCK } from "../src/format/geometry-v1.ts";

const data = Buffer.alloc(4 * BLOCK, "text that can be compressed ");

it.each([
  ["EFORMAT", "decompression"],
  ["ENOMEM", "throws"],
  ["EIO", "throws"],
] as const)("%s of the algorithm: %s", async (code, outcome) => {
  const real = await openCodec("deflate", "test", true);
  const payload = await real.encode(data);
  expect(payload.length).toBeLessThan(data.length);
  const refuse = (): never => {
    throw new CompressorError("refused", { code });
  };
  const compressor = { decompressSync: refuse, decompressPartSync: refuse } as unknown as Compressor;
  const codec = new Codec(compressor, true);
  const whole = async (): Promise<unknown> => codec.decode(payload, Buffer.alloc(data.length));
  const part = async (): Promise<unknown> => codec.decodePart(payload, data.length, 0, Buffer.alloc(BLOCK));
  for (const work of [whole, part])
    if (outcome === "throws") await expect(work()).rejects.toMatchObject({ code });
    else expect(await work()).toBe(outcome);
  expect(await real.decode(payload, Buffer.alloc(data.length))).toBeUndefined();
  await real.close();
});
