/**
 * What format 1 loses, and that it is exactly what FORMAT.md says; the letters are those of FAULTS.md. For each hole
 * there is a crash that shows it, and the same crash does nothing to format 2.
 *
 * That there are no others is shown by taking the causes away one by one: with payloads that are all raw, and
 * metadata that is written by flushes only, or data that is stable before metadata is written, the simulation finds
 * nothing (the targets v1-raw and v1-raw-through-ordered, in sim.test.ts).
 */
import { readFileSync } from "node:fs";
import type { TargetDevice } from "@dmkit/block-io";
import { runSim } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import * as mutants from "../src/testing/sim-mutants.ts";
import { formatOne, formatOneRawThrough, formatOneSmall } from "../src/testing/sim-targets.ts";
import {
  BLOCK,
  JOURNAL,
  Recorder,
  bytesOf,
  contentsOf,
  digest,
  flipBit,
  noise,
  openImage,
  text,
} from "./support/images.ts";

const SIZE = 2 ** 21;
const BLOCKS = 100;
const MINUTES = 5 * 60_000;
const formats = ["v1", "v2"] as const;
type Format = (typeof formats)[number];

interface Recorded {
  readonly before: Buffer;
  readonly log: Recorder["log"];
  /** Where the data begins. */
  readonly data: number;
}

/** What an action writes to the device below, after everything before it was stable. */
async function recorded(
  format: Format,
  prepare: (device: TargetDevice) => Promise<void>,
  action: (device: TargetDevice) => Promise<void>,
  mode: Readonly<Record<string, unknown>> = { mode: "writethrough" },
): Promise<Recorded> {
  const lower = new Recorder(SIZE);
  // What lies on the device from earlier days.
  await lower.write(2 ** 18, noise(77, (SIZE - 2 ** 18) / BLOCK));
  const values = {
    ...mode,
    format,
    algorithm: "lz4",
    max_extent: 131_072,
    ...(format === "v2" && { journal: JOURNAL }),
  };
  const device = await openImage(lower, BLOCKS, { ...values, force: true });
  await prepare(device);
  await device.suspend();
  await device.resume();
  const before = await bytesOf(lower);
  lower.log.length = 0;
  await action(device);
  // Format 2 brings into place what was acknowledged.
  await device.suspend();
  const log = [...lower.log];
  await device.resume();
  await device.close();
  return { before, log, data: format === "v1" ? 2 * BLOCK : 0 };
}

type Keep = (write: {
  readonly offset: number;
  readonly sector: number;
  readonly sectors: number;
}) => boolean;

/** The contents after a crash that lets those sectors through that `keep` says, of the first `writes` requests. */
function after({ before, log }: Recorded, writes: number, keep: Keep): Promise<string[]> {
  const image = Buffer.from(before);
  for (const { offset, bytes } of log.slice(0, writes)) {
    const sectors = (bytes?.length ?? 0) / 512;
    for (let sector = 0; sector < sectors; sector += 1) {
      if (keep({ offset, sector, sectors }))
        bytes?.copy(image, offset + sector * 512, sector * 512, sector * 512 + 512);
    }
  }
  return contentsOf(image, BLOCKS);
}

/** Contents after each prefix of the requests, the last one torn in the middle. */
async function tornEverywhere(run: Recorded): Promise<string[][]> {
  const found: string[][] = [];
  for (let writes = 1; writes <= run.log.length; writes += 1) {
    const last = run.log[writes - 1];
    found.push(
      await after(run, writes, (write) => write.offset !== last?.offset || write.sector < write.sectors / 2),
    );
  }
  return found;
}

const zero = digest(Buffer.alloc(BLOCK));
const blocksOf = (data: Buffer): string[] =>
  Array.from({ length: data.length / BLOCK }, (_, at) => digest(data.subarray(at * BLOCK, (at + 1) * BLOCK)));

