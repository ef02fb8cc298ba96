/**
 * The identity of the top layer while it is written to.
 *
 * Invariant: a sector that the identity samples is not written before an identity without that sample is stable. So
 * what is sampled is right at every moment, and after every crash; and each sample is in the way once at most.
 */
import { type BlockDevice, type Logger, Turnstile, toBlockIoError } from "@dmkit/block-io";
import { type CowRules, cowRules } from "../core/rules.ts";
import type { Identity } from "../format/identity.ts";
import { type LayerDevices, writeIdentity } from "./layer/layer.ts";
import { sampleData } from "./layer/pairing.ts";

export class TopRecord {
  readonly #bitmap: BlockDevice;
  readonly #rules: CowRules;
  #identity: Identity;
  readonly #changes = new Turnstile();

  /** @param identity as it is on the disk. */
  constructor(bitmap: BlockDevice, identity: Identity, rules: CowRules = cowRules) {
    this.#bitmap = bitmap;
    this.#identity = identity;
    this.#rules = rules;
  }

  /** As it is on the disk. */
  get identity(): Identity {
    return this.#identity;
  }

  /** Whether one of these sectors is sampled: then {@link release} comes before it is written. */
  covers(sector: number, count: number): boolean {
    const { samples } = this.#identity;
    return samples !== undefined && this.#rules.covers(samples, sector, count);
  }

  /** Makes an identity stable that does not sample these sectors. Errors: those of the bitmap device. */
  release(sector: number, count: number): Promise<void> {
    return this.change((identity) => {
      if (!this.covers(sector, count)) return identity;
      const samples = identity.samples?.filter((one) => one.sector < sector || one.sector >= sector + count);
      return { ...identity, samples: samples?.length === 0 ? undefined : samples };
    });
  }

  /** Changes the identity, one change after the other; stable when it resolves. Errors: those of the device. */
  change(change: (identity: Identity) => Identity): Promise<void> {
    return this.#changes.pass(async () => {
      const next = change(this.#identity);
      if (next === this.#identity) return;
      await writeIdentity(this.#bitmap, next);
      this.#identity = next;
    });
  }
}

/** What is in the top now is what its data device is known by the next time. Warns where that cannot be written. */
export async function sampleTop(
  { layer, record }: { readonly layer: LayerDevices; readonly record: TopRecord },
  sectors: number,
  name: string,
  logger: Logger,
): Promise<void> {
  try {
    const samples = await sampleData(layer, record.identity.uuid, sectors);
    if (samples.length > 0) await record.change((identity) => ({ ...identity, samples }));
  } catch (error) {
    // Nothing depends on it.
    const { message } = toBlockIoError(error, {});
    logger.log("warn", "the samples of the data could not be written", { device: name, error: message });
  }
}
