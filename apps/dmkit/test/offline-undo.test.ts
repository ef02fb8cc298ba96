/** Undo: what was overwritten comes back byte for byte, whenever the power failed, also while it came back. */
import { MemoryDevice, crc32c, realEnvironment } from "@dmkit/block-io";
import { BadSectors, SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import {
  contentsChecksum,
  decodeHeader,
  encodeHeader,
  encodeRecord,
} from "../src/offline/format/undo-file.ts";
import { readUndoFile } from "../src/offline/undo/read.ts";
import { restore, verifyDevices } from "../src/offline/undo/restore.ts";
import { UndoSession } from "../src/offline/undo/session.ts";
import { Medium, Power, PoweredDisk, PoweredFile } from "./power.ts";

const SIZE = 96 * 1024 + 512;

function contents(random: SeededRandom): Buffer {
  const bytes = random.fill(Buffer.alloc(SIZE));
  // Some of it is zero, as on most devices.
  return bytes.fill(0, 16_384, 40_960);
}

/** Work as a repair would do it, and worse: small and large requests, overlapping, several at a time. */
async function work(session: UndoSession, random: SeededRandom): Promise<void> {
  const [device] = session.devices;
  if (device === undefined) throw new Error("no device");
  for (let round = 0; round < 4; round += 1) {
    const requests = Array.from({ length: 3 }, async () => {
      const length = (1 + random.below(random.chance(0.2) ? 60 : 6)) * 512;
      const offset = Math.floor(random.below(SIZE - length + 1) / 512) * 512;
      const kind = random.below(5);
      if (kind === 0) await device.discard(offset, length);
      else if (kind === 1) await device.writeZeroes(offset, length);
      else await device.write(offset, random.fill(Buffer.alloc(length)), { fua: random.chance(0.2) });
    });
    await Promise.all(requests);
    if (random.chance(0.3)) await device.flush();
  }
  await session.finish();
}

interface Run {
  readonly disk: Medium;
  readonly file: Medium;
  readonly original: Buffer;
  readonly steps: number;
}

/** Works until the power fails at `step`. */
async function interrupted(seed: number, step: number, lies = false): Promise<Run> {
  const random = new SeededRandom(seed);
  const original = contents(random);
  const power = new Power(step);
  const disk = new Medium(original);
  const file = new Medium(Buffer.alloc(0));
  const storage = new PoweredFile(file, power);
  storage.lies = lies;
  const environment = { ...realEnvironment, random };
  const run = async (): Promise<void> => {
    const subject = { role: "cache", reference: "/disk", device: new PoweredDisk(disk, power) };
    const session = await UndoSession.begin(storage, "fsck", [subject], environment);
    await work(session, random);
  };
  await Promise.race([run(), power.failed]);
  power.crash(new SeededRandom(seed + step));
  return { disk, file, original, steps: power.steps };
}

/** Restores; the power fails at `step`. */
async function restored({ disk, file }: Run, seed: number, step: number): Promise<"done" | "failed"> {
  const power = new Power(step);
  const run = async (): Promise<"done"> => {
    const storage = new PoweredFile(file, power);
    const device = new PoweredDisk(disk, power);
    const found = await readUndoFile(storage, "undo");
    const verdict = await verifyDevices(found, [device], storage);
    if (verdict === "restore") await restore(found, [device], storage);
    return "done";
  };
  const outcome = await Promise.race([run(), power.failed]);
  power.crash(new SeededRandom(seed));
  return outcome;
}

/** Whether the original came back after a failure of power at `step` of the work, and some while restoring. */
async function comesBack(seed: number, step: number, lies = false): Promise<boolean> {
  const run = await interrupted(seed, step, lies);
  const random = new SeededRandom(seed * 31 + step);
  for (let tries = 0; tries < 4; tries += 1) {
    const limit = tries === 3 ? Number.POSITIVE_INFINITY : 1 + random.below(12);
    try {
      if ((await restored(run, seed + tries, limit)) === "done") break;
    } catch (error) {
      // Before the header was stable nothing may have been overwritten.
      if ((error as { code?: unknown }).code !== "EFORMAT") throw error;
      break;
    }
  }
  return run.disk.current.equals(run.original);
}

describe("undo", () => {
  const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));

  it(`restores after a failure of power at every write and flush (DMKIT_SEED=${seed})`, async () => {
    for (let at = seed; at < seed + 6; at += 1) {
      const { steps } = await interrupted(at, Number.POSITIVE_INFINITY);
      expect(steps).toBeGreaterThan(0);
      for (let step = 0; step <= steps; step += 1) {
        expect(await comesBack(at, step), `DMKIT_SEED=${at} step ${step}`).toBe(true);
      }
    }
  });

  it("would be caught if it did not wait for the undo file", async () => {
    let caught = 0;
    for (let at = 1; at < 6; at += 1) {
      for (let step = 8; step < 40; step += 4) {
        // Not even that it is the right device can be told then.
        if (!(await comesBack(at, step, true).catch(() => false))) caught += 1;
      }
    }
    expect(caught).toBeGreaterThan(0);
  });

  it("is not refused for sectors that cannot be read: only their own bytes do not come back", async () => {
    const original = new SeededRandom(9).fill(Buffer.alloc(SIZE));
    const disk = new BadSectors(SIZE);
    await disk.write(0, original);
    // One that is ahead of what is written, and one that is.
    disk.bad.add(100).add(3);
    const file = new PoweredFile(new Medium(Buffer.alloc(0)), new Power());
    const warnings: string[] = [];
    const logger = { log: (_: string, text: string): void => void warnings.push(text) };
    const subject = { role: "cache", reference: "/disk", device: disk };
    const session = await UndoSession.begin(file, "fsck", [subject], { ...realEnvironment, logger });
    const [device] = session.devices;
    for (let at = 8192; at < 40_960; at += 4096) await device?.write(at, Buffer.alloc(4096, 1));
    expect(warnings).toEqual([]);
    await device?.write(3 * 512, Buffer.alloc(512, 1));
    expect(warnings).toEqual([expect.stringContaining("byte 1536")]);
    expect([...disk.bad]).toEqual([100]);
    await session.finish();
    const found = await readUndoFile(file, "undo");
    expect(await verifyDevices(found, [disk], file)).toBe("restore");
    await restore(found, [disk], file);
    disk.bad.clear();
    const now = Buffer.alloc(SIZE);
    await disk.read(0, now);
    expect(now.equals(original.fill(0, 3 * 512, 4 * 512))).toBe(true);
  });

  it("restores after orderly work, and has nothing to do the second time", async () => {
    const run = await interrupted(5, Number.POSITIVE_INFINITY);
    expect(run.disk.current.equals(run.original)).toBe(false);
    expect(await restored(run, 1, Number.POSITIVE_INFINITY)).toBe("done");
    expect(run.disk.current.equals(run.original)).toBe(true);
    const power = new Power();
    const storage = new PoweredFile(run.file, power);
    const found = await readUndoFile(storage, "undo");
    expect(found.state).toBe("undone");
    expect(await verifyDevices(found, [new PoweredDisk(run.disk, power)], storage)).toBe("nothing");
  });

  it("refuses another device, one of another size, and one that has changed since", async () => {
    const run = await interrupted(6, Number.POSITIVE_INFINITY);
    const power = new Power();
    const storage = new PoweredFile(run.file, power);
    const found = await readUndoFile(storage, "undo");
    const verify = (disk: Medium, force = false): Promise<unknown> =>
      verifyDevices(found, [new PoweredDisk(disk, power)], storage, { force });
    await expect(verify(new Medium(Buffer.alloc(SIZE, 1)))).rejects.toMatchObject({ code: "EINVAL" });
    await expect(verify(new Medium(Buffer.alloc(SIZE + 512)), true)).rejects.toMatchObject({
      code: "EINVAL",
    });
    const changed = new Medium(run.disk.current);
    const [range] = found.ranges;
    changed.current[range?.offset ?? 0] = (changed.current[range?.offset ?? 0] as number) ^ 1;
    await expect(verify(changed)).rejects.toMatchObject({ code: "EINVAL" });
    expect(await verify(changed, true)).toBe("restore");
    expect(await verify(run.disk)).toBe("restore");
  });

  it("refuses a device of which a superblock has changed since, although it carries its own CRC", async () => {
    const superblock = (mountCount: number): Buffer => {
      const bytes = Buffer.alloc(1024);
      bytes.writeUInt16LE(mountCount, 52);
      bytes.writeUInt32LE(~crc32c(bytes.subarray(0, 1020)) >>> 0, 1020);
      return bytes;
    };
    // Whether what was overwritten is the superblock itself, or something else.
    for (const place of [1024, 3 * 1024 * 1024]) {
      const device = new MemoryDevice(8 * 1024 * 1024);
      await device.write(1024, superblock(1));
      const storage = new PoweredFile(new Medium(Buffer.alloc(0)), new Power());
      const subject = { role: "backing", reference: "mem:8M", device };
      const session = await UndoSession.begin(storage, "replay", [subject], realEnvironment);
      await session.devices[0]?.write(place, superblock(2));
      await session.finish();
      const found = await readUndoFile(storage, "undo");
      expect(await verifyDevices(found, [device], storage)).toBe("restore");
      await device.write(1024, superblock(3));
      await expect(verifyDevices(found, [device], storage)).rejects.toMatchObject({ code: "EINVAL" });
    }
  });

  it("finds every flipped bit before its end, and refuses", async () => {
    const run = await interrupted(7, Number.POSITIVE_INFINITY);
    const sound = await readUndoFile(new PoweredFile(new Medium(run.file.current), new Power()), "undo");
    const random = new SeededRandom(7);
    // Behind the last checksums nothing relies on anything: damage there only takes checks away.
    const end = run.file.current.lastIndexOf("undo rec");
    for (let flip = 0; flip < 400; flip += 1) {
      const bytes = Buffer.from(run.file.current);
      const at = random.below(end);
      bytes[at] = (bytes[at] as number) ^ (1 << random.below(8));
      try {
        const found = await readUndoFile(new PoweredFile(new Medium(bytes), new Power()), "undo");
        // Padding belongs to nothing.
        expect(found.ranges).toEqual(sound.ranges);
      } catch (error) {
        expect(error).toMatchObject({ code: "EFORMAT" });
      }
    }
  });

  it("refuses what is no undo file", async () => {
    for (const bytes of [Buffer.alloc(0), Buffer.alloc(10), Buffer.alloc(8192), Buffer.from("{}")]) {
      const storage = new PoweredFile(new Medium(bytes), new Power());
      await expect(readUndoFile(storage, "undo")).rejects.toMatchObject({ code: "EFORMAT" });
    }
  });

  it("saves holes without their bytes, and few times what goes forward", async () => {
    const device = new MemoryDevice(1024 * 1024 * 1024);
    await device.write(4096, Buffer.alloc(4096, 1));
    const file = new Medium(Buffer.alloc(0));
    const power = new Power();
    const storage = new PoweredFile(file, power);
    const subject = { role: "cache", reference: "mem:1G", device };
    const session = await UndoSession.begin(storage, "format", [subject], realEnvironment);
    const [undo] = session.devices;
    await undo?.writeZeroes(0, device.size);
    expect(file.current.length).toBeLessThan(256 * 1024);
    const before = power.steps;
    for (let at = 0; at < 256; at += 1) await undo?.write(at * 4096, Buffer.alloc(4096, 2));
    expect(power.steps).toBe(before);
    const next = new MemoryDevice(16 * 1024 * 1024);
    await next.write(0, Buffer.alloc(next.size, 3));
    const second = new Power();
    const again = await UndoSession.begin(
      new PoweredFile(new Medium(Buffer.alloc(0)), second),
      "format",
      [{ role: "cache", reference: "mem:16M", device: next }],
      realEnvironment,
    );
    for (let at = 0; at < next.size; at += 4096) await again.devices[0]?.write(at, Buffer.alloc(4096, 2));
    // A record and a flush for each save: 4096 writes would be 8192 steps.
    expect(second.steps).toBeLessThan(100);
  });
});

