/**
 * Bytes by which common contents of disks are known: what, where, and which bytes must stand there. A number below
 * zero counts from the end of the device. Where a format stores its magic as a number, the bytes are those of its
 * byte order on disk (little-endian unless the line says otherwise).
 *
 *      |<------------- START, 1 MiB ------------->|                       |<------ END, 768 KiB ------>|
 *      sector 0   4 KiB   64 KiB   96 KiB …                               zfs 2, 3   MD 0.90  MD 1.0   last sector
 *      superblocks, labels, tables, images, our own                       GPT, VHD, DDF, our own copies
 *
 * The facts are those of the formats' public descriptions. The first match gives the name, so the more telling ones
 * come first: a disk with GPT also has the mark of an MBR.
 */
import { UNFINISHED } from "./unfinished.ts";
import { getU32, getU8, tryU64 } from "../bytes/bytes.ts";
import { packed } from "./packed.ts";

/** Bytes from the start of a device that signatures lie in. They must be zero on a blank one. */
export const START: number = 1024 * 1024;
/** Bytes before its end that signatures lie in: the last two labels of ZFS, and what 256 KiB do not divide. */
export const END: number = 768 * 1024;

export interface Signature {
  readonly name: string;
  /** Bytes from the start, below zero from the end; a function where that depends on the size in bytes. */
  readonly at: number | ((size: number) => Iterable<number>);
  /** Hexadecimal. */
  readonly bytes: string;
  /**
   * `cache`: a cache of ours, or a part of one. `unfinished`: formatting was interrupted, nothing on the device
   * counts. `packed`: an archive or a compressed file, with bytes of something else inside.
   */
  readonly kind?: "cache" | "unfinished" | "packed";
  /**
   * For fewer than four bytes, which any data may have by chance: whether what stands around them is as it must be.
   * `start`: the first bytes of the device. Where it does not hold, the signature may still be right.
   */
  readonly bornOutBy?: (start: Buffer) => boolean;
  /** What qemu calls the format of an image that a disk is in, as the argument of its option -f. */
  readonly qemu?: string;
  /**
   * It is nothing without what its format has in the first sector, which is written after it: where that sector says that
   * formatting was interrupted, this is what was given away.
   */
  readonly needsHeader?: true;
}

const text = (value: string): string => Buffer.from(value, "latin1").toString("hex");
const each = (name: string, places: readonly number[], ...bytes: readonly string[]): Signature[] =>
  bytes.flatMap((one) => places.map((at) => ({ name, at, bytes: one })));
const down = (size: number, unit: number): number => Math.floor(size / unit) * unit;

const own: readonly Signature[] = [
  { name: "a device whose formatting was interrupted", at: 0, bytes: text(UNFINISHED), kind: "unfinished" },
  { name: "a writeboost cache", at: 0, bytes: "74734257", kind: "cache" },
  {
    name: "a writeboost cache that is being restored",
    at: 0,
    bytes: text("dmkit restoring\0"),
    kind: "cache",
  },
  {
    name: "a writeboost cache that is being made larger",
    at: 0,
    bytes: text("dmkit growing"),
    kind: "cache",
  },
  { name: "a writeboost cache", at: 4096, bytes: text("dmkitWB1"), kind: "cache", needsHeader: true },
  {
    name: "the plog of a writeboost cache",
    at: 256,
    bytes: text("dmkitWB1"),
    kind: "cache",
    needsHeader: true,
  },
  { name: "the plog of a writeboost cache", at: -512, bytes: text("dmkitWB1"), kind: "cache" },
  { name: "an assoc-cache", at: 0, bytes: text("DMKASSOC"), kind: "cache" },
  { name: "an assoc-cache", at: -512, bytes: text("DMKASSOC"), kind: "cache" },
  { name: "an assoc-cache, historical metadata", at: -488, bytes: text("dmkit v1"), kind: "cache" },
  { name: "a compressed device, format 1", at: 0, bytes: "096c5006c2266510" },
  ...each("a compressed device, format 2", [0, 4096], text("dmkitCP2")),
  // The second spelling is one that earlier versions of dmkit wrote by mistake.
  { name: "the bitmap of a cow layer", at: cowPlaces, bytes: "11bebaaa0ebeba00" },
  { name: "the bitmap of a cow layer", at: cowPlaces, bytes: "11bebaaa0eebba00" },
  ...each("a zram snapshot", [0], text("dmkitZR1"), text("dmkitZR2")),
  { name: "pages of a zram disk", at: 0, bytes: text("dmkitZB1") },
  // Not the second copy: while it is being made the first block says so, and nothing else counts.
  { name: "bitmaps of changes", at: 0, bytes: text("DMKTRACK") },
  { name: "a log of writes", at: 0, bytes: "7268737766736a00" },
];

