/** A writeboost device over disks and a clock driven by hand, and what scenarios do with it. */
import type { BlockDevice } from "@dmkit/block-io";
import { ManualClock, manualEnvironment, settle } from "@dmkit/block-io/testing";
import { type Rules, rules } from "../../src/core/rules.ts";
import type { OpenOptions, WriteboostDevice } from "../../src/index.ts";
import { openWith } from "../../src/open/open.ts";
import { HandDisk, type Lands } from "./hand.ts";

export const MIB: number = 1024 * 1024;
export const BLOCK = 4096;

export interface Shape {
  readonly order?: number;
  readonly slots?: number;
  /** Bytes of the plog device; there is none unless given. */
  readonly plog?: number;
  readonly options?: OpenOptions;
}

export type DiskName = "backing" | "cache" | "plog";

/** What is wrong with all rigs: decisions that are made otherwise, and what is put between the device and its disks. */
const faults: { rules: Partial<Rules>; wrap: Wrap } = { rules: {}, wrap: (disk) => disk };

export type Wrap = (disk: BlockDevice, name: DiskName) => BlockDevice;

/** For {@link Case.inject}: decides some things otherwise. */
export function deciding(changes: Partial<Rules>): () => () => void {
  return () => {
    faults.rules = changes;
    return () => (faults.rules = {});
  };
}

/** For {@link Case.inject}: a fault of what is asked of a disk. */
export function wrapped(wrap: Wrap): () => () => void {
  return () => {
    const { wrap: before } = faults;
    faults.wrap = wrap;
    return () => (faults.wrap = before);
  };
}

export class Rig {
  readonly clock: ManualClock = new ManualClock();
  backing: HandDisk;
  cache: HandDisk;
  plog: HandDisk | undefined;
  device!: WriteboostDevice;
  /** Put between the device and its disks: for faults of what it asks for. */
  wrap: Wrap = (disk, name) => faults.wrap(disk, name);
  readonly #options: OpenOptions;

  constructor({ order = 4, slots = 3, plog, options = {} }: Shape = {}) {
    this.backing = new HandDisk("backing", MIB);
    this.cache = new HandDisk("cache", MIB + slots * 512 * 2 ** order);
    if (plog !== undefined) this.plog = new HandDisk("plog", plog);
    this.#options = { order, ...options };
  }

  async open(options: OpenOptions = {}): Promise<WriteboostDevice> {
    const devices = {
      backing: this.wrap(this.backing, "backing"),
      cache: this.wrap(this.cache, "cache"),
      plog: this.plog && this.wrap(this.plog, "plog"),
    };
    const environment = manualEnvironment(1, this.clock);
    const decisions = Object.freeze({ ...rules, ...faults.rules });
    this.device = await openWith(devices, { environment, ...this.#options, ...options }, decisions);
    return this.device;
  }

  /** The power fails; what no flush covered survives where `lands` says so. */
  async crash(lands?: Lands): Promise<void> {
    await settle();
    this.backing = this.backing.crash(lands);
    this.cache = this.cache.crash(lands);
    this.plog = this.plog?.crash(lands);
  }

  async reopen(lands?: Lands): Promise<WriteboostDevice> {
    await this.crash(lands);
    return this.open();
  }

  /** Fills a whole block. */
  write(block: number, byte: number): Promise<void> {
    return this.device.write(block * BLOCK, Buffer.alloc(BLOCK, byte));
  }

  /** Fills sectors of a block. */
  writeSectors(block: number, sector: number, count: number, byte: number): Promise<void> {
    return this.device.write(block * BLOCK + sector * 512, Buffer.alloc(count * 512, byte));
  }

  /** Writes a block and makes it durable: at order 4, one segment. */
  async segment(block: number, byte: number): Promise<void> {
    await this.write(block, byte);
    await this.device.flush();
  }

  /** The first byte of each sector of a block. */
  async read(block: number): Promise<number[]> {
    const into = Buffer.alloc(BLOCK);
    await this.device.read(block * BLOCK, into);
    return Array.from({ length: 8 }, (_, sector) => into.readUInt8(sector * 512));
  }
}

/** Eight sectors of one byte. */
export function filled(byte: number): number[] {
  return Array.from({ length: 8 }, () => byte);
}
