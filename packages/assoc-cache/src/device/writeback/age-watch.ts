/**
 * Finds what has been dirty for too long: what was dirty at the last look and still is, is due. Between two looks lies
 * the limit, so a block is due when it has been dirty for that long at least, and for less than twice that.
 */
import type { Clock, Timer } from "@dmkit/block-io";
import type { CleaningPlan } from "../../core/cleaning-plan.ts";

export class AgeWatch {
  readonly #clock: Clock;
  readonly #plan: CleaningPlan;
  readonly #looked: () => void;
  #timer: Timer | undefined;

  /** @param looked called after each look, when the plan knows what is due. It begins again if it is to go on. */
  constructor(clock: Clock, plan: CleaningPlan, looked: () => void) {
    this.#clock = clock;
    this.#plan = plan;
    this.#looked = looked;
  }

  /** Looks now and when the limit, in milliseconds, has passed; unless it does so already. */
  begin(limit: number): void {
    if (this.#timer !== undefined) return;
    const older = this.#plan.snapshot();
    this.#timer = this.#clock.after(limit, () => {
      this.#timer = undefined;
      this.#plan.markDue(older);
      this.#looked();
    });
  }

  stop(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }
}
