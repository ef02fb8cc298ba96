/** The log-writes device, its log, and replaying it. */
import { describe, expect, it } from "vitest";
import {
  type BlockDevice,
  LogWritesDevice,
  MemoryDevice,
  codeOf,
  logWrites,
  realEnvironment,
} from "../../src/index.ts";
import { conformance, oracleCheck, Prng, readWriteLog, replayWriteLog } from "../../src/testing/index.ts";
import { ToyLog, toyLogDiskSize } from "../../src/testing/sim/toys/log.ts";
import { PassThrough, only } from "./broken.ts";

const MIB = 1024 * 1024;

async function logging(
  size = 64 * 512,
): Promise<{ device: LogWritesDevice; log: MemoryDevice; disk: MemoryDevice }> {
  const disk = new MemoryDevice(size);
  const log = new MemoryDevice(MIB);
  return { device: await LogWritesDevice.open(disk, log, size, realEnvironment), log, disk };
}

conformance(
  "log-writes",
  async () => {
    const disk = new MemoryDevice(MIB);
    const device = await LogWritesDevice.open(disk, new MemoryDevice(64 * MIB), MIB, realEnvironment);
    return { device };
  },
  { describe, it },
);

describe("log-writes device", () => {
  it("logs writes with their data, flushes, discards, zeroes and marks, in order", async () => {
    const { device, log } = await logging();
    await device.write(512, Buffer.alloc(1024, 7));
    await device.write(0, Buffer.alloc(512, 8), { fua: true });
    await device.discard(2048, 512);
    await device.message(["mark", "half", "way"]);
    await device.writeZeroes(4096, 1024);
    await device.flush();
    const requests = await readWriteLog(log);
    expect(requests.map(({ kind, offset, length, fua, text }) => [kind, offset, length, fua, text])).toEqual([
      ["write", 512, 1024, false, ""],
      ["write", 0, 512, true, ""],
      ["discard", 2048, 512, false, ""],
      ["mark", 0, 0, false, "half way"],
      ["write", 4096, 1024, false, ""],
      ["flush", 0, 0, false, ""],
    ]);
    const data = Buffer.alloc(1024);
    await log.read(requests[0]?.dataAt ?? 0, data);
    expect(data.equals(Buffer.alloc(1024, 7))).toBe(true);
    const ticks = requests.flatMap(({ submitted, answered }) => [submitted, answered]);
    expect(ticks).toEqual(ticks.toSorted((a, b) => a - b));
    expect(device.status()).toBe("6 11");
  });

  it("is read by what knows the kernel's format", async () => {
    const { device, log } = await logging();
    await device.write(1024, Buffer.alloc(512, 7), { fua: true });
    await device.flush();
    const bytes = Buffer.alloc(4 * 512);
    await log.read(0, bytes);
    expect(bytes.readBigUInt64LE(0)).toBe(0x6a736677736872n);
    expect([8, 16].map((at) => bytes.readBigUInt64LE(at))).toEqual([1n, 2n]);
    expect(bytes.readUInt32LE(24)).toBe(512);
    // Sector 2, one of them, FUA, 512 bytes.
    expect([0, 8, 16, 24].map((at) => bytes.readBigUInt64LE(512 + at))).toEqual([2n, 1n, 2n, 512n]);
    expect([0, 8, 16, 24].map((at) => bytes.readBigUInt64LE(3 * 512 + at))).toEqual([0n, 0n, 1n, 0n]);
  });

  it("says that the log is full, and what is no log", async () => {
    const disk = new MemoryDevice(MIB);
    const device = await LogWritesDevice.open(disk, new MemoryDevice(4 * 512), MIB, realEnvironment);
    await device.write(0, Buffer.alloc(512));
    expect(await device.write(0, Buffer.alloc(1024)).catch(codeOf)).toBe("ENOSPC");
    expect(await readWriteLog(new MemoryDevice(4096)).catch(codeOf)).toBe("EFORMAT");
  });

  it("ends where another session's entries begin, and at the first damaged one", async () => {
    const { log, disk } = await logging();
    const before = await LogWritesDevice.open(disk, log, disk.size, realEnvironment);
    for (let n = 0; n < 5; n += 1) await before.write(0, Buffer.alloc(512, n));
    const after = await LogWritesDevice.open(disk, log, disk.size, realEnvironment);
    for (let n = 0; n < 3; n += 1) await after.write(0, Buffer.alloc(512, n));
    expect(await readWriteLog(log)).toHaveLength(3);
    const header = Buffer.alloc(512);
    await log.read(3 * 512, header);
    header[0] = 9;
    await log.write(3 * 512, header);
    expect(await readWriteLog(log)).toHaveLength(1);
  });

  it("logs that a request failed", async () => {
    const disk = new (class extends PassThrough {
      protected override doWrite(): Promise<void> {
        return Promise.reject(new Error("broken"));
      }
    })(new MemoryDevice(4096));
    const log = new MemoryDevice(MIB);
    const device = await LogWritesDevice.open(disk, log, 4096, realEnvironment);
    expect(await device.write(0, Buffer.alloc(512)).catch(codeOf)).toBe("EIO");
    expect(await readWriteLog(log)).toMatchObject([{ kind: "write", failed: true }]);
  });

  it("is a target", async () => {
    const devices = new Map<string, BlockDevice>([
      ["disk", new MemoryDevice(MIB)],
      ["log", new MemoryDevice(MIB)],
    ]);
    const device = await logWrites.open(
      { device: "disk", log: "log", force: false },
      {
        name: "log-writes",
        size: MIB,
        environment: realEnvironment,
        lower: async (reference) => devices.get(reference) as BlockDevice,
      },
    );
    expect(device.status()).toBe("0 0");
    await device.write(0, Buffer.alloc(512));
    expect(device.status()).toBe("1 2");
    expect(await device.message(["unknown"]).catch(codeOf)).toBe("EINVAL");
    expect(await device.message(["mark", "x".repeat(449)]).catch(codeOf)).toBe("EINVAL");
  });
});

