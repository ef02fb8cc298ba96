import { DelayDevice, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { BadSectors, type Subject, conformance } from "@dmkit/block-io/testing";
import { describe, it } from "vitest";
import { openTracked } from "../src/index.ts";

const SIZE = 2 ** 19;
const BITMAP = 2 ** 18;
const small = { granularity: 4096, epochs: 4 };

/** With an epoch under way, and one that everything is marked in. */
async function subject(logicalBlockSize: 512 | 4096): Promise<Subject> {
  const data = new BadSectors(SIZE, { logicalBlockSize });
  const bitmap = new BadSectors(BITMAP, { logicalBlockSize });
  const device = await openTracked(data, bitmap, { ...small, reset: ["all"] });
  await device.begin("monday");
  return { device, reopen: () => openTracked(data, bitmap), lower: [data, bitmap] };
}

conformance("a tracked device", () => subject(512), { describe, it });
conformance("a tracked device on 4096-byte blocks", () => subject(4096), { describe, it });

conformance(
  "a tracked device that answers late",
  async () => {
    const slow = (size: number): DelayDevice =>
      new DelayDevice(
        new MemoryDevice(size),
        0,
        size,
        { read: 0, write: 0, flush: 0 },
        realEnvironment.clock,
      );
    const [data, bitmap] = [slow(SIZE), slow(BITMAP)];
    const device = await openTracked(data, bitmap, small);
    await device.begin("monday");
    return { device, reopen: () => openTracked(data, bitmap) };
  },
  { describe, it },
);

conformance(
  "a tracked device that is only read",
  async () => {
    const [data, bitmap] = [new MemoryDevice(SIZE), new MemoryDevice(BITMAP)];
    await (await openTracked(data, bitmap, small)).close();
    return { device: await openTracked(data, bitmap, { readOnly: true }) };
  },
  { describe, it },
);
