/** The witness must change with whatever is sure to be written, wherever it lies, and with nothing else. */
import { describe, expect, it } from "vitest";
import { MemoryDevice, crc32c, witnessBlocks, witnessOf } from "../src/index.ts";

const MIB = 1024 * 1024;

function disk(size = 64 * MIB): MemoryDevice {
  return new MemoryDevice(size);
}

async function put(device: MemoryDevice, offset: number, bytes: Buffer): Promise<void> {
  const start = Math.floor(offset / 512) * 512;
  const sectors = Buffer.alloc(Math.ceil((offset + bytes.length - start) / 512) * 512);
  await device.read(start, sectors);
  bytes.copy(sectors, offset - start);
  await device.write(start, sectors);
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt(value));
  return bytes;
}

/** An ext4 superblock: as much of it as matters, with its own CRC-32C at the end. */
function ext4(mountCount: number): Buffer {
  const superblock = Buffer.alloc(1024);
  superblock.writeUInt16LE(0xef53, 56);
  superblock.writeUInt16LE(mountCount, 52);
  superblock.writeUInt32LE(~crc32c(superblock.subarray(0, 1020)) >>> 0, 1020);
  return superblock;
}

async function mbrEntry(device: MemoryDevice, at: number, index: number, type: number, start: number) {
  const entry = Buffer.alloc(16);
  entry[4] = type;
  entry.writeUInt32LE(start, 8);
  entry.writeUInt32LE(2048, 12);
  await put(device, at + 446 + 16 * index, entry);
  await put(device, at + 510, Buffer.from([0x55, 0xaa]));
}

/** Whether a change of one byte at `offset` changes the witness; the byte is put back. */
async function sees(device: MemoryDevice, offset: number): Promise<boolean> {
  const before = await witnessOf(device);
  const sector = Buffer.alloc(512);
  const start = Math.floor(offset / 512) * 512;
  await device.read(start, sector);
  const old = Buffer.from(sector);
  sector[offset - start] = (sector[offset - start] as number) ^ 1;
  await device.write(start, sector);
  const after = await witnessOf(device);
  await device.write(start, old);
  expect(await witnessOf(device)).toBe(before);
  return after !== before;
}

// Neither evenly spread nor near anything: nobody looks there without being told to.
const NOWHERE = 23 * MIB + 300 * 1024;

