/**
 * Layers that a table has put on one another: the lower ones are not marked as frozen until something above is to stay what it
 * is. Then they are, by every way to make that so, and where they cannot be it is told.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlockIoError, SECTOR, realEnvironment } from "@dmkit/block-io";
import { afterEach, beforeEach, expect, it } from "vitest";
import { readIdentity, writeIdentity } from "../src/device/layer/layer.ts";
import type { WithBitmap } from "../src/device/layer/freezing.ts";
import type { StackDevices } from "../src/device/layer/stack-devices.ts";
import { makeSnapshot, revertToSnapshot } from "../src/offline/chain/snapshots.ts";
import { rebase } from "../src/offline/rebase.ts";
import { openStack } from "../src/open/open.ts";
import { baseImage, buildStack, contents, layerOf, newLayer, newStack, quiet } from "./stacks.ts";

const SMALL = 1000;

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-cow-"));
});
afterEach(() => rmSync(folder, { recursive: true }));

const newFiles = (name: string): { bitmap: string; data: string } => ({
  bitmap: join(folder, `${name}.map`),
  data: join(folder, `${name}.img`),
});

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

/** Three layers, put on one another by tables; each has its number in it. */
async function unmarked(): Promise<StackDevices> {
  const stack = await newStack(3, SMALL);
  await buildStack(stack, (device, layer) => device.write(layer * 8 * SECTOR, Buffer.alloc(SECTOR, layer)));
  expect(await marks(stack)).toEqual([false, false, false]);
  return stack;
}

async function marks({ layers, sectors }: StackDevices): Promise<boolean[]> {
  const blocks = await Promise.all(layers.map(({ bitmap }) => readIdentity(bitmap, sectors)));
  return blocks.map((block) => block.kind === "layer" && block.identity.frozen);
}

const upTo = (stack: StackDevices, count: number): StackDevices => ({
  ...stack,
  layers: stack.layers.slice(0, count),
});

/** What is warned of. */
function listening(): { told: unknown[]; environment: typeof realEnvironment } {
  const told: unknown[] = [];
  const log = (_level: string, _text: string, fields: unknown): void => void told.push(fields);
  return { told, environment: { ...realEnvironment, logger: { log } } };
}

it("are marked when the top becomes a snapshot", async () => {
  const stack = await unmarked();
  await makeSnapshot(stack, "monday", newFiles("new"));
  expect(await marks(stack)).toEqual([true, true, true]);
  // Writing to one of them would have changed what the snapshot shows.
  for (const count of [1, 2, 3]) expect(await code(openStack(upTo(stack, count), quiet))).toBe("EROFS");
});

it("stay as they are when there is to be no snapshot after all", async () => {
  const stack = await unmarked();
  expect(await code(makeSnapshot(stack, "no name", newFiles("new")))).toBe("EINVAL");
  await makeSnapshot(upTo(await unmarked(), 1), "other", newFiles("other"));
  expect(await code(makeSnapshot(stack, "monday", newFiles("other")))).toBe("EEXIST");
  expect(await marks(stack)).toEqual([false, false, false]);
});

it("are marked when a layer is made on a snapshot of an earlier version, which marked the top alone", async () => {
  const stack = await unmarked();
  const { bitmap } = layerOf(stack, 2);
  const found = await readIdentity(bitmap, SMALL);
  if (found.kind !== "layer") throw new Error("the layer has no identity");
  await writeIdentity(bitmap, {
    ...found.identity,
    frozen: true,
    snapshot: { name: "monday", made: 1_000_000_000_000 },
  });
  await revertToSnapshot(stack, "monday", newFiles("new"));
  expect(await marks(stack)).toEqual([true, true, false]);
});

it("are marked when a layer is put on them by rebase, at its end", async () => {
  const onto = await unmarked();
  const stack = { base: await baseImage(SMALL), baseOffset: 0, layers: [newLayer(SMALL)], sectors: SMALL };
  await buildStack(stack, (device) => device.write(0, Buffer.alloc(SECTOR, 9)));
  const before = await openStack(stack, { ...quiet, readOnly: true });
  const shown = await contents(before);
  await before.close();
  const top = layerOf(stack, 1);
  stack.base.bad.add(8);
  expect(await code(rebase(stack, onto))).toBe("EIO");
  expect(await marks(onto)).toEqual([false, false, false]);
  stack.base.bad.clear();
  await rebase(stack, onto);
  expect(await marks(onto)).toEqual([true, true, true]);
  expect(await code(openStack(onto, quiet))).toBe("EROFS");
  const after = await openStack({ ...onto, layers: [...onto.layers, top] }, { ...quiet, readOnly: true });
  expect((await contents(after)).equals(shown)).toBe(true);
  await after.close();
});

it("are told of where they cannot be marked, one by one, and the snapshot is made", async () => {
  const stack = await unmarked();
  const { told, environment } = listening();
  const asked: number[] = [];
  const withBitmap: WithBitmap = async (layer, work) => {
    asked.push(layer);
    if (layer === 1) throw new BlockIoError("is read by another stack", { code: "EBUSY" });
    await work(layerOf(stack, layer).bitmap);
  };
  await makeSnapshot(stack, "monday", newFiles("new"), { withBitmap, environment });
  expect(asked).toEqual([1, 2]);
  expect(await marks(stack)).toEqual([false, true, true]);
  expect(told).toMatchObject([{ layer: 1, error: expect.stringContaining("read by another stack") }]);
});
