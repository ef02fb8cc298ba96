/**
 * The running device, format 2: writes wait in memory and are stored by the group commit; reads see memory first,
 * then the device below.
 */
import {
  type BlockIoError,
  type Environment,
  type Extent,
  FlushGroup,
  type Facts,
  GuardedTarget,
  type Timer,
  done,
  toBlockIoError,
  withCapabilities,
  type Health,
  worstHealth,
} from "@dmkit/block-io";
import { type Subject, compressionControls, counterFacts, statusLine } from "../counters.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import type { Committer } from "./committer.ts";
import { RETRY_AFTER } from "../no-space.ts";
import type { Recall } from "./recall.ts";
import { Reader } from "./reader.ts";
import { type Staging, ZEROES } from "./staging.ts";
import { compressionLimits } from "../limits.ts";
import type { SealedRange } from "./sealed.ts";
import type { Store } from "./store.ts";
import { closeSuperblock } from "./superblocks.ts";

export interface DeviceV2Parts {
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly environment: Environment;
  readonly store: Store;
  readonly staging: Staging;
  readonly recall: Recall;
  readonly makeCommitter: (failed: (error: unknown) => void) => Committer;
  /** Milliseconds that a write waits, at most; 0: none does. */
  readonly interval: number;
  /** Nothing is ever written below. */
  readonly readOnly: boolean;
}

export class CompressionDeviceV2 extends GuardedTarget {
  readonly #parts: DeviceV2Parts;
  readonly subject: Subject;
  readonly #committer: Committer;
  readonly #commits: FlushGroup;
  readonly #reader: Reader;
  #timer: Timer | undefined;
  #busy = false;
  /** The last commit has found no space. */
  #isFull = false;

  constructor(parts: DeviceV2Parts) {
    super(parts.name, parts.size, withCapabilities(compressionLimits, { readOnly: parts.readOnly }));
    this.#parts = parts;
    const { store, environment } = parts;
    this.subject = { ...store.parts, map: store.map, environment, format: "v2" };
    this.#committer = parts.makeCommitter((error) => this.#failed(error));
    this.#commits = new FlushGroup(() => this.#commit());
    this.#reader = new Reader(parts, () => this.#commitSoon());
  }

  /** Where the bytes are. */
  get store(): Store {
    return this.#parts.store;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#reader.read(offset / BLOCK, into);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    const { staging } = this.#parts;
    const first = offset / BLOCK;
    const count = from.length / BLOCK;
    const sealed = this.store.sealedIn(first, count);
    if (sealed.length > 0) {
      const put = (block: number): void => staging.put(block, from, (block - first) * BLOCK);
      return this.#giveUp(sealed, put).then(() => this.doWrite(offset, from));
    }
    for (let index = 0; index < count; index += 1) {
      if (!staging.hasRoom(first + index)) return this.#writeRest(first, index, from);
      staging.put(first + index, from, index * BLOCK);
    }
    return this.#staged();
  }

  protected override doFlush(): Promise<void> {
    return this.#commits.flush();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#zero(offset, length);
  }

  protected override doWriteZeroes(offset: number, length: number): Promise<void> {
    return this.#zero(offset, length);
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const end = (offset + length) / BLOCK;
    for (let block = offset / BLOCK; block < end; ) {
      const start = block;
      const hole = this.#isHole(block);
      do block += 1;
      while (block < end && this.#isHole(block) === hole);
      yield { offset: start * BLOCK, length: (block - start) * BLOCK, kind: hole ? "hole" : "data" };
    }
  }

  protected override async doClose(): Promise<void> {
    this.#timer?.cancel();
    const { store, readOnly } = this.#parts;
    try {
      await this.#settled();
      if (this.failure === undefined && !readOnly)
        await closeSuperblock(store.parts, this.#committer.last, !store.isHolding);
    } finally {
      await store.parts.codec.close();
    }
  }

  /** Nothing is written below while the device is suspended. */
  protected override doSuspend(): Promise<void> {
    return this.#settled();
  }

  /** Whether something is to be written though nobody waits for it. */
  get #owes(): boolean {
    return this.store.owes || this.#parts.recall.owes;
  }

  /** Everything is in place, or the journal says all there is to say about what is not. */
  async #settled(): Promise<void> {
    await this.#committer.settled();
    if (this.#owes && this.failure === undefined && !this.#parts.readOnly) await this.#commits.flush();
    await this.#committer.settled();
  }

  override health(): Health {
    return worstHealth([this.store.health(), super.health()]);
  }

  override status(): string {
    return statusLine(this.subject.counters);
  }

  protected override doFacts(): Facts {
    return counterFacts(this.subject);
  }

  protected override get controls(): typeof compressionControls {
    return compressionControls;
  }

  /**
   * Gives sealed metadata up, each in the turn in which all of its blocks are staged: a write that finds no room before has
   * lost nothing.
   */
  async #giveUp(sealed: readonly SealedRange[], put: (block: number) => void): Promise<void> {
    const { staging } = this.#parts;
    for (const range of sealed) {
      const { start, end } = range;
      for (;;) {
        if (staging.limit - staging.size < end - start) await this.#nextRoom();
        // The journal keeps what replaces others until that is in place.
        else if (this.store.sealed.isGivingUp && !this.store.hasRoomFor(range)) await this.#commits.flush();
        else break;
      }
      this.store.giveUp(range);
      for (let block = start; block < end; block += 1) put(block);
    }
  }

