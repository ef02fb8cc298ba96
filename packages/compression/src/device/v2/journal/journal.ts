/**
 * The journal: two slots, written in turn. Record n goes to slot n mod 2, over record n - 2; by then everything
 * record n - 2 describes is in place and stable, because the flush that made record n - 1 stable came after it.
 * So whatever is not known to be in place is in a slot, and replaying both in order always ends in the newest
 * state, however often it is done.
 */
import type { CompressionRules } from "../../../core/rules.ts";
import { type BlockDevice, SECTOR, isOfPlace, readWhatIsGiven, refuse } from "@dmkit/block-io";
import type { StoredExtent } from "../../../core/extent-map.ts";
import { BLOCK } from "../../../format/geometry-v1.ts";
import {
  type Change,
  type DecodedRecord,
  announcedLength,
  announcedNumber,
  changeKinds,
  decodeRecord,
  headerLength,
} from "../../../format/journal-v2.ts";
import { type Copy, PayloadPlaces } from "./payload-places.ts";
import { withoutLoss } from "../../no-space.ts";
import type { StoreParts } from "../store.ts";
import { isGivenAtAll, openSuperblock } from "../superblocks.ts";

/** What to do about a slot that cannot be read: a hint. */
export const LOST_SLOT =
  "Try again: a sector may come back. Writing zeroes over these bytes gives up what was flushed last before the crash: copy the device first, and check it (fsck) afterwards.";

// Most records end within it.
const FIRST_READ = 64 * 1024;

/** What a slot holds. */
interface Slot {
  /** Whatever may be there is not given. */
  readonly isLost: boolean;
  /** The number in its first sector: of a record that is there, or of one that was overwritten in part. */
  readonly number: number;
  readonly record: DecodedRecord | undefined;
}

export class Journal {
  readonly #parts: StoreParts;
  readonly #past: boolean;
  #isMarked: boolean;
  readonly #payloads: PayloadPlaces;
  /** Slots that the device did not give, and that hold no record which is not in place. */
  #unread: readonly number[] = [];
  /** Slots that the device did not give, and that may hold a record which is not in place. */
  unreadable: readonly number[] = [];

  /** @param past go on where there is such a slot, as if it were empty: for the offline tools, which name it. */
  constructor(parts: StoreParts, past = false) {
    this.#parts = parts;
    this.#past = past;
    this.#isMarked = !parts.superblock.closed;
    this.#payloads = new PayloadPlaces(parts.lower);
  }

