/**
 * The group commit: everything that is staged becomes one batch, and the batch one or several journal records.
 *
 *      build the record → write it, flush (acknowledged from here on) → bring it into place
 *
 * Invariants:
 *
 * - one commit at a time, and a record is built only when the one before is in place: what it keeps of old extents
 *   is read from there;
 * - blocks stay in the batch until they are in place, so readers never wait for a commit;
 * - a record that finds no space is given up, and its blocks are staged again; one that is in the journal and finds
 *   no space in its place is brought there before anything else is committed;
 * - what a place did not give and the journal did is in its place again, and stable, before the journal is written to;
 * - after any other failure nothing more is committed: the staged blocks can still be read, writes are refused.
 */
import { SECTOR, done, inParallel, isLossless } from "@dmkit/block-io";
import type { StoredExtent } from "../../core/extent-map.ts";
import { type BlockState, type GroupPlan, type Piece, isRaw, pieces, planGroup } from "../../core/plan.ts";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";
import { type Change, changeKinds, encodeHeader, headerLength } from "../../format/journal-v2.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { payloadSum } from "../../format/metadata-v2.ts";
import { type Applier, PARALLEL, wholeBlocks } from "./applier.ts";
import type { Journal } from "./journal/journal.ts";
import type { Recall } from "./recall.ts";
import { withoutLoss } from "../no-space.ts";
import { type Staging, ZEROES } from "./staging.ts";
import { BLOCK_ROOM, type Store } from "./store.ts";
import { isGivenAtAll } from "./superblocks.ts";
import { countStored } from "../counters.ts";

export interface CommitterParts {
  readonly store: Store;
  readonly staging: Staging;
  readonly journal: Journal;
  readonly applier: Applier;
  readonly recall: Recall;
  /** Blocks. */
  readonly maxExtent: number;
  readonly discardHoles: boolean;
  /** The first record's number. */
  readonly next: number;
  /** Told of a failure nobody waits for. */
  readonly failed: (error: unknown) => void;
}

interface Group {
  readonly dirty: readonly number[];
  readonly plan: GroupPlan;
}

/** Of an extent that is overwritten in part. */
interface Kept {
  readonly extent: StoredExtent;
  /** Undefined: lost. */
  readonly contents: Buffer | undefined;
  /** They are where the map says. */
  readonly isInPlace: boolean;
}

interface Stored {
  readonly change: Change;
  readonly payload: Buffer | undefined;
}

export class Committer {
  readonly #parts: CommitterParts;
  #number: number;
  #applying: Promise<void> = Promise.resolve();
  /** Brings the last record into place, which has found no space so far. */
  #retry: (() => Promise<void>) | undefined;

  constructor(parts: CommitterParts) {
    this.#parts = parts;
    this.#number = parts.next;
  }

  /** The number of the last record that is in place as a whole. */
  get last(): number {
    return this.#number - (this.#parts.store.isHolding ? 2 : 1);
  }

  /** Resolves when everything committed is in place. */
  settled(): Promise<void> {
    return this.#applying;
  }

  /** Makes everything stable that is staged now. Not to be called twice at a time. */
  async commit(): Promise<void> {
    const { staging, store } = this.#parts;
    await this.#inPlace();
    // Rounds that a lack of space has kept from being stored.
    if (staging.batch.size > 0) staging.giveBack();
    if (staging.size === 0) {
      await this.#heal();
      return store.owes ? this.#commitRound([], []) : undefined;
    }
    const blocks = [...staging.takeBatch().keys()].sort((a, b) => a - b);
    for (let at = 0; at < blocks.length; ) {
      // The record before must be in place before the next one is planned.
      await this.#inPlace();
      await this.#heal();
      const { groups, end } = this.#round(blocks, at);
      await this.#commitRound(groups, blocks.slice(at, end));
      at = end;
    }
  }

  /** Waits until the record before is in place. */
  #inPlace(): Promise<void> {
    if (!this.#parts.store.parts.rules.awaitsPlace) return done;
    if (this.#retry !== undefined) this.#place(this.#retry);
    return this.#applying;
  }

  /** Before a record is planned: what its place does not take is held from then on, and so is part of every record. */
  #heal(): Promise<void> {
    const { recall, store } = this.#parts;
    return recall.heal(({ head, blocks }, contents, error) => {
      if (blocks > store.mostHeld) throw error;
      store.hold(head, blocks, contents);
      store.owes = true;
    });
  }

