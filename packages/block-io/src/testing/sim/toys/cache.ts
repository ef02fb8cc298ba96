/**
 * A toy that is right: a write-back cache. A backing disk holds the device's blocks at their own places; a
 * cache disk holds slots of one record each (record.ts): a header sector and a block of four.
 *
 * Invariants:
 *
 * - of several records of one block the one with the largest sequence counts, so a block is never overwritten
 *   in place: its next version goes to a free slot, and its old slot stays valid until the new one is stable;
 * - a slot is free only when losing its record is stable: its block was written back and the backing disk
 *   flushed, or a newer record of the block is stable; and then its header was erased and the cache flushed.
 */
import { join } from "../../../sync/join.ts";
import { type BlockDevice, SECTOR, plainLimits } from "../../../contract/device.ts";
import { type Environment, type Timer, nextTurn } from "../../../contract/environment.ts";
import { toBlockIoError } from "../../../contract/errors.ts";
import { GuardedDevice } from "../../../contract/guard.ts";
import { RangeLock } from "../../../sync/range-lock.ts";
import { decodeRecord, encodeRecord } from "./record.ts";

const PER_BLOCK = 4;
const BLOCK = PER_BLOCK * SECTOR;
const SLOT = SECTOR + BLOCK;
const CLEANING_INTERVAL = 1000;

/** A slot whose record a newer one of the same block has replaced. */
interface Superseded {
  readonly slot: number;
  readonly block: number;
}

interface Cached {
  readonly slot: number;
  readonly sequence: number;
}

export class ToyCache extends GuardedDevice {
  readonly #backing: BlockDevice;
  readonly #cache: BlockDevice;
  readonly #env: Environment;
  readonly #blocks = new RangeLock();
  readonly #cached = new Map<number, Cached>();
  readonly #free: number[] = [];
  #superseded: Superseded[] = [];
  #sequence = 0;
  #making: Promise<void> | undefined;
  #timer: Timer | undefined;

  private constructor(backing: BlockDevice, cache: BlockDevice, env: Environment) {
    super("toy-cache", backing.size, plainLimits);
    this.#backing = backing;
    this.#cache = cache;
    this.#env = env;
  }