describe("the witness", () => {
  it("is the same for the same bytes, whatever the device's length beyond those that count", async () => {
    const [small, large] = [disk(), disk(80 * MIB)];
    for (const device of [small, large]) await put(device, 5 * MIB, Buffer.alloc(4096, 7));
    expect(await witnessOf(small)).toMatch(/^[0-9a-f]{64}$/);
    expect(await witnessOf(large, small.size)).toBe(await witnessOf(small));
    expect(await witnessOf(large)).not.toBe(await witnessOf(small));
    expect(await sees(small, NOWHERE)).toBe(false);
  });

  it("sees a superblock change that a CRC does not see", async () => {
    const device = disk();
    const block = Buffer.alloc(4096);
    const [first, second] = await Promise.all(
      [1, 2].map(async (mountCount) => {
        ext4(mountCount).copy(block, 1024);
        await put(device, 0, block);
        return { crc: crc32c(block), witness: await witnessOf(device) };
      }),
    );
    expect(first?.crc).toBe(second?.crc);
    expect(await sees(device, 1024 + 52)).toBe(true);
  });

  it("is made of blocks that can be asked for, in order and none twice", async () => {
    const device = disk(64 * MIB - 512);
    await mbrEntry(device, 0, 0, 0x83, NOWHERE / 512);
    const blocks = await witnessBlocks(device);
    expect(blocks).toEqual([...new Set(blocks)].toSorted((a, b) => a - b));
    expect(blocks.every((offset) => offset % 4096 === 0 && offset < device.size)).toBe(true);
    for (const offset of [0, MIB, NOWHERE, 64 * MIB - 4096]) expect(blocks).toContain(offset);
    expect(await witnessBlocks(device, 8192)).toEqual([0, 4096]);
  });

  it("hashes a small device whole", async () => {
    const device = disk(MIB);
    for (let offset = 100; offset < MIB; offset += 37_000) expect(await sees(device, offset)).toBe(true);
  });

  it("looks at both ends, at the first MiB, and at blocks in between", async () => {
    const device = disk();
    for (const offset of [0, 65_536, MIB + 1024, MIB + 65_536, 64 * MIB - 65_536, 64 * MIB - 512]) {
      expect(await sees(device, offset)).toBe(true);
    }
    let seen = 0;
    for (let index = 1; index < 63; index += 20)
      if (await sees(device, Math.floor((index * (64 * MIB - 4096)) / 63))) seen += 1;
    expect(seen).toBe(4);
  });

  it("looks at the start of partitions of an MBR, extended ones too", async () => {
    const device = disk();
    // As partitioned long ago: not aligned to anything.
    await mbrEntry(device, 0, 0, 0x83, 63 + 40_000);
    await mbrEntry(device, 0, 1, 0x05, 60_001);
    await mbrEntry(device, 60_001 * 512, 0, 0x83, 63);
    await mbrEntry(device, 60_001 * 512, 1, 0x05, 9000);
    await mbrEntry(device, 69_001 * 512, 0, 0x83, 63);
    for (const sector of [40_063, 60_001, 60_064, 69_001, 69_064]) {
      expect(await sees(device, sector * 512 + 100)).toBe(true);
      expect(await sees(device, sector * 512 + 1024 + 44)).toBe(true);
    }
    expect(await sees(device, NOWHERE)).toBe(false);
  });

  it("looks at the start of partitions of a GPT, of 512- and of 4096-byte blocks", async () => {
    for (const block of [512, 4096] as const) {
      const device = disk();
      await put(device, block, Buffer.from("EFI PART"));
      await put(device, block + 72, u64(2));
      await put(device, block + 80, u32(128));
      await put(device, block + 84, u32(128));
      await put(device, 2 * block + 128 * 3 + 32, u64(NOWHERE / block));
      expect(await sees(device, NOWHERE + 1024 + 52)).toBe(true);
      expect(await sees(device, NOWHERE + 65_536)).toBe(true);
    }
  });

  it("looks into LVM, LUKS and MD, also one inside of the other", async () => {
    const lvm = disk();
    await put(lvm, 512, Buffer.from("LABELONE"));
    await put(lvm, 512 + 20, u32(32));
    await put(lvm, 512 + 24, Buffer.from("LVM2 001"));
    await put(lvm, 512 + 32 + 40, u64(NOWHERE));
    // A logical volume that is encrypted.
    await put(lvm, NOWHERE, Buffer.from("LUKS\xba\xbe\0\x02", "latin1"));
    await put(lvm, NOWHERE + 4096, Buffer.from('{"segments":{"0":{"type":"crypt","offset":"16777216"'));
    expect(await sees(lvm, NOWHERE + 16 * MIB + 1024)).toBe(true);

    const luks1 = disk();
    const header = Buffer.alloc(108);
    Buffer.from("LUKS\xba\xbe\0\x01", "latin1").copy(header);
    header.writeUInt32BE(NOWHERE / 512, 104);
    await put(luks1, 0, header);
    expect(await sees(luks1, NOWHERE)).toBe(true);

    const md = disk();
    await put(md, 4096, Buffer.concat([u32(0xa92b4efc), u32(1)]));
    await put(md, 4096 + 128, u64(NOWHERE / 512));
    expect(await sees(md, NOWHERE + 1024)).toBe(true);
  });

  it("looks at what FAT, exFAT, NTFS, f2fs and ZFS change", async () => {
    const cluster = 4096;
    const boot = (name: string, at: number): Buffer => {
      const sector = Buffer.alloc(512);
      sector.write(name, at, "latin1");
      return sector;
    };
    const fat32 = boot("FAT32   ", 82);
    fat32.writeUInt16LE(512, 11);
    fat32[13] = cluster / 512;
    fat32.writeUInt16LE(32, 14);
    fat32[16] = 2;
    fat32.writeUInt32LE(1000, 36);
    fat32.writeUInt32LE(3000, 44);
    const exfat = boot("EXFAT   ", 3);
    exfat.writeUInt32LE(NOWHERE / 512, 80);
    exfat[108] = 9;
    exfat[109] = 3;
    exfat.writeUInt32LE(NOWHERE / 512 + 1000, 88);
    exfat.writeUInt32LE(5, 96);
    const ntfs = boot("NTFS    ", 3);
    ntfs.writeUInt16LE(512, 11);
    ntfs[13] = 8;
    ntfs.writeUInt32LE(NOWHERE / cluster, 48);
    const f2fs = Buffer.alloc(2048);
    f2fs.writeUInt32LE(0xf2f52010, 1024);
    f2fs.writeUInt32LE(9, 1024 + 20);
    f2fs.writeUInt32LE(NOWHERE / 4096, 1024 + 76);
    const zfs = Buffer.alloc(20 * 1024);
    zfs.write("pool_guid", 17 * 1024, "latin1");
    const cases: [Buffer, number[]][] = [
      [fat32, [32 * 512 + 4, (32 + 2000) * 512 + 2998 * cluster]],
      [exfat, [NOWHERE, NOWHERE + 1000 * 512 + 3 * cluster + 22]],
      [ntfs, [NOWHERE + 3 * 1024]],
      [f2fs, [NOWHERE + 8, NOWHERE + 2 * MIB + 8]],
      [zfs, [200 * 1024]],
    ];
    for (const [start, places] of cases) {
      const device = disk();
      await put(device, 0, start);
      for (const place of places) expect(await sees(device, place)).toBe(true);
    }
  });

  it("needs a bounded number of reads, and nothing sane in what it looks at", async () => {
    let seed = 7;
    for (let round = 0; round < 20; round += 1) {
      const device = disk(16 * MIB);
      const noise = Buffer.alloc(256 * 1024);
      for (let at = 0; at < noise.length; at += 1) {
        seed = (seed * 1103515245 + 12345) >>> 0;
        noise[at] = seed >>> 16;
      }
      for (const [text, at] of [
        ["EFI PART", 512],
        ["NTFS    ", MIB % 4096],
        ["LABELONE", 0],
      ] as const) {
        if (round % 3 === 0) noise.write(text, at, "latin1");
      }
      noise.write("\x55\xaa", 510, "latin1");
      for (const at of [450, 466, 482, 498]) noise[at] = round % 2 === 0 ? 5 : 0x83;
      await put(device, 0, noise);
      let reads = 0;
      const read = device.read.bind(device);
      device.read = (offset, into) => {
        reads += 1;
        return read(offset, into);
      };
      await witnessOf(device);
      expect(reads).toBeLessThan(400);
    }
  });

  it("reads whole blocks of a device that has no smaller ones", async () => {
    const device = new MemoryDevice(64 * MIB, { logicalBlockSize: 4096 });
    const same = disk();
    expect(await witnessOf(device, 10 * MIB + 512)).toBe(await witnessOf(same, 10 * MIB + 512));
  });
});
