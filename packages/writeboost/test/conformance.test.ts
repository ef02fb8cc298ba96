/** The conformance suite over both types, with and without writeback, on rings much smaller than the data. */
import { BadSectors, type Subject, conformance } from "@dmkit/block-io/testing";
import { describe, it } from "vitest";
import { type OpenOptions, openWriteboost } from "../src/index.ts";

const MIB = 1024 * 1024;

async function subject(
  type: 0 | 1,
  slots: number,
  options: OpenOptions,
  block: 512 | 4096 = 512,
): Promise<Subject> {
  const order = options.order ?? 10;
  const devices = {
    backing: new BadSectors(2 * MIB, { logicalBlockSize: block }),
    cache: new BadSectors(MIB + slots * 512 * 2 ** order, { logicalBlockSize: block }),
    plog: type === 1 ? new BadSectors(3 * MIB) : undefined,
  };
  return {
    device: await openWriteboost(devices, options),
    reopen: () => openWriteboost(devices, options),
    stops: true,
    lower: Object.values(devices).filter((device) => device !== undefined),
  };
}

const writeback = { tunables: { allow_writeback: 1, nr_max_batched_writeback: 2 } };

for (const type of [0, 1] as const) {
  const name = `writeboost type ${type}`;
  conformance(`${name}, order 10, 4 slots`, () => subject(type, 4, {}), { describe, it });
  conformance(`${name}, order 4, 5 slots`, () => subject(type, 5, { order: 4, pool: 2 }), { describe, it });
  conformance(`${name}, order 6, 7 slots, writeback`, () => subject(type, 7, { order: 6, ...writeback }), {
    describe,
    it,
  });
  conformance(
    `${name}, order 7, 9 slots, read caching`,
    () => subject(type, 9, { order: 7, tunables: { allow_writeback: 1, read_cache_threshold: 64 } }),
    { describe, it },
  );
}
conformance("writeboost type 0, v2 dialect", () => subject(0, 4, { dialect: "v2" }), { describe, it });
conformance("writeboost type 0 on 4 KiB blocks", () => subject(0, 5, { order: 5 }, 4096), { describe, it });
