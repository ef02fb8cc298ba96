/**
 * The container of the lzop program, as far as the tests need it. All integers big-endian.
 *
 * | part | bytes |
 * |---|---|
 * | magic | 89 4c 5a 4f 00 0d 0a 1a 0a |
 * | header | version u16, library version u16, version needed u16, method u8, level u8, flags u32, mode u32, time u32, time (high) u32, length of name u8, name, Adler-32 of the header u32 |
 * | block, repeated | length u32, stored length u32, checksums as the flags say, stored bytes |
 * | end | 0 u32 |
 *
 * flags: bit 0 Adler-32 of the content, bit 1 of the stored bytes, bits 8 and 9 the same as CRC-32. Stored bytes
 * that are not shorter than the content are the content itself, and their own checksum is left out.
 */

const MAGIC = Buffer.from("894c5a4f000d0a1a0a", "hex");
const ADLER_CONTENT = 0x0001;
const ADLER_STORED = 0x0002;
const CRC_CONTENT = 0x0100;
const CRC_STORED = 0x0200;

export interface LzopBlock {
  /** Length of the content. */
  readonly length: number;
  readonly stored: Buffer;
}

/** One compressed block; it must be shorter than its content, and the content at most 256 KiB. */
export function writeLzop(content: Uint8Array, compressed: Uint8Array): Buffer {
  const header = Buffer.alloc(25);
  header.writeUInt16BE(0x1040, 0);
  header.writeUInt16BE(0x20a0, 2);
  header.writeUInt16BE(0x0940, 4);
  header[6] = 1; // LZO1X-1
  header[7] = 5;
  header.writeUInt32BE(ADLER_CONTENT, 8);
  header.writeUInt32BE(0o100644, 12);
  const blocks = [MAGIC, header, u32(adler32(header)), u32(content.length), u32(compressed.length)];
  return Buffer.concat([...blocks, u32(adler32(content)), compressed, u32(0)]);
}

export function readLzop(file: Buffer): LzopBlock[] {
  const flags = file.readUInt32BE(MAGIC.length + 8);
  const nameLength = file.readUInt8(MAGIC.length + 24);
  let at = MAGIC.length + 25 + nameLength + 4;
  const blocks: LzopBlock[] = [];
  for (;;) {
    const length = file.readUInt32BE(at);
    if (length === 0) return blocks;
    const storedLength = file.readUInt32BE(at + 4);
    at += 8;
    const content = [ADLER_CONTENT, CRC_CONTENT].filter((flag) => (flags & flag) !== 0).length;
    const stored = [ADLER_STORED, CRC_STORED].filter((flag) => (flags & flag) !== 0).length;
    at += 4 * (content + (storedLength < length ? stored : 0));
    blocks.push({ length, stored: file.subarray(at, at + storedLength) });
    at += storedLength;
  }
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

function adler32(bytes: Uint8Array): number {
  let a = 1;
  let b = 0;
  for (const byte of bytes) {
    a = (a + byte) % 65521;
    b = (b + a) % 65521;
  }
  return ((b << 16) | a) >>> 0;
}
