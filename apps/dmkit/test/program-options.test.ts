/** Options that a program gives a target directly are checked as those of a table are. */
import {
  type AnyTarget,
  MemoryDevice,
  TableArguments,
  openTable,
  parseOptions,
  parseTable,
  realEnvironment,
} from "@dmkit/block-io";
import { expect, it } from "vitest";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";

it.each([
  ["writeboost", "0 a b", { writeback_threshold: 900 }],
  ["writeboost", "0 a b", { segment_size_order: 99 }],
  ["cache", "a b", { high_watermark: 900 }],
  ["cache", "a b", { block_size: Number.NaN }],
  ["cache", "a b", { low_watermark: 60 }],
  ["compression", "a writeback 5", { memory: -1 }],
  ["zram", "", { max_comp_streams: 1.5 }],
  ["zram", "", { comp_algorythm: "lz4" }],
  ["cow", "a 0 b c 0", { autocommit: -1 }],
  ["cow", "a 0 b c 0", { base_offset: -8 }],
  ["cow", "a 0 b c 0", { layers: [{ bitmap: "b", data: "c", offset: 0.5 }] }],
  ["cow", "a 0", { layers: [{ bitmap: "b" }] }],
  ["cow", "a 0 b c 0", { aliased_block_size: "4095" }],
  ["tracked", "a b", { granularity: 1000 }],
  ["tracked", "a b", { ahead: -1 }],
  ["image", "/nowhere/name", { readahead: 65 }],
  ["linear", "a 0", { offset: -8 }],
  ["linear", "a 0", { offset: "x" }],
  ["linear", "a 0", { ofset: 8 }],
  ["striped", "1 8 a 0", { chunk: 0 }],
  ["striped", "1 8 a 0", { stripes: [] }],
  ["delay", "a 0 1", { read: -1 }],
  ["flakey", "a 0 1 1", { down: Number.POSITIVE_INFINITY }],
  ["flakey", "a 0 1 1", { behaviour: "sometimes" }],
  ["log-writes", "a b", { force: "perhaps" }],
  ["error", "", { code: 5 }],
  ["zero", "", { size: 5 }],
])("%s %s with %o", async (name, words, wrong) => {
  const target: AnyTarget = targets.get(name);
  const args = new TableArguments(words === "" ? [] : words.split(" "));
  const options = { ...(target.parse(args) as object), ...wrong };
  const size = 2 ** 20;
  const opening = target.open(options, {
    name,
    size,
    environment: realEnvironment,
    lower: async () => new MemoryDevice(2 ** 23),
  });
  await expect(opening).rejects.toMatchObject({ code: expect.stringMatching(/^(EPARSE|EINVAL)$/) });
  // In a table that a program has put together, before any device is looked for: there are none.
  const table = openTable([{ start: 0, length: size / 512, target, options }], {
    environment: realEnvironment,
  });
  await expect(table).rejects.toMatchObject({ code: "EPARSE", hint: expect.any(String) });
});

it.each(["high_watermark 30", "low_watermark 51", "high_watermark 60 low_watermark 70"])(
  "values that contradict each other are refused in a table and in a stack file: %s",
  (words) => {
    const pairs = words.split(" ");
    const table = `0 8192 cache a b 0 8 64 64 0 ${pairs.length} ${words}`;
    expect(() => parseTable(table, targets)).toThrow(
      expect.objectContaining({ code: "EPARSE", hint: expect.stringMatching(/low_watermark takes 0 … \d+/) }),
    );
    const options = words.replaceAll(/(\w+) (\d+) ?/g, ", $1: $2");
    const text = `devices: { d: { target: cache, source: "mem:4M", cache: "mem:8M"${options} } }`;
    expect(parseStack({ text, file: "s.yaml" }).problems).toMatchObject([
      { what: expect.stringMatching(/low_watermark \d+ is above high_watermark \d+/) },
    ]);
  },
);

it("every target takes what its own table syntax gives", () => {
  const lines = [
    "0 a b",
    "1 a b c",
    "a b",
    "a writeback 5",
    "",
    "a 0 b c 0",
    "a 0",
    "/n/name",
    "1 8 a 0",
    "a 0 1",
  ];
  for (const target of targets.list()) {
    for (const line of lines) {
      let options: unknown;
      try {
        const args = new TableArguments(line === "" ? [] : line.split(" "));
        options = target.parse(args);
        args.end();
      } catch {
        continue;
      }
      expect(() => parseOptions(target.options, options), `${target.name} ${line}`).not.toThrow();
    }
  }
});
