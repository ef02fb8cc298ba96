/** Options that are misspelt, or nonsense, are refused before anything is loaded. */
import { expect, it } from "vitest";
import { createCompressor } from "../src/index.ts";

it.each([
  { maxStream: 1 },
  { maxStreams: Number.NaN },
  { maxInput: 1.5 },
  { level: 1000 },
  { level: "3" },
  { idleTime: -1 },
  { threads: Number.POSITIVE_INFINITY },
  { clock: {} },
  { clock: null },
  { dictionary: "words" },
  null,
  5,
])("%o", async (options) => {
  await expect(createCompressor("deflate", options as never)).rejects.toMatchObject({
    code: "EINVAL",
    name: "CompressorError",
  });
});
