/** Who uses which bytes: claims compared where bytes end up, pools, and what failures leave. */
import { linkSync, mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  type BlockDevice,
  BlockIoError,
  type Claim,
  Claims,
  type DeviceSchemes,
  LinearDevice,
  LowerDevices,
  MemoryDevice,
  StripedDevice,
  TargetRegistry,
  type Use,
  basicTargets,
  identityOf,
  openFile,
  openTable,
  parseTable,
  realEnvironment,
} from "../src/index.ts";
import { originOf } from "../src/devices/origin.ts";
import { SeededRandom } from "../src/testing/index.ts";
import { tempFolder } from "./temp.ts";

const MIB = 2 ** 20;
const registry = new TargetRegistry(basicTargets);
const all: readonly Use[] = ["owns", "reads", "shares", "looks"];

function claim(device: BlockDevice, use: Use, offset = 0, length = device.size - offset): Claim {
  return { claimant: { holder: { name: "somebody" } }, device, use, range: { offset, length } };
}

function goTogether(...wanted: readonly Claim[]): boolean {
  const claims = new Claims();
  try {
    for (const one of wanted) claims.take(one);
    return true;
  } catch (error) {
    expect(error).toMatchObject({ code: "EBUSY" });
    return false;
  }
}

describe("claims", () => {
  it("go together where nobody writes what another relies on", () => {
    const device = new MemoryDevice(MIB);
    const together = all.map((one) =>
      all.map((other) => goTogether(claim(device, one), claim(device, other))),
    );
    expect(together).toEqual([
      [false, false, false, true],
      [false, true, false, true],
      [false, false, true, true],
      [true, true, true, true],
    ]);
  });

  it("are about bytes", () => {
    const device = new MemoryDevice(MIB);
    expect(goTogether(claim(device, "owns", 0, 4096), claim(device, "owns", 4096, 4096))).toBe(true);
    expect(goTogether(claim(device, "owns", 0, 4097), claim(device, "owns", 4096, 4096))).toBe(false);
    const whole: Claim = { claimant: { holder: { name: "x" } }, device, use: "owns" };
    expect(goTogether(claim(device, "shares", MIB - 512, 512), whole)).toBe(false);
  });

  it("follow bytes through devices that hand requests on, and through nothing else", () => {
    const disk = new MemoryDevice(MIB);
    const [low, high] = [new LinearDevice(disk, 0, 8192), new LinearDevice(disk, 4096, 8192)];
    expect(goTogether(claim(low, "owns", 0, 4096), claim(high, "owns"))).toBe(true);
    expect(goTogether(claim(low, "owns", 4096, 4096), claim(high, "owns", 0, 512))).toBe(false);
    expect(goTogether(claim(new LinearDevice(low, 4096, 4096), "owns"), claim(disk, "owns", 8192))).toBe(
      true,
    );
    expect(
      goTogether(claim(new LinearDevice(low, 4096, 4096), "owns"), claim(disk, "reads", 4096, 512)),
    ).toBe(false);
  });

  it("say who holds what, and what to do", () => {
    const device = new MemoryDevice(MIB, { name: "ssd.img" });
    const claims = new Claims();
    const holder = { name: "device cached", advice: "remove that device first" };
    claims.take({ claimant: { holder }, device, use: "owns", target: "writeboost" });
    const refused = (wanted: BlockDevice): unknown => {
      try {
        return claims.take(claim(wanted, "shares"));
      } catch (error) {
        return error;
      }
    };
    const direct = refused(device) as BlockIoError;
    expect(direct).toMatchObject({ code: "EBUSY", device: "ssd.img", op: "open" });
    expect(direct.reason).toContain("device cached (writeboost) owns it");
    expect(direct.hint).toContain("remove that device first");
    const indirect = refused(new LinearDevice(device, 0, 4096, "part")) as BlockIoError;
    expect(indirect).toMatchObject({ code: "EBUSY", device: "part" });
    expect(indirect.reason).toContain("device cached (writeboost) owns ssd.img");
  });

  it("of whoever stands on a device go through that device's own claims", () => {
    const disk = new MemoryDevice(MIB);
    const part = new LinearDevice(disk, 0, 8192);
    const other = new LinearDevice(disk, 4096, 8192);
    const carried: Claim = {
      ...claim(disk, "shares", 0, 8192),
      claimant: { holder: { name: "a" }, device: part },
    };
    const beside: Claim = {
      ...claim(disk, "shares", 4096, 8192),
      claimant: { holder: { name: "b" }, device: other },
    };
    expect(goTogether(carried, claim(part, "owns"))).toBe(true);
    expect(goTogether(claim(part, "owns"), carried)).toBe(true);
    expect(goTogether(carried, beside)).toBe(true);
    expect(goTogether(carried, beside, claim(part, "owns"))).toBe(false);
    expect(goTogether(carried, claim(part, "owns"), beside)).toBe(false);
    expect(goTogether(carried, beside, claim(part, "owns", 0, 4096))).toBe(true);
  });

  it("are not made on a device that shows bytes twice", async () => {
    const table = parseTable("0 16 linear dm:x 0\n16 16 linear dm:x 8", registry);
    const disk = new MemoryDevice(MIB);
    const schemes: DeviceSchemes = { dm: async () => disk };
    const folded = await openTable(table, { environment: realEnvironment, schemes });
    expect(goTogether(claim(folded, "owns", 0, 16 * 512))).toBe(true);
    expect(goTogether(claim(folded, "owns"))).toBe(false);
    expect(goTogether(claim(folded, "reads"))).toBe(true);
    await folded.close();
  });

  it("can be checked again when a device lies elsewhere, and be given back", () => {
    const disks = [new MemoryDevice(MIB), new MemoryDevice(MIB)] as const;
    let now: BlockDevice = disks[0];
    class Moving extends MemoryDevice {
      places(offset: number, length: number): readonly { on: BlockDevice; offset: number; length: number }[] {
        return [{ on: now, offset, length }];
      }
    }
    const claims = new Claims();
    claims.take(claim(new Moving(MIB), "owns"));
    const giveBack = claims.take(claim(disks[1], "shares"));
    claims.verify();
    now = disks[1];
    expect(() => claims.verify()).toThrow(expect.objectContaining({ code: "EBUSY" }));
    giveBack();
    claims.verify();
  });
});

