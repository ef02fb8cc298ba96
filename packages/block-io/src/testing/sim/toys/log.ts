/**
 * A toy that is right: a device with a redo log. Small enough to read in one sitting, and it has the parts on
 * which real ones fail.
 *
 *      sector 0, 1         superblock, two copies; the valid one with the larger sequence counts
 *             2 …          log: slots of one header and up to eight sectors of data
 *             home …       the device's sectors at their own places
 *
 * Invariants:
 *
 * - the log holds the records of the current epoch, with sequences 0, 1, 2 … in slots 0, 1, 2 …; what follows
 *   a gap was never acknowledged as stable, so replay stops there;
 * - `#recent` is what replaying all of them would give, so reads never see anything else;
 * - a slot is written again only in a later epoch, which begins when everything is stable at home.
 */
import { type BlockDevice, SECTOR, done, plainLimits } from "../../../contract/device.ts";
import { GuardedDevice } from "../../../contract/guard.ts";
import { toBlockIoError } from "../../../contract/errors.ts";
import { decodeRecord, encodeRecord } from "./record.ts";

const DATA = 8;
const SLOT = (1 + DATA) * SECTOR;
const LOG = 2 * SECTOR;

/** Sizes of a toy log. */
export interface ToyLogShape {
  /** Sectors of the device. */
  readonly sectors: number;
  /** Records before everything is written home. */
  readonly slots: number;
}

/** Bytes of the disk a toy log needs. */
export function toyLogDiskSize({ sectors, slots }: ToyLogShape): number {
  return LOG + slots * SLOT + sectors * SECTOR;
}

export class ToyLog extends GuardedDevice {
  readonly #disk: BlockDevice;
  readonly #shape: ToyLogShape;
  readonly #home: number;
  #epoch: number;
  #used = 0;
  #recent = new Map<number, Buffer>();
  #appending = new Set<Promise<void>>();
  #checkpoint: Promise<void> | undefined;

  private constructor(disk: BlockDevice, shape: ToyLogShape, epoch: number) {
    super("toy-log", shape.sectors * SECTOR, plainLimits);
    this.#disk = disk;
    this.#shape = shape;
    this.#home = LOG + shape.slots * SLOT;
    this.#epoch = epoch;
  }

  /** Recovers: replays the log, brings everything home, and begins a new epoch. */
  static async open(disk: BlockDevice, shape: ToyLogShape): Promise<ToyLog> {
    const device = new ToyLog(disk, shape, await readEpoch(disk));
    await device.#replay();
    await device.#bringHome();
    return device;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    const first = offset / SECTOR;
    // What is newer than home is taken now: a checkpoint may come between.
    const recent: [number, Buffer][] = [];
    for (let at = 0; at < into.length; at += SECTOR) {
      const data = this.#recent.get(first + at / SECTOR);
      if (data !== undefined) recent.push([at, data]);
    }
    if (recent.length * SECTOR < into.length) await this.#disk.read(this.#home + offset, into);
    for (const [at, data] of recent) data.copy(into, at);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    for (let at = 0; at < from.length; at += DATA * SECTOR) {
      const piece = from.subarray(at, at + DATA * SECTOR);
      while (this.#used === this.#shape.slots) await this.#emptyLog();
      // Nobody waits between taking a slot and being listed: a checkpoint waits for all that are.
      const appending = this.append((offset + at) / SECTOR, piece);
      this.#appending.add(appending);
      try {
        await appending;
      } finally {
        this.#appending.delete(appending);
      }
    }
  }

  protected override doFlush(): Promise<void> {
    return this.makeStable();
  }

  /** Writes one record into the next slot. */
  private async append(target: number, data: Buffer): Promise<void> {
    const sequence = this.#used;
    this.#used += 1;
    const count = data.length / SECTOR;
    for (let sector = 0; sector < count; sector += 1) {
      this.#recent.set(target + sector, Buffer.from(data.subarray(sector * SECTOR, (sector + 1) * SECTOR)));
    }
    const record = encodeRecord({ epoch: this.#epoch, sequence, target, count }, data);
    try {
      await this.#disk.write(LOG + sequence * SLOT, record);
    } catch (error) {
      // A hole in the log hides all that comes after it.
      const failure = toBlockIoError(error, { device: this.name, op: "write" });
      this.fail(failure);
      throw failure;
    }
  }

  /** Makes all records stable, and those before them: replay needs them without a gap. */
  private async makeStable(): Promise<void> {
    await this.settled();
    if (this.failure !== undefined) throw this.failure;
    await this.flushDisk();
  }

  /** Waits for all records on their way. */
  private async settled(): Promise<void> {
    await Promise.allSettled(this.#appending);
  }

  private async flushDisk(): Promise<void> {
    try {
      await this.#disk.flush();
    } catch (error) {
      // Also when it was on behalf of a FUA write: nobody knows any more what is stable.
      this.fail(toBlockIoError(error, { device: this.name, op: "flush" }));
    }
    // Another flush may have failed meanwhile, and what this one was to cover is gone.
    if (this.failure !== undefined) throw this.failure;
  }

  /** The epoch whose records count. Begun only when no older record is needed. */
  private nextEpoch(): number {
    return this.#epoch + 1;
  }

  #emptyLog(): Promise<void> {
    this.#checkpoint ??= this.settled()
      .then(() => {
        if (this.failure !== undefined) throw this.failure;
        return this.#bringHome();
      })
      .finally(() => {
        this.#checkpoint = undefined;
      });
    return this.#checkpoint;
  }

  async #replay(): Promise<void> {
    const bytes = Buffer.alloc(SLOT);
    for (let slot = 0; slot < this.#shape.slots; slot += 1) {
      await this.#disk.read(LOG + slot * SLOT, bytes);
      const record = decodeRecord(bytes);
      if (record === undefined || record.epoch !== this.#epoch || record.sequence !== slot) return;
      for (let sector = 0; sector < record.count; sector += 1) {
        const at = (1 + sector) * SECTOR;
        this.#recent.set(record.target + sector, Buffer.from(bytes.subarray(at, at + SECTOR)));
      }
    }
  }

  async #bringHome(): Promise<void> {
    const recent = this.#recent;
    try {
      await Promise.all(
        Array.from(recent, ([sector, data]) => this.#disk.write(this.#home + sector * SECTOR, data)),
      );
      await this.flushDisk();
      const epoch = this.nextEpoch();
      const superblock = encodeRecord({ epoch, sequence: epoch, target: 0, count: 0 }, Buffer.alloc(0));
      await this.#disk.write((epoch % 2) * SECTOR, superblock);
      await this.flushDisk();
      this.#epoch = epoch;
      this.#used = 0;
      this.#recent = new Map();
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.name, op: "write" });
      this.fail(failure);
      throw failure;
    }
  }

  protected override doClose(): Promise<void> {
    this.#recent.clear();
    return done;
  }
}

async function readEpoch(disk: BlockDevice): Promise<number> {
  const copies = Buffer.alloc(2 * SECTOR);
  await disk.read(0, copies);
  const epochs = [0, SECTOR].map((at) => decodeRecord(copies.subarray(at, at + SECTOR))?.epoch ?? 0);
  return Math.max(...epochs);
}
