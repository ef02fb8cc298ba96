/**
 * Where in the journal the payloads of its last two records are. Only places are kept: what is there is read when it is asked
 * for, and may be another record by then, which its checksum tells.
 */
import { type BlockDevice, readGiven } from "@dmkit/block-io";
import type { StoredExtent } from "../../../core/extent-map.ts";
import { isRaw } from "../../../core/plan.ts";
import { BLOCK, payloadBytes } from "../../../format/geometry-v1.ts";
import { type Change, changeKinds } from "../../../format/journal-v2.ts";

/** Reads bytes that may be the payload of an extent; undefined where the device below does not give them. */
export type Copy = () => Promise<Buffer | undefined>;

interface Noted {
  /** Byte on the device below where the payloads of the record begin. */
  readonly start: number;
  readonly changes: readonly Change[];
}

export class PayloadPlaces {
  readonly #lower: BlockDevice;
  readonly #slots: Map<number, Noted> = new Map();

  constructor(lower: BlockDevice) {
    this.#lower = lower;
  }

  /** A record is written over what the slot had. */
  forget(slot: number): void {
    this.#slots.delete(slot);
  }

  /** @param start byte on the device below where the payloads of the record begin. */
  note(slot: number, start: number, changes: readonly Change[]): void {
    this.#slots.set(slot, { start, changes });
  }

  /** Of an extent that has a payload. One stored as it is may be part of such a payload: its neighbours were changed. */
  copiesOf(extent: StoredExtent): Copy[] {
    const { head, blocks, sectors } = extent;
    const copies: Copy[] = [];
    for (const { start, changes } of this.#slots.values()) {
      let at = start;
      for (const change of changes) {
        if (change.kind !== changeKinds.payload) continue;
        const place = at + (head - change.first) * BLOCK;
        at += payloadBytes(change.sectors);
        const isPart =
          isRaw(extent) &&
          isRaw(change) &&
          change.first <= head &&
          head + blocks <= change.first + change.blocks;
        if (isPart || (change.first === head && change.sectors === sectors))
          copies.push(() => this.#read(place, payloadBytes(sectors)));
      }
    }
    return copies;
  }

  async #read(place: number, length: number): Promise<Buffer | undefined> {
    const unit = this.#lower.limits.logicalBlockSize;
    const start = Math.floor(place / unit) * unit;
    const end = Math.ceil((place + length) / unit) * unit;
    // Numbers of a record that somebody else has written.
    if (end > this.#lower.size) return undefined;
    const bytes = await readGiven(this.#lower, start, end - start);
    return bytes?.subarray(place - start, place - start + length);
  }
}
