/** Options that a program gives a target directly are checked as those of a table are. */
import { type AnyTarget, MemoryDevice, TableArguments, realEnvironment } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { targets } from "../src/targets.ts";

it.each([
  ["writeboost", "0 a b", { writeback_threshold: 900 }],
  ["writeboost", "0 a b", { segment_size_order: 99 }],
  ["cache", "a b", { high_watermark: 900 }],
  ["cache", "a b", { block_size: Number.NaN }],
  ["compression", "a writeback 5", { memory: -1 }],
  ["zram", "", { max_comp_streams: 1.5 }],
])("%s %s with %o", async (name, words, wrong) => {
  const target: AnyTarget = targets.get(name);
  const args = new TableArguments(words === "" ? [] : words.split(" "));
  const opening = target.open(
    { ...(target.parse(args) as object), ...wrong },
    { name, size: 2 ** 20, environment: realEnvironment, lower: async () => new MemoryDevice(2 ** 23) },
  );
  await expect(opening).rejects.toMatchObject({ code: expect.stringMatching(/^(EPARSE|EINVAL)$/) });
});
