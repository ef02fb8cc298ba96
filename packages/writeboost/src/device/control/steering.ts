/** What is set of a running cache, and those that act on it. */
import { type Logger, type Pace, whyNotGivenBack, checkSettings } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import { type Tunables, tunableSettings } from "../../options.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { Bypass } from "../request/bypass.ts";
import { Route } from "../request/route.ts";
import type { Staging } from "../request/staging.ts";
import type { WriteThrough } from "../request/write-through.ts";
import type { Discarder } from "../writeback/discarder.ts";

interface Steered {
  readonly log: SegmentLog;
  readonly staging: Staging;
  readonly pace: Pace;
  readonly bypass: Bypass;
  readonly through: WriteThrough;
  readonly discarder: Discarder;
  /** Nothing goes past the log, and nothing of it is given back. */
  readonly isArchived: boolean;
}

export class Steering {
  /** In force. */
  readonly values: Tunables;
  /** What has been set since it was opened. */
  readonly told: Partial<Tunables> = {};
  readonly route: Route = new Route();
  readonly #steered: Steered;

  constructor(values: Tunables, steered: Steered, logger: Logger) {
    this.values = values;
    this.#steered = steered;
    const deaf = this.#whyNotGivenBack(values);
    if (deaf !== undefined)
      logger.log("warn", "free segments are not discarded", {
        device: steered.log.cache.name,
        error: deaf.message,
      });
    this.#apply();
  }

  /** Changes some. Throws `EINVAL` with the range, `ENOTSUP` for what the devices cannot do. */
  set(changes: Partial<Tunables>): void {
    checkSettings(tunableSettings, changes, "message");
    const deaf = this.#whyNotGivenBack(changes);
    if (deaf !== undefined) throw deaf;
    Object.assign(this.told, changes);
    Object.assign(this.values, changes);
    this.#apply();
  }

  /** In the background. */
  get allowsWriteback(): boolean {
    return this.values.allow_writeback === 1 || this.values.write_through === 1;
  }

  /** @param utilisation of the backing device, in per cent. Returns whether anything is decided by that. */
  modulate(utilisation: number): boolean {
    const { values } = this;
    if (values.enable_writeback_modulator === 0) return false;
    values.allow_writeback = utilisation < values.writeback_threshold ? 1 : 0;
    return true;
  }

  #whyNotGivenBack({ discard_cache: wanted }: Partial<Tunables>): ReturnType<typeof whyNotGivenBack> {
    const { cache, geometry } = this.#steered.log;
    return wanted === 1 ? whyNotGivenBack(cache, geometry.slotSize - BLOCK, "discard_cache") : undefined;
  }

  #apply(): void {
    const { values } = this;
    const { staging, pace, bypass, through, discarder, isArchived } = this.#steered;
    staging.threshold = values.read_cache_threshold;
    staging.popular.after = values.promote_after;
    pace.tune(values.writeback_rate, values.writeback_pause);
    this.route.tune(values, isArchived);
    bypass.takesParts = values.write_through === 1;
    through.isOn = values.write_through === 1;
    // What reads have put there is to be found there.
    discarder.isOn =
      values.discard_cache === 1 &&
      values.read_cache_threshold === 0 &&
      !isArchived &&
      this.#whyNotGivenBack(values) === undefined;
  }
}