describe("the format of undo files", () => {
  it("is as described", () => {
    const uuid = Buffer.from("000102030405060708090a0b0c0d0e0f", "hex");
    const samples = [
      { offset: 0, checksum: 0x11223344 },
      { offset: 4096, checksum: 0x55667788 },
    ];
    const header = encodeHeader({
      uuid,
      time: 1_700_000_000_000,
      command: "fsck",
      devices: [{ role: "cache", path: "/dev/sdb", size: 8192, samples }],
    });
    expect(header.length).toBe(4096);
    expect(header.subarray(0, 128).toString("hex")).toMatchInlineSnapshot(
      `"646d6b697420756e646f2066696c650a0200000000100000000102030405060708090a0b0c0d0e0f0068e5cf8b01000001000000040000008dbbe58c000000006673636b000000000020000000000000020000000500080000000000000000004433221100100000000000008877665563616368652f6465762f736462000000"`,
    );
    expect(decodeHeader(header)).toMatchObject({ version: 2, devices: [{ size: 8192, samples }] });
    // As it was before there were places.
    const first = Buffer.alloc(4096);
    Buffer.from(
      "646d6b697420756e646f2066696c650a0100000000100000000102030405060708090a0b0c0d0e0f0068e5cf8b010000010000000400000064c5e8f3000000006673636b0000000000200000000000000200000005000800443322118877665563616368652f6465762f736462",
      "hex",
    ).copy(first);
    expect(decodeHeader(first)).toMatchObject({ version: 1, devices: [{ size: 8192, samples }] });
    // SHA-256 of "abc"; CRC-32C of "123456789".
    expect(contentsChecksum(Buffer.from("abc"), 2)).toBe(0xbf1678ba);
    expect(contentsChecksum(Buffer.from("123456789"), 1)).toBe(0xe3069283);
    const record = encodeRecord(
      uuid,
      { kind: "data", number: 7, device: 0, offset: 4096, length: 4, durable: 8192 },
      Buffer.from("old!"),
    );
    expect(record.length).toBe(512);
    expect(record.subarray(0, 96).toString("hex")).toMatchInlineSnapshot(
      `"756e646f20726563c72a29f901000000000102030405060708090a0b0c0d0e0f0700000000000000000000009273ce4700100000000000000400000000000000040000000000000000200000000000006f6c6421000000000000000000000000"`,
    );
  });
});
