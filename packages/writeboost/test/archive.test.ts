/** A log that is archived: the disk from the bucket alone, after any number of machines were lost. */
import { describe, expect, it } from "vitest";
import type { SegmentArchive } from "../src/device/archive/segment-archive.ts";
import { type Settings, runBucketOnly } from "./support/bucket-only.ts";

async function violations(count: number, settings: Settings, most = 3): Promise<string[]> {
  const found: string[] = [];
  for (let seed = 1; seed <= count && found.length < most; seed += 1) {
    const violation = await runBucketOnly(seed, settings);
    if (violation !== undefined) found.push(violation);
  }
  return found;
}

describe("the disk from the bucket alone", () => {
  it.each(["local", "remote"] as const)("flush=%s", async (flush) => {
    expect(await violations(12, { flush })).toEqual([]);
  });
});

/** The archive with another `write`. */
function writing(
  to: SegmentArchive,
  write: (...given: Parameters<SegmentArchive["write"]>) => Promise<void>,
): SegmentArchive {
  return {
    name: to.name,
    shipped: to.shipped,
    offset: to.offset,
    trouble: undefined,
    write,
    close: () => to.close(),
  };
}

describe("finds every fault put in", () => {
  const mutants: Readonly<Record<string, Settings>> = {
    "zeroes go past the log": { flush: "remote", rules: { isLoggedToArchive: () => false } },
    "a flush does not wait for the archive": {
      flush: "remote",
      alter(to) {
        let last: Promise<void> = Promise.resolve();
        return writing(to, (first, segments) => {
          last = last.then(() => to.write(first, segments)).catch(() => {});
          return Promise.resolve();
        });
      },
    },
    "a segment is left out now and then": {
      flush: "local",
      alter: (to) =>
        writing(to, (first, segments) =>
          to.write(
            first,
            segments.map((one, at) =>
              (first + at) % 7 === 3 ? { ...one, sectors: [], bits: [], data: Buffer.alloc(0) } : one,
            ),
          ),
        ),
    },
  };

  it.each(Object.entries(mutants))("%s", async (_name, settings) => {
    expect(await violations(200, settings, 1)).toHaveLength(1);
  });
});
