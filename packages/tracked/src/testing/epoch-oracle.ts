/**
 * The oracle of epochs: for every epoch that was begun, what was on the device at that moment. Whenever the device is opened
 * again, every chunk that is not as it was then has to be marked.
 *
 * Invariants demanded:
 *
 * - an epoch whose beginning was answered is there until its end was asked for; one whose end was answered is not;
 * - what differs from the device at the moment an epoch began is marked in it, and in the one that it was merged into.
 */
import { type BlockDevice, SECTOR } from "@dmkit/block-io";
import type { TrackedDevice } from "../device/device.ts";

interface Known {
  /** What was there when it began, and when those began that were merged into it. */
  moments: Buffer[];
  /** What nobody knows: its beginning, or end, was asked for and not answered. */
  state: "there" | "beginning" | "ending";
  /** Moments that it has if the epoch of this name is gone: a merge into it was not answered. */
  readonly maybe: Map<string, Buffer[]>;
}

/** What has to be true of the epochs of one device. */
export class EpochOracle {
  readonly #known = new Map<string, Known>();
  readonly #chunk: number;

  /** @param chunk bytes. */
  constructor(chunk: number) {
    this.#chunk = chunk;
  }

  /** Epochs that are there for certain. */
  get names(): string[] {
    return [...this.#known].filter(([, { state }]) => state === "there").map(([name]) => name);
  }

  /** Begins an epoch. Errors: those of the device. */
  async begin(device: TrackedDevice, name: string, data: BlockDevice): Promise<void> {
    await device.begin(name, async () => {
      const now = Buffer.alloc(device.size);
      await data.read(0, now);
      this.#known.set(name, { moments: [now], state: "beginning", maybe: new Map() });
    });
    this.#find(name).state = "there";
  }

  async drop(device: TrackedDevice, name: string): Promise<void> {
    this.#find(name).state = "ending";
    await device.drop(name);
    this.#known.delete(name);
  }

  async merge(device: TrackedDevice, from: string, into: string): Promise<void> {
    const [source, target] = [this.#find(from), this.#find(into)];
    source.state = "ending";
    target.maybe.set(from, source.moments);
    await device.merge(from, into);
    target.maybe.delete(from);
    target.moments = [...target.moments, ...source.moments];
    this.#known.delete(from);
  }

  /**
   * What is wrong with a device that was opened, in words. What was in doubt is as it was found from now on.
   * @param data the device below. Errors: those of reading it.
   */
  async problems(device: TrackedDevice, data: BlockDevice): Promise<string[]> {
    const now = Buffer.alloc(device.size);
    await data.read(0, now);
    const found: string[] = [];
    const there = new Map(device.epochs.map((epoch) => [epoch.name, epoch]));
    for (const name of there.keys()) if (!this.#known.has(name)) found.push(`epoch ${name} is back`);
    for (const [name, known] of this.#known) {
      const epoch = there.get(name);
      if (epoch === undefined) {
        if (known.state === "there") found.push(`epoch ${name} is gone`);
        continue;
      }
      const merged = [...known.maybe].filter(([from]) => !there.has(from)).flatMap(([, moments]) => moments);
      known.moments = [...known.moments, ...merged];
      for (let offset = 0; offset < now.length; offset += SECTOR) {
        const sector = (bytes: Buffer): Buffer => bytes.subarray(offset, offset + SECTOR);
        if (epoch.bits.get(Math.floor(offset / this.#chunk))) continue;
        if (known.moments.every((then) => sector(then).equals(sector(now)))) continue;
        found.push(`sector ${offset / SECTOR} has changed since ${name} began, and is not marked`);
        break;
      }
    }
    for (const [name, known] of this.#known) {
      known.maybe.clear();
      if (there.has(name)) known.state = "there";
      else this.#known.delete(name);
    }
    return found;
  }

  #find(name: string): Known {
    const known = this.#known.get(name);
    if (known === undefined) throw new Error(`nobody knows epoch ${name}`);
    return known;
  }
}
