/**
 * Errors of reading the cache device which pass, at any time: while it runs, when it is opened, under views and replays.
 * Whatever is read is what was written last, or an error; and when the device gives everything again, so does the cache.
 */
import { BlockIoError } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { openAt, replay, viewRange } from "../../src/index.ts";
import { BLOCK, MIB, Rig } from "./rig.ts";

const BLOCKS = 12;

/** What each sector may hold. */
class Model {
  readonly #allowed: number[][] = Array.from({ length: BLOCKS * 8 }, () => [0]);

  /** The newest at the end. */
  wrote(from: number, count: number, byte: number): void {
    for (let sector = from; sector < from + count; sector += 1) this.#allowed[sector]?.push(byte);
  }

  flushed(): void {
    for (const values of this.#allowed) values.splice(0, values.length - 1);
  }

  /** Of a device that runs. */
  requireNewest(block: number, bytes: readonly number[]): void {
    for (const [at, byte] of bytes.entries()) {
      const newest = this.#allowed[block * 8 + at]?.at(-1);
      if (byte !== newest)
        throw new Error(`block ${block}, sector ${at}: ${byte} is read, expected ${newest}`);
    }
  }

  /** @param settles nothing flips any more. */
  requireAllowed(block: number, bytes: readonly number[], settles = false): void {
    for (const [at, byte] of bytes.entries()) {
      const values = this.#allowed[block * 8 + at] as number[];
      if (!values.includes(byte))
        throw new Error(`block ${block}, sector ${at}: ${byte} is there, expected ${values.join(" or ")}`);
      if (settles) values.splice(0, values.length, byte);
    }
  }
}

/** One run: lives that end by a crash or an orderly close, and what is found after each. */
export class PassingErrors {
  readonly #random: SeededRandom;
  readonly #rig: Rig;
  readonly #model: Model = new Model();
  readonly #hasPlog: boolean;
  readonly #cacheSectors: number;
  #bad: number[] = [];
  #byte = 0;
  /** The last segment of a flush. */
  #flushedId = 0;

  constructor(seed: number) {
    this.#random = new SeededRandom(seed);
    const order = this.#random.pick([4, 4, 5]);
    const slots = this.#between(6, 14);
    this.#hasPlog = this.#random.below(4) === 0;
    this.#rig = new Rig({ order, slots, ...(this.#hasPlog ? { plog: 9 * BLOCK * 4 + 512 } : {}) });
    this.#cacheSectors = slots * 2 ** order;
  }

  async carryOut(): Promise<void> {
    await this.#rig.open();
    for (let life = 0; life < 5; life += 1) {
      this.#spoil();
      for (let step = this.#between(5, 30); step > 0; step -= 1) await this.#step();
      if (this.#random.below(2) === 0) await this.#mayFail(this.#rig.device.close());
      await this.#rig.crash(() => this.#random.below(2) === 0);
      this.#spoil();
      await this.#look();
      await this.#reopen();
    }
  }

  #between(least: number, most: number): number {
    return least + this.#random.below(most - least + 1);
  }

  /** Sectors of the slots are not given, until they are written. */
  #spoil(): void {
    const { cache } = this.#rig;
    const count = this.#random.pick([0, 1, 1, 3, 8]);
    this.#bad = Array.from({ length: count }, () => MIB + 512 * this.#random.below(this.#cacheSectors));
    cache.refuse = ({ op, offset, length }) => {
      const touched = (at: number): boolean => offset < at + 512 && at < offset + length;
      if (op === "write") this.#bad = this.#bad.filter((at) => !touched(at));
      return op === "read" && this.#bad.some(touched);
    };
  }

  /** Whether it was done. */
  async #mayFail(doing: Promise<unknown>): Promise<boolean> {
    try {
      await doing;
      return true;
    } catch (error) {
      if (!(error instanceof BlockIoError) || (error.code !== "EIO" && error.code !== "EFORMAT")) throw error;
      if (this.#bad.length === 0 && !this.#wasBad) throw error;
      return false;
    }
  }