  async #writeRest(first: number, index: number, from: Buffer): Promise<void> {
    const { staging } = this.#parts;
    for (let at = index; at * BLOCK < from.length; at += 1) {
      await this.#room(first + at);
      staging.put(first + at, from, at * BLOCK);
    }
    await this.#staged();
  }

  /** Waits until there is room for a block. */
  async #room(block: number): Promise<void> {
    const { staging } = this.#parts;
    while (!staging.hasRoom(block)) await this.#nextRoom();
  }

  async #nextRoom(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    const room = this.#parts.staging.room();
    this.#commitSoon();
    await room;
  }

  /** Something was staged: sees to it that it does not stay so for ever. */
  #staged(): Promise<void> {
    const { staging, interval, environment } = this.#parts;
    if (interval === 0) return this.#commits.flush();
    if (staging.size * 2 >= staging.limit) this.#commitSoon();
    this.#timer ??= environment.clock.after(interval, () => {
      this.#timer = undefined;
      this.#commitSoon();
    });
    return done;
  }

  #commitSoon(): void {
    if (this.#busy || this.failure !== undefined) return;
    // Whatever goes wrong is remembered by #commit: later requests get to know.
    this.#commits.flush().catch(() => {});
  }

  async #commit(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    this.#busy = true;
    try {
      await this.#committer.commit();
    } catch (error) {
      throw this.#failed(error);
    } finally {
      this.#busy = false;
    }
    this.#isFull = false;
    void this.#committer.settled().then(
      () => this.#owes && this.#commitSoon(),
      () => {},
    );
    // Writers went on meanwhile.
    const { staging } = this.#parts;
    if (staging.size * 2 >= staging.limit) this.#parts.environment.scheduler.defer(() => this.#commitSoon());
  }

  #failed(error: unknown): BlockIoError {
    const failure = toBlockIoError(error, { device: this.name, op: "flush" });
    if (failure.lossless) return this.#noSpace(failure);
    if (this.failure === undefined) {
      this.#parts.environment.logger.log("error", "nothing more is written", { cause: failure.message });
    }
    this.fail(failure);
    this.#timer?.cancel();
    this.#parts.staging.refuse(failure);
    return failure;
  }

  /** Those who wait for room are told; it is tried again after a while, and whenever somebody flushes. */
  #noSpace(error: BlockIoError): BlockIoError {
    const { environment, staging, interval } = this.#parts;
    if (!this.#isFull) environment.logger.log("error", "no space is left below", { cause: error.message });
    this.#isFull = true;
    staging.refuse(error);
    this.#timer ??= environment.clock.after(Math.max(RETRY_AFTER, interval), () => {
      this.#timer = undefined;
      this.#commitSoon();
    });
    return error;
  }

  async #zero(offset: number, length: number): Promise<void> {
    const { staging } = this.#parts;
    const end = (offset + length) / BLOCK;
    const sealed = this.store.sealedIn(offset / BLOCK, length / BLOCK);
    if (sealed.length > 0) await this.#giveUp(sealed, (block) => staging.putZeroes(block));
    for (let block = offset / BLOCK; block < end; block += 1) {
      if (this.#isHole(block)) continue;
      if (!staging.hasRoom(block)) await this.#room(block);
      staging.putZeroes(block);
    }
    await this.#staged();
  }

  /** Whether a block reads as zeroes without being stored. A block that moves is not taken for one. */
  #isHole(block: number): boolean {
    const { staging, store } = this.#parts;
    const waiting = staging.get(block);
    if (waiting !== undefined) return waiting === ZEROES;
    // One that is held is none for the map.
    return store.map.isHole(block);
  }
}
