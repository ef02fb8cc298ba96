/**
 * The entries and superblocks of version 2 while the cache runs. Only dirty entries matter then: clean ones are
 * written at a clean close, and believed after one only.
 *
 * Invariants:
 *
 * - an entry says dirty only after the frame's data, all of the block, was stable: data, flush, entry, flush;
 * - one commit at a time, so two writes of an entry sector never race;
 * - a fact `held` is taken away only after an entry sector without the claim was written and flushed;
 * - what a commit that lost nothing had taken up is taken up again by the next one: no frame is `sure`, and no fact
 *   `held` is gone, before a whole commit has succeeded.
 */
import {
  type BlockDevice,
  BlockIoError,
  FlushGroup,
  SECTOR,
  isOutOfSpace,
  join,
  toBlockIoError,
} from "@dmkit/block-io";
import { type FrameTable, facts, states } from "../../core/frame-table.ts";
import { ENTRIES_PER_SECTOR, EntryCodec, entryStates } from "../../format/entries.ts";
import { layoutOf } from "../../format/layout.ts";
import type { Superblock } from "../../format/superblock.ts";
import { uuidFromText } from "../../format/uuid.ts";
import { sourceWitness } from "./witness.ts";
import type { Metadata } from "./metadata.ts";
import { type CacheState } from "../state.ts";
import { writeSuperblocks, writeSuperblocksInTurn } from "./superblocks.ts";

// Entry sectors that are written at once.
const LONGEST = 256;

export class MetadataV2 implements Metadata {
  readonly version = 2;
  readonly keepsDirty = true;
  readonly #state: CacheState;
  readonly #frames: FrameTable;
  readonly #cache: BlockDevice;
  readonly #codec: EntryCodec;
  readonly #entryStart: number;
  /** Entry sectors in one block of the device. */
  readonly #grain: number;
  readonly #commits: FlushGroup;
  #superblock: Superblock;
  #claims: number[] = [];
  #drops: number[] = [];
  #wantsClaims = false;
  #wantsDrops = false;
  #lost = false;
  // Entries that may say dirty on the device for good, of frames that are not.
  #stale = false;

  /** @param superblock as it is on the device. */
  constructor(state: CacheState, superblock: Superblock) {
    this.#state = state;
    this.#frames = state.frames;
    this.#cache = state.cache;
    this.#codec = new EntryCodec(uuidFromText(superblock.uuid) as Buffer);
    this.#entryStart = layoutOf(superblock.geometry).entryStart;
    this.#grain = state.cache.limits.logicalBlockSize / SECTOR;
    this.#superblock = superblock;
    this.#commits = new FlushGroup(() => this.#commit());
  }

  get superblock(): Superblock {
    return this.#superblock;
  }

  get debt(): BlockIoError | undefined {
    const state = this.#state;
    // Frames written since the last flush may come back with older data, under an entry that says dirty.
    const unstable = this.#lost || state.cacheUnstable;
    const only =
      this.#frames.dirty > 0 && (unstable || this.#claims.some((frame) => this.#frames.isDirty(frame)));
    if (only) return state.unavailable("flush");
    return unstable && this.#listsOldData ? state.outdated("flush") : undefined;
  }