describe("places", () => {
  it("of striped are one run a device, and exactly where bytes are", () => {
    const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new SeededRandom(seed);
    for (let round = 0; round < 200; round += 1) {
      const count = 1 + random.below(4);
      const chunk = 512 * (1 + random.below(3));
      const size = chunk * count * (1 + random.below(4));
      const disks = Array.from({ length: count }, () => new MemoryDevice(64 * 1024));
      const stripes = disks.map((device) => ({ device, offset: 512 * random.below(8) }));
      const striped = new StripedDevice(stripes, chunk, size);
      const start = 512 * random.below(size / 512);
      const length = 512 * (1 + random.below((size - start) / 512));
      // The same question, a sector at a time.
      const expected = new Set<string>();
      for (let at = start; at < start + length; at += 512) {
        for (const { on, offset } of striped.places(at, 512)) {
          expected.add(`${disks.indexOf(on as MemoryDevice)} ${offset}`);
        }
      }
      const found = new Set<string>();
      const runs = striped.places(start, length);
      for (const { on, offset, length: run } of runs) {
        for (let at = offset; at < offset + run; at += 512)
          found.add(`${disks.indexOf(on as MemoryDevice)} ${at}`);
      }
      expect(found, `DMKIT_SEED=${seed}`).toEqual(expected);
      expect(runs.length).toBeLessThanOrEqual(count);
    }
  });
});

