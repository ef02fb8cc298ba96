/**
 * The journal: two slots, written in turn. Record n goes to slot n mod 2, over record n - 2; by then everything
 * record n - 2 describes is in place and stable, because the flush that made record n - 1 stable came after it.
 * So whatever is not known to be in place is in a slot, and replaying both in order always ends in the newest
 * state, however often it is done.
 */
import { type CompressionRules, compressionRules } from "../../core/rules.ts";
import { type BlockDevice, readGiven, refuse } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry-v1.ts";
import { type DecodedRecord, announcedLength, decodeRecord } from "../../format/journal-v2.ts";
import { withoutLoss } from "../no-space.ts";
import type { SuperblockV2 } from "../../format/superblock-v2.ts";

/** What to do about a slot that cannot be read: a hint. */
export const LOST_SLOT =
  "After an orderly close nothing is missing: write zeroes over these bytes, and open the device again. After a crash, that gives up what was flushed last: copy the device first, and check it (fsck) afterwards.";

// Most records end within it.
const FIRST_READ = 64 * 1024;

export class Journal {
  readonly #lower: BlockDevice;
  readonly #superblock: SuperblockV2;
  readonly #rules: CompressionRules;
  readonly #past: boolean;
  /** Slots that the device did not give, and that may hold a record which is not in place. */
  unreadable: readonly number[] = [];

  /** @param past go on where there is such a slot, as if it were empty: for the offline tools, which name it. */
  constructor(
    lower: BlockDevice,
    superblock: SuperblockV2,
    rules: CompressionRules = compressionRules,
    past = false,
  ) {
    this.#lower = lower;
    this.#rules = rules;
    this.#superblock = superblock;
    this.#past = past;
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

  /**
   * The records that are valid and not known to be in place, in order. Throws `EIO` where a slot cannot be read that may
   * hold one: the superblock says what is in place, and not whether anything came after that.
   */
  async pending(): Promise<readonly DecodedRecord[]> {
    const records = await this.records();
    return records.filter(({ number }) => number > this.#superblock.applied);
  }

  /** All records that are valid, in order: the last two, unless the last one was torn. Throws as {@link pending} does. */
  async records(): Promise<readonly DecodedRecord[]> {
    const found = [await this.#readSlot(0), await this.#readSlot(1)];
    this.unreadable = [0, 1].filter(
      (slot) => found[slot] === "unreadable" && this.#mayHide(slot, found[1 - slot]),
    );
    const [slot] = this.unreadable;
    if (slot !== undefined && !this.#past) {
      const reason = `slot ${slot} of the journal, ${this.slotBytes} bytes from ${this.#placeOf(slot)} on, cannot be read, and may hold what was written last`;
      throw refuse(this.#lower.name, "EIO", reason, LOST_SLOT);
    }
    const records = found.filter((one) => typeof one === "object");
    return this.#rules.replayed(records.sort((a, b) => a.number - b.number));
  }

  /** Nothing comes after the last record that is in place if the slot of the next one still has what was before. */
  #mayHide(slot: number, other: DecodedRecord | "unreadable" | undefined): boolean {
    const { applied } = this.#superblock;
    return !(applied % 2 === slot && typeof other === "object" && other.number < applied);
  }

  async #readSlot(slot: number): Promise<DecodedRecord | "unreadable" | undefined> {
    const { uuid } = this.#superblock;
    const place = this.#placeOf(slot);
    const lower = this.#lower;
    // What lies behind a short record does not matter.
    let bytes =
      (await readGiven(lower, place, Math.min(this.slotBytes, FIRST_READ))) ??
      (await readGiven(lower, place, BLOCK));
    if (bytes === undefined) return "unreadable";
    const length = announcedLength(bytes, uuid, this.slotBytes);
    if (length === undefined) return undefined;
    if (length > bytes.length) {
      const start = bytes.length;
      const rest = await readGiven(lower, place + start, Math.ceil(length / BLOCK) * BLOCK - start);
      if (rest === undefined) return "unreadable";
      bytes = Buffer.concat([bytes, rest]);
    }
    const record = decodeRecord(bytes.subarray(0, length), uuid);
    return record !== undefined && record.number % 2 === slot ? record : undefined;
  }

  #placeOf(number: number): number {
    return this.#superblock.layout.journalStart * BLOCK + this.#rules.slotOf(number) * this.slotBytes;
  }
}