  /** As many groups as fit in one record, at least one. */
  #round(blocks: readonly number[], from: number): { groups: Group[]; end: number } {
    const { store } = this.#parts;
    const groups: Group[] = [];
    let { room } = store;
    let at = from;
    while (at < blocks.length) {
      const border = (Math.floor((blocks[at] as number) / GROUP) + 1) * GROUP;
      let end = at;
      while (end < blocks.length && (blocks[end] as number) < border) end += 1;
      const dirty = blocks.slice(at, end);
      const plan = planGroup(store.map, dirty);
      room -= (plan.end - plan.first) * BLOCK_ROOM;
      if (room < 0 && groups.length > 0) break;
      groups.push({ dirty, plan });
      at = end;
    }
    return { groups, end: at };
  }

  async #commitRound(groups: readonly Group[], blocks: readonly number[]): Promise<void> {
    const { staging, journal, store, recall } = this.#parts;
    const stored: Stored[][] = groups.map(() => []);
    await inParallel(groups.entries(), PARALLEL, async ([index, group]) => {
      stored[index] = await this.#build(group);
    });
    const all = stored.flat();
    if (all.length === 0 && !store.owes) return staging.settle(blocks);
    all.push(...(await this.#heldBeside(blocks)));
    const changes = all.map(({ change }) => change);
    changes.push(...store.carried(changes));
    const { record, start } = this.#assemble(all, changes);
    const number = this.#number;
    this.#number += 1;
    try {
      // What was found since.
      await recall.heal();
      await journal.commit(number, record, changes);
    } catch (error) {
      if (isLossless(error)) {
        this.#number = number;
        staging.giveBack();
      }
      throw error;
    }
    store.owes = false;
    const payloads = record.subarray(start);
    this.#place(() => this.#bringIntoPlace(number, changes, payloads, blocks));
  }

  /** Begins to bring a record into place; again and again, if there is no space. */
  #place(work: () => Promise<void>): void {
    this.#retry = undefined;
    this.#applying = work().catch((error: unknown) => {
      if (isLossless(error)) this.#retry = work;
      throw error;
    });
    this.#parts.store.settled = this.#applying;
    // Whoever commits next, or reads what was moving, gets the error.
    this.#applying.catch(this.#parts.failed);
  }

  async #bringIntoPlace(
    number: number,
    changes: readonly Change[],
    payloads: Buffer,
    blocks: readonly number[],
  ): Promise<void> {
    const { applier, staging, discardHoles } = this.#parts;
    try {
      await applier.apply(number, changes, payloads);
    } catch (error) {
      throw withoutLoss(error);
    }
    staging.settle(blocks);
    const empty = discardHoles ? changes : changes.filter(({ kind }) => kind === changeKinds.drop);
    await this.#discard(empty);
  }

  #assemble(all: readonly Stored[], changes: readonly Change[]): { record: Buffer; start: number } {
    const { lower, superblock } = this.#parts.store.parts;
    const bytes = all.reduce((sum, { payload }) => sum + (payload?.length ?? 0), 0);
    const start = headerLength(changes.length, bytes / SECTOR);
    const record = Buffer.alloc(start + bytes);
    let at = start;
    for (const { payload } of all) at += payload?.copy(record, at) ?? 0;
    encodeHeader(record, start, superblock.uuid, this.#number, changes);
    return { record: wholeBlocks(lower, record), start };
  }

  /** What is held goes into every record. */
  #heldBeside(blocks: readonly number[]): Promise<Stored[]> {
    const fresh = new Set(blocks);
    const held = [...this.#parts.store.held].filter(([block]) => !fresh.has(block));
    return Promise.all(
      held.map(([first, contents]) => this.#store({ kind: "store", first, blocks: 1 }, () => contents)),
    );
  }

  /** What a group's record says; empty if nothing changes on the device below. */
  async #build({ dirty, plan }: Group): Promise<Stored[]> {
    const { staging, store, maxExtent } = this.#parts;
    const fresh = new Set(dirty);
    const kept = new Map<number, Kept>();
    for (const extent of plan.reads) {
      const found = await this.#loadKept(extent);
      for (let index = 0; index < extent.blocks; index += 1) kept.set(extent.head + index, found);
    }
    const stateOf = (block: number): BlockState => {
      if (fresh.has(block)) {
        if (staging.batch.get(block) !== ZEROES) return "new";
        return store.map.isHole(block) ? "untouched" : "zero";
      }
      const old = kept.get(block);
      if (old === undefined) return "untouched";
      if (old.contents === undefined) return "lost";
      return old.isInPlace && isRaw(old.extent) ? "raw" : "kept";
    };
    const contentsOf = (block: number): Buffer => {
      if (fresh.has(block)) return staging.batch.get(block) as Buffer;
      const { extent, contents } = kept.get(block) as Kept;
      const at = (block - extent.head) * BLOCK;
      return (contents as Buffer).subarray(at, at + BLOCK);
    };
    return Promise.all(
      pieces(plan.first, plan.end, stateOf, maxExtent).map((piece) => this.#store(piece, contentsOf)),
    );
  }

  /**
   * Damage is believed when it was seen twice, and the journal does not help; what is not given, if the device below gives
   * something else.
   */
  async #loadKept(extent: StoredExtent): Promise<Kept> {
    const { store, recall } = this.#parts;
    const lost = { extent, contents: undefined, isInPlace: false };
    if (!store.parts.rules.keepsNeighbours) return lost;
    const sum = store.sums[extent.head] as number;
    let contents = await store.payloads.load(extent, sum);
    if (typeof contents === "string") contents = await store.payloads.load(extent, sum);
    if (typeof contents !== "string") return { extent, contents, isInPlace: true };
    const recalled = await recall.contents(extent);
    if (recalled !== undefined) return { extent, contents: recalled, isInPlace: false };
    const damage = store.damaged(extent, contents);
    if (contents === "unreadable" && !(await isGivenAtAll(store.parts.lower))) throw damage;
    return lost;
  }

  async #store({ kind, first, blocks }: Piece, contentsOf: (block: number) => Buffer): Promise<Stored> {
    const change = { first, blocks, sectors: 0, sum: 0 };
    if (kind === "drop") return { change: { ...change, kind: changeKinds.drop }, payload: undefined };
    if (kind === "lose") return { change: { ...change, kind: changeKinds.lost }, payload: undefined };
    const { codec, superblock, counters } = this.#parts.store.parts;
    const contents = blocks === 1 ? contentsOf(first) : joined(first, blocks, contentsOf);
    const payload = kind === "stay" ? contents : await codec.encode(contents);
    const sectors = payload.length / SECTOR;
    const sum = payloadSum(superblock.uuid, first, payload);
    if (kind === "stay") {
      return { change: { ...change, sectors, sum, kind: changeKinds.inPlace }, payload: undefined };
    }
    countStored(counters, contents, payload);
    return { change: { ...change, sectors, sum, kind: changeKinds.payload }, payload };
  }

  /** What lies behind payloads. It is advice, so nothing is wrong if it fails. */
  async #discard(changes: readonly Change[]): Promise<void> {
    const { store } = this.#parts;
    const { lower } = store.parts;
    const unit = Math.max(lower.limits.logicalBlockSize, lower.limits.discardGranularity);
    await inParallel(changes, PARALLEL, async ({ first, blocks, sectors }) => {
      const start = Math.ceil((store.placeOf(first) + payloadBytes(sectors)) / unit) * unit;
      const end = Math.floor((store.placeOf(first) + blocks * BLOCK) / unit) * unit;
      if (end > start) await lower.discard(start, end - start).catch(() => {});
    });
  }
}

function joined(first: number, blocks: number, contentsOf: (block: number) => Buffer): Buffer {
  const contents = Buffer.allocUnsafe(blocks * BLOCK);
  for (let index = 0; index < blocks; index += 1) contentsOf(first + index).copy(contents, index * BLOCK);
  return contents;
}