describe("replaying a log", () => {
  const shape = { sectors: 32, slots: 4 };

  /** A run of a log device between two log-writes devices; resolves with their logs. */
  async function run(
    open: (disk: BlockDevice) => Promise<BlockDevice>,
    seed: number,
  ): Promise<{ top: BlockDevice; bottom: BlockDevice; size: number }> {
    const size = toyLogDiskSize(shape);
    const top = new MemoryDevice(8 * MIB);
    const bottom = new MemoryDevice(8 * MIB);
    const lower = await LogWritesDevice.open(new MemoryDevice(size), bottom, size, realEnvironment, "lower");
    const middle = await open(lower);
    const device = await LogWritesDevice.open(middle, top, middle.size, realEnvironment, "upper");
    const random = new Prng(seed);
    for (let n = 0; n < 30; n += 1) {
      const writes = Array.from({ length: random.between(1, 3) }, () => {
        const sector = random.below(shape.sectors);
        const count = random.between(1, Math.min(8, shape.sectors - sector));
        const data = Buffer.alloc(count * 512, `${seed} ${n} ${random.below(1000)}`);
        return device.write(sector * 512, data, { fua: random.chance(0.1) });
      });
      await Promise.all(writes);
      if (random.chance(0.3)) await device.flush();
    }
    return { top, bottom, size };
  }

  it("finds nothing wrong with a log that is right", async () => {
    const { top, bottom, size } = await run((disk) => ToyLog.open(disk, shape), 1);
    const check = await oracleCheck({ top, open: (disks) => ToyLog.open(only(disks), shape) });
    const summary = await replayWriteLog({ disks: [{ log: bottom, size }], check });
    expect(summary.failures).toEqual([]);
    expect(summary.crashes).toBeGreaterThan(100);
  });

  it("finds a flush that is not passed on", async () => {
    const lazy = async (disk: BlockDevice): Promise<BlockDevice> => {
      const device = await ToyLog.open(disk, shape);
      return new (class extends PassThrough {
        protected override async doFlush(): Promise<void> {}
      })(device);
    };
    const { top, bottom, size } = await run(lazy, 2);
    const check = await oracleCheck({ top, open: (disks) => ToyLog.open(only(disks), shape) });
    const { failures } = await replayWriteLog({ disks: [{ log: bottom, size }], check });
    expect(failures.length).toBeGreaterThan(0);
  });

  it("hands marks and images to any check", async () => {
    const { device, log, disk } = await logging();
    await device.write(0, Buffer.alloc(512, 1));
    await device.flush();
    await device.message(["mark", "stable"]);
    await device.write(0, Buffer.alloc(512, 2));
    const seen = new Set<string>();
    const summary = await replayWriteLog({
      disks: [{ log, size: disk.size }],
      between: 1,
      subsets: 8,
      check: async ([image], { mark }) => {
        const bytes = Buffer.alloc(512);
        await image?.read(0, bytes);
        seen.add(`${mark} ${bytes[0]}`);
        return [];
      },
    });
    expect([...seen].sort()).toEqual([" 0", " 1", "stable 1", "stable 2"]);
    expect(summary.failures).toEqual([]);
  });

  it("starts from the image there was", async () => {
    const base = new MemoryDevice(64 * 512);
    await base.write(512, Buffer.alloc(512, 9));
    const { device, log, disk } = await logging();
    await device.write(0, Buffer.alloc(512, 1), { fua: true });
    const summary = await replayWriteLog({
      disks: [{ log, size: disk.size, base }],
      check: async ([image]) => {
        const bytes = Buffer.alloc(1024);
        await image?.read(0, bytes);
        return bytes[0] === 1 && bytes[512] === 9 ? [] : ["lost"];
      },
    });
    expect(summary.failures).toEqual([]);
    expect(summary.moments).toBeGreaterThan(0);
  });
});