describe("where bytes come from", () => {
  function file(folder: string, name: string): string {
    const path = join(folder, name);
    writeFileSync(path, "");
    truncateSync(path, MIB);
    return path;
  }

  it("is the same under all names of a file", () => {
    const folder = tempFolder();
    const path = file(folder, "a");
    symlinkSync("a", join(folder, "soft"));
    linkSync(path, join(folder, "hard"));
    const names = [
      path,
      join(folder, "soft"),
      join(folder, "hard"),
      `${folder}/../${folder.split("/").at(-1)}/a`,
    ];
    expect(new Set(names.map(identityOf)).size).toBe(1);
    expect(identityOf(file(folder, "b"))).not.toBe(identityOf(path));
  });

  it("of a loop device is its file, of a partition its disk", () => {
    const folder = tempFolder();
    const path = file(folder, "a");
    const disk = join(folder, "sys/dev/block/7:0");
    const partition = join(disk, "part");
    mkdirSync(join(disk, "loop"), { recursive: true });
    mkdirSync(partition);
    writeFileSync(join(disk, "dev"), "7:0\n");
    writeFileSync(join(disk, "loop/backing_file"), `${path}\n`);
    writeFileSync(join(disk, "loop/offset"), "4096\n");
    writeFileSync(join(partition, "partition"), "1\n");
    writeFileSync(join(partition, "start"), "2048\n");
    symlinkSync("7:0/part", join(folder, "sys/dev/block/259:300"));
    const numbered = (rdev: bigint): Parameters<typeof originOf>[0] =>
      ({ rdev, isBlockDevice: () => true }) as unknown as Parameters<typeof originOf>[0];
    const [name, offset] = identityOf(path).split("+");
    const sys = join(folder, "sys");
    expect(offset).toBe("0");
    expect(originOf(numbered(0x0700n), sys)).toEqual({ name, offset: 4096 });
    // 259:300, whose minor is in two parts of the number.
    expect(originOf(numbered((259n << 8n) | 0x10002cn), sys)).toEqual({ name, offset: 4096 + 2048 * 512 });
    expect(originOf(numbered(0x0801n), sys)).toEqual({ name: "disk 8:1", offset: 0 });
  });

  it("is shared within a table under several names, and closed with it", async () => {
    const folder = tempFolder();
    const path = file(folder, "a");
    const hard = join(folder, "hard");
    linkSync(path, hard);
    const table = parseTable(`0 8 linear ${path} 0\n8 8 linear ${hard} 0`, registry);
    const device = await openTable(table, { environment: realEnvironment });
    await device.write(0, Buffer.alloc(512, 7));
    const back = Buffer.alloc(512);
    await device.read(8 * 512, back);
    expect(back[0]).toBe(7);
    await device.close();
    await (await openFile(path)).close();
  });
});