  get #lower(): BlockDevice {
    return this.#parts.lower;
  }

  get #rules(): CompressionRules {
    return this.#parts.rules;
  }

  /** Bytes of the largest record. */
  get slotBytes(): number {
    return (this.#parts.superblock.layout.journalBlocks / 2) * BLOCK;
  }

  /**
   * Writes a record and makes it stable, together with everything written before. A record that finds no space fails
   * without a loss, and can be written again: under the same number, or another one in its place. With the first one
   * the superblock says that the device is in use.
   * @param changes those of the record.
   */
  async commit(number: number, record: Buffer, changes: readonly Change[]): Promise<void> {
    this.#payloads.forget(this.#rules.slotOf(number));
    try {
      for (const step of this.#rules.commit) {
        if (step === "record") await this.#write(number, record);
        else await this.#lower.flush();
      }
      this.#note(number, changes);
    } catch (error) {
      if (this.#rules.fails("journal")) throw error;
    }
  }

  /** Whatever the last two records have of an extent that has a payload, to be read and compared with its checksum. */
  copiesOf(extent: StoredExtent): readonly Copy[] {
    return this.#payloads.copiesOf(extent);
  }

  #note(number: number, changes: readonly Change[]): void {
    const sectors = changes.reduce(
      (sum, { kind, sectors: own }) => sum + (kind === changeKinds.payload ? own : 0),
      0,
    );
    const start = this.#placeOf(number) + headerLength(changes.length, sectors);
    this.#payloads.note(this.#rules.slotOf(number), start, changes);
  }

  async #write(number: number, record: Buffer): Promise<void> {
    try {
      for (const slot of this.#unread) if (slot !== this.#rules.slotOf(number)) await this.#empty(slot);
      this.#unread = [];
      if (!this.#isMarked) await openSuperblock(this.#parts);
      this.#isMarked = true;
      await this.#lower.write(this.#placeOf(number), record);
    } catch (error) {
      throw withoutLoss(error);
    }
  }

  /**
   * The records that are valid and not known to be in place, in order. Throws `EIO` where a slot cannot be read that may
   * hold one.
   */
  async pending(): Promise<readonly DecodedRecord[]> {
    const records = await this.records();
    return records.filter(({ number }) => number > this.#parts.superblock.applied);
  }

  /** All records that are valid, in order: the last two, unless the last one was torn. Throws as {@link pending} does. */
  async records(): Promise<readonly DecodedRecord[]> {
    const slots = [await this.#readSlot(0), await this.#readSlot(1)] as const;
    const lost = [0, 1].filter((slot) => slots[slot]?.isLost);
    const isClosed = this.#isClosed(slots);
    this.unreadable = lost.filter((slot) => !isClosed && this.#mayHide(slot, slots[1 - slot] as Slot));
    const [slot] = this.unreadable;
    if (slot !== undefined && !this.#past) {
      const reason = `slot ${slot} of the journal, ${this.slotBytes} bytes from ${this.#placeOf(slot)} on, cannot be read, and may hold what was written last`;
      throw refuse(this.#lower.name, "EIO", reason, LOST_SLOT);
    }
    this.#unread = isClosed && !this.#past ? lost : [];
    const found = slots.flatMap(({ record }) => record ?? []);
    const records = this.#rules.replayed(found.sort((a, b) => a.number - b.number));
    for (const { number, changes } of records) this.#note(number, changes);
    return records;
  }

  /** Whether nothing was committed since a close. A program that does not know the mark leaves it; its records tell. */
  #isClosed(slots: readonly Slot[]): boolean {
    const { closed, applied } = this.#parts.superblock;
    return closed && slots.every(({ number }) => !(number > applied));
  }

  /** Nothing comes after the last record that is in place if the slot of the next one still has what was before. */
  #mayHide(slot: number, other: Slot): boolean {
    const { applied } = this.#parts.superblock;
    return !(applied % 2 === slot && other.number < applied);
  }

  /**
   * A slot that holds nothing is written again, beside the first record: so it can be read from then on, or the next record has
   * no place. Not before: it may come back, and payloads of what is in place have their second copies there. And not where the
   * device gives nothing: then it is no matter of the place.
   */
  async #empty(slot: number): Promise<void> {
    const { logger } = this.#parts;
    if (!(await isGivenAtAll(this.#lower))) return;
    const place = { slot, offset: this.#placeOf(slot), bytes: this.slotBytes };
    const block = Buffer.alloc(this.#lower.limits.logicalBlockSize);
    await this.#lower.write(place.offset, block).then(
      () =>
        logger.log(
          "warn",
          "a slot of the journal could not be read, had nothing, and is written anew",
          place,
        ),
      (error: unknown) => {
        if (!isOfPlace(error)) throw error;
        logger.log(
          "error",
          "a slot of the journal can be neither read nor written: there is nothing in it, and writes will fail",
          place,
        );
      },
    );
  }

  async #readSlot(slot: number): Promise<Slot> {
    const { uuid, applied } = this.#parts.superblock;
    const start = Buffer.alloc(Math.min(this.slotBytes, FIRST_READ));
    const missing = await readWhatIsGiven(this.#lower, this.#placeOf(slot), start);
    const number = missing.has(0) ? Number.NaN : (announcedNumber(start, uuid) ?? Number.NaN);
    // A record begins with its first sector: what lies behind that of an older one does not matter.
    const none = { isLost: missing.has(0), number, record: undefined };
    const length = announcedLength(start, uuid, this.slotBytes);
    if (none.isLost || length === undefined) return none;
    let bytes = start.subarray(0, length);
    if (length > start.length) {
      const rest = Buffer.alloc(Math.ceil(length / BLOCK) * BLOCK - start.length);
      const behind = await readWhatIsGiven(this.#lower, this.#placeOf(slot) + start.length, rest);
      for (const sector of behind) missing.add(sector + start.length / SECTOR);
      bytes = Buffer.concat([start, rest]).subarray(0, length);
    }
    if ([...missing].some((sector) => sector * SECTOR < length)) return { ...none, isLost: number > applied };
    const record = decodeRecord(bytes, uuid);
    return { ...none, record: record !== undefined && record.number % 2 === slot ? record : undefined };
  }

  #placeOf(number: number): number {
    const { journalStart } = this.#parts.superblock.layout;
    return journalStart * BLOCK + this.#rules.slotOf(number) * this.slotBytes;
  }
}
