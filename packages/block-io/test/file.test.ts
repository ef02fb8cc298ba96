import { execFileSync } from "node:child_process";
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import {
  type BlockDevice,
  type BlockIoError,
  LinearDevice,
  LowerDevices,
  MemoryDevice,
  SpaceWatch,
  identityOf,
  openFile,
  realEnvironment,
  storageOf,
} from "../src/index.ts";
import { native } from "../src/devices/native.ts";
import { SyncGate } from "../src/devices/sync-gate.ts";
import { tempFolder } from "./temp.ts";

function image(size = 2 ** 20, folder = tempFolder()): string {
  const path = join(folder, "disk.img");
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

async function kinds(device: BlockDevice): Promise<string[]> {
  const found: string[] = [];
  for await (const { offset, length, kind } of device.extents(0, device.size))
    found.push(`${offset}+${length} ${kind}`);
  return found;
}

function fifo(): string {
  const path = join(tempFolder(), "fifo");
  execFileSync("mkfifo", [path]);
  return path;
}

describe("a file", () => {
  it("is locked against a second writer and against readers, readers share", async () => {
    const path = image();
    const writer = await openFile(path);
    await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
    await expect(openFile(path, { readOnly: true })).rejects.toMatchObject({ code: "EBUSY" });
    const unlocked = await openFile(path, { lock: false });
    await unlocked.close();
    await writer.close();
    const readers = [await openFile(path, { readOnly: true }), await openFile(path, { readOnly: true })];
    await expect(openFile(path)).rejects.toMatchObject({ code: "EBUSY" });
    for (const reader of readers) await reader.close();
    await (await openFile(path)).close();
  });

  it("reads what an overlapping large write, begun before, has written: never half of a sector", async () => {
    const device = await openFile(image());
    const large = Buffer.alloc(2 ** 20, 1);
    const into = Buffer.alloc(4096);
    const writing = device.write(0, large);
    await device.read(2 ** 20 - 4096, into);
    expect(into.equals(large.subarray(0, 4096))).toBe(true);
    await writing;
    // And the other way round.
    const all = Buffer.alloc(2 ** 20);
    const reading = device.read(0, all);
    await device.write(2 ** 20 - 4096, Buffer.alloc(4096, 2));
    await reading;
    expect(all.equals(large)).toBe(true);
    await device.close();
  });

  it("tells data from holes, punches and zeroes without losing neighbours", async () => {
    const path = image();
    const device = await openFile(path);
    expect(await kinds(device)).toEqual(["0+1048576 hole"]);
    await device.write(65_536, Buffer.alloc(131_072, 1));
    expect(await kinds(device)).toEqual(["0+65536 hole", "65536+131072 data", "196608+851968 hole"]);
    await device.discard(98_304, 32_768);
    expect(await kinds(device)).toEqual([
      "0+65536 hole",
      "65536+32768 data",
      "98304+32768 hole",
      "131072+65536 data",
      "196608+851968 hole",
    ]);
    await device.writeZeroes(131_072 + 512, 512, { mayUnmap: true });
    await device.close();
    const bytes = readFileSync(path);
    expect(bytes.subarray(131_072, 131_584).equals(Buffer.alloc(512, 1))).toBe(true);
    expect(bytes.subarray(131_584, 132_096).equals(Buffer.alloc(512))).toBe(true);
    expect(bytes[132_096]).toBe(1);
  });

  it("is created on request, private, and never over an existing one", async () => {
    const path = join(tempFolder(), "new.img");
    const device = await openFile(path, { createSize: 8192 });
    await device.write(0, Buffer.alloc(512, 5));
    await device.close();
    expect(statSync(path).mode & 0o777).toBe(0o600);
    const again = await openFile(path, { createSize: 4096 });
    expect(again.size).toBe(8192);
    await again.close();
    expect(readFileSync(path)[0]).toBe(5);
    await expect(openFile(`${path}2`, { createSize: 1000 })).rejects.toMatchObject({ code: "EINVAL" });
    expect(existsSync(`${path}2`)).toBe(false);
  });

  it("tells what it may still need and what is left, and on which disk it lies", async () => {
    const device = await openFile(image());
    const [holes] = await device.storage();
    expect(holes).toMatchObject({ id: expect.stringMatching(/^disk \d+:\d+$/), unallocated: 2 ** 20 });
    expect(holes?.free).toBeGreaterThan(0);
    const linear = new LinearDevice(device, 0, 4096);
    // What is free, and how busy the disk is, changes from one look to the next: others use it, too.
    const { id, unallocated } = holes ?? {};
    expect(await linear.storage()).toMatchObject([{ id, unallocated, free: expect.any(Number) }]);
    await device.write(0, Buffer.alloc(2 ** 20, 1));
    await device.flush();
    const [full] = await device.storage();
    expect([full?.id, full?.unallocated, full?.free]).toEqual([holes?.id, undefined, undefined]);
    await device.close();
    expect(await storageOf(new MemoryDevice(4096, { name: "ram" }))).toEqual([{ id: "ram" }]);
  });

  it("reserves its storage on request", async () => {
    const path = image();
    await (await openFile(path, { preallocate: true })).close();
    expect(statSync(path).blocks * 512).toBeGreaterThanOrEqual(2 ** 20);
  });

  it("is not there if it could not be made", async () => {
    const path = join(tempFolder(), "new");
    // More than a file can be.
    await expect(openFile(path, { createSize: 2 ** 53 - 512 })).rejects.toMatchObject({ code: "ENOSPC" });
    expect(existsSync(path)).toBe(false);
  });

  it("is not there if its storage could not be reserved", async () => {
    // In memory: it knows beforehand that there is no room, and does not fill the disk to find out.
    const folder = mkdtempSync("/dev/shm/dmkit-test-");
    try {
      const making = openFile(join(folder, "new"), { createSize: 2 ** 43, preallocate: true });
      await expect(making).rejects.toMatchObject({ code: "ENOSPC" });
      expect(readdirSync(folder)).toEqual([]);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it("takes any number of requests at a time", async () => {
    const device = await openFile(image(100 * 2 ** 30));
    await device.write(2 ** 30, Buffer.alloc(4096, 1));
    const step = device.size / 1500;
    const requests = Array.from({ length: 1500 }, async (_, index) => {
      const offset = Math.floor((index * step) / 4096) * 4096;
      const length = Math.floor(step / 4096) * 4096;
      if (index % 3 === 0) await device.discard(offset, length);
      else await device.writeZeroes(offset, length, { mayUnmap: index % 3 === 1 });
    });
    await Promise.all(requests);
    const found = Buffer.alloc(4096, 7);
    await device.read(2 ** 30, found);
    expect(found).toEqual(Buffer.alloc(4096));
    await device.close();
  });

  it("gives EIO, not short data, when it was cut behind our back", async () => {
    const path = image();
    const device = await openFile(path);
    truncateSync(path, 4096);
    await expect(device.read(0, Buffer.alloc(8192))).rejects.toMatchObject({ code: "EIO" });
    await expect(device.read(8192, Buffer.alloc(2 ** 17))).rejects.toMatchObject({ code: "EIO" });
    // What is still there can be read, by those who ask where data are first.
    expect(await kinds(device)).toEqual([`0+${2 ** 20} data`]);
    const why = expect.stringContaining("shorter") as string;
    expect(device.health()).toMatchObject({ state: "needs check", why });
    await device.close();
  });

  it.each([
    ["a missing one", () => join(tempFolder(), "none"), "ENOENT"],
    ["a directory", () => tempFolder(), "EINVAL"],
    ["a FIFO that nobody writes to", () => fifo(), "EINVAL"],
    ["a character device", () => "/dev/null", "EINVAL"],
    ["an odd size", () => image(1000), "EINVAL"],
  ])("refuses %s", async (_what, path, code) => {
    await expect(openFile(path())).rejects.toMatchObject({ code });
    await expect(openFile(path(), { readOnly: true })).rejects.toMatchObject({ code });
  });

  it("survives large requests, which take the way through the thread pool", async () => {
    const device = await openFile(image(16 * 2 ** 20));
    const data = Buffer.alloc(8 * 2 ** 20 + 512);
    for (let at = 0; at < data.length; at += 4) data.writeUInt32LE(at, at);
    await Promise.all([
      device.write(512, data),
      device.write(12 * 2 ** 20, data.subarray(0, 2 ** 20), { fua: true }),
    ]);
    const into = Buffer.alloc(data.length);
    await device.read(512, into);
    expect(into.equals(data)).toBe(true);
    await device.close();
  });

  it("opened twice in one stack, by whatever name, is one device", async () => {
    const folder = tempFolder();
    const path = image(4096, folder);
    symlinkSync(path, join(folder, "link"));
    const lowers = new LowerDevices({}, realEnvironment);
    const first = await lowers.open(path, "shares");
    expect(await lowers.open(join(folder, "link"), "looks")).toBe(first);
    expect(await lowers.open("mem:4K", "owns")).not.toBe(await lowers.open("mem:4K", "owns"));
    await expect(lowers.open("ftp://x", "reads")).rejects.toMatchObject({ code: "ENOENT" });
    await expect(lowers.open("mem:1", "reads")).rejects.toMatchObject({ code: "EPARSE" });
    await lowers.close();
    await expect(first.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ESHUTDOWN" });
  });
});

/** A loop device over a file, where this process may make one. */
function loopDevice(path: string, ...words: string[]): string | undefined {
  try {
    return execFileSync("losetup", ["--find", "--show", ...words, path], {
      encoding: "utf8",
      stdio: "pipe",
    }).trim();
  } catch {
    return undefined;
  }
}

it("what could not be filled to its end is told, once", async () => {
  const told: string[] = [];
  const logger = { log: (level: string, message: string) => void told.push(`${level}: ${message}`) };
  let free = 5000;
  const file = (unallocated: number): BlockDevice =>
    Object.assign(new MemoryDevice(4096), { storage: async () => [{ id: "disk 8:0", free, unallocated }] });
  const watch = new SpaceWatch("ssd", [file(3000), file(1000)], { ...realEnvironment, logger });
  await watch.look();
  expect([watch.missing, told]).toEqual([0, []]);
  free = 3500;
  await watch.look();
  await watch.look();
  expect([watch.missing, told.length]).toEqual([500, 1]);
  free = 5000;
  await watch.look();
  free = 0;
  await watch.look();
  expect([watch.missing, told.length]).toEqual([4000, 2]);
});

describe("a block device", () => {
  it("has the size the system says, reads, writes, flushes and discards", async ({ skip }) => {
    const path = image(4 * 2 ** 20);
    const loop = loopDevice(path);
    if (loop === undefined) {
      if (process.env["CI"]) throw new Error("CI must be able to make loop devices");
      return skip("no permission to make loop devices");
    }
    try {
      const device = await openFile(loop);
      expect(device.size).toBe(4 * 2 ** 20);
      await device.write(8192, Buffer.alloc(8192, 6), { fua: true });
      await device.writeZeroes(8192, 4096, { mayUnmap: true });
      await device.flush();
      // The system does not tell where a block device has holes.
      expect(await kinds(device)).toEqual([`0+${device.size} data`]);
      await expect(openFile(loop)).rejects.toMatchObject({ code: "EBUSY" });
      await device.close();
      const bytes = readFileSync(path);
      expect([bytes[8192], bytes[12_288], bytes[16_384]]).toEqual([0, 6, 0]);
      // It is the file under another name, for which the lock of the file says nothing.
      expect(identityOf(loop)).toBe(identityOf(path));
      const lowers = new LowerDevices({}, realEnvironment);
      await lowers.open(path, "owns", { range: { offset: 0, length: 4096 } });
      await expect(lowers.open(loop, "shares")).rejects.toMatchObject({ code: "EBUSY" });
      await lowers.open(loop, "shares", { range: { offset: 4096, length: 4096 } });
      await lowers.close();
    } finally {
      execFileSync("losetup", ["-d", loop]);
    }
  });
});

describe("bytes that somebody else has open under another name", () => {
  /** A lock that this process does not know of, as that of another one. */
  const locked = async <T>(path: string, exclusive: boolean, work: () => Promise<T>): Promise<T> => {
    const fd = openSync(path, "r");
    try {
      expect(native()?.tryLock(fd, exclusive)).toBe(true);
      return await work();
    } finally {
      closeSync(fd);
    }
  };
  const opened = (path: string, readOnly: boolean): Promise<string> =>
    openFile(path, { readOnly }).then(
      (device) => device.close().then(() => "opened"),
      (error: unknown) => (error as BlockIoError).code,
    );

  it("are in use: a file, the loop devices over it, and those over other parts of it", async ({ skip }) => {
    const path = image(4 * 2 ** 20);
    const loops: string[] = [];
    try {
      for (const words of [[], [], ["--offset", "2097152"], ["--sizelimit", "2097152"]]) {
        const loop = loopDevice(path, ...words);
        if (loop === undefined) {
          if (process.env["CI"]) throw new Error("CI must be able to make loop devices");
          return skip("no permission to make loop devices");
        }
        loops.push(loop);
      }
      const [whole, twin, second, first] = loops as [string, string, string, string];
      for (const [one, other] of [
        [path, whole],
        [whole, path],
        [whole, twin],
        [first, path],
        [second, whole],
      ] as const) {
        expect(await locked(one, true, () => opened(other, false)), `${one} ${other}`).toBe("EBUSY");
        expect(await locked(one, true, () => opened(other, true))).toBe("EBUSY");
        expect(await locked(one, false, () => opened(other, false))).toBe("EBUSY");
        expect(await locked(one, false, () => opened(other, true))).toBe("opened");
      }
      expect(await locked(first, true, () => opened(second, false))).toBe("opened");
      // What it has open itself is for claims to tell.
      const own = await openFile(path);
      expect(await opened(whole, false)).toBe("opened");
      await own.close();
      expect(await locked(path, true, () => opened(whole, false))).toBe("EBUSY");
    } finally {
      for (const loop of loops) execFileSync("losetup", ["-d", loop]);
    }
  });
});

describe("the sync gate", () => {
  it("gives way after a slow operation, longer each time, and comes back when it is fast again", () => {
    let now = 0;
    const gate = new SyncGate({ now: () => now, wallTime: () => now, after: () => ({ cancel() {} }) });
    const operate = (milliseconds: number, bytes = 4096): boolean => {
      if (!gate.enter()) return false;
      now += milliseconds;
      gate.leave(bytes);
      return true;
    };
    const pause = (): number => {
      let count = 0;
      while (!gate.enter()) count += 1;
      return count;
    };
    expect(operate(0.01)).toBe(true);
    expect(operate(2)).toBe(true);
    expect(operate(0.01)).toBe(true);
    expect(operate(2)).toBe(true);
    expect(operate(2)).toBe(true);
    expect(pause()).toBe(64);
    now += 2;
    gate.leave(4096);
    expect(pause()).toBe(128);
    now += 0.01;
    gate.leave(4096);
    expect(operate(3)).toBe(true);
    expect(operate(3)).toBe(true);
    expect(pause()).toBe(64);
    now += 0.01;
    gate.leave(4096);
    // A copy of 1 MiB takes longer without having waited for anything.
    for (let count = 0; count < 3; count += 1) expect(operate(1.2, 1024 * 1024)).toBe(true);
    expect(operate(0.01)).toBe(true);
  });
});

describe("the folder of an object store", () => {
  it("is taken for no disk, nor is a path in it: it is said what names what is there", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, ".dmkit-store"), "0123456789abcdef\n");
    mkdirSync(join(folder, "disks"));
    writeFileSync(join(folder, "disks", "log"), "part of a log");
    for (const [path, code] of [
      [folder, "EINVAL"],
      [join(folder, "disks"), "EINVAL"],
      [join(folder, "disks", "log"), "EINVAL"],
      [join(folder, "vm"), "ENOENT"],
    ] as const)
      await expect(openFile(path, { readOnly: true })).rejects.toMatchObject({
        code,
        hint: expect.stringContaining(`archive:${folder}/NAME`) as string,
      });
  });
});
