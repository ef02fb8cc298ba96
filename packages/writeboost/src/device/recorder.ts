/**
 * What a running cache writes down about itself: the superblock record, and the identity record.
 *
 * None of it is needed for what is in the log, it makes recovery faster and pairing surer. So where there is no
 * space for it, it is left as it was, and tried again when it is due again; any other error ends the cache.
 */
import type { BlockDevice, Logger } from "@dmkit/block-io";
import { RECORD_START, encodeRecord } from "../format/superblock.ts";
import type { IdentityKeeper } from "./identity-keeper.ts";
import type { SegmentLog } from "./log/segment-log.ts";
import { costsNothing } from "./refusals.ts";

export class Recorder {
  readonly #log: SegmentLog;
  readonly #identity: IdentityKeeper | undefined;
  /** The superblock record as it is on the device. */
  #recorded: number;

  constructor(log: SegmentLog, identity: IdentityKeeper | undefined, recorded: number) {
    this.#log = log;
    this.#identity = identity;
    this.#recorded = recorded;
  }

  /** Writes the superblock record if it is behind, durably. Throws `ENOSPC`. */
  async record(): Promise<void> {
    const log = this.#log;
    const id = log.lastWriteback;
    if (log.dead !== undefined || id === this.#recorded) return;
    try {
      await log.cache.write(RECORD_START, encodeRecord(id));
      await this.#identity?.write({ recordedId: id });
      await log.flushCache();
      this.#recorded = id;
    } catch (error) {
      throw costsNothing(error) ? error : log.die(error);
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
    await this.#identity.write({ clean: true, witness, coveredId: durable, lastId: lastFlushed });
    await this.#log.cache.flush();
  }
}
