/** A layer below the top committed while clients write: its files, its claims and locks, and as it is typed. */
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BlockDevice, openFile, realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { afterEach, beforeEach, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { cli } from "./cli.ts";
import { serve, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const SIZE = 8 * MIB;

let folder: string;
let manager: DeviceManager;
beforeEach(() => {
  folder = tempFolder();
  manager = new DeviceManager(realEnvironment);
  for (const name of ["base", "1.img", "2.img", "3.img"]) sparse(name, SIZE + 4096);
  for (const name of ["1.map", "2.map", "3.map"]) sparse(name, MIB);
  writeFileSync(at("base"), Buffer.alloc(MIB, "base"), { flag: "r+" });
});
afterEach(() => manager.close());

const at = (name: string): string => join(folder, name);

function sparse(name: string, size: number): void {
  writeFileSync(at(name), "");
  truncateSync(at(name), size);
}

const table = (...layers: number[]): string =>
  `0 ${SIZE / 512} cow ${at("base")} 0 ${layers.map((layer) => `${at(`${layer}.map`)} ${at(`${layer}.img`)} 0`).join(" ")}`;

async function bytesOf(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  await device.read(0, bytes);
  return bytes;
}

/** Three layers in use, with something in each. */
async function stack(): Promise<BlockDevice> {
  await manager.create("vm", table(1));
  const device = manager.device("vm");
  await device.write(MIB, Buffer.alloc(MIB, 1));
  await manager.message("vm", ["freeze", at("2.map"), at("2.img")]);
  await device.write(1.5 * MIB, Buffer.alloc(MIB, 2));
  await manager.message("vm", ["freeze", at("3.map"), at("3.img")]);
  await device.write(2 * MIB, Buffer.alloc(MIB, 3));
  return device;
}

it("is moved while others write; its files are free then, and the table opens again", async () => {
  const device = await stack();
  let isOver = false;
  const writing = (async (): Promise<number> => {
    for (let count = 1; ; count += 1) {
      if (isOver) return count;
      await device.write(5 * MIB + (count % 64) * 4096, Buffer.alloc(4096, count));
      // Clients come in turns of the event loop; a loop that never ends one would leave none for anybody else.
      await new Promise((resolve) => setImmediate(resolve));
    }
  })();
  const before = (await bytesOf(device)).subarray(0, 5 * MIB);
  await manager.message("vm", ["commit", "2"]);
  await manager.message("vm", ["commit", "1"]);
  isOver = true;
  expect(await writing).toBeGreaterThan(1);
  expect(manager.snapshotOf("vm").table).toBe(table(3));
  const after = await bytesOf(device);
  expect(after.subarray(0, 5 * MIB).equals(before)).toBe(true);
  // Nobody has these any more, and the base can be read by others.
  for (const name of ["1.map", "1.img", "2.map", "2.img"]) await (await openFile(at(name))).close();
  await (await openFile(at("base"), { readOnly: true })).close();
  expect(
    readFileSync(at("base"))
      .subarray(MIB, 1.5 * MIB)
      .equals(Buffer.alloc(MIB / 2, 1)),
  ).toBe(true);
  await manager.remove("vm");
  await manager.create("again", table(3));
  expect((await bytesOf(manager.device("again"))).equals(after)).toBe(true);
  await manager.remove("again");
  await expect(manager.create("old", table(1, 2, 3))).rejects.toMatchObject({ code: "EFORMAT" });
});

it("goes into nothing that others lie on, here or elsewhere, and is as it was then", async () => {
  const device = await stack();
  const before = await bytesOf(device);
  const refused = async (layer: string): Promise<void> => {
    await expect(manager.message("vm", ["commit", layer])).rejects.toMatchObject({ code: "EBUSY" });
    expect((await bytesOf(device)).equals(before)).toBe(true);
  };
  // As another process has it.
  const reader = await openFile(at("base"), { readOnly: true });
  await refused("1");
  await reader.close();
  sparse("4.img", SIZE + 4096);
  sparse("4.map", MIB);
  await manager.create("other", table(1, 4));
  await refused("1");
  await refused("2");
  await manager.remove("other");
  await manager.message("vm", ["commit", "1"]);
  expect((await bytesOf(device)).equals(before)).toBe(true);
  // What lay on the committed layer beside it shows what it did.
  await manager.create("other", table(1, 4));
  expect((await bytesOf(manager.device("other"))).subarray(MIB, 2 * MIB).equals(Buffer.alloc(MIB, 1))).toBe(
    true,
  );
});

it("gives up devices of the server, and what is below them stays in use", async () => {
  const names = ["b", "1.m", "1.d", "2.m", "2.d"];
  for (const name of names) await manager.create(name, "0 4096 linear mem:2M 0");
  await manager.create("vm", "0 2048 cow dm:b 0 dm:1.m dm:1.d 0");
  await manager.device("vm").write(0, Buffer.alloc(4096, 1));
  await manager.message("vm", ["freeze", "dm:2.m", "dm:2.d"]);
  await manager.message("vm", ["commit", "1"]);
  expect(names.map((name) => manager.snapshotOf(name).holders.length)).toEqual([1, 0, 0, 1, 1]);
  await manager.remove("1.d");
  const bytes = Buffer.alloc(4096);
  await manager.device("b").read(0, bytes);
  expect(bytes.equals(Buffer.alloc(4096, 1))).toBe(true);
  await expect(manager.create("writer", "0 8 linear dm:b 0")).rejects.toMatchObject({ code: "EBUSY" });
});

it("as it is typed, in use and offline", async () => {
  const run = async (...words: string[]): Promise<string> => {
    const { code, stdout, stderr } = await cli(...words);
    expect([words, code, stderr]).toEqual([words, 0, expect.any(String)]);
    return stdout;
  };
  const server = await serve(["-U", at("s"), "--control", at("c"), "--name", "vm", "-t", table(1)]);
  const client = await openNbd(`nbd+unix:///vm?socket=${at("s")}`, { environment: realEnvironment });
  await client.write(0, Buffer.alloc(MIB, 1), { fua: true });
  await run("message", "-C", at("c"), "vm", "freeze", at("2.map"), at("2.img"));
  await client.write(MIB / 2, Buffer.alloc(MIB, 2), { fua: true });
  const before = await bytesOf(client);
  expect(await run("message", "-C", at("c"), "vm", "commit", "1")).toContain(
    `${at("base")} 0 ${at("2.map")}`,
  );
  expect((await bytesOf(client)).equals(before)).toBe(true);
  await run("message", "-C", at("c"), "vm", "freeze", at("3.map"), at("3.img"));
  await client.close();
  expect(await server.stop()).toBe(0);
  const words = [at("base"), at("2.map"), at("2.img"), at("3.map"), at("3.img")];
  const refused = await cli("cow", "commit", "-q", "--layer", "2", ...words);
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("none below the top")]);
  expect((await cli("cow", "commit", "--layer", "1", "--drop", ...words)).code).toBe(2);
  await run("cow", "commit", "-q", "--layer", "1", ...words);
  await run("cow", "check", at("base"), at("3.map"), at("3.img"));
  await run("cow", "flatten", "-q", at("out"), at("base"), at("3.map"), at("3.img"));
  expect(readFileSync(at("out")).subarray(0, SIZE).equals(before)).toBe(true);
});
