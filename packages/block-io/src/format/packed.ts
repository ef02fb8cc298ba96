/** Bytes by which archives and compressed files are known; see signatures.ts, which has all others. */
import { getU8 } from "../bytes/bytes.ts";

/** A part of `Signature`. */
export interface PackedSignature {
  readonly name: string;
  readonly at: number;
  /** Hexadecimal. */
  readonly bytes: string;
  /** For fewer than four bytes: whether what stands behind them is as it must be. */
  readonly bornOutBy?: (start: Buffer) => boolean;
}

const text = (value: string): string => Buffer.from(value, "latin1").toString("hex");

/** Files that something is packed in: no disk, although they may be of whole sectors. */
export const packed: readonly PackedSignature[] = [
  { name: "a tar archive", at: 257, bytes: text("ustar") },
  { name: "a zip archive", at: 0, bytes: "504b0304" },
  { name: "a 7z archive", at: 0, bytes: "377abcaf271c" },
  { name: "a rar archive", at: 0, bytes: `${text("Rar!")}1a07` },
  { name: "a cpio archive", at: 0, bytes: text("070701") },
  { name: "a cpio archive", at: 0, bytes: text("070702") },
  { name: "a cpio archive", at: 0, bytes: text("070707") },
  {
    name: "a gzip file",
    at: 0,
    bytes: "1f8b08",
    // Only five of its flags are in use; how well it was compressed.
    bornOutBy: (start) => getU8(start, 3) < 32 && [0, 2, 4].includes(getU8(start, 8)),
  },
  {
    name: "a bzip2 file",
    at: 0,
    bytes: text("BZh"),
    // The level, and the number that a block begins with.
    bornOutBy: (start) =>
      /^[1-9]314159265359$/.test(`${start.toString("latin1", 3, 4)}${start.toString("hex", 4, 10)}`),
  },
  { name: "an xz file", at: 0, bytes: "fd377a585a00" },
  { name: "a zstd file", at: 0, bytes: "28b52ffd" },
  { name: "an lz4 file", at: 0, bytes: "04224d18" },
  { name: "an lzop file", at: 0, bytes: "894c5a4f000d0a1a0a" },
];
