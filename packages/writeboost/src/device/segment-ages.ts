/** When segments were begun: for how long what is not written back has been in the log only. */
import type { Clock } from "@dmkit/block-io";
import { slotOf } from "../format/geometry.ts";
import type { SegmentLog } from "./log/segment-log.ts";

export class SegmentAges {
  readonly #log: SegmentLog;
  readonly #clock: Clock;
  /** By slot; milliseconds of a clock that never goes back. */
  readonly #begun: Float64Array;

  /** What a former life has begun is no older than now. */
  constructor(log: SegmentLog, clock: Clock) {
    this.#log = log;
    this.#clock = clock;
    this.#begun = new Float64Array(log.geometry.slots).fill(clock.now());
    log.archived.onOpened = (id) => {
      this.#begun[slotOf(log.geometry, id)] = clock.now();
    };
  }

  /** Seconds since the oldest segment was begun that is not written back; 0 if nothing is dirty. */
  get oldest(): number {
    const { lastWriteback, geometry, map } = this.#log;
    if (map.dirtyBlocks === 0) return 0;
    const begun = this.#begun[slotOf(geometry, lastWriteback + 1)] as number;
    return Math.max(0, this.#clock.now() - begun) / 1000;
  }
}