  claim(frame: number): void {
    if (this.#frames.has(frame, facts.queued)) return;
    this.#frames.addFacts(frame, facts.queued);
    this.#claims.push(frame);
  }

  drop(frame: number): void {
    if (this.#frames.has(frame, facts.held)) this.#drops.push(frame);
  }

  commit(): Promise<void> {
    this.#wantsClaims = true;
    return this.#commits.flush();
  }

  commitDrops(): Promise<void> {
    this.#wantsDrops = true;
    return this.#commits.flush();
  }

  async #commit(): Promise<void> {
    const state = this.#state;
    const wantsClaims = this.#wantsClaims;
    const wantsDrops = this.#wantsDrops;
    this.#wantsClaims = false;
    this.#wantsDrops = false;
    if (state.cacheError !== undefined) {
      const debt = wantsClaims ? this.debt : undefined;
      if (debt !== undefined) throw debt;
      if (wantsDrops && this.#listsOldData) throw state.outdated("flush");
      return;
    }
    const claims = wantsClaims ? this.#claims : [];
    if (wantsClaims) this.#claims = [];
    for (const frame of claims) this.#stage(frame);
    // Where an entry sector is written anyway, drops cost next to nothing.
    const drops = claims.length > 0 || wantsDrops ? this.#drops : [];
    if (drops === this.#drops) this.#drops = [];
    const unstable = wantsClaims && (state.cacheUnstable || claims.length > 0);
    if (unstable) state.cacheUnstable = false;
    try {
      // Data before the entries that claim it.
      if (unstable && state.rules.flushesData) await this.#cache.flush();
      await this.#store(claims, drops);
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.#cache.name, op: "flush" });
      if (failure.lossless) {
        this.#giveBack(claims, drops, unstable);
        throw failure;
      }
      this.#lost ||= unstable;
      this.#stale ||= drops.length > 0;
      throw state.cacheFailed(failure);
    }
  }

  /** Nothing that a commit had taken up counts as done, however far it came: the next one begins with it. */
  #giveBack(claims: readonly number[], drops: readonly number[], unstable: boolean): void {
    this.#state.cacheUnstable ||= unstable;
    for (const frame of claims) {
      // Without the claim whoever writes to one that is clean by now asks for it again.
      this.#frames.removeFacts(frame, facts.staged | facts.claim);
      if (this.#frames.isDirty(frame)) this.claim(frame);
    }
    this.#drops = [...drops, ...this.#drops];
  }

  /** Entry sectors that find no space are no end: what they should say is in the frame table. */
  async #writeEntries(changed: readonly number[]): Promise<void> {
    try {
      await this.#writeEntriesOf(changed);
    } catch (error) {
      if (!isOutOfSpace(error)) throw error;
      this.#state.cacheRefused(error);
      throw this.#state.unavailable("flush");
    }
  }

  /** Whether an entry on the device may say dirty of what the source has newer. */
  get #listsOldData(): boolean {
    return this.#stale || this.#drops.some((frame) => this.#frames.has(frame, facts.held));
  }

  #stage(frame: number): void {
    this.#frames.removeFacts(frame, facts.queued);
    if (this.#frames.isDirty(frame)) this.#frames.addFacts(frame, facts.staged);
  }

  /** The data of `claims` is stable. */
  async #store(claims: readonly number[], drops: readonly number[]): Promise<void> {
    const frames = this.#frames;
    const { rules } = this.#state;
    const changed: number[] = [];
    for (const frame of claims) {
      // Meanwhile it may have been cleaned; then the source has the data, and whatever became dirty in this
      // frame since was not covered by the flush.
      if (!rules.isStaged(frames, frame)) continue;
      frames.removeFacts(frame, facts.staged);
      frames.addFacts(frame, facts.claim | facts.held);
      changed.push(frame);
    }
    const claimed = changed.length;
    for (const frame of drops) {
      // Meanwhile it may have become dirty again; then its entry is right.
      if (frames.stateOf(frame) !== states.clean || !frames.has(frame, facts.held)) continue;
      frames.removeFacts(frame, facts.claim | facts.sure);
      changed.push(frame);
    }
    if (changed.length === 0) return;
    await this.#writeEntries(changed);
    if (rules.flushesEntries) await this.#cache.flush();
    for (const [index, frame] of changed.entries()) {
      if (index < claimed && frames.has(frame, facts.claim)) frames.addFacts(frame, facts.sure);
      else if (!frames.has(frame, facts.claim)) frames.removeFacts(frame, facts.held);
    }
  }

  get needsCheck(): boolean {
    return this.#superblock.needsCheck;
  }

