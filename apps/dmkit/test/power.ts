/**
 * Storage that loses power: a disk and a file, both with a volatile cache, fed by one socket. Every write and flush
 * is a step; at the step that was chosen the power fails: it and whatever comes later is never answered. What was
 * not flushed survives by chance, sector by sector.
 */
import { GuardedDevice, SECTOR, plainLimits } from "@dmkit/block-io";
import type { SeededRandom } from "@dmkit/block-io/testing";
import type { UndoStorage } from "../src/offline/undo/storage.ts";

interface Cached {
  crash(random: SeededRandom): void;
}

export class Power {
  steps = 0;
  /** Resolves when the power has failed. */
  readonly failed: Promise<"failed">;
  readonly #attached: Cached[] = [];
  readonly #limit: number;
  #fail!: (word: "failed") => void;

  /** @param limit the step at which it fails. */
  constructor(limit = Number.POSITIVE_INFINITY) {
    this.#limit = limit;
    this.failed = new Promise((resolve) => {
      this.#fail = resolve;
    });
  }

  attach(cached: Cached): void {
    this.#attached.push(cached);
  }

  /** Issues a request, and carries it out unless the power fails before; never settles then. */
  async step(issue: () => () => void): Promise<void> {
    // What a process does that is dead already reaches nobody.
    if (this.steps > this.#limit) return this.#end();
    this.steps += 1;
    const effect = issue();
    if (this.steps > this.#limit) return this.#end();
    // Somebody else may get in between: as a disk, it answers later.
    await new Promise<void>((resolve) => setImmediate(resolve));
    if (this.steps > this.#limit) return this.#end();
    effect();
  }

  /** What is left when the power comes back. */
  crash(random: SeededRandom): void {
    for (const cached of this.#attached) cached.crash(random);
  }

  #end(): Promise<never> {
    this.#fail("failed");
    return new Promise(() => {});
  }
}

/** Bytes with a volatile cache. */
export class Medium implements Cached {
  current: Buffer;
  stable: Buffer;
  #pending: { offset: number; data: Buffer; done: boolean }[] = [];

  constructor(contents: Buffer) {
    this.current = Buffer.from(contents);
    this.stable = Buffer.from(contents);
  }

  /** It has left, but may land whether or not it is answered. */
  put(offset: number, data: Buffer): () => void {
    const write = { offset, data: Buffer.from(data), done: false };
    this.#pending.push(write);
    return () => {
      this.#grow(offset + data.length);
      write.data.copy(this.current, offset);
      write.done = true;
    };
  }

  sync(): () => void {
    const covered = this.#pending.filter(({ done }) => done);
    const image = Buffer.from(this.current);
    return () => {
      this.stable = image;
      this.#pending = this.#pending.filter((write) => !covered.includes(write));
    };
  }

  crash(random: SeededRandom): void {
    const survivors = random.next();
    for (const { offset, data } of this.#pending) {
      for (let at = 0; at < data.length; at += SECTOR) {
        if (random.next() >= survivors) continue;
        const end = offset + Math.min(data.length, at + SECTOR);
        if (end > this.stable.length)
          this.stable = Buffer.concat([this.stable, Buffer.alloc(end - this.stable.length)]);
        data.copy(this.stable, offset + at, at, Math.min(data.length, at + SECTOR));
      }
    }
    this.#pending = [];
    this.current = Buffer.from(this.stable);
  }

  #grow(size: number): void {
    if (size > this.current.length) {
      this.current = Buffer.concat([this.current, Buffer.alloc(size - this.current.length)]);
    }
  }
}

/** A block device on a medium. */
export class PoweredDisk extends GuardedDevice {
  readonly #medium: Medium;
  readonly #power: Power;

  constructor(medium: Medium, power: Power) {
    super("disk", medium.current.length, {
      ...plainLimits,
      capabilities: { ...plainLimits.capabilities, discard: "native", discardZeroes: true },
    });
    this.#medium = medium;
    this.#power = power;
    power.attach(medium);
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    this.#medium.current.copy(into, 0, offset, offset + into.length);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await this.#power.step(() => this.#medium.put(offset, from));
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    await this.#power.step(() => this.#medium.put(offset, Buffer.alloc(length)));
  }

  protected override async doFlush(): Promise<void> {
    await this.#power.step(() => this.#medium.sync());
  }
}

/** An undo file on a medium. */
export class PoweredFile implements UndoStorage {
  readonly medium: Medium;
  readonly #power: Power;
  /** A mutant: says that it was synced, and was not. */
  lies = false;

  constructor(medium: Medium, power: Power) {
    this.medium = medium;
    this.#power = power;
    power.attach(medium);
  }

  async size(): Promise<number> {
    return this.medium.current.length;
  }

  async read(offset: number, into: Buffer): Promise<number> {
    const { current } = this.medium;
    return offset >= current.length ? 0 : current.copy(into, 0, offset, offset + into.length);
  }

  async write(offset: number, from: Buffer): Promise<void> {
    await this.#power.step(() => this.medium.put(offset, from));
  }

  async truncate(size: number): Promise<void> {
    this.medium.current = this.medium.current.subarray(0, size);
    this.medium.stable = this.medium.stable.subarray(0, size);
  }

  async sync(): Promise<void> {
    if (!this.lies) await this.#power.step(() => this.medium.sync());
  }

  async close(): Promise<void> {}
}