  /** Recovers: finds the newest record of each block. Sizes: whole blocks, and whole slots of five sectors. */
  static async open(backing: BlockDevice, cache: BlockDevice, env: Environment): Promise<ToyCache> {
    const device = new ToyCache(backing, cache, env);
    await device.#scan();
    device.#startCleaning();
    return device;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#eachBlock(offset, into.length, (block, within, at, length) =>
      this.#blocks.with(block, 1, false, () => {
        const piece = into.subarray(at, at + length);
        const cached = this.#cached.get(block);
        if (cached === undefined) return this.#backing.read(block * BLOCK + within, piece);
        return this.#cache.read(cached.slot * SLOT + SECTOR + within, piece);
      }),
    );
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await this.#eachBlock(offset, from.length, async (block, within, at, length) => {
      // The slot first, then the lock: whoever holds a lock never waits for room.
      const slot = await this.#takeSlot();
      const piece = from.subarray(at, at + length);
      await this.#blocks.with(block, 1, true, () => this.#writeRecord(slot, block, within, piece));
    });
  }

  async #writeRecord(slot: number, block: number, within: number, piece: Buffer): Promise<void> {
    const data = Buffer.alloc(BLOCK);
    const old = this.#cached.get(block);
    if (piece.length < BLOCK) {
      try {
        if (old === undefined) await this.#backing.read(block * BLOCK, data);
        else await this.#cache.read(old.slot * SLOT + SECTOR, data);
      } catch (error) {
        this.#free.push(slot);
        throw error;
      }
    }
    piece.copy(data, within);
    this.#sequence += 1;
    const sequence = this.#sequence;
    const record = encodeRecord({ epoch: 0, sequence, target: block, count: PER_BLOCK }, data);
    await this.#attempt(this.#cache.write(slot * SLOT, record));
    if (old !== undefined) this.#superseded.push({ slot: old.slot, block });
    this.#cached.set(block, { slot, sequence });
  }

  protected override async doFlush(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    await this.#attempt(this.#cache.flush());
  }

  protected override async doClose(): Promise<void> {
    this.#timer?.cancel();
    await this.#making?.catch(() => {});
  }

  /** Writes a block back and makes that stable, so that its record may go. */
  async #writeBack(block: number, data: Buffer): Promise<void> {
    await this.#backing.write(block * BLOCK, data);
    await this.flushBacking();
  }

  private flushBacking(): Promise<void> {
    return this.#backing.flush();
  }

  async #takeSlot(): Promise<number> {
    for (;;) {
      const slot = this.#free.pop();
      if (slot !== undefined) return slot;
      this.#making ??= this.#makeRoom().finally(() => {
        this.#making = undefined;
      });
      await this.#making;
    }
  }

  /** Frees the superseded slots, and the one of the block that was written longest ago. */
  async #makeRoom(): Promise<void> {
    if (this.failure !== undefined) throw this.failure;
    const leaving = this.#superseded.splice(0);
    // The records that replace the leaving ones must be stable first.
    await this.#attempt(this.#cache.flush());
    let oldest: [number, Cached] | undefined;
    for (const entry of this.#cached) {
      if (oldest === undefined || entry[1].sequence < oldest[1].sequence) oldest = entry;
    }
    if (oldest !== undefined) {
      const [block] = oldest;
      await this.#blocks.with(block, 1, true, () => this.#evict(block, leaving));
    }
    await this.#erase(leaving);
    this.#free.push(...leaving.map(({ slot }) => slot));
    if (this.#free.length === 0) await nextTurn(this.#env.scheduler);
  }

  async #evict(block: number, leaving: Superseded[]): Promise<void> {
    const cached = this.#cached.get(block);
    if (cached === undefined) return;
    const data = Buffer.alloc(BLOCK);
    await this.#attempt(this.#cache.read(cached.slot * SLOT + SECTOR, data));
    await this.#attempt(this.#writeBack(block, data));
    this.#cached.delete(block);
    // Older records of the block go first, or a crash in between would bring one of them back.
    leaving.push(...this.#superseded.filter((old) => old.block === block));
    this.#superseded = this.#superseded.filter((old) => old.block !== block);
    await this.#erase(leaving);
    leaving.push({ slot: cached.slot, block });
  }

  async #erase(slots: readonly Superseded[]): Promise<void> {
    for (const { slot } of slots) await this.#attempt(this.#cache.writeZeroes(slot * SLOT, SECTOR));
    await this.#attempt(this.#cache.flush());
  }

  async #scan(): Promise<void> {
    const bytes = Buffer.alloc(SLOT);
    const losers: Superseded[] = [];
    for (let slot = 0; slot < Math.floor(this.#cache.size / SLOT); slot += 1) {
      await this.#cache.read(slot * SLOT, bytes);
      const record = decodeRecord(bytes);
      if (record === undefined || record.count !== PER_BLOCK || record.target * BLOCK >= this.size) {
        this.#free.push(slot);
        continue;
      }
      this.#sequence = Math.max(this.#sequence, record.sequence);
      const other = this.#cached.get(record.target);
      if (other !== undefined && other.sequence > record.sequence)
        losers.push({ slot, block: record.target });
      else {
        if (other !== undefined) losers.push({ slot: other.slot, block: record.target });
        this.#cached.set(record.target, { slot, sequence: record.sequence });
      }
    }
    this.#superseded = losers;
  }

  #startCleaning(): void {
    this.#timer = this.#env.clock.after(CLEANING_INTERVAL, () => {
      if (this.failure !== undefined) return;
      this.#startCleaning();
      if (this.#making !== undefined || this.#free.length >= this.#cached.size) return;
      this.#making = this.#makeRoom().finally(() => {
        this.#making = undefined;
      });
      this.#making.catch((error: unknown) =>
        this.#env.logger.log("error", `cleaning failed: ${String(error)}`),
      );
    });
  }

  /** Runs `work` for each block of a range, all at once. */
  async #eachBlock(
    offset: number,
    length: number,
    work: (block: number, within: number, at: number, length: number) => Promise<void>,
  ): Promise<void> {
    const running: Promise<void>[] = [];
    for (let at = 0; at < length; ) {
      const block = Math.floor((offset + at) / BLOCK);
      const within = (offset + at) % BLOCK;
      const count = Math.min(BLOCK - within, length - at);
      running.push(work(block, within, at, count));
      at += count;
    }
    await join(running);
  }

  /** A cache that cannot write or read its own disks does not know what is stable: it is over. */
  async #attempt(work: Promise<void>): Promise<void> {
    try {
      await work;
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.name, op: "write" });
      this.fail(failure);
      throw failure;
    }
  }
}