  async noteTrouble(): Promise<void> {
    if (this.#superblock.needsCheck) return;
    const { generation } = this.#superblock;
    this.#superblock = { ...this.#superblock, needsCheck: true, generation: generation + 1 };
    await writeSuperblocksInTurn(this.#cache, this.#superblock);
  }

  async policyChanged(): Promise<void> {
    const { generation } = this.#superblock;
    await this.#writeSuperblock({
      ...this.#superblock,
      policy: this.#state.policy,
      generation: generation + 1,
    });
  }

  async saveClean(): Promise<void> {
    const frames = this.#frames;
    // Clean frames were never flushed: their loss did not matter until now.
    await this.#cache.flush();
    const sectors = Math.ceil(frames.geometry.frames / ENTRIES_PER_SECTOR / this.#grain) * this.#grain;
    for (let sector = 0; sector < sectors; sector += LONGEST) {
      await this.#writeSectors(sector, Math.min(LONGEST, sectors - sector), true);
    }
    await this.#cache.flush();
    await this.#writeSuperblock({
      ...this.#superblock,
      clean: true,
      dirty: frames.dirty,
      fingerprint: undefined,
      witness: await sourceWitness(this.#state.source, this.#state.size),
      policy: this.#state.policy,
      generation: this.#superblock.generation + 1,
    });
  }

  async #writeSuperblock(superblock: Superblock): Promise<void> {
    this.#superblock = superblock;
    await writeSuperblocks(this.#cache, superblock);
  }

  async #writeEntriesOf(changed: readonly number[]): Promise<void> {
    const grains = new Set<number>();
    for (const frame of changed) grains.add(Math.floor(frame / ENTRIES_PER_SECTOR / this.#grain));
    const sorted = [...grains].sort((a, b) => a - b);
    const longest = LONGEST / this.#grain;
    const writes: Promise<void>[] = [];
    for (let start = 0; start < sorted.length; ) {
      const first = sorted[start] as number;
      let count = 1;
      while (count < longest && sorted[start + count] === first + count) count += 1;
      writes.push(this.#writeSectors(first * this.#grain, count * this.#grain, false));
      start += count;
    }
    await join(writes);
  }

  /** @param everything also say which frames are clean. */
  async #writeSectors(first: number, count: number, everything: boolean): Promise<void> {
    const bytes = Buffer.alloc(count * SECTOR);
    for (let sector = 0; sector < count; sector += 1)
      this.#fill(bytes, sector * SECTOR, first + sector, everything);
    await this.#cache.write((this.#entryStart + first) * SECTOR, bytes);
  }

  #fill(bytes: Buffer, at: number, sector: number, everything: boolean): void {
    const frames = this.#frames;
    const first = sector * ENTRIES_PER_SECTOR;
    const count = Math.min(ENTRIES_PER_SECTOR, frames.geometry.frames - first);
    for (let slot = 0; slot < count; slot += 1) {
      const frame = first + slot;
      if (frames.has(frame, facts.claim)) {
        this.#checkClaim(frame);
        const clean = everything && frames.stateOf(frame) === states.clean;
        this.#codec.put(
          bytes,
          at,
          slot,
          clean ? entryStates.clean : entryStates.dirty,
          frames.blockOf(frame),
        );
      } else if (everything && frames.isDirty(frame)) {
        this.#codec.put(bytes, at, slot, entryStates.dirty, frames.blockOf(frame));
      } else if (everything && this.#state.rules.isStoredClean(frames, frame)) {
        this.#codec.put(bytes, at, slot, entryStates.clean, frames.blockOf(frame));
      }
    }
    this.#codec.seal(bytes, at, sector);
  }

  #checkClaim(frame: number): void {
    if (this.#frames.isValid(frame)) return;
    throw new BlockIoError(`frame ${frame} is claimed dirty but holds nothing`, { code: "EIO" });
  }
}
