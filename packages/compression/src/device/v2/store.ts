/**
 * What is on the device below, format 2: the map of extents with their checksums, and how an extent is read.
 *
 * Invariants:
 *
 * - a group is in `moving` while anything of it is overwritten in place; readers wait for `settled`. Where that ends
 *   for want of space, they go on with what is not overwritten;
 * - `versions[group]` counts up before that begins. A reader whose extent does not check, and whose group has
 *   another version by then, has looked at a write in progress and looks again; in a group that did not change,
 *   the extent is damaged;
 * - what is `held` is in the last record, and in every one that follows, each block an extent of its own. So whatever
 *   became of an extent whose place took it or not, in a replay or not, the next record says of all its blocks what
 *   they are. In the map, and so in the metadata, they are lost;
 * - of a group whose metadata is `stuck` every record that follows says what all of its blocks are.
 */
import { BlockIoError, type Health, type Logger, SECTOR, healthy } from "@dmkit/block-io";
import { type Flaw } from "../codec.ts";
import { type StoredExtent, ExtentMap } from "../../core/extent-map.ts";
import type { Counters } from "../counters.ts";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";
import { type Change, changeKinds } from "../../format/journal-v2.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { type PayloadParts, Payloads } from "./payloads.ts";
import { SealedGroups, type SealedRange } from "./sealed.ts";

const GIVE_UP =
  "Overwrite these blocks as a whole; or close the device and give up what is lost: dmkit fsck --repair --bad unreadable.";
const NO_ROOM =
  "Other metadata that cannot be read or written fills the journal. Close the device and give up what is lost: dmkit fsck --repair --bad unreadable.";
/** What helps where a place takes no write. */
export const COPY = "Copy the contents to a device that takes them: by dmkit recompress, say.";
const HEAL =
  "Check the device below. Before more is written, close the device and run dmkit fsck --repair: the journal may still have what was written last. Else restore it from a backup, or overwrite the blocks.";
/** Of a payload that the journal does not have either. */
const GONE =
  "Check the device below: the journal does not have them either. Restore them from a backup, or overwrite them as a whole.";
// Places of damage that are remembered.
const MOST_PLACES = 1024;

// What a record takes, at most: for itself, and for each block (its payload, a change, checksums).
const HEADER_ROOM = 2 * SECTOR;
export const BLOCK_ROOM: number = BLOCK + 56;
/** For a group whose metadata its place does not take: a change for each block. */
const GROUP_ROOM = GROUP * 20;

export interface StoreParts extends PayloadParts {
  readonly logger: Logger;
  readonly counters: Counters;
}

export class Store {
  readonly parts: StoreParts;
  readonly map: ExtentMap;
  readonly sums: Uint32Array;
  readonly versions: Uint32Array;
  moving: ReadonlySet<number> = new Set();
  /** Blocks whose payloads are being overwritten: what the map says of them is not what is there. */
  moved: readonly { readonly first: number; readonly blocks: number }[] = [];
  /** Groups whose metadata made no sense when the device was opened, or was not given. */
  readonly unreadable: Set<number> = new Set();
  /** Those of them that the device below did not give. */
  readonly sealed: SealedGroups;
  /** Groups whose extents do not fit together, until all records are in place. */
  readonly doubtful: Set<number> = new Set();
  /** Blocks that their places did not take, and what they hold. */
  readonly held: Map<number, Buffer> = new Map();
  /** Groups whose metadata its place did not take. */
  readonly stuck: Set<number> = new Set();
  /** The last record does not say what all of their blocks are. */
  owes = false;
  /** Heads of extents that could not be read, with their checksums then. */
  readonly #damagedAt: Map<number, number> = new Map();
  /** Resolves when nothing moves any more; rejects if what was moving is left half done. */
  settled: Promise<void> = Promise.resolve();
  /** Bytes from the start of the device below to block 0. */
  readonly dataOffset: number;
  /** Reads what the extents hold. */
  readonly payloads: Payloads;

  constructor(parts: StoreParts) {
    this.parts = parts;
    const { dataBlocks, dataStart } = parts.superblock.layout;
    this.map = new ExtentMap(dataBlocks);
    this.sums = new Uint32Array(dataBlocks);
    this.versions = new Uint32Array(Math.ceil(dataBlocks / GROUP));
    this.sealed = new SealedGroups(dataBlocks, parts.lower.limits.logicalBlockSize / SECTOR);
    this.dataOffset = dataStart * BLOCK;
    this.payloads = new Payloads(parts, (head) => this.placeOf(head));
  }

