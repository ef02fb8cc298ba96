/**
 * The identity record of a running device.
 *
 * Invariants: the record says `clean` only while nobody can change anything; `coveredId` only grows and never
 * runs ahead of what a flush has covered. Writes are one at a time, each of one sector.
 */
import { type BlockDevice, type Logger, witnessOf } from "@dmkit/block-io";
import { IDENTITY_START, type Identity, NO_WITNESS, encodeIdentity } from "../format/identity.ts";

export class IdentityKeeper {
  readonly #cache: BlockDevice;
  #identity: Identity;
  #writing: Promise<void> | undefined;

  constructor(cache: BlockDevice, identity: Identity) {
    this.#cache = cache;
    this.#identity = identity;
  }

  get identity(): Identity {
    return this.#identity;
  }

  /** Whether a write is under way. */
  get busy(): boolean {
    return this.#writing !== undefined;
  }

  /** Of what counts of the backing device. One that cannot be read just now is not worth an unclean close. */
  async witness(backing: BlockDevice, logger: Logger): Promise<string> {
    try {
      return await witnessOf(backing, this.#identity.backingSize);
    } catch (error) {
      const text = "if the backing device is changed before it is opened again, nobody will notice";
      logger.log("warn", text, { device: backing.name, error: String(error) });
      return NO_WITNESS;
    }
  }

  /** Writes the record with some of it changed. It is durable after the next flush of the cache device. */
  async write(changes: Partial<Identity>): Promise<void> {
    while (this.#writing !== undefined) await this.#writing.catch(() => {});
    this.#identity = { ...this.#identity, ...changes };
    this.#writing = this.#cache.write(IDENTITY_START, encodeIdentity(this.#identity)).finally(() => {
      this.#writing = undefined;
    });
    await this.#writing;
  }
}
