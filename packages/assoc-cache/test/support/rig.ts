/** A cache over memory devices that count their requests, can be held up, and can be pulled out. */
import { type BlockDevice, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { BlockIoError, type ErrorCode, GuardedDevice, type WriteZeroesOptions } from "@dmkit/block-io";
import type { AssocCacheDevice } from "../../src/index.ts";
import { openOn } from "../../src/testing/sim-targets.ts";

/** Passes everything on, and does with it what a test wants. */
export class Tapped extends GuardedDevice {
  readonly lower: BlockDevice;
  readonly counts = { read: 0, write: 0, flush: 0 };
  /** All I/O fails. */
  pulled = false;
  /** Writes fail. */
  failsWrites: boolean | ((offset: number) => boolean) = false;
  /** Reads of these bytes fail. */
  failsReads: (offset: number, length: number) => boolean = () => false;
  /** Flushes fail. */
  failsFlushes: boolean | (() => boolean) = false;
  /** What failed has lost nothing. */
  lossless = false;
  /** With which code. */
  code: ErrorCode = "EIO";
  /** Requests wait for this. */
  hold: Promise<void> | undefined;
  /** Writes of this many bytes only; others, and all other requests, pass. */
  holdsWritesOf: number | undefined;

  constructor(lower: BlockDevice, name: string) {
    super(name, lower.size, lower.limits);
    this.lower = lower;
  }

  protected override get failsForGood(): boolean {
    return false;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    this.counts.read += 1;
    await this.#gate("read", into.length, offset);
    await this.lower.read(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    this.counts.write += 1;
    await this.#gate("write", from.length, offset);
    await this.lower.write(offset, from, { fua });
  }

  protected override async doFlush(): Promise<void> {
    this.counts.flush += 1;
    await this.#gate("flush");
    await this.lower.flush();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    await this.#gate("write");
    await this.lower.discard(offset, length);
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    await this.#gate("write");
    await this.lower.writeZeroes(offset, length, options);
  }

  async #gate(op: "read" | "write" | "flush", length = 0, offset = 0): Promise<void> {
    if (this.holdsWritesOf === undefined || this.holdsWritesOf === length) await this.hold;
    const fails = typeof this.failsWrites === "function" ? this.failsWrites(offset) : this.failsWrites;
    const flushFails =
      op === "flush" && (typeof this.failsFlushes === "function" ? this.failsFlushes() : this.failsFlushes);
    const unread = op === "read" && this.failsReads(offset, length);
    if (unread || this.pulled || (fails && op === "write") || flushFails) {
      const { code, lossless } = this;
      throw new BlockIoError("pulled out", { code, device: this.name, op, lossless });
    }
  }
}

export interface Rig {
  readonly source: Tapped;
  readonly cache: Tapped;
  readonly open: (values?: Readonly<Record<string, unknown>>) => Promise<AssocCacheDevice>;
}

/** 64 frames of 4 KiB, 16 ways, over 2000 sectors, unless told otherwise. */
export function rig(
  defaults: Readonly<Record<string, unknown>> = {},
  sectors = 2000,
  environment = realEnvironment,
): Rig {
  const source = new Tapped(new MemoryDevice(sectors * 512), "source");
  const cache = new Tapped(new MemoryDevice(2 ** 20), "cache");
  const options = {
    block_size: 8,
    cache_size: 64,
    associativity: 16,
    sequential_cutoff: 0,
    high_watermark: 100,
    age_limit: 0,
    ...defaults,
  };
  const open: Rig["open"] = async (values = {}) => {
    const device = await openOn(source, cache, { ...options, ...values }, environment);
    // Of a new cache that counts which it does when it is open.
    if (values["persistence"] !== 1)
      for (const { counts } of [source, cache]) Object.assign(counts, { read: 0, write: 0, flush: 0 });
    return device;
  };
  return { source, cache, open };
}

export const block = (fill: number, sectors = 8): Buffer => Buffer.alloc(sectors * 512, fill);

export async function readSectors(device: BlockDevice, sector: number, count = 8): Promise<Buffer> {
  const into = Buffer.alloc(count * 512, 0xee);
  await device.read(sector * 512, into);
  return into;
}

/** The numbers in the status line by key. */
export function figures(device: AssocCacheDevice): Record<string, string> {
  const pairs: Record<string, string> = {};
  const words = device
    .status()
    .replace(/^.*replaced dirty blocks\(\d+\) /, "")
    .split(" ");
  for (let at = 0; at + 1 < words.length; at += 2) pairs[words.at(at) ?? ""] = words.at(at + 1) ?? "";
  return pairs;
}

/** Until background work that needs no timer is done. */
export async function settled(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
