/**
 * A device in front of another that saves what is about to be overwritten.
 *
 * Invariants:
 *
 * - a byte below is overwritten only when what it held is in the undo file, on stable storage; of a sector that cannot be
 *   read, and nobody knows what it held, zeroes are, and the log says so;
 * - a granule (4 KiB) is saved once, as it was before the first write: what comes later is not wanted back;
 * - a granule that is not saved has no write in flight: so what is read of it to be saved is what it held.
 *
 * Work that goes through a device in order would wait for an fsync at each write: there, more is saved than is
 * asked for, up to 1 MiB ahead.
 */
import {
  type BlockDevice,
  type Extent,
  GuardedDevice,
  type Logger,
  RangeLock,
  SECTOR,
  SparseBitmap,
  type WriteZeroesOptions,
  isGiven,
  isZero,
  readWhatIsGiven,
} from "@dmkit/block-io";
import { MAX_PAYLOAD } from "../format/undo-file.ts";
import type { NewRecord, UndoRecorder } from "./recorder.ts";
import { GRANULE } from "../format/undo-file.ts";
import type { Range } from "./sample.ts";

// Bytes saved with one fsync, and held in memory, where a single request covers more.
const STEP = 8 * MAX_PAYLOAD;
// Bytes: below this it is quicker to read than to ask for holes.
const WORTH_ASKING = 64 * 1024;

export class UndoDevice extends GuardedDevice {
  readonly #inner: BlockDevice;
  readonly #index: number;
  readonly #recorder: UndoRecorder;
  readonly #logger: Logger;
  /** Granules that are in the undo file. */
  readonly #saved = new SparseBitmap();
  readonly #lock = new RangeLock();
  // Bytes saved at once by work that goes forward, and where the last save ended.
  #reach = GRANULE;
  #reached = -1;

  /** @param index the device's number in the undo file. */
  constructor(inner: BlockDevice, index: number, recorder: UndoRecorder, logger: Logger) {
    super(inner.name, inner.size, inner.limits);
    this.#logger = logger;
    this.#inner = inner;
    this.#index = index;
    this.#recorder = recorder;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#inner.read(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    await this.#protect(offset, from.length);
    await this.#inner.write(offset, from, { fua });
  }

  protected override doFlush(): Promise<void> {
    return this.#inner.flush();
  }

  protected override async doDiscard(offset: number, length: number): Promise<void> {
    await this.#protect(offset, length);
    await this.#inner.discard(offset, length);
  }

  protected override async doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    await this.#protect(offset, length);
    await this.#inner.writeZeroes(offset, length, options);
  }

  protected override doExtents(offset: number, length: number): AsyncIterable<Extent> {
    return this.#inner.extents(offset, length);
  }

  protected override doClose(): Promise<void> {
    return this.#inner.close();
  }

  async #protect(offset: number, length: number): Promise<void> {
    const first = Math.floor(offset / GRANULE);
    const end = Math.ceil((offset + length) / GRANULE);
    if (this.#isSaved(first, end)) return;
    const ahead = this.#lookAhead(first, end);
    await this.#lock.with(first, ahead - first, true, async () => {
      // What is ahead, and cannot be read, may never be asked for.
      if (await isGiven(this.#saveMissing(first, ahead, false))) return;
      await this.#saveMissing(first, end, true);
    });
  }

  /** @param anyway whether also what cannot be read. */
  async #saveMissing(first: number, end: number, anyway: boolean): Promise<void> {
    for (const { first: from, count } of this.#saved.runs(false, first, end)) {
      for (let at = from; at < from + count; at += STEP / GRANULE) {
        await this.#save(at, Math.min(STEP / GRANULE, from + count - at), anyway);
      }
    }
  }

  #isSaved(first: number, end: number): boolean {
    for (const _ of this.#saved.runs(false, first, end)) return false;
    return true;
  }

  /** The granule to save up to. */
  #lookAhead(first: number, end: number): number {
    const forward = first >= this.#reached && first - this.#reached <= this.#reach / GRANULE;
    this.#reach = forward ? Math.min(MAX_PAYLOAD, this.#reach * 2) : GRANULE;
    const last = Math.ceil(this.size / GRANULE);
    this.#reached = Math.min(last, Math.max(end, first + this.#reach / GRANULE));
    return this.#reached;
  }

  async #save(first: number, count: number, anyway: boolean): Promise<void> {
    const offset = first * GRANULE;
    const length = Math.min(count * GRANULE, this.size - offset);
    const records: NewRecord[] = [];
    for (const { offset: at, length: bytes, zero } of await this.#split(offset, length)) {
      records.push(zero ? this.#zeroes(at, bytes) : await this.#contents(at, bytes, anyway));
    }
    await this.#recorder.save(records);
    this.#saved.set(first, count);
  }

  /** Pieces of whole granules: holes of any length, and data of at most {@link MAX_PAYLOAD}. */
  async #split(offset: number, length: number): Promise<(Range & { zero: boolean })[]> {
    if (length <= WORTH_ASKING) return [{ offset, length, zero: false }];
    const pieces: (Range & { zero: boolean })[] = [];
    const end = offset + length;
    let at = offset;
    const add = (until: number, zero: boolean): void => {
      for (const step = zero ? length : MAX_PAYLOAD; at < until; at += step) {
        pieces.push({ offset: at, length: Math.min(step, until - at), zero });
      }
      at = until;
    };
    for await (const extent of this.#inner.extents(offset, length)) {
      const hole = extent.kind !== "data";
      // Only granules that lie in a hole whole are saved as zeroes.
      const from = Math.ceil(extent.offset / GRANULE) * GRANULE;
      const to = extent.offset + extent.length;
      const until = to === end ? end : Math.floor(to / GRANULE) * GRANULE;
      if (!hole || until <= from) continue;
      add(from, false);
      add(until, true);
    }
    add(end, false);
    return pieces;
  }

  async #contents(offset: number, length: number, anyway: boolean): Promise<NewRecord> {
    const payload = Buffer.allocUnsafeSlow(length);
    if (anyway) {
      for (const sector of await readWhatIsGiven(this.#inner, offset, payload)) {
        const at = offset + sector * SECTOR;
        const text = `byte ${at} of ${this.name} cannot be read and is overwritten: undo would make zeroes of it`;
        this.#logger.log("warn", text, { device: this.name, offset: at });
      }
    } else await this.#inner.read(offset, payload);
    if (isZero(payload)) return this.#zeroes(offset, length);
    return { kind: "data", device: this.#index, offset, length, payload };
  }

  #zeroes(offset: number, length: number): NewRecord {
    return { kind: "zeroes", device: this.#index, offset, length };
  }
}
