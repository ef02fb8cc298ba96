/** Signatures that are numbers in their formats' descriptions, worked out from these. */
import { expect, it } from "vitest";
import { signatures } from "../src/format/signatures.ts";
import { bigEndian, littleEndian } from "../src/testing/index.ts";

it.each([
  ["an ext2, ext3 or ext4 file system", 1024 + 0x38, littleEndian(0xef53n, 2)],
  ["an F2FS file system", 1024, littleEndian(0xf2f5_2010n, 4)],
  ["an EROFS file system", 1024, littleEndian(0xe0f5_e1e2n, 4)],
  ["a cramfs file system", 0, littleEndian(0x28cd_3d45n, 4)],
  ["a GFS2 file system", 65_536, bigEndian(0x0116_1970n, 4)],
  ["a NILFS2 file system", 1024 + 6, littleEndian(0x3434n, 2)],
  ["the log of an XFS file system", 0, bigEndian(0xfeed_baben, 4)],
  ["a part of a Linux RAID", 4096, littleEndian(0xa92b_4efcn, 4)],
  ["a btrfs file system", 65_536 + 64, littleEndian(0x4d5f_5366_5248_425fn)],
  ["a VDI image", 64, littleEndian(0xbeda_107fn, 4)],
  ["a qcow2 image", 0, bigEndian(0x5146_49fbn, 4)],
  ["a LUKS volume", 0, bigEndian(0x4c55_4b53_baben, 6)],
  ["dm-thin metadata", 32, littleEndian(27_022_010n)],
  // Octal in the description.
  ["dm-cache metadata", 32, littleEndian(0o6142003n)],
  ["dm-era metadata", 32, littleEndian(2_126_579_579n)],
  ["dm-clone metadata", 32, littleEndian(0x8af2_7f64n)],
  ["a BSD disk label", 512, littleEndian(0x8256_4557n, 4)],
  ["an SGI disk label", 0, bigEndian(0x0be5_a941n, 4)],
  ["a Sun disk label", 508, bigEndian(0xdaben, 2)],
  ["a writeboost cache", 0, littleEndian(0x5742_7374n, 4)],
  ["a compressed device, format 1", 0, littleEndian(0x1065_26c2_0650_6c09n)],
  ["a log of writes", 0, littleEndian(0x6a_7366_7773_6872n)],
  ["an MBR partition table or boot sector", 510, littleEndian(0xaa55n, 2)],
])("%s is known by its number", (name, at, bytes) => {
  const places = signatures.filter((signature) => signature.name === name && signature.at === at);
  expect(places.map((signature) => signature.bytes)).toEqual([bytes.toString("hex")]);
});

it("the numbers of which the place depends on the size", () => {
  const bytesOf = (wanted: string): string[] =>
    signatures
      .filter(({ name, at }) => name === wanted && typeof at === "function")
      .map(({ bytes }) => bytes);
  expect(bytesOf("a ZFS device")).toEqual(
    [littleEndian(0x00ba_b10cn), bigEndian(0x00ba_b10cn, 8)].map((one) => one.toString("hex")),
  );
  expect(bytesOf("the bitmap of a cow layer")[0]).toBe(littleEndian(0x00ba_be0e_aaba_be11n).toString("hex"));
  expect(bytesOf("a part of a Linux RAID")[2]).toBe(bigEndian(0xa92b_4efcn, 4).toString("hex"));
  expect(bytesOf("a DRBD device")).toEqual(
    [0x8374_026bn, 0x8374_026cn, 0x8374_026dn].map((one) => bigEndian(one, 4).toString("hex")),
  );
});
