/** What a table stands on stays what it is when its table is exchanged, or opened again because another one failed. */
import { mkdirSync, renameSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { realEnvironment } from "@dmkit/block-io";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { openExports } from "../src/serve/exports.ts";
import { cli } from "./cli.ts";
import { cleanUp, tempFolder } from "./support.ts";

const SIZE = 128 * 1024;
const SECTORS = SIZE / 512;

let manager: DeviceManager;
let folder: string;

beforeEach(() => {
  manager = new DeviceManager(realEnvironment);
  folder = tempFolder();
  vi.stubEnv("XDG_CACHE_HOME", join(folder, "cache"));
  cleanUp(() => void vi.unstubAllEnvs());
});

afterEach(() => manager.close());

/** Makes the tag say an image of these letters. */
async function publish(letter: string): Promise<void> {
  mkdirSync(join(folder, "st"), { recursive: true });
  writeFileSync(join(folder, "source"), letter.repeat(SIZE));
  expect((await cli("publish", "-q", join(folder, "source"), join(folder, "st/g"))).code).toBe(0);
}

async function letterOf(name: string): Promise<string> {
  const bytes = Buffer.alloc(512);
  await manager.device(name).read(0, bytes);
  return bytes.toString("latin1", 0, 1);
}

async function exchange(name: string, table: string): Promise<void> {
  await manager.reload(name, table, { folder });
  await manager.resume(name);
}

/** Another table that cannot be opened: the old one is opened again. */
async function failToExchange(name: string): Promise<void> {
  await expect(exchange(name, `0 ${SECTORS} linear nope 0`)).rejects.toThrow(
    "the old table is in place again",
  );
}

const tables: Readonly<Record<string, readonly [table: string, other: string]>> = {
  image: [`0 ${SECTORS} image st/g`, `0 ${SECTORS} image st/g 2 readahead 0`],
  linear: [
    `0 ${SECTORS} linear image:st/g 0`,
    `0 ${SECTORS / 2} linear image:st/g 0\n${SECTORS / 2} ${SECTORS / 2} linear image:st/g 0`,
  ],
  cow: [
    `0 ${SECTORS} cow image:st/g 0 top.map top.img 0`,
    `0 ${SECTORS} cow image:st/g 0 top.map top.img 0 2 autocommit 9`,
  ],
};

describe("a tag that is moved while a device stands on it", () => {
  for (const [name, [table, other]] of Object.entries(tables)) {
    it(`${name}: is not looked up again by an exchange, whether it fails or not`, async () => {
      await publish("A");
      const files = ["top.map", "top.img"].map((one) => join(folder, one));
      expect((await cli("cow", "create", ...files, "--size", String(SIZE))).code).toBe(0);
      await manager.create("d", table, { folder });
      await publish("B");
      expect(await letterOf("d")).toBe("A");
      await failToExchange("d");
      expect(await letterOf("d")).toBe("A");
      // The same reference in another table.
      await exchange("d", other);
      await failToExchange("d");
      await exchange("d", table);
      expect(await letterOf("d")).toBe("A");
      // What is printed opens the same in another server; what a user writes is looked up when a device is made.
      const printed = manager.snapshotOf("d").table;
      expect(printed).toMatch(/st\/g@[0-9a-f]{64}/);
      await manager.remove("d");
      await manager.create("d", printed);
      expect(await letterOf("d")).toBe("A");
      await manager.remove("d");
      const anew = manager.create("d", table, { folder });
      // A layer knows what it lies on: over another image it would show a mixture.
      if (name === "cow") return expect(anew).rejects.toMatchObject({ code: "EFORMAT" });
      await anew;
      expect(await letterOf("d")).toBe("B");
      return undefined;
    });
  }

  it("the same for one that is served without a table", async () => {
    await publish("A");
    const image = `image:${join(folder, "st/g")}`;
    const what = { images: [image], table: [], readOnly: true, preallocate: false, data: folder };
    await openExports(what, manager, realEnvironment);
    await publish("B");
    await failToExchange("default");
    await exchange("default", `0 ${SECTORS} linear ${image} 0`);
    expect(await letterOf("default")).toBe("A");
  });
});

describe("a file that is replaced under its name while a device stands on it", () => {
  const disk = (): string => join(folder, "disk");
  const table = `0 ${SECTORS} linear disk 0`;
  const swap = (): void => {
    renameSync(disk(), join(folder, "aside"));
    renameSync(join(folder, "other"), disk());
    renameSync(join(folder, "aside"), join(folder, "other"));
  };

  beforeEach(async () => {
    writeFileSync(disk(), "A".repeat(SIZE));
    writeFileSync(join(folder, "other"), "B".repeat(SIZE));
    await manager.create("d", table, { folder });
    swap();
  });

  it("is not taken for the one that was there when the old table is opened again", async () => {
    expect(await letterOf("d")).toBe("A");
    await expect(exchange("d", `0 ${SECTORS} linear nope 0`)).rejects.toMatchObject({
      message: expect.stringMatching(/another one has taken its place.*requests wait/) as string,
      hint: expect.stringContaining("name back") as string,
    });
    const reading = letterOf("d");
    await expect(exchange("d", table)).rejects.toMatchObject({ code: "ENOENT" });
    swap();
    await exchange("d", table);
    expect(await reading).toBe("A");
  });

  it("nor by a table that names it, unless it is meant", async () => {
    await expect(exchange("d", table)).rejects.toThrow(/the old table stays in place/);
    expect(await letterOf("d")).toBe("A");
    // Where the file is now.
    await exchange("d", `0 ${SECTORS} linear other 0`);
    expect(await letterOf("d")).toBe("A");
    await exchange("d", table);
    expect(await letterOf("d")).toBe("B");
    swap();
    await manager.reload("d", table, { folder, force: true });
    await manager.resume("d");
    expect(await letterOf("d")).toBe("A");
  });
});

it("a view of the past is no table's: it says so, and is not exchanged", async () => {
  const [disk, cache] = ["disk", "cache"].map((name) => join(folder, name)) as [string, string];
  writeFileSync(disk, Buffer.alloc(2 ** 20));
  writeFileSync(cache, Buffer.alloc(2 ** 22));
  const device = await manager.create("w", `0 2048 writeboost 0 ${disk} ${cache} 2 segment_size_order 4`);
  for (const letter of ["A", "B", "C"]) {
    await device.write(0, Buffer.alloc(4096, letter));
    await device.flush();
  }
  await manager.remove("w");
  const what = { images: [cache, disk], table: [], readOnly: true, preallocate: false, data: folder, at: 1 };
  await openExports(what, manager, realEnvironment);
  expect(await letterOf("default")).toBe("A");
  expect(manager.snapshotOf("default").table).toMatch(/^# .* as of segment 1\n0 2048 writeboost /);
  await expect(exchange("default", "0 2048 linear nope 0")).rejects.toMatchObject({
    code: "ENOTSUP",
    message: expect.stringMatching(/as of segment 1.*no table opens again/) as string,
  });
  expect(await letterOf("default")).toBe("A");
});

it("a table that begins its log anew whenever it is opened is exchanged only by force", async () => {
  for (const name of ["disk", "log"]) writeFileSync(join(folder, name), Buffer.alloc(2 ** 20));
  const device = await manager.create("l", "0 64 log-writes disk log", { folder });
  await device.write(0, Buffer.alloc(4096, 1));
  const before = device.status();
  await expect(exchange("l", "0 64 linear nope 0")).rejects.toMatchObject({
    code: "EBUSY",
    message: expect.stringMatching(/log-writes, whose log begins anew/) as string,
  });
  expect(device.status()).toBe(before);
});