describe("a crash", () => {
  it("(a) tears a compressed block that is overwritten in place: old and new are lost", async () => {
    const [old, fresh] = [
      Buffer.concat([noise(1, 1).subarray(0, 3000), text(1, 1).subarray(3000)]),
      text(2, 1),
    ];
    const mixed = Buffer.concat([noise(3, 1).subarray(0, 2900), text(3, 1).subarray(2900)]);
    const lost = { v1: false, v2: false };
    for (const format of formats) {
      const run = await recorded(
        format,
        (device) => device.write(5 * BLOCK, old),
        (device) => device.write(5 * BLOCK, format === "v1" ? mixed : fresh),
      );
      const legal = [old, fresh, mixed].map(digest);
      for (const contents of await tornEverywhere(run))
        if (!legal.includes(contents[5] as string)) lost[format] = true;
    }
    expect(lost).toEqual({ v1: true, v2: false });
  });

  it("(b) loses neighbours that were stable when part of their extent is rewritten", async () => {
    const old = text(1, 32);
    const lost = { v1: 0, v2: 0 };
    for (const format of formats) {
      const run = await recorded(
        format,
        (device) => device.write(0, old),
        (device) => device.write(3 * BLOCK, noise(2, 1)),
      );
      for (const contents of await tornEverywhere(run)) {
        const gone = blocksOf(old).filter((block, at) => at !== 3 && contents[at] !== block).length;
        lost[format] = Math.max(lost[format], gone);
      }
    }
    expect(lost).toEqual({ v1: 31, v2: 0 });
  });

  it("(c) leaves metadata that describes another length than the payload", async () => {
    const [old, fresh] = [text(1, 4), Buffer.concat([noise(2, 2), text(2, 2)])];
    const found: Record<Format, string[]> = { v1: [], v2: [] };
    for (const format of formats) {
      const run = await recorded(
        format,
        (device) => device.write(0, old),
        (device) => device.write(0, fresh),
        { mode: "writeback", interval: 86_400 },
      );
      // The payload as a whole, and nothing else.
      const contents = await after(
        run,
        run.log.length,
        ({ offset }) => format === "v2" || offset >= run.data,
      );
      found[format] = contents.slice(0, 4);
    }
    expect(found.v1).toEqual(["EIO", "EIO", "EIO", "EIO"]);
    expect([blocksOf(old), blocksOf(fresh)]).toContainEqual(found.v2);
  });

  it("(h) in writethrough, lets metadata be stable before its data: what lay there before appears", async () => {
    const fresh = noise(2, 1);
    const found: Record<Format, string[]> = { v1: [], v2: [] };
    for (const format of formats) {
      const run = await recorded(
        format,
        () => Promise.resolve(),
        async (device) => {
          await device.write(90 * BLOCK, fresh);
          await device.write(91 * BLOCK, fresh);
        },
      );
      // All of the metadata, none of the data.
      for (let writes = 1; writes <= run.log.length; writes += 1) {
        const contents = await after(run, writes, ({ offset }) => format === "v2" || offset < run.data);
        found[format].push(contents[90] as string);
      }
    }
    const legal = [zero, digest(fresh)];
    expect(found.v2.filter((block) => !legal.includes(block))).toEqual([]);
    expect(found.v1.filter((block) => !legal.includes(block))).not.toEqual([]);
  });
});

describe("rot", () => {
  it("(e) in a raw payload gives other bytes, silently", async () => {
    const data = noise(1, 1);
    const found: Partial<Record<Format, string>> = {};
    for (const format of formats) {
      const { before } = await recorded(
        format,
        (device) => device.write(7 * BLOCK, data),
        () => Promise.resolve(),
      );
      flipBit(before, before.lastIndexOf(data.subarray(0, 64)) + 100);
      found[format] = (await contentsOf(before, BLOCKS))[7] as string;
    }
    // Format 2 notices, or has it in the journal still.
    expect(["EIO", digest(data)]).toContain(found.v2);
    expect(["EIO", digest(data)]).not.toContain(found.v1);
  });
});

describe("under the simulation", () => {
  it.each([
    // What appears is what lay there before, or an older version: nothing fails, for nothing is compressed.
    { target: formatOneRawThrough, hole: "(h)", rules: ["garbage", "illegal", "foreign"] },
    // Torn payloads, and metadata that does not fit them.
    { target: formatOneSmall, hole: "(a), (c)", rules: ["check", "error", "garbage", "illegal", "foreign"] },
    { target: formatOne, hole: "all of them", rules: ["check", "error", "garbage", "illegal", "foreign"] },
  ])(
    "$target.name shows $hole, and neither hangs nor crashes",
    async ({ target, rules }) => {
      const { failures } = await runSim(target, { seeds: 100, faults: "none", failures: 20, shrink: false });
      expect(failures.length).toBeGreaterThan(0);
      for (const { violations } of failures) for (const { rule } of violations) expect(rules).toContain(rule);
    },
    MINUTES,
  );
});

describe("FAULTS.md", () => {
  it("names every mutant, and none that does not exist", () => {
    const table = readFileSync(new URL("FAULTS.md", import.meta.url), "utf8");
    const named = new Set([...table.matchAll(/`([a-z]+(?:-[a-z]+)+)`/g)].map(([, name]) => name));
    const existing = Object.values(mutants).flatMap((list) => list.map(({ name }) => name.split("!")[1]));
    expect(named).toEqual(new Set(existing));
  });
});
