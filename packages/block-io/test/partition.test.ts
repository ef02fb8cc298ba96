/** What may be said behind a path: partitions, images of other programs, locks. */
import {
  linkSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { isAbsolute, join, relative } from "node:path";
import { crc32 } from "node:zlib";
import { afterAll, describe, expect, it } from "vitest";
import {
  BlockIoError,
  type Logger,
  LowerDevices,
  type Use,
  identityOf,
  openPath,
  parsePath,
  realEnvironment,
} from "../src/index.ts";
import { findPartition } from "../src/below/partition.ts";
import { MemoryDevice } from "../src/devices/memory.ts";
import { SeededRandom } from "../src/testing/index.ts";

const MIB = 2 ** 20;
const folder = mkdtempSync(join(tmpdir(), "block-io-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Entry {
  readonly type: number;
  readonly first: number;
  readonly count: number;
}

function mbr(entries: readonly Entry[]): Buffer {
  const sector = Buffer.alloc(512);
  for (const [index, { type, first, count }] of entries.entries()) {
    sector.writeUInt8(type, 446 + 16 * index + 4);
    sector.writeUInt32LE(first, 446 + 16 * index + 8);
    sector.writeUInt32LE(count, 446 + 16 * index + 12);
  }
  sector.writeUInt16LE(0xaa55, 510);
  return sector;
}

const none = { type: 0, first: 0, count: 0 };

/** 1: sectors 64 to 127; 2 is extended, from 256 on, with logical partitions at 256 + 8 and 512 + 8. */
function dos(): Buffer {
  const disk = Buffer.alloc(MIB);
  mbr([{ type: 0x83, first: 64, count: 64 }, { type: 5, first: 256, count: 1024 }, none, none]).copy(disk);
  mbr([{ type: 0x83, first: 8, count: 100 }, { type: 5, first: 256, count: 200 }, none, none]).copy(
    disk,
    256 * 512,
  );
  mbr([{ type: 0x83, first: 8, count: 50 }, none, none, none]).copy(disk, 512 * 512);
  return disk;
}

function gpt(
  block = 512,
  parts: readonly (readonly [number, number, number])[] = [
    [1, 64, 127],
    [3, 128, 255],
  ],
): Buffer {
  const disk = Buffer.alloc(MIB);
  const last = MIB / block - 1;
  mbr([{ type: 0xee, first: 1, count: 0xffff_ffff }, none, none, none]).copy(disk);
  const table = Buffer.alloc(128 * 16);
  for (const [number, first, end] of parts) {
    const at = 128 * (number - 1);
    table.fill(0x11, at, at + 16);
    table.writeBigUInt64LE(BigInt(first), at + 32);
    table.writeBigUInt64LE(BigInt(end), at + 40);
  }
  for (const [at, entries] of [
    [1, 2],
    [last, last - 8],
  ] as const) {
    const header = Buffer.alloc(block);
    header.write("EFI PART");
    header.writeUInt32LE(92, 12);
    header.writeBigUInt64LE(BigInt(at), 24);
    header.writeBigUInt64LE(BigInt(entries), 72);
    header.writeUInt32LE(16, 80);
    header.writeUInt32LE(128, 84);
    header.writeUInt32LE(crc32(table), 88);
    header.writeUInt32LE(crc32(header.subarray(0, 92)), 16);
    header.copy(disk, at * block);
    table.copy(disk, entries * block);
  }
  return disk;
}

async function found(
  disk: Buffer,
  number: number,
  logicalBlockSize: 512 | 4096 = 512,
): Promise<readonly number[] | string> {
  const device = new MemoryDevice(disk.length, { logicalBlockSize });
  await device.write(0, disk);
  try {
    const { offset, length } = await findPartition(device, "disk", number);
    return [offset / 512, length / 512];
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    return error.code;
  }
}

describe("a partition by its number", () => {
  it("is found in an MBR, also a logical one", async () => {
    expect(await found(dos(), 1)).toEqual([64, 64]);
    expect(await found(dos(), 5)).toEqual([264, 100]);
    expect(await found(dos(), 6)).toEqual([520, 50]);
    // Number 2 holds the others.
    expect(await found(dos(), 2)).toBe("ENOENT");
    expect(await found(dos(), 7)).toBe("ENOENT");
    expect(await found(Buffer.alloc(MIB), 1)).toBe("EFORMAT");
  });

  it("is found in an MBR that counts blocks of 4096 bytes, as that of a disk which has such", async () => {
    const disk = Buffer.alloc(MIB);
    const extended = { type: 5, first: 64, count: 128 };
    mbr([{ type: 0x83, first: 16, count: 32 }, extended, none, none]).copy(disk);
    mbr([{ type: 0x83, first: 8, count: 100 }, none, none, none]).copy(disk, 64 * 4096);
    expect(await found(disk, 1, 4096)).toEqual([128, 256]);
    expect(await found(disk, 5, 4096)).toEqual([576, 800]);
  });

  it("is found in a GPT, with blocks of 512 and 4096 bytes, and in its second copy", async () => {
    expect(await found(gpt(), 1)).toEqual([64, 64]);
    expect(await found(gpt(), 3)).toEqual([128, 128]);
    expect(await found(gpt(), 2)).toBe("ENOENT");
    expect(await found(gpt(4096, [[2, 16, 31]]), 2)).toEqual([128, 128]);
    for (const at of [512 + 30, 1024 + 40]) {
      const disk = gpt();
      disk.writeUInt8(disk.readUInt8(at) ^ 1, at);
      expect(await found(disk, 3)).toEqual([128, 128]);
      disk.fill(0xff, MIB - 512);
      expect(await found(disk, 3)).toBe("EFORMAT");
    }
  });

  it.each([
    ["behind the end", dos, 446 + 8, 2048],
    ["with more sectors than follow", dos, 446 + 12, 0xffff_ffff],
    ["over the table itself", dos, 446 + 8, 0],
    ["logical, behind the end of what it is in", dos, 256 * 512 + 446 + 12, 1017],
    ["logical, before the one before", dos, 512 * 512 + 462 + 12, 7],
  ])("is refused %s", async (_what, disk, at, value) => {
    const bytes = disk();
    bytes.writeUInt32LE(value, at);
    if (at > 512 * 512) bytes.writeUInt8(5, 512 * 512 + 462 + 4);
    expect(await found(bytes, 1)).toBe("EFORMAT");
  });

  it("is refused where a GPT that is whole leads outside", async () => {
    expect(await found(gpt(512, [[1, 64, 2048]]), 1)).toBe("EFORMAT");
    expect(await found(gpt(512, [[1, 0, 5]]), 1)).toBe("EFORMAT");
    // An entry that ends before it begins is none.
    expect(await found(gpt(512, [[1, 64, 63]]), 1)).toBe("ENOENT");
  });

  it("is never outside, whatever the tables say", async () => {
    const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new SeededRandom(seed);
    for (let round = 0; round < 150; round += 1) {
      const disk = round % 2 === 0 ? dos() : gpt();
      const places = round % 2 === 0 ? [446, 256 * 512 + 446, 512 * 512 + 446] : [446, 512, 1024, MIB - 512];
      for (let change = 0; change < 3; change += 1) {
        const at = (places[random.below(places.length)] ?? 0) + random.below(64);
        disk.writeUInt8(random.below(256), at);
      }
      const one = await found(disk, 1 + random.below(7));
      if (typeof one === "string") continue;
      const [offset = 0, length = 0] = one;
      expect(offset > 0 && length > 0 && offset + length <= MIB / 512, `seed ${seed}, round ${round}`).toBe(
        true,
      );
    }
  });

  it("is a device of its own beside the others of the same file", async () => {
    const path = join(folder, "disk.img");
    writeFileSync(path, dos());
    const open = (number: number, use: "owns" | "reads") =>
      LowerDevices.openOne(`${path}?partition=${number}`, use, {}, realEnvironment);
    const [reading, writing] = [await open(5, "reads"), await open(1, "owns")];
    await writing.write(0, Buffer.alloc(512, 7));
    await expect(writing.write(64 * 512, Buffer.alloc(512))).rejects.toMatchObject({ code: "ENOSPC" });
    await expect(reading.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EROFS" });
    await expect(open(1, "owns")).rejects.toMatchObject({ code: "EBUSY" });
    await expect(openPath(path)).rejects.toMatchObject({ code: "EBUSY" });
    await writing.close();
    await reading.close();
    // All of it can be opened again: nothing is left of them.
    await (await openPath(path)).close();
    expect(readFileSync(path)[64 * 512]).toBe(7);
    expect(identityOf(`${path}?partition=1`)).not.toBe(identityOf(`${path}?partition=5`));
  });
});

describe("partitions that overlap", () => {
  it("are open in one device for writing, by whatever name, or in many for reading", async () => {
    const [path, other] = [join(folder, "over.img"), join(folder, "over-link.img")];
    const places = [
      { type: 0x83, first: 64, count: 64 },
      { type: 0x83, first: 128, count: 64 },
      { type: 0x83, first: 100, count: 64 },
      none,
    ];
    writeFileSync(path, Buffer.concat([mbr(places), Buffer.alloc(MIB - 512)]));
    symlinkSync(path, other);
    const open = (reference: string, use: Use) =>
      LowerDevices.openOne(reference, use, {}, realEnvironment, { holder: { name: reference } });
    const writing = await open(`${path}?partition=1`, "shares");
    for (const reference of [`${other}?partition=1`, `${other}?partition=3`, `${path}?raw&partition=3`])
      for (const use of ["shares", "reads"] as const)
        await expect(open(reference, use)).rejects.toMatchObject({
          code: "EBUSY",
          message: expect.stringContaining(`${path}?partition=1 owns`),
        });
    await expect(open(`${other}?partition=3&no-lock`, "owns")).rejects.toMatchObject({ code: "EBUSY" });
    await (await open(`${other}?partition=3&no-lock`, "looks")).close();
    await (await open(`${other}?partition=2`, "owns")).close();
    await writing.close();
    const reading = [await open(`${path}?partition=1`, "reads"), await open(`${other}?partition=3`, "reads")];
    await expect(open(`${path}?partition=2`, "shares")).rejects.toMatchObject({ code: "EBUSY" });
    for (const device of reading) await device.close();
    await (await open(`${other}?partition=3`, "owns")).close();
    // One table may read and write one.
    const pool = new LowerDevices({}, realEnvironment);
    await pool.open(`${path}?partition=1`, "looks");
    await pool.open(`${other}?partition=1`, "shares");
    await pool.close();
  });
});

describe("behind a path", () => {
  it("words are read, and a file of that name is itself", () => {
    expect(parsePath("a?partition=12&raw")).toEqual({ path: "a", partition: 12, raw: true, lock: true });
    expect(parsePath("a?no-lock")).toEqual({ path: "a", raw: false, lock: false });
    for (const name of ["a?partition=0", "a?rw", "a?", "?raw", "a?raw&"])
      expect(parsePath(name).path).toBe(name);
    const path = join(folder, "file?raw");
    writeFileSync(path, "");
    expect(parsePath(path)).toEqual({ path, raw: false, lock: true });
  });

  it("what may be a file or a part of another one is neither, and it is said how to name each", () => {
    const [path, other] = [join(folder, "both"), join(folder, "both?partition=1")];
    writeFileSync(path, "");
    writeFileSync(other, "");
    expect(() => parsePath(other)).toThrow(
      expect.objectContaining({ code: "EINVAL", hint: expect.stringContaining(`'${other}?raw'`) }),
    );
    expect(parsePath(`${other}?raw`)).toEqual({ path: other, raw: true, lock: true });
    expect(parsePath(`${other}&raw`)).toEqual({ path, partition: 1, raw: true, lock: true });
  });

  it("an image whose size no disk has is named before its size is", async () => {
    const path = join(folder, "odd.qcow2");
    writeFileSync(path, Buffer.concat([Buffer.from("514649fb", "hex"), Buffer.alloc(1000)]));
    const error: BlockIoError = await openPath(path, { readOnly: true }).then(
      () => expect.fail("it was opened"),
      (failure) => failure,
    );
    expect(error).toMatchObject({ code: "EINVAL", reason: expect.stringMatching(/^is a qcow2 image/) });
    expect(error.hint).toContain(`qemu-nbd -t -f qcow2 -k ${path}.sock ${path} `);
  });

  it("a socket is named whose path is absolute, and not too long", async () => {
    for (const path of [relative(".", join(folder, "near.qcow2")), join(folder, `${"x".repeat(90)}.qcow2`)]) {
      writeFileSync(path, Buffer.from("514649fb", "hex"));
      const error = await openPath(path).catch((failure: BlockIoError) => failure);
      const [, socket = ""] = /-k (\S+) \//.exec((error as BlockIoError).hint ?? "") ?? [];
      expect([isAbsolute(socket), socket.length < 108]).toEqual([true, true]);
    }
  });

  it("who has a file in this very process is named", async () => {
    const path = join(folder, "held.img");
    writeFileSync(path, dos());
    const open = (reference: string, use: Use, name?: string) =>
      LowerDevices.openOne(
        reference,
        use,
        {},
        realEnvironment,
        name === undefined ? {} : { holder: { name } },
      );
    for (const [held, wanted, use] of [
      [path, `${path}?partition=1`, "owns"],
      [`${path}?partition=1`, path, "owns"],
      [path, `${path}?partition=1`, "looks"],
    ] as const) {
      const device = await open(held, use, "device a");
      await expect(open(wanted, "owns")).rejects.toMatchObject({
        code: "EBUSY",
        reason: expect.stringMatching(/device a of this very process has it/),
      });
      await device.close();
    }
    await (await open(path, "owns")).close();
  });

  it.each([
    ["qcow2", 0, "514649fb"],
    ["vmdk", 0, "4b444d56"],
    ["vdi", 64, "7f10dabe"],
    ["vhdx", 0, "7668647866696c65"],
    ["vpc", -512, "636f6e6563746978"],
  ])(
    "what a client writes, even the head of an image of the format %s, is only warned of",
    async (format, at, bytes) => {
      const path = join(folder, `disk.${format}`);
      writeFileSync(path, "");
      truncateSync(path, MIB);
      linkSync(path, `${path}-too`);
      const told: unknown[] = [];
      const logger: Logger = { log: (level, message, fields) => told.push({ level, message, ...fields }) };
      const environment = { ...realEnvironment, logger };
      const device = await openPath(path, { environment });
      const head = Buffer.alloc(512);
      Buffer.from(bytes, "hex").copy(head, at < 0 ? 0 : at);
      await device.write(at < 0 ? MIB - 512 : 0, head);
      await device.close();
      expect(told).toEqual([]);
      for (const reference of [`${path}?raw`, path, `${path}-too`]) {
        await (await LowerDevices.openOne(reference, "owns", {}, environment)).close();
        await (await openPath(reference, { environment, readOnly: true })).close();
        if (reference.endsWith("?raw")) expect(told).toEqual([]);
      }
      expect(told).toEqual([expect.objectContaining({ level: "warn", file: path })]);
      const text = Object.values(told[0] as object).join("\n");
      expect(text).toContain(`qemu-nbd -t -f ${format} -k ${path}.sock ${path}\n`);
      expect(text).toContain(`'nbd+unix:///?socket=${path}.sock'\n'${path}?raw'`);
    },
  );
});