/** What is laid around or below file systems: volumes, RAID, encryption, swap. */
const volumes: readonly Signature[] = [
  { name: "a LUKS volume", at: 0, bytes: `${text("LUKS")}babe` },
  ...each("a LUKS volume", powers(16_384, 524_288), `${text("SKUL")}babe`),
  { name: "a BitLocker volume", at: 3, bytes: text("-FVE-FS-") },
  ...each("an LVM physical volume", [0, 512, 1024, 1536], text("LABELONE")),
  ...each("a part of a Linux RAID", [0, 4096], "fc4e2ba9"),
  { name: "a part of a Linux RAID", at: (size) => [down(size - 8192, 4096)], bytes: "fc4e2ba9" },
  { name: "a part of a Linux RAID", at: (size) => [down(size, 65_536) - 65_536], bytes: "fc4e2ba9" },
  // Version 0.90 is stored in the byte order of the machine.
  { name: "a part of a Linux RAID", at: (size) => [down(size, 65_536) - 65_536], bytes: "a92b4efc" },
  { name: "a part of a firmware RAID", at: -512, bytes: "de11de11" },
  { name: "a part of a firmware RAID", at: -1024, bytes: text("Intel Raid ISM Cfg Sig. ") },
  ...["6b", "6c", "6d"].map(
    (version): Signature => ({
      name: "a DRBD device",
      at: (size) => [down(size, 4096) - 4096 + 60],
      bytes: `837402${version}`,
    }),
  ),
  { name: "a bcache device", at: 4120, bytes: "c68573f64e1a45ca8265f57f48ba6d81" },
  { name: "a Stratis device", at: 516, bytes: `${text("!Stra0tis")}86ff025e${text("Arh")}` },
  { name: "a VDO volume", at: 0, bytes: text("dmvdo001") },
  { name: "dm-thin metadata", at: 32, bytes: "ba529c0100000000" },
  { name: "dm-cache metadata", at: 32, bytes: "03c4180000000000" },
  { name: "dm-era metadata", at: 32, bytes: "7b07c17e00000000" },
  { name: "dm-clone metadata", at: 32, bytes: "647ff28a00000000" },
  { name: "a dm-integrity volume", at: 0, bytes: text("integrt\0") },
  { name: "a dm-verity hash device", at: 0, bytes: text("verity\0\0") },
  { name: "a device-mapper snapshot", at: 0, bytes: text("SnAp") },
  { name: "a Ceph BlueStore device", at: 0, bytes: text("bluestore block device") },
  { name: "an Oracle ASM disk", at: 32, bytes: text("ORCLDISK") },
  // In the last ten bytes of a page, whatever its size was.
  ...each("swap space", swapPlaces(), text("SWAPSPACE2"), text("SWAP-SPACE")),
  ...each("a suspended system", swapPlaces(), text("S1SUSPEND\0"), text("S2SUSPEND\0"), text("ULSUSPEND\0")),
];

