/**
 * What a running cache writes down about itself: the superblock record, and the identity record.
 *
 * None of it is needed for what is in the log, it makes recovery faster and pairing surer. So where there is no
 * space for it, it is left as it was, and tried again when it is due again. So is a record whose sector the device does
 * not take (`EIO`): the identity record has the same number, and without that one too low is none the worse. Any other
 * error ends the cache.
 */
import { type BlockDevice, type BlockIoError, type Logger, isOfPlace } from "@dmkit/block-io";
import { NO_UUID } from "../format/identity.ts";
import { RECORD_START, encodeRecord } from "../format/superblock.ts";
import type { IdentityKeeper } from "./identity-keeper.ts";
import type { SegmentLog } from "./log/segment-log.ts";
import { costsNothing } from "./refusals.ts";

export class Recorder {
  readonly #log: SegmentLog;
  readonly #identity: IdentityKeeper | undefined;
  #recorded: number;
  #recording: Promise<void> | undefined;
  readonly #warn: (message: string, error: BlockIoError) => void;
  /** Why the superblock record could not be written the last time, where it could not. */
  badSector: BlockIoError | undefined;

  constructor(
    log: SegmentLog,
    identity: IdentityKeeper | undefined,
    recorded: number,
    warn: (message: string, error: BlockIoError) => void,
  ) {
    this.#log = log;
    this.#identity = identity;
    this.#recorded = recorded;
    this.#warn = warn;
  }

  /** The superblock record as it is on the device, durably. */
  get recorded(): number {
    return this.#recorded;
  }

  /** Writes the superblock record if it is behind, durably. Throws `ENOSPC`. */
  async record(): Promise<void> {
    // One at a time: it must not go back.
    while (this.#recording !== undefined) await this.#recording.catch(() => {});
    this.#recording = this.#recordNow().finally(() => {
      this.#recording = undefined;
    });
    await this.#recording;
  }

  async #recordNow(): Promise<void> {
    const log = this.#log;
    const id = log.lastWriteback;
    if (log.dead !== undefined || id === this.#recorded) return;
    try {
      await this.#writeRecord(id);
      await this.#identity?.write({ recordedId: id });
      await log.flushCache();
      this.#recorded = id;
    } catch (error) {
      throw costsNothing(error) ? error : log.die(error);
    }
  }

  async #writeRecord(id: number): Promise<void> {
    try {
      await this.#log.cache.write(RECORD_START, encodeRecord(id));
      this.badSector = undefined;
    } catch (error) {
      if (!isOfPlace(error)) throw error;
      if (this.badSector === undefined)
        this.#warn("the superblock record, sector 2047, cannot be written; nothing depends on it", error);
      this.badSector = error;
    }
  }

  /** Notes now and then how much of the log a flush has covered. */
  cover(): void {
    const identity = this.#identity;
    const { durable, geometry, dead } = this.#log;
    if (identity === undefined || identity.busy || dead !== undefined) return;
    if (durable - identity.identity.coveredId < Math.max(1, geometry.tail / 2)) return;
    identity.write({ coveredId: durable }).catch((error: unknown) => {
      if (!costsNothing(error)) this.#log.die(error);
    });
  }

  /** The cache is being closed in order: everything in the log is durable. Throws `ENOSPC`, and what `backing` throws. */
  async markClean(backing: BlockDevice, logger: Logger): Promise<void> {
    if (this.#identity === undefined) return;
    await this.#log.flushCache();
    await backing.flush();
    const witness = await this.#identity.witness(backing, logger);
    const { durable, lastFlushed } = this.#log;
    const through = false;
    await this.#identity.write({ clean: true, witness, coveredId: durable, lastId: lastFlushed, through });
    await this.#log.cache.flush();
  }

  /** Notes, durably, whether nothing in the log counts. Undefined where there is no record for that. */
  get through(): ((through: boolean) => Promise<void>) | undefined {
    const identity = this.#identity;
    if (identity === undefined || identity.identity.archive !== NO_UUID) return undefined;
    return async (through) => {
      await identity.write({ through });
      await this.#log.flushCache();
    };
  }
}