describe("a pool of lower devices", () => {
  const pool = (): LowerDevices => new LowerDevices({}, realEnvironment);
  const first = { range: { offset: 0, length: 4096 } };
  const second = { range: { offset: 4096, length: 4096 } };

  function image(): string {
    const path = join(tempFolder(), "image");
    writeFileSync(path, "");
    truncateSync(path, MIB);
    return path;
  }

  it("opens a file for reading and for writing, in any order, where ranges do not overlap", async () => {
    const path = image();
    for (const uses of [["reads", "owns"] as const, ["owns", "reads"] as const]) {
      const lowers = pool();
      const [one, other] = [
        await lowers.open(path, uses[0], first),
        await lowers.open(path, uses[1], second),
      ];
      const writer = uses[0] === "owns" ? one : other;
      await writer.write(8192, Buffer.alloc(512, 1));
      // Nobody else gets at it meanwhile, not even to read.
      await expect(openFile(path, { readOnly: true })).rejects.toMatchObject({ code: "EBUSY" });
      await expect(lowers.open(path, "owns", { range: { offset: 512, length: 512 } })).rejects.toMatchObject({
        code: "EBUSY",
      });
      await lowers.close();
      await (await openFile(path)).close();
    }
  });

  it("keeps the lock of a reader when its lock for writing is refused, or given up", async () => {
    const path = image();
    const lowers = pool();
    await lowers.open(path, "reads", first);
    const beside = await openFile(path, { readOnly: true });
    await expect(lowers.open(path, "owns", second)).rejects.toMatchObject({ code: "EBUSY" });
    await beside.close();
    await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
    const writer = await lowers.open(path, "owns", second);
    await lowers.release(writer, second.range);
    await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
    await (await openFile(path, { readOnly: true })).close();
    await lowers.close();
  });

  it("gives back what could not be used, and leaves to others what they use", async () => {
    const path = image();
    const lowers = pool();
    const device = await lowers.open(path, "owns");
    await expect(lowers.open(path, "owns")).rejects.toMatchObject({ code: "EBUSY" });
    await device.write(0, Buffer.alloc(512, 1));
    await lowers.release(device);
    await (await openFile(path)).close();
    // Two at a time: the one that is refused does not close the other's.
    const both = await Promise.allSettled([lowers.open(path, "owns"), lowers.open(path, "owns")]);
    expect(both.map(({ status }) => status).toSorted()).toEqual(["fulfilled", "rejected"]);
    const won = both.find((one) => one.status === "fulfilled");
    await (won as PromiseFulfilledResult<BlockDevice>).value.write(0, Buffer.alloc(512, 2));
    await lowers.close();
    await expect(lowers.open(`${path}.none`, "owns")).rejects.toMatchObject({ code: "ENOENT" });
    await (await openFile(path)).close();
  });

  it("lets others read what is only read from now on", async () => {
    const disk = new MemoryDevice(MIB);
    const schemes: DeviceSchemes = { dm: async () => disk };
    const [one, other] = [
      new LowerDevices(schemes, realEnvironment),
      new LowerDevices(schemes, realEnvironment),
    ];
    const device = await one.open("dm:x", "owns", first);
    await expect(other.open("dm:x", "reads", first)).rejects.toMatchObject({ code: "EBUSY" });
    one.onlyReads(device, first.range);
    await other.open("dm:x", "reads", first);
    await expect(other.open("dm:x", "owns", first)).rejects.toMatchObject({ code: "EBUSY" });
    await one.close();
    await other.close();
  });

  it("lets other processes read a file that nobody here writes any more, until somebody does", async () => {
    const path = image();
    const lowers = new LowerDevices({}, realEnvironment);
    const { length } = first.range;
    const halves = [first, { range: { offset: length, length } }] as const;
    const readers = (): Promise<BlockDevice> => openFile(path, { readOnly: true });
    const device = await lowers.open(path, "owns", halves[0]);
    await lowers.open(path, "owns", halves[1]);
    lowers.onlyReads(device, halves[0].range);
    await expect(readers()).rejects.toMatchObject({ code: "EBUSY" });
    lowers.onlyReads(device, halves[1].range);
    const reader = await readers();
    await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
    const other = { offset: 3 * length, length: 512 };
    await expect(lowers.open(path, "owns", { range: other })).rejects.toMatchObject({ code: "EBUSY" });
    await (await readers()).close();
    await reader.close();
    await lowers.open(path, "owns", { range: other });
    await expect(readers()).rejects.toMatchObject({ code: "EBUSY" });
    await lowers.close();
    const unlocked = new LowerDevices({}, realEnvironment);
    unlocked.onlyReads(await unlocked.open(`${path}?no-lock`, "owns"));
    await (await openFile(path)).close();
    await unlocked.close();
  });

  it("owns for a while what it reads, unless others rely on it", async () => {
    const path = image();
    const [one, other] = [new LowerDevices({}, realEnvironment), new LowerDevices({}, realEnvironment)];
    const device = await one.open(path, "reads", first);
    const readers = (): Promise<BlockDevice> => openFile(path, { readOnly: true });
    const refused = async (): Promise<void> => {
      await expect(one.own(path, device, first.range)).rejects.toMatchObject({ code: "EBUSY" });
      // As it was: others may read, and nobody may write.
      await (await readers()).close();
      await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
      await device.read(0, Buffer.alloc(512));
    };
    const reader = await readers();
    await refused();
    await reader.close();
    await other.open(path, "reads", first);
    await refused();
    await other.close();
    for (let round = 0; round < 2; round += 1) {
      const current = one.devices[0] as BlockDevice;
      const writing = await one.own(path, current, first.range);
      await writing.write(0, Buffer.alloc(512, 7 + round));
      await expect(readers()).rejects.toMatchObject({ code: "EBUSY" });
      const bytes = Buffer.alloc(512);
      await device.read(0, bytes);
      expect(bytes[0]).toBe(7 + round);
      one.onlyReads(writing, first.range);
      await (await readers()).close();
      await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
    }
    await expect(one.own(path, device, first.range)).rejects.toMatchObject({ code: "EROFS" });
    await one.close();
    await (await openFile(path)).close();
    const fixed = new LowerDevices({}, realEnvironment, { readOnly: true });
    const read = await fixed.open(path, "reads", first);
    await expect(fixed.own(path, read, first.range)).rejects.toMatchObject({ code: "EROFS" });
    await fixed.close();
  });

  it("only reads where it is read-only, and others may, too", async () => {
    const disk = new MemoryDevice(MIB);
    const schemes: DeviceSchemes = { dm: async () => disk };
    const readers = [1, 2].map(() => new LowerDevices(schemes, realEnvironment, { readOnly: true }));
    for (const lowers of readers) await lowers.open("dm:x", "owns");
    const writer = new LowerDevices(schemes, realEnvironment);
    await expect(writer.open("dm:x", "shares")).rejects.toMatchObject({ code: "EBUSY" });
    for (const lowers of readers) await lowers.close();
    await expect(disk.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ESHUTDOWN" });
  });

  it("of one device gives everything back when the device is closed", async () => {
    const path = image();
    for (let round = 0; round < 2; round += 1) {
      const device = await LowerDevices.openOne(path, "owns", {}, realEnvironment);
      await expect(LowerDevices.openOne(path, "reads", {}, realEnvironment)).rejects.toMatchObject({
        code: "EBUSY",
      });
      await device.close();
    }
  });
});