const fileSystems: readonly Signature[] = [
  {
    name: "an ext2, ext3 or ext4 file system",
    at: 1080,
    bytes: "53ef",
    // State, what to do about errors, revision, block size.
    bornOutBy: (start) =>
      le16(start, 1082) <= 7 && le16(start, 1084) <= 3 && le32(start, 1100) <= 1 && le32(start, 1048) <= 6,
  },
  { name: "an XFS file system", at: 0, bytes: text("XFSB") },
  { name: "the log of an XFS file system", at: 0, bytes: "feedbabe" },
  { name: "a btrfs file system", at: 65_600, bytes: text("_BHRfS_M") },
  { name: "a bcachefs file system", at: 4120, bytes: "c68573f666ce90a9d96a60cf803df7ef" },
  { name: "an F2FS file system", at: 1024, bytes: "1020f5f2" },
  { name: "a ZFS device", at: zfsPlaces, bytes: "0cb1ba0000000000" },
  // On machines of the other byte order.
  { name: "a ZFS device", at: zfsPlaces, bytes: "0000000000bab10c" },
  { name: "a JFS file system", at: 32_768, bytes: text("JFS1") },
  ...each("a ReiserFS file system", [8244, 65_588], text("ReIsErFs"), text("ReIsEr2Fs"), text("ReIsEr3Fs")),
  { name: "a Reiser4 file system", at: 65_536, bytes: text("ReIsEr4") },
  // Its revision.
  {
    name: "a NILFS2 file system",
    at: 1030,
    bytes: "3434",
    bornOutBy: (start) => le32(start, 1024) === 2 && le16(start, 1028) === 0,
  },
  { name: "a GFS2 file system", at: 65_536, bytes: "01161970" },
  ...each("an OCFS2 file system", powers(1024, 8192), text("OCFSV2")),
  { name: "an EROFS file system", at: 1024, bytes: "e2e1f5e0" },
  ...each("a squashfs file system", [0], text("hsqs"), text("sqsh")),
  { name: "a cramfs file system", at: 0, bytes: "453dcd28" },
  { name: "a romfs file system", at: 0, bytes: text("-rom1fs-") },
  { name: "an NTFS file system", at: 3, bytes: text("NTFS    ") },
  { name: "an exFAT file system", at: 3, bytes: text("EXFAT   ") },
  { name: "a ReFS file system", at: 3, bytes: text("ReFS\0\0\0\0") },
  ...each("a FAT file system", [54], text("FAT1"), text("FAT  ")),
  { name: "a FAT file system", at: 82, bytes: text("FAT32") },
  { name: "an APFS container", at: 32, bytes: text("NXSB") },
  ...each("an HFS+ file system", [1024], `${text("H+")}0004`, `${text("HX")}0005`),
  // Its bitmap begins in block 3; the size of its blocks.
  {
    name: "an HFS file system",
    at: 1024,
    bytes: text("BD"),
    bornOutBy: (start) =>
      be16(start, 1038) === 3 && be16(start, 1044) < 0x1000 && be16(start, 1046) % 512 === 0,
  },
  { name: "an ISO 9660 file system", at: 32_769, bytes: text("CD001") },
  { name: "a UDF file system", at: 32_769, bytes: text("BEA01") },
  // The size of zones is that of blocks; its state.
  ...each("a minix file system", [1040], "7f13", "8f13", "6824", "7824").map((one) => ({
    ...one,
    bornOutBy: (start: Buffer) => le16(start, 1034) === 0 && le16(start, 1042) <= 3,
  })),
];

const tablesAndImages: readonly Signature[] = [
  ...foreignImages("a qcow2 image", "qcow2", [0], "514649fb"),
  ...foreignImages("a QED image", "qed", [0], text("QED\0")),
  ...foreignImages("a VMDK image", "vmdk", [0], text("KDMV"), text("COWD"), text("# Disk DescriptorFile")),
  ...foreignImages("a VDI image", "vdi", [64], "7f10dabe"),
  ...foreignImages("a VHDX image", "vhdx", [0], text("vhdxfile")),
  ...foreignImages("a VHD image", "vpc", [0, -512], text("conectix")),
  ...foreignImages("a Parallels image", "parallels", [0], text("WithoutFreeSpace"), text("WithouFreSpacExt")),
  ...foreignImages("a Bochs image", "bochs", [0], text("Bochs Virtual HD Image")),
  ...foreignImages("a disk image of macOS", "dmg", [-512], text("koly")),
  ...each("a GPT partition table", [512, 4096, -512, -4096], text("EFI PART")),
  {
    name: "an Apple partition map",
    at: 0,
    bytes: text("ER"),
    // The size of blocks, and the map itself in the second of them.
    bornOutBy: (start) => {
      const block = be16(start, 2);
      return [512, 1024, 2048, 4096].includes(block) && start.toString("latin1", block, block + 2) === "PM";
    },
  },
  ...each("a BSD disk label", [64, 512], "57455682"),
  { name: "an SGI disk label", at: 0, bytes: "0be5a941" },
  {
    name: "a Sun disk label",
    at: 508,
    bytes: "dabe",
    // Its checksum, and one head at least.
    bornOutBy: (start) => xorOf(start, 512) === 0 && be16(start, 436) > 0,
  },
  {
    name: "an MBR partition table or boot sector",
    at: 510,
    bytes: "55aa",
    // Each of the four partitions is active or not.
    bornOutBy: (start) => [446, 462, 478, 494].every((at) => [0, 0x80].includes(getU8(start, at))),
  },
];

export const signatures: readonly Signature[] = [
  ...own,
  ...volumes,
  ...fileSystems,
  ...tablesAndImages,
  ...packed.map((one): Signature => ({ ...one, kind: "packed" })),
];

/** The bytes of a device that are looked at, wherever it is larger. */
export interface Ends {
  /** Bytes of the device. */
  readonly size: number;
  /** From byte 0, at most {@link START}. */
  readonly start: Buffer;
  /** To the last byte, at most {@link END}. */
  readonly end: Buffer;
}