  /** Whether an extent, as the map has it, lies where payloads are being overwritten. */
  isMoved({ head, blocks }: StoredExtent): boolean {
    return this.moved.some((change) => change.first < head + blocks && head < change.first + change.blocks);
  }

  /** Byte on the device below where the payload of an extent begins. */
  placeOf(head: number): number {
    return this.dataOffset + head * BLOCK;
  }

  /** Blocks that can be held: a record has room for them beside any group. */
  get mostHeld(): number {
    return Math.floor(this.spare / BLOCK_ROOM);
  }

  /** Bytes of a record beside what is kept in every one. */
  get room(): number {
    const slot = (this.parts.superblock.layout.journalBlocks / 2) * BLOCK;
    const groups = this.stuck.size + this.sealed.told.size;
    return slot - HEADER_ROOM - this.held.size * BLOCK_ROOM - groups * GROUP_ROOM;
  }

  /** Bytes of a record beside what is kept in every one, and any group. Less than none: no record can be written. */
  get spare(): number {
    return this.room - GROUP * BLOCK_ROOM;
  }

  /** Whether anything is in the journal only. */
  get isHolding(): boolean {
    return this.held.size > 0 || this.stuck.size > 0 || this.sealed.told.size > 0;
  }

  /**
   * Of groups that were to be written, those whose places did not take them are kept in the journal.
   * @param stuck why, of each. Throws it where the journal has no room for them.
   */
  holdGroups(groups: ReadonlySet<number>, stuck: ReadonlyMap<number, unknown>): void {
    for (const group of groups) if (!stuck.has(group)) this.stuck.delete(group);
    for (const [group, error] of stuck) {
      if (group >= this.versions.length || this.stuck.has(group)) continue;
      if (this.spare < GROUP_ROOM) throw error;
      this.parts.logger.log("error", "a place takes no write", { group, place: this.groupPlace(group) });
      this.stuck.add(group);
      this.owes = true;
    }
  }

  /** Byte on the device below where the metadata of a group is. */
  groupPlace(group: number): number {
    return this.parts.superblock.layout.metaStart * BLOCK + group * SECTOR;
  }

  /** What every record says beside these changes: of stuck groups what all blocks are, of others those that are told. */
  carried(changes: readonly Change[]): Change[] {
    const said = new Set<number>();
    if (this.stuck.size > 0 || this.sealed.told.size > 0)
      for (const { first, blocks } of changes)
        for (let block = first; block < first + blocks; block += 1) said.add(block);
    const beside: Change[] = [];
    for (const group of new Set([...this.stuck, ...this.sealed.told.keys()])) {
      const end = Math.min((group + 1) * GROUP, this.map.blocks);
      for (let block = group * GROUP; block < end; ) {
        const { head: first, blocks, sectors, bad } = this.map.find(block);
        const kind = bad ? changeKinds.lost : sectors === 0 ? changeKinds.drop : changeKinds.inPlace;
        const known =
          kind === changeKinds.inPlace
            ? { sectors, sum: this.sums[first] as number }
            : { sectors: 0, sum: 0 };
        if (!said.has(block) && this.#isKnown(group, block)) beside.push({ kind, first, blocks, ...known });
        block = first + blocks;
      }
    }
    return beside;
  }

  /** Whether the map has it right, what a group that is kept in the journal says of a block. */
  #isKnown(group: number, block: number): boolean {
    return this.stuck.has(group) || this.sealed.told.get(group)?.has(block) === true;
  }

  /** Keeps what the place of an extent has not taken. */
  hold(first: number, blocks: number, contents: Buffer): void {
    const place = this.placeOf(first);
    this.parts.logger.log("error", "a place takes no write", { block: first, blocks, place });
    this.map.lose(first, blocks);
    this.sums.fill(0, first, first + blocks);
    for (let index = 0; index < blocks; index += 1)
      this.held.set(first + index, contents.subarray(index * BLOCK, (index + 1) * BLOCK));
  }

  /** Blocks are something else from now on. */
  letGo(first: number, blocks: number): void {
    if (this.held.size === 0) return;
    for (let block = first; block < first + blocks; block += 1) this.held.delete(block);
  }

