/**
 * The backing device: block 0 marks it, so that pages of an earlier disk are not taken for somebody's data. The others
 * hold pages as they are, in an order that only RAM knows.
 *
 *      block 0   0   8   magic   "dmkitZB1"
 *                8       zero
 */
const MAGIC = Buffer.from("dmkitZB1");

/** 4096 bytes. */
export function encodeBackingMark(): Buffer {
  const block = Buffer.alloc(4096);
  MAGIC.copy(block);
  return block;
}

export function isBackingMark(block: Buffer): boolean {
  return block.subarray(0, MAGIC.length).equals(MAGIC);
}