export interface FoundSignature {
  readonly name: string;
  readonly kind: Signature["kind"];
  /** An image of another program, as qemu calls its format. */
  readonly qemu: string | undefined;
  /** Bytes from the start of the device. */
  readonly offset: number;
  readonly length: number;
  /** Four bytes or more, or borne out by what is around: not chance. */
  readonly certain: boolean;
  /** See {@link Signature}. */
  readonly needsHeader: boolean;
}

/** All signatures that match, the most telling one first. */
export function* findSignatures(ends: Ends): Iterable<FoundSignature> {
  for (const { name, at, bytes, kind, qemu, bornOutBy, needsHeader = false } of signatures) {
    const wanted = Buffer.from(bytes, "hex");
    for (const offset of placesOf(at, ends.size)) {
      if (bytesAt(ends, offset, wanted.length)?.equals(wanted) !== true) continue;
      const certain = wanted.length >= 4 || bornOutBy?.(ends.start) === true;
      yield { name, kind, qemu, offset, length: wanted.length, certain, needsHeader };
    }
  }
  const offset = ends.size - 512;
  const last = bytesAt(ends, offset, 512);
  if (last !== undefined && isHistoricalCache(last, ends.size)) {
    const name = "an assoc-cache, historical metadata";
    yield { name, kind: "cache", qemu: undefined, offset, length: 24, certain: true, needsHeader: false };
  }
}

function foreignImages(
  name: string,
  qemu: string,
  places: readonly number[],
  ...bytes: readonly string[]
): Signature[] {
  return each(name, places, ...bytes).map((one) => ({ ...one, qemu }));
}

/** Where a signature may stand on a device of `size` bytes. */
export function placesOf(at: Signature["at"], size: number): Iterable<number> {
  if (typeof at === "function") return at(size);
  return [at < 0 ? size + at : at];
}

/** Undefined where that is not in one of the two ends. */
export function bytesAt({ size, start, end }: Ends, offset: number, length: number): Buffer | undefined {
  if (offset >= 0 && offset + length <= start.length) return start.subarray(offset, offset + length);
  const within = offset - (size - end.length);
  return within >= 0 && within + length <= end.length ? end.subarray(within, within + length) : undefined;
}

/**
 * Historical metadata of an assoc-cache has no magic: the last sector begins with frames (u64), sectors of a block,
 * ways and policy (u32 each), which must fit each other and the device.
 */
function isHistoricalCache(sector: Buffer, size: number): boolean {
  const [frames, block, ways, policy] = [
    tryU64(sector, 0),
    getU32(sector, 8),
    getU32(sector, 12),
    getU32(sector, 16),
  ];
  const powersOfTwo = [frames, block, ways].every((value) => value > 0 && Number.isInteger(Math.log2(value)));
  return powersOfTwo && ways <= frames && policy <= 1 && frames * block * 512 < size;
}

// Numbers in the first bytes of a device: not a number, which nothing is equal to, where it is too short.
const number = (start: Buffer, at: number, bytes: number): Buffer | undefined =>
  at + bytes <= start.length ? start.subarray(at, at + bytes) : undefined;
const le16 = (start: Buffer, at: number): number => number(start, at, 2)?.readUInt16LE() ?? Number.NaN;
const be16 = (start: Buffer, at: number): number => number(start, at, 2)?.readUInt16BE() ?? Number.NaN;
const le32 = (start: Buffer, at: number): number => number(start, at, 4)?.readUInt32LE() ?? Number.NaN;

/** Of the 16-bit numbers in the first `bytes` bytes. */
function xorOf(start: Buffer, bytes: number): number {
  let xor = 0;
  for (let at = 0; at < bytes; at += 2) xor ^= be16(start, at);
  return xor;
}

function powers(from: number, to: number): number[] {
  const all: number[] = [];
  for (let value = from; value <= to; value *= 2) all.push(value);
  return all;
}

function swapPlaces(): number[] {
  return powers(4096, 65_536).map((page) => page - 10);
}

/** The identity of a layer lies at sector 192 + 64·k; on a device that was made for it, in the last 4 KiB. */
function* cowPlaces(size: number): Iterable<number> {
  for (let offset = 192 * 512; offset < START; offset += 64 * 512) yield offset;
  yield size - 4096;
}

/** Uberblocks: 128 places of 1 KiB in the second half of each of four labels of 256 KiB, two at each end. */
function* zfsPlaces(size: number): Iterable<number> {
  const label = 256 * 1024;
  const end = down(size, label);
  for (const start of [0, label, end - 2 * label, end - label]) {
    for (let slot = 0; slot < 128; slot += 1) yield start + label / 2 + slot * 1024;
  }
}