  /** Blocks that are overwritten together at the least where there is sealed metadata. */
  get sealedBlocks(): number {
    return this.sealed.size === 0 ? 0 : (GROUP * this.parts.lower.limits.logicalBlockSize) / SECTOR;
  }

  /**
   * What of sealed metadata has to be given up before these blocks are overwritten, with the blocks that belong to each, all
   * of which are. Throws `EIO` if only some would be, and not all of them are told.
   */
  sealedIn(first: number, blocks: number): readonly SealedRange[] {
    const { whole, partly } = this.sealed.within(first, blocks);
    for (const range of partly) throw this.#refusal(range, "write");
    return whole;
  }

  /** Whether the journal has room for what is told of sealed metadata until all of it is replaced. */
  hasRoomFor({ group }: SealedRange): boolean {
    return this.spare >= this.sealed.addedBy(group).length * GROUP_ROOM;
  }

  /** All blocks of sealed metadata are staged. Throws `EIO` where the journal has no room for that. */
  giveUp(range: SealedRange): void {
    if (!this.hasRoomFor(range)) throw this.#refusal(range, "write", NO_ROOM);
    this.sealed.giveUp(range.group);
  }

  /** What is wrong with some of the blocks, and what helps. */
  health(): Health {
    const [group] = this.sealed;
    if (group !== undefined) {
      const range = { start: group * GROUP, end: Math.min((group + 1) * GROUP, this.map.blocks) };
      const { message, hint } = this.#refusal(range);
      const more = this.sealed.size > 1 ? `, nor that of ${this.sealed.size - 1} other groups` : "";
      return { state: "degraded", why: message + more, help: hint };
    }
    for (const one of this.stuck) {
      const others = this.stuck.size > 1 ? ` and ${this.stuck.size - 1} other groups` : "";
      const last = Math.min((one + 1) * GROUP, this.map.blocks) - 1;
      const why = `the device below does not take the metadata of blocks ${one * GROUP} … ${last}${others}, at ${this.groupPlace(one)}: it is kept in the journal`;
      return { state: "degraded", why, help: COPY };
    }
    for (const block of this.held.keys()) {
      const others = this.held.size > 1 ? ` and ${this.held.size - 1} others` : "";
      const why = `the device below does not take block ${block}${others}, at ${this.placeOf(block)}: it is kept in the journal`;
      return { state: "degraded", why, help: COPY };
    }
    for (const [head, sum] of this.#damagedAt) {
      const extent = this.map.find(head);
      if (extent.bad || (sum !== 0 && this.sums[head] === sum)) {
        const more = this.#damagedAt.size > 1 ? "; the log has others" : "";
        const why = `blocks ${extent.head} … ${extent.head + extent.blocks - 1} cannot be read${more}`;
        return { state: "degraded", why, help: GIVE_UP };
      }
      this.#damagedAt.delete(head);
    }
    return healthy;
  }

  #refusal(
    { start: first, end }: Omit<SealedRange, "group">,
    op?: "write",
    hint: string = GIVE_UP,
  ): BlockIoError {
    const { lower } = this.parts;
    const place = this.groupPlace(first / GROUP);
    const reason = `the metadata of blocks ${first} … ${end - 1}, at ${place}, cannot be read`;
    const where = op && { op, offset: first * BLOCK, length: (end - first) * BLOCK };
    return new BlockIoError(reason, { code: "EIO", device: lower.name, hint, ...where });
  }

  /** Counts damage, says where it is, and makes the error to report. */
  damaged({ head, blocks, sectors, bad }: StoredExtent, flaw: Flaw): BlockIoError {
    const { logger, counters, lower } = this.parts;
    const place = this.placeOf(head);
    counters.damaged += 1;
    if (this.#damagedAt.size < MOST_PLACES) this.#damagedAt.set(head, this.sums[head] as number);
    logger.log("error", "damaged extent", { block: head, blocks, sectors, place, flaw });
    return new BlockIoError(
      bad
        ? `what blocks ${head} … ${head + blocks - 1} held is lost`
        : `the extent at block ${head}, ${payloadBytes(sectors)} bytes at ${place}, is damaged (${flaw})`,
      {
        code: "EIO",
        device: lower.name,
        op: "read",
        offset: head * BLOCK,
        length: blocks * BLOCK,
        hint: bad ? HEAL : GONE,
      },
    );
  }
}
