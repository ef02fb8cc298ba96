/** Devices below several others are asked, flushed and shown once, however many ways lead down to them. */
import { MemoryDevice, realEnvironment, storageOf } from "@dmkit/block-io";
import { expect, it, vi } from "vitest";
import { deviceTree } from "../src/commands/server/tree.ts";
import { NamedDevice } from "../src/manager/device/named-device.ts";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { targets } from "../src/targets.ts";

// A quarter of a million ways lead from the top to each device at the bottom.
const LEVELS = 18;

it("a flush reaches each device once; health, storage, tree, suspend and resume end at once", async () => {
  const manager = new DeviceManager(realEnvironment);
  for (const name of ["a0", "b0"]) await manager.create(name, "0 16 linear mem:8K 0");
  for (let level = 1; level <= LEVELS; level += 1) {
    const below = `0 8 linear dm:a${level - 1} 0\n8 8 linear dm:b${level - 1} 0`;
    for (const name of ["a", "b"]) await manager.create(`${name}${level}`, below);
  }
  const top = manager.device(`a${LEVELS}`);
  await top.flush();
  expect(manager.device("a0").traffic.flushes).toBe(1);
  expect(manager.device("b0").traffic.flushes).toBe(1);
  expect(await storageOf(top)).toHaveLength(2);
  const asked = vi.spyOn(MemoryDevice.prototype, "health");
  expect(manager.snapshotOf(top.name).health.state).toBe("ok");
  expect(asked).toHaveBeenCalledTimes(2);
  asked.mockRestore();
  const lines = deviceTree(manager.snapshot(), targets).split("\n");
  expect(lines.filter((line) => line.includes("a0 (8 KiB"))).toHaveLength(1);
  await manager.suspend("a9");
  expect(manager.snapshotOf("a9").state).toBe("suspended");
  await manager.resume("a9");
  await manager.close();
});

it("a flush is not another's that was asked for before what it has to cover", async () => {
  let flushes = 0;
  class Counting extends MemoryDevice {
    protected override doFlush(): Promise<void> {
      flushes += 1;
      return super.doFlush();
    }
  }
  const named = new NamedDevice("x", realEnvironment.clock);
  const device = new Counting(8192);
  const nothing = { table: () => "", segments: () => [], lowers: () => [], targets: [], descriptions: [] };
  named.putIn({
    ...nothing,
    device,
    message: async () => "",
    health: () => device.health(),
    files: () => new Map(),
    close: () => device.close(),
  });
  named.letGo();
  await Promise.all([named.flush(), named.flush()]);
  expect(flushes).toBe(1);
  for (const change of [
    () => named.write(0, Buffer.alloc(512)),
    () => named.discard(0, 4096),
    () => named.writeZeroes(0, 4096),
  ]) {
    flushes = 0;
    await Promise.all([named.flush(), change(), named.flush()]);
    expect(flushes).toBe(2);
  }
  flushes = 0;
  await named.flush();
  await named.flush();
  expect(flushes).toBe(2);
  await named.close();
});
