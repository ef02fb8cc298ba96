/** Bits that are in memory only are brought to the disk after a while, whether anybody flushes or not. */
import type { Environment, Timer } from "@dmkit/block-io";

export class Autocommit {
  readonly #environment: Environment;
  readonly #milliseconds: number;
  readonly #device: string;
  readonly #commit: () => Promise<void>;
  #timer: Timer | undefined;

  /** @param milliseconds 0: never. @param commit fails the device by itself; the error is logged here. */
  constructor(environment: Environment, milliseconds: number, device: string, commit: () => Promise<void>) {
    this.#environment = environment;
    this.#milliseconds = milliseconds;
    this.#device = device;
    this.#commit = commit;
  }

  /** There is something to commit. */
  arm(): void {
    if (this.#milliseconds === 0 || this.#timer !== undefined) return;
    this.#timer = this.#environment.clock.after(this.#milliseconds, this.#fire);
  }

  disarm(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
  }

  readonly #fire = (): void => {
    this.#timer = undefined;
    this.#commit().catch((error: unknown) => {
      this.#environment.logger.log("error", "writes are refused: the bitmap could not be written", {
        device: this.#device,
        error: String(error),
      });
    });
  };
}
