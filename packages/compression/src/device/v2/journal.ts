/**
 * The journal: two slots, written in turn. Record n goes to slot n mod 2, over record n - 2; by then everything
 * record n - 2 describes is in place and stable, because the flush that made record n - 1 stable came after it.
 * So whatever is not known to be in place is in a slot, and replaying both in order always ends in the newest
 * state, however often it is done.
 */
import { type CompressionRules, compressionRules } from "../../core/rules.ts";
import type { BlockDevice } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry-v1.ts";
import { type DecodedRecord, announcedLength, decodeRecord } from "../../format/journal-v2.ts";
import { withoutLoss } from "../no-space.ts";
import type { SuperblockV2 } from "../../format/superblock-v2.ts";

// Most records end within it.
const FIRST_READ = 64 * 1024;

export class Journal {
  readonly #lower: BlockDevice;
  readonly #superblock: SuperblockV2;
  readonly #rules: CompressionRules;

  constructor(lower: BlockDevice, superblock: SuperblockV2, rules: CompressionRules = compressionRules) {
    this.#lower = lower;
    this.#rules = rules;
    this.#superblock = superblock;
  }

  /** Bytes of the largest record. */
  get slotBytes(): number {
    return (this.#superblock.layout.journalBlocks / 2) * BLOCK;
  }

  /**
   * Writes a record and makes it stable, together with everything written before. A record that finds no space fails
   * without a loss, and can be written again: under the same number, or another one in its place.
   */
  async commit(number: number, record: Buffer): Promise<void> {
    try {
      for (const step of this.#rules.commit) {
        if (step === "record") await this.#write(number, record);
        else await this.#lower.flush();
      }
    } catch (error) {
      if (this.#rules.fails("journal")) throw error;
    }
  }

  async #write(number: number, record: Buffer): Promise<void> {
    try {
      await this.#lower.write(this.#placeOf(number), record);
    } catch (error) {
      throw withoutLoss(error);
    }
  }

  /** The records that are valid and not known to be in place, in order. */
  async pending(): Promise<readonly DecodedRecord[]> {
    const records: DecodedRecord[] = [];
    for (const slot of [0, 1]) {
      const record = await this.#readSlot(slot);
      if (record !== undefined && record.number > this.#superblock.applied) records.push(record);
    }
    return this.#rules.replayed(records.sort((a, b) => a.number - b.number));
  }

  async #readSlot(slot: number): Promise<DecodedRecord | undefined> {
    const { uuid } = this.#superblock;
    const place = this.#placeOf(slot);
    let bytes = Buffer.alloc(Math.min(this.slotBytes, FIRST_READ));
    await this.#lower.read(place, bytes);
    const length = announcedLength(bytes, uuid, this.slotBytes);
    if (length === undefined) return undefined;
    if (length > bytes.length) {
      const rest = Buffer.alloc(Math.ceil(length / BLOCK) * BLOCK - bytes.length);
      await this.#lower.read(place + bytes.length, rest);
      bytes = Buffer.concat([bytes, rest]);
    }
    const record = decodeRecord(bytes.subarray(0, length), uuid);
    return record !== undefined && record.number % 2 === slot ? record : undefined;
  }

  #placeOf(number: number): number {
    return this.#superblock.layout.journalStart * BLOCK + this.#rules.slotOf(number) * this.slotBytes;
  }
}