  /** A device that has failed for good in this life may go on failing. */
  get #wasBad(): boolean {
    return this.#rig.device.health().state !== "ok";
  }

  async #step(): Promise<void> {
    const { device, clock } = this.#rig;
    const block = this.#random.below(BLOCKS);
    switch (this.#random.below(12)) {
      case 0:
        return void (await this.#mayFail(device.dropCaches()));
      case 1:
        return clock.pass(this.#random.pick([100, 1500]));
      case 2:
        return device.tune({ allow_writeback: this.#random.below(2) });
      case 3:
        return device.tune({ read_cache_threshold: this.#random.pick([0, 64]) });
      case 4: {
        const isDone = await this.#mayFail(device.writeZeroes(block * BLOCK, BLOCK));
        return isDone ? this.#model.wrote(block * 8, 8, 0) : undefined;
      }
      case 5:
      case 6: {
        const bytes: number[] = [];
        const isRead = await this.#mayFail(this.#rig.read(block).then((read) => bytes.push(...read)));
        return isRead ? this.#model.requireNewest(block, bytes) : undefined;
      }
      case 7:
      case 8: {
        const isDone = await this.#mayFail(device.flush());
        if (!isDone) return;
        this.#model.flushed();
        this.#flushedId = device.statusData.lastFlushedId;
        return;
      }
      default: {
        this.#byte = (this.#byte % 255) + 1;
        const from = this.#random.below(2) === 0 ? 0 : this.#random.below(8);
        const count = from === 0 ? 8 : this.#between(1, 8 - from);
        const isDone = await this.#mayFail(this.#rig.writeSectors(block, from, count, this.#byte));
        if (isDone) this.#model.wrote(block * 8 + from, count, this.#byte);
      }
    }
  }

  /** Looks at it without opening it, and now and then writes it back. */
  async #look(): Promise<void> {
    const { cache, backing, plog } = this.#rig;
    // What is in the plog alone is in no view.
    if (this.#hasPlog) return;
    let [first, last] = [0, 0];
    const looking = viewRange({ cache, backing }).then(
      ({ firstId, lastId }) => ([first, last] = [firstId, lastId]),
    );
    if (!(await this.#mayFail(looking)) || first > last) return;
    const bytes = Buffer.alloc(BLOCK);
    await this.#mayFail(
      openAt({ cache, backing }, last).then(async (view) => {
        for (let block = 0; block < BLOCKS; block += 1) {
          if (!(await this.#mayFail(view.read(block * BLOCK, bytes)))) continue;
          // Where the end of the log may be what cannot be read, it is an earlier state, and opening says so.
          if (last >= this.#flushedId) this.#model.requireAllowed(block, firstBytes(bytes));
        }
      }),
    );
    if (this.#random.below(4) === 0) await this.#mayFail(replay(cache, backing, { until: last }));
    if (this.#random.below(4) === 0) await this.#mayFail(replay(cache, backing, { plog }));
  }

  async #reopen(): Promise<void> {
    const isOpen = await this.#mayFail(this.#rig.open());
    if (isOpen) {
      for (let block = 0; block < BLOCKS; block += 1) {
        const reading = this.#rig.read(block);
        if (await this.#mayFail(reading)) this.#model.requireAllowed(block, await reading, true);
      }
    }
    this.#bad = [];
    if (!isOpen) await this.#rig.open();
    for (let block = 0; block < BLOCKS; block += 1)
      this.#model.requireAllowed(block, await this.#rig.read(block), true);
    await this.#rig.device.flush();
    await this.#rig.device.dropCaches();
    const { backing } = this.#rig;
    for (let block = 0; block < BLOCKS; block += 1)
      this.#model.requireAllowed(
        block,
        firstBytes(backing.visible.subarray(block * BLOCK, (block + 1) * BLOCK)),
      );
  }
}

function firstBytes(block: Buffer): number[] {
  return Array.from({ length: 8 }, (_, sector) => block.readUInt8(sector * 512));
}
