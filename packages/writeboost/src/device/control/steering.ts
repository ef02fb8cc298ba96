/** What is set of a running cache, and those that act on it. */
import { type Logger, type Pace, whyNotGivenBack } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import { type Tunables, checked } from "../../options.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { Route } from "../request/route.ts";
import type { Staging } from "../request/staging.ts";
import type { Discarder } from "../writeback/discarder.ts";

interface Steered {
  readonly log: SegmentLog;
  readonly staging: Staging;
  readonly pace: Pace;
  readonly route: Route;
  readonly discarder: Discarder;
  /** Nothing goes past the log, and nothing of it is given back. */
  readonly isArchived: boolean;
}

export class Steering {
  /** In force. */
  readonly values: Tunables;
  /** What has been set since it was opened. */
  readonly told: Partial<Tunables> = {};
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
    checked(changes);
    const deaf = this.#whyNotGivenBack(changes);
    if (deaf !== undefined) throw deaf;
    Object.assign(this.told, changes);
    Object.assign(this.values, changes);
    this.#apply();
  }

  #whyNotGivenBack({ discard_cache: wanted }: Partial<Tunables>): ReturnType<typeof whyNotGivenBack> {
    const { cache, geometry } = this.#steered.log;
    return wanted === 1 ? whyNotGivenBack(cache, geometry.slotSize - BLOCK, "discard_cache") : undefined;
  }

  #apply(): void {
    const { values } = this;
    const { staging, pace, route, discarder, isArchived } = this.#steered;
    staging.threshold = values.read_cache_threshold;
    staging.popular.after = values.promote_after;
    pace.tune(values.writeback_rate, values.writeback_pause);
    route.tune(values, isArchived);
    // What reads have put there is to be found there.
    discarder.isOn =
      values.discard_cache === 1 &&
      values.read_cache_threshold === 0 &&
      !isArchived &&
      this.#whyNotGivenBack(values) === undefined;
  }
}
