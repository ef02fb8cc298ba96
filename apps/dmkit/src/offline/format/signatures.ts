/**
 * Bytes by which common contents of disks are known, all within the first 68 KiB. Each line of the table is what,
 * where, and which bytes must stand there; numbers wider than a byte are little-endian on those formats.
 */

export interface Signature {
  readonly name: string;
  /** Bytes from the start of the device. */
  readonly at: number;
  /** Hexadecimal. */
  readonly bytes: string;
}

const text = (value: string): string => Buffer.from(value, "latin1").toString("hex");

/** The more telling ones first: a disk with GPT also has the mark of an MBR. */
export const signatures: readonly Signature[] = [
  { name: "a LUKS volume", at: 0, bytes: `${text("LUKS")}babe` },
  { name: "an ext2, ext3 or ext4 file system", at: 1080, bytes: "53ef" },
  { name: "an XFS file system", at: 0, bytes: text("XFSB") },
  { name: "a btrfs file system", at: 65_600, bytes: text("_BHRfS_M") },
  { name: "an F2FS file system", at: 1024, bytes: "1020f5f2" },
  { name: "an LVM physical volume", at: 0, bytes: text("LABELONE") },
  { name: "an LVM physical volume", at: 512, bytes: text("LABELONE") },
  { name: "an LVM physical volume", at: 1024, bytes: text("LABELONE") },
  { name: "an LVM physical volume", at: 1536, bytes: text("LABELONE") },
  { name: "a part of a Linux RAID", at: 4096, bytes: "fc4e2ba9" },
  { name: "a part of a Linux RAID", at: 0, bytes: "fc4e2ba9" },
  { name: "a bcache device", at: 4120, bytes: "c68573f64e1a45ca8265f57f48ba6d81" },
  { name: "a qcow2 image", at: 0, bytes: "514649fb" },
  { name: "a VMDK image", at: 0, bytes: text("KDMV") },
  { name: "a VHDX image", at: 0, bytes: text("vhdxfile") },
  { name: "a VDI image", at: 64, bytes: "7f10dabe" },
  { name: "swap space", at: 4086, bytes: text("SWAPSPACE2") },
  { name: "swap space", at: 16_374, bytes: text("SWAPSPACE2") },
  { name: "swap space", at: 65_526, bytes: text("SWAPSPACE2") },
  { name: "an NTFS file system", at: 3, bytes: text("NTFS    ") },
  { name: "an exFAT file system", at: 3, bytes: text("EXFAT   ") },
  { name: "a FAT file system", at: 54, bytes: text("FAT1") },
  { name: "a FAT file system", at: 82, bytes: text("FAT32") },
  { name: "a squashfs file system", at: 0, bytes: text("hsqs") },
  { name: "an ISO 9660 file system", at: 32_769, bytes: text("CD001") },
  { name: "a GPT partition table", at: 512, bytes: text("EFI PART") },
  { name: "a GPT partition table", at: 4096, bytes: text("EFI PART") },
  { name: "an MBR partition table or boot sector", at: 510, bytes: "55aa" },
];

/** Bytes from the start that hold every signature. */
export const SIGNATURE_AREA: number = 68 * 1024;

/** What the start of a device says; undefined if nothing is known. */
export function findSignature(start: Buffer): string | undefined {
  return signatures.find(({ at, bytes }) => {
    const wanted = Buffer.from(bytes, "hex");
    return start.length >= at + wanted.length && start.subarray(at, at + wanted.length).equals(wanted);
  })?.name;
}
