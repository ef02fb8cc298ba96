/**
 * Where on a disk a mount, a check or a partitioning tool is sure to write: partition tables, superblocks of file
 * systems, and what lies in front of a file system inside of something else. Read by the witness only, which hashes
 * these places: a place too many costs a small read, and nothing here is believed for any other purpose.
 *
 *      MBR   sector 0    446  4 × 16 bytes: +4 type, +8 first sector u32, +12 sectors u32;  510  55 AA
 *      EBR   as an MBR, with two entries: a partition, relative to here; the next EBR, relative to the first one
 *      GPT   block 1     "EFI PART"; 72 u64 first block of the entries, 80 u32 number, 84 u32 size of one;
 *                        an entry: 32 u64 first block
 *
 * Most file systems have what they change within {@link HEAD} bytes of their start (ext2/3/4, xfs, btrfs, jfs,
 * reiserfs, hfs+, bcachefs, swap; metadata of LVM, MD and bcache). The others are looked into: FAT, exFAT, NTFS, f2fs, ZFS.
 */
import { getU16, getU32, getU8, tryU64 } from "../bytes/bytes.ts";

/** Bytes. */
export interface Place {
  readonly offset: number;
  readonly length: number;
}

/** Bytes of a file system, from its start, that are looked at in any case; btrfs has its superblock at 64 KiB. */
export const HEAD: number = 72 * 1024;

const SECTOR = 512;
const MIB = 1024 * 1024;
const EXTENDED: readonly number[] = [0x05, 0x0f, 0x85];

/** What a sector with a partition table says. */
export interface MbrEntry {
  /** Sectors, counted from where the entry says. */
  readonly start: number;
  readonly extended: boolean;
}

/** The entries of an MBR or EBR that are in use; none where it is neither. */
export function mbrEntries(sector: Buffer): MbrEntry[] {
  if (sector.length < SECTOR || getU16(sector, 510) !== 0xaa55) return [];
  return [446, 462, 478, 494]
    .filter((at) => getU8(sector, at + 4) !== 0 && getU32(sector, at + 12) !== 0)
    .map((at) => ({ start: getU32(sector, at + 8), extended: EXTENDED.includes(getU8(sector, at + 4)) }));
}

/** Bytes where the partitions of a GPT begin. @param head the start of the disk; entries behind it do not count. */
export function gptStarts(head: Buffer): number[] {
  const block = [512, 4096].find((size) => textAt(head, size, "EFI PART"));
  if (block === undefined || head.length < block + 92) return [];
  const table = tryU64(head, block + 72) * block;
  const size = getU32(head, block + 84);
  const count = Math.min(getU32(head, block + 80), 1024);
  const starts: number[] = [];
  if (size < 128) return starts;
  for (let at = table, index = 0; index < count && at + 128 <= head.length; at += size, index += 1) {
    const start = tryU64(head, at + 32) * block;
    if (start > 0) starts.push(start);
  }
  return starts;
}

/** What there is in a {@link HEAD}. All of it relative to its start, unchecked: it may lie anywhere. */
export interface Contents {
  /** More that changes. */
  readonly places: readonly Place[];
  /** Where something begins that wants to be looked at in the same way. */
  readonly inner: readonly number[];
}

const NOTHING: Contents = { places: [], inner: [] };

/** @param head the first bytes, {@link HEAD} of them where there are as many. */
export function contentsOf(head: Buffer): Contents {
  if (head.length < 8192) return NOTHING;
  return ntfs(head) ?? exfat(head) ?? fat(head) ?? f2fs(head) ?? zfs(head) ?? container(head) ?? NOTHING;
}

/** The master file table, whose first records are the root folder, the volume, and the log. */
function ntfs(head: Buffer): Contents | undefined {
  if (!textAt(head, 3, "NTFS    ")) return undefined;
  const sectors = getU8(head, 13);
  const cluster = getU16(head, 11) * (sectors > 128 ? 2 ** (256 - sectors) : sectors);
  return { places: [{ offset: tryU64(head, 48) * cluster, length: 64 * 1024 }], inner: [] };
}

/** The allocation table, and the root folder. */
function exfat(head: Buffer): Contents | undefined {
  if (!textAt(head, 3, "EXFAT   ")) return undefined;
  const sector = 2 ** getU8(head, 108);
  const cluster = sector * 2 ** getU8(head, 109);
  const root = getU32(head, 88) * sector + (getU32(head, 96) - 2) * cluster;
  return { places: [start(getU32(head, 80) * sector), start(root)], inner: [] };
}

/** The allocation table, and the root folder. */
function fat(head: Buffer): Contents | undefined {
  const wide = textAt(head, 82, "FAT32");
  if (!wide && !textAt(head, 54, "FAT1")) return undefined;
  const sector = getU16(head, 11);
  const table = getU16(head, 14) * sector;
  const end = table + getU8(head, 16) * (wide ? getU32(head, 36) : getU16(head, 22)) * sector;
  const root = wide ? end + (getU32(head, 44) - 2) * getU8(head, 13) * sector : end;
  return { places: [start(table), start(root)], inner: [] };
}

/** Both checkpoints. */
function f2fs(head: Buffer): Contents | undefined {
  if (getU32(head, 1024) !== 0xf2f5_2010) return undefined;
  const first = getU32(head, 1024 + 76) * 4096;
  const second = first + 2 ** Math.min(32, getU32(head, 1024 + 20)) * 4096;
  return {
    places: [
      { offset: first, length: 4096 },
      { offset: second, length: 4096 },
    ],
    inner: [],
  };
}

/** The ring of uberblocks of the first label. */
function zfs(head: Buffer): Contents | undefined {
  if (!head.includes("pool_guid", 16 * 1024, "latin1")) return undefined;
  return { places: [{ offset: 128 * 1024, length: 128 * 1024 }], inner: [] };
}

/** LUKS, LVM and MD: what is inside begins further on. */
function container(head: Buffer): Contents | undefined {
  if (textAt(head, 0, "LUKS\xba\xbe")) {
    if (head.readUInt16BE(6) === 1) return inside(head.readUInt32BE(104) * SECTOR);
    const offset = /"offset"\s*:\s*"(\d{1,15})"/.exec(head.toString("latin1", 4096, 20 * 1024))?.[1];
    return inside(offset === undefined ? 16 * MIB : Number(offset));
  }
  for (let sector = 0; sector < 4; sector += 1) {
    const at = sector * SECTOR;
    if (!textAt(head, at, "LABELONE") || !textAt(head, at + 24, "LVM2 001")) continue;
    const area = at + getU32(head, at + 20) + 40;
    return inside(area + 8 <= head.length ? tryU64(head, area) : MIB);
  }
  const md = [0, 4096].find((at) => getU32(head, at) === 0xa92b_4efc && getU32(head, at + 4) === 1);
  return md === undefined ? undefined : inside(tryU64(head, md + 128) * SECTOR);
}

function inside(offset: number): Contents {
  return { places: [], inner: [offset] };
}

function start(offset: number): Place {
  return { offset, length: 32 * 1024 };
}

function textAt(bytes: Buffer, at: number, text: string): boolean {
  return bytes.length >= at + text.length && bytes.toString("latin1", at, at + text.length) === text;
}
