import {
  DelayDevice,
  MemoryDevice,
  SECTOR,
  openTable,
  parseTable,
  TargetRegistry,
  basicTargets,
  realEnvironment,
} from "@dmkit/block-io";
import { BadSectors, conformance } from "@dmkit/block-io/testing";
import { describe, it } from "vitest";
import { cow } from "../src/index.ts";
import { openStack } from "../src/open/open.ts";
import { buildStack, disksOf, newStack } from "./stacks.ts";

for (const layers of [1, 3]) {
  conformance(
    `a stack of ${layers} in memory`,
    async () => {
      const stack = await newStack(layers);
      await buildStack(stack, async (device, layer) => {
        await device.write(layer * 4096, Buffer.alloc(30 * SECTOR, layer));
      });
      return { device: await openStack(stack), reopen: () => openStack(stack), lower: disksOf(stack) };
    },
    { describe, it },
  );
}

conformance(
  "a stack that answers late",
  async () => {
    const { base, layers, sectors } = await newStack(2);
    const slow = (device: MemoryDevice): DelayDevice =>
      new DelayDevice(device, 0, device.size, { read: 0, write: 0, flush: 0 }, realEnvironment.clock);
    const stack = {
      base: slow(base as MemoryDevice),
      baseOffset: 0,
      sectors,
      layers: layers.map(({ bitmap, data }) => ({
        bitmap: slow(bitmap as MemoryDevice),
        data: slow(data as MemoryDevice),
        offset: 0,
      })),
    };
    await buildStack(stack, async (device, layer) => {
      await device.write(layer * 8192, Buffer.alloc(4096, layer));
    });
    return { device: await openStack(stack), reopen: () => openStack(stack) };
  },
  { describe, it },
);

conformance(
  "a read-only stack",
  async () => ({ device: await openStack(await newStack(1), { readOnly: true }) }),
  { describe, it },
);

conformance(
  "a stack on 4096-byte blocks",
  async () => {
    const sectors = 4096 * 8;
    const stack = {
      base: new BadSectors(sectors * SECTOR, { logicalBlockSize: 4096 }),
      baseOffset: 0,
      sectors,
      layers: [
        {
          bitmap: new BadSectors(512 * 1024, { logicalBlockSize: 4096 }),
          data: new BadSectors(sectors * SECTOR, { logicalBlockSize: 4096 }),
          offset: 0,
        },
      ],
    };
    return { device: await openStack(stack), reopen: () => openStack(stack), lower: disksOf(stack) };
  },
  { describe, it },
);

const registry = new TargetRegistry([...basicTargets, cow]);

conformance(
  "a table of only a base",
  async () => ({
    device: await openTable(parseTable("0 4096 cow mem:4M 8", registry), { environment: realEnvironment }),
  }),
  { describe, it },
);
