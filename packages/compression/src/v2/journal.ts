/**
 * The journal: two slots, written in turn. Record n goes to slot n mod 2, over record n - 2; by then everything
 * record n - 2 describes is in place and stable, because the flush that made record n - 1 stable came after it.
 * So whatever is not known to be in place is in a slot, and replaying both in order always ends in the newest
 * state, however often it is done.
 */
import { type BlockDevice, SECTOR, crc32c } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry-v1.ts";
import { type Header, announcedLength, decodeHeader } from "../format/journal-v2.ts";
import type { SuperblockV2 } from "../format/superblock-v2.ts";

export interface JournalRecord extends Header {
  /** Payloads, in the order of the changes that have one. */
  readonly payloads: Buffer;
}

export class Journal {
  readonly #lower: BlockDevice;
  readonly #superblock: SuperblockV2;

  constructor(lower: BlockDevice, superblock: SuperblockV2) {
    this.#lower = lower;
    this.#superblock = superblock;
  }

  /** Bytes of the largest record. */
  get slotBytes(): number {
    return (this.#superblock.layout.journalBlocks / 2) * BLOCK;
  }

  /** Writes a record and makes it stable, together with everything written before. */
  async commit(number: number, record: Buffer): Promise<void> {
    await this.#lower.write(this.#placeOf(number), record);
    await this.#lower.flush();
  }

  /** The records that are valid and not known to be in place, in order. */
  async pending(): Promise<JournalRecord[]> {
    const records: JournalRecord[] = [];
    for (const slot of [0, 1]) {
      const record = await this.#readSlot(slot);
      if (record !== undefined && record.number > this.#superblock.applied) records.push(record);
    }
    return records.sort((a, b) => a.number - b.number);
  }

  async #readSlot(slot: number): Promise<JournalRecord | undefined> {
    const { uuid } = this.#superblock;
    const place = this.#placeOf(slot);
    const first = Buffer.alloc(BLOCK);
    await this.#lower.read(place, first);
    const length = announcedLength(first, this.slotBytes);
    if (length === undefined) return undefined;
    const start = Buffer.alloc(roundUp(length));
    await this.#lower.read(place, start);
    const header = decodeHeader(start.subarray(0, length), uuid);
    if (header === undefined || header.number % 2 !== slot) return undefined;
    if (header.payloadSectors > (this.slotBytes - length) / SECTOR) return undefined;
    const whole = Buffer.alloc(roundUp(length + header.payloadSectors * SECTOR));
    await this.#lower.read(place, whole);
    const payloads = whole.subarray(length, length + header.payloadSectors * SECTOR);
    return this.isWhole(header, payloads) ? { ...header, payloads } : undefined;
  }

  /** Whether the payloads are those that the header was written with. */
  private isWhole(header: Header, payloads: Buffer): boolean {
    return crc32c(payloads) === header.payloadSum;
  }

  #placeOf(number: number): number {
    return this.#superblock.layout.journalStart * BLOCK + (number % 2) * this.slotBytes;
  }
}

function roundUp(bytes: number): number {
  return Math.ceil(bytes / BLOCK) * BLOCK;
}
