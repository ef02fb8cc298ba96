/** Snapshots of a stack in use: who has which file open, what looks at them, and all of it as it is typed. */
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BlockDevice, openFile, realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { afterEach, beforeEach, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { Moments } from "../src/moment/moments.ts";
import { cli, cliIn } from "./cli.ts";
import { describeWith, serve, succeed, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const SIZE = 4 * MIB;

let folder: string;
let manager: DeviceManager;
beforeEach(() => {
  folder = tempFolder();
  manager = new DeviceManager(realEnvironment);
  sparse("base", SIZE);
  for (const layer of [1, 2, 3, 4]) {
    sparse(`${layer}.img`, SIZE + 4096);
    sparse(`${layer}.map`, MIB);
  }
});
afterEach(() => manager.close());

const at = (name: string): string => join(folder, name);

function sparse(name: string, size: number): void {
  writeFileSync(at(name), "");
  truncateSync(at(name), size);
}

const files = (layer: number): [string, string] => [at(`${layer}.map`), at(`${layer}.img`)];
const stackWords = (...layers: number[]): string[] => [at("base"), ...layers.flatMap(files)];
const table = (...layers: number[]): string =>
  `0 ${SIZE / 512} cow ${at("base")} 0 ${layers.map((layer) => `${files(layer).join(" ")} 0`).join(" ")}`;

async function bytesOf(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  await device.read(0, bytes);
  return bytes;
}

/** Snapshots 1 and 2 and a top; what each shows is what `shown` has. */
async function stack(): Promise<{ device: BlockDevice; shown: Buffer[] }> {
  await manager.create("vm", table(1));
  const device = manager.device("vm");
  const shown: Buffer[] = [];
  for (const layer of [1, 2, 3]) {
    await device.write((layer * MIB) / 2, Buffer.alloc(MIB, layer));
    shown.push(await bytesOf(device));
    if (layer < 3) await manager.message("vm", ["snapshot", `s${layer}`, ...files(layer + 1)]);
  }
  return { device, shown };
}

it("are listed with tables that show them, to other devices and other processes, while others write", async () => {
  const { device, shown } = await stack();
  const lines = (await manager.message("vm", ["snapshots"])).split("\n");
  expect(lines.map((line) => line.split(" ").toSpliced(1, 1).join(" "))).toEqual([
    `s1 1 ${table(1).split(" ").slice(3).join(" ")}`,
    `s2 2 ${table(1, 2).split(" ").slice(3).join(" ")}`,
  ]);
  for (const [index, line] of lines.entries()) {
    const args = line.split(" ").slice(3).join(" ");
    const view = await manager.create("view", `0 ${SIZE / 512} cow ${args}`, { readOnly: true });
    expect((await bytesOf(view)).equals(shown[index] as Buffer)).toBe(true);
    // The one below goes into what this one shows by a table of its own.
    if (index === 1)
      await expect(manager.message("vm", ["snapshot-delete", "s1"])).rejects.toMatchObject({ code: "EBUSY" });
    await manager.remove("view");
  }
  expect(manager.device("vm").segments()[0]?.fields).toMatchObject({ snapshots: 2, snapshot_2: "s2" });
  expect((await bytesOf(device)).equals(shown[2] as Buffer)).toBe(true);
});

it("goes into the layer above, whose files others must not rely on; its own are free then", async () => {
  const { device, shown } = await stack();
  // As another process has it.
  const reader = await openFile(at("2.img"), { readOnly: true });
  await expect(manager.message("vm", ["snapshot-delete", "s1"])).rejects.toMatchObject({ code: "EBUSY" });
  await reader.close();
  const answer = await manager.message("vm", ["snapshot-delete", "s1"]);
  expect(answer).toBe(table(2, 3).split(" ").slice(3).join(" "));
  for (const name of files(1)) await (await openFile(name)).close();
  // Only the top is written from now on.
  await (await openFile(at("2.img"), { readOnly: true })).close();
  expect((await bytesOf(device)).equals(shown[2] as Buffer)).toBe(true);
  await manager.message("vm", ["snapshot-delete", "s2"]);
  expect(manager.snapshotOf("vm").table).toBe(table(3));
  expect((await bytesOf(device)).equals(shown[2] as Buffer)).toBe(true);
  await manager.remove("vm");
  await manager.create("again", table(3));
  expect((await bytesOf(manager.device("again"))).equals(shown[2] as Buffer)).toBe(true);
});

it("is read as DEVICE@NAME; a device of that name comes first", async () => {
  const { shown } = await stack();
  const moments = new Moments(manager, realEnvironment);
  const read = async (name: string): Promise<Buffer> => {
    const { id, uri } = await moments.begin(name);
    const device = await openNbd(uri, { environment: realEnvironment, readOnly: true });
    const bytes = Buffer.alloc(device.size);
    await device.read(0, bytes);
    await device.close();
    const ended = AbortSignal.abort();
    await expect(moments.changed(id, "x", 0)).rejects.toMatchObject({ code: "ENOENT" });
    await moments.hold(id, ended, () => {}).catch(() => {});
    return bytes;
  };
  expect((await read("vm@s1")).equals(shown[0] as Buffer)).toBe(true);
  expect((await read("vm@s2")).equals(shown[1] as Buffer)).toBe(true);
  await expect(moments.begin("vm@s3")).rejects.toMatchObject({ code: "ENOENT" });
  await expect(moments.begin("none@s1")).rejects.toMatchObject({ code: "ENOENT" });
  await manager.create("vm@s1", "0 8 linear mem:1M 0");
  expect((await read("vm@s1")).length).toBe(4096);
  await expect(moments.begin("vm@s1@s1")).rejects.toMatchObject({ code: "EINVAL" });
  // While it is read no layer is taken out; when that is over, it is.
  const { id } = await moments.begin("vm@s2");
  await expect(manager.message("vm", ["snapshot-delete", "s1"])).rejects.toMatchObject({ code: "EBUSY" });
  await moments.hold(id, AbortSignal.abort(), () => {}).catch(() => {});
  await manager.message("vm", ["snapshot-delete", "s1"]);
  await moments.close();
});

/** Layers that tables have put on one another; nothing has marked the lower ones. */
async function piled(...layers: number[]): Promise<void> {
  for (const count of layers.keys()) {
    const device = await manager.create("pile", table(...layers.slice(0, count + 1)));
    await device.write(count * MIB, Buffer.alloc(4096, count + 1));
    await manager.remove("pile");
  }
}

it("made offline marks all that it shows, and so does a rebase: none of it is written again", async () => {
  await piled(1, 2);
  await manager.create("free", table(1));
  await manager.remove("free");
  const made = await cli("cow", "snapshot", "monday", at("5.map"), at("5.img"), ...stackWords(1, 2));
  expect([made.code, made.stderr]).toEqual([0, ""]);
  for (const layers of [[1], [1, 2]])
    await expect(manager.create("vm", table(...layers))).rejects.toMatchObject({ code: "EROFS" });
  await piled(3);
  await piled(4);
  const put = await cli("cow", "rebase", "-q", ...stackWords(4), "--onto", ...stackWords(3));
  expect([put.code, put.stderr]).toEqual([0, ""]);
  await expect(manager.create("vm", table(3))).rejects.toMatchObject({ code: "EROFS" });
  await manager.create("vm", table(3, 4));
});

it("tells of a layer that it cannot mark, because others read it", async () => {
  await piled(1, 2);
  const reader = await openFile(at("1.map"), { readOnly: true });
  const made = await cli("cow", "snapshot", "monday", at("5.map"), at("5.img"), ...stackWords(1, 2));
  await reader.close();
  expect([made.code, made.stderr]).toEqual([0, expect.stringContaining("could not be marked as frozen")]);
  expect(made.stderr).toMatch(/layer: 1\n.*1\.map.*EBUSY/);
  expect((await cli("cow", "info", ...stackWords(1, 2))).stdout).toMatch(/snapshot monday/);
  await (await manager.create("vm", table(1))).flush();
});

describeWith(["qemu-io", "qemu-img"], "with clients of others", () => {
  it("as it is typed, in use and offline", async () => {
    const env = { ...process.env, DMKIT_CONTROL: at("c") };
    const run = async (...words: string[]): Promise<string> => {
      const { code, stdout, stderr } = await cliIn({ env }, ...words);
      expect([words, code, stderr]).toEqual([words, 0, expect.any(String)]);
      return stdout;
    };
    const qemu = (name: string, ...commands: string[]): Promise<string> =>
      succeed("qemu-io", [
        "-f",
        "raw",
        ...(name === "vm" ? [] : ["-r"]),
        ...commands.flatMap((one) => ["-c", one]),
        `nbd+unix:///${name}?socket=${at("s")}`,
      ]);
    const server = await serve(["-U", at("s"), "--control", at("c"), "--name", "vm", "-t", table(1)]);
    await qemu("vm", "write -P 1 0 1M");
    await run("message", "vm", "snapshot", "monday", ...files(2));
    await qemu("vm", "write -P 2 512k 1M");
    await run("message", "vm", "snapshot", "tuesday", ...files(3));
    await qemu("vm", "write -P 3 1M 1M");
    const [monday = ""] = (await run("message", "vm", "snapshots")).split("\n");
    const words = monday.split(" ").slice(3).join(" ");
    await run("create", "mon", "--read-only", "--table", `0 ${SIZE / 512} cow ${words}`);
    await run("export", "add", "mon", "mon");
    expect(await qemu("mon", "read -P 1 0 1M", "read -P 0 1M 3M")).not.toContain("failed");
    await run("export", "rm", "mon");
    await run("remove", "mon");
    await run("copy", "-q", "dm:vm@tuesday", at("tuesday"));
    await run("message", "vm", "snapshot-delete", "monday");
    expect(await qemu("vm", "read -P 1 0 512k", "read -P 2 512k 512k", "read -P 3 1M 1M")).not.toContain(
      "failed",
    );
    expect((await cliIn({ env }, "copy", "dm:vm@monday", at("no"))).code).toBe(1);
    expect(await server.stop()).toBe(0);

    const stack = stackWords(2, 3);
    expect(await run("cow", "snapshots", ...stack)).toMatch(
      new RegExp(`^tuesday\t\\S+Z\tlayer 1\t${table(2)}\n$`),
    );
    expect(JSON.parse(await run("cow", "snapshots", "--json", ...stack))).toMatchObject([
      { name: "tuesday", layer: 1 },
    ]);
    expect(await run("cow", "info", ...stack)).toContain("snapshot tuesday, made ");
    expect(await run("info", at("2.map"), "--data", at("2.img"))).toContain("tuesday");
    await run("cow", "flatten", "-q", "--snapshot", "tuesday", at("flat"), ...stack);
    await succeed("qemu-img", ["compare", "-f", "raw", "-F", "raw", at("flat"), at("tuesday")]);
    for (const command of [
      ["commit", "--layer", "1"],
      ["squash", "1..2"],
    ])
      expect((await cli("cow", ...command, ...stack)).stderr).toContain("is the snapshot tuesday");

    await run("cow", "flatten", "-q", at("now"), ...stack);
    const back = await run("cow", "snapshot-revert", "tuesday", at("5.map"), at("5.img"), ...stack);
    expect(back).toBe(`${table(2, 5)}\n`);
    await run("cow", "flatten", "-q", at("back"), at("base"), ...files(2), at("5.map"), at("5.img"));
    expect(readFileSync(at("back")).equals(readFileSync(at("tuesday")))).toBe(true);
    expect((await cli("cow", "snapshot", "tuesday", at("6.map"), at("6.img"), ...stack)).code).toBe(1);
    expect(await run("cow", "snapshot", "wednesday", at("6.map"), at("6.img"), ...stack)).toBe(
      `${table(2, 3, 6)}\n`,
    );
    const three = [...stack, at("6.map"), at("6.img")];
    expect(await run("cow", "snapshot-delete", "-q", "tuesday", ...three)).toBe(`${table(3, 6)}\n`);
    await run("cow", "check", ...stackWords(3), at("6.map"), at("6.img"));
    expect(await run("cow", "snapshot-delete", "-q", "wednesday", at("base"), ...three.slice(3))).toBe(
      `${table(6)}\n`,
    );
    await run("cow", "flatten", "-q", at("after"), at("base"), at("6.map"), at("6.img"));
    expect(readFileSync(at("after")).equals(readFileSync(at("now")))).toBe(true);
    // The other branch is as it was.
    await run(
      "cow",
      "flatten",
      "-q",
      "--force",
      at("back"),
      at("base"),
      ...files(2),
      at("5.map"),
      at("5.img"),
    );
    expect(readFileSync(at("back")).equals(readFileSync(at("tuesday")))).toBe(true);
  });
});
