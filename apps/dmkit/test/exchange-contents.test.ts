/** What an exchange of tables keeps: the bytes that others rely on, and what messages have set. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MemoryDevice, realEnvironment, linear } from "@dmkit/block-io";
import { bitmapDeviceSize } from "@dmkit/cow";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { openedAs } from "../src/manager/device/opened-table.ts";
import { tempFolder } from "./support.ts";

const MIB = 2 ** 20;

let manager: DeviceManager;
let folder: string;

beforeEach(() => {
  manager = new DeviceManager(realEnvironment);
  folder = tempFolder();
});

afterEach(() => manager.close());

function file(name: string, size = 4 * MIB): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

async function disk(name: string, byte: number): Promise<void> {
  const device = new MemoryDevice(4 * MIB, { name });
  await device.write(0, Buffer.alloc(4096, byte));
  await manager.adopt(name, openedAs(device, { target: linear, words: () => [name, "0"] }));
}

async function exchange(name: string, table: string, options = {}): Promise<void> {
  await manager.reload(name, table, options);
  await manager.resume(name);
}

async function byteOf(name: string): Promise<number | undefined> {
  const block = Buffer.alloc(512);
  await manager.device(name).read(0, block);
  return block[0];
}

describe("a device that others rely on", () => {
  it("is exchanged for one with the same bytes; for another by force, or when nobody relies on it", async () => {
    await disk("one", 1);
    await disk("copy", 1);
    await disk("two", 2);
    await manager.create("slow", "0 8192 linear dm:one 0");
    await manager.create("top", "0 8192 delay dm:slow 0 0 0 0");
    await manager.create("cached", `0 8192 cache dm:top ${file("cache", 2 * MIB)} 0 8 256 16 1`);
    const other = "0 8192 linear dm:two 0";
    await expect(exchange("slow", other)).rejects.toMatchObject({ code: "EBUSY", device: "slow" });
    expect(await byteOf("slow")).toBe(1);
    await exchange("slow", "0 8192 linear dm:copy 0");
    expect(manager.snapshotOf("slow")).toMatchObject({ state: "live", table: "0 8192 linear dm:copy 0" });
    await exchange("slow", other, { force: true });
    expect(await byteOf("slow")).toBe(2);
    await manager.remove("cached");
    await exchange("slow", "0 8192 linear dm:one 0");
    expect(await byteOf("top")).toBe(1);
  });
});

describe("what a message has set", () => {
  const boost = (cache: string, words = ""): string =>
    `0 8192 writeboost 0 dm:one ${cache} 2 segment_size_order 4${words}`;

  it("stays until a table says otherwise, also after an exchange that failed", async () => {
    await disk("one", 1);
    const cache = file("cache");
    await manager.create("d", boost(cache, " 2 sync_data_interval 3"));
    await manager.message("d", ["writeback_threshold", "33"]);
    await manager.message("d", ["sync_data_interval", "4"]);
    await expect(exchange("d", `${boost(cache)}\n8192 8 linear ${folder}/none 0`)).rejects.toThrow("none");
    await exchange("d", boost(cache));
    await exchange("d", boost(cache, " 2 sync_data_interval 5"));
    const { table } = manager.snapshotOf("d");
    expect(table).toContain("writeback_threshold 33");
    expect(table).toContain("sync_interval 5");
    // What the table itself had set goes with it.
    await exchange("d", boost(cache, " 2 writeback_threshold 34"));
    expect(manager.snapshotOf("d").table).not.toContain("sync_interval");
    expect(manager.snapshotOf("d").table).toContain("writeback_threshold 34");
  });

  it("or made, while a cache is written back for a table that then cannot be opened, is there still", async () => {
    await disk("one", 1);
    const bitmap = bitmapDeviceSize(8192);
    const layer = `8192 8192 cow ${file("base")} 0 ${file("map", bitmap)} ${file("data")} 0`;
    const device = await manager.create("d", `${boost(file("cache"))}\n${layer}`);
    for (let at = 0; at < MIB; at += 4096) await device.write(at, Buffer.alloc(4096, 3));
    await manager.reload("d", `0 16384 linear ${folder}/none 0`);
    const words = [
      ["@0", "update_record_interval", "7"],
      ["@8192", "freeze", file("map2", bitmap), file("data2")],
    ];
    let messages: Promise<unknown> | undefined;
    const progress = (): void =>
      void (messages ??= Promise.all(words.map((message) => manager.message("d", message))));
    await expect(manager.resume("d", { progress })).rejects.toMatchObject({ code: "ENOENT" });
    await messages;
    const { state, table } = manager.snapshotOf("d");
    expect(state).toBe("live");
    expect(table).toContain("update_record_interval 7");
    expect(table).toContain("data2");
  });
});
