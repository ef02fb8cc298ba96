/**
 * Bits that are in memory only are brought to the disk after a while, whether anybody flushes or not.
 *
 * Clients wait while the file system below brings data to the disk, so the default is as long as others leave it
 * (ext4's commit interval, the kernel's flusher: 5 s; with 1 s, random writes ran at 34k to 69k a second in
 * place of 90k), and the while begins anew when a commit is over, however long it took.
 */
import { type Environment, type Timer, isLossless } from "@dmkit/block-io";

export class Autocommit {
  readonly #environment: Environment;
  #milliseconds: number;
  readonly #device: string;
  readonly #commit: () => Promise<void>;
  #timer: Timer | undefined;
  #committing = false;
  #armedMeanwhile = false;
  #told = false;

  /** @param milliseconds 0: never. @param commit fails the device by itself; the error is logged here. */
  constructor(environment: Environment, milliseconds: number, device: string, commit: () => Promise<void>) {
    this.#environment = environment;
    this.#milliseconds = milliseconds;
    this.#device = device;
    this.#commit = commit;
  }

  /** Milliseconds; 0: never. */
  get pause(): number {
    return this.#milliseconds;
  }

  /** What waits for a commit waits for the new time from now on. */
  set pause(milliseconds: number) {
    this.#milliseconds = milliseconds;
    if (this.#timer === undefined) return;
    this.#timer.cancel();
    this.#timer = undefined;
    this.arm();
  }

  /** There is something to commit. */
  arm(): void {
    if (this.#milliseconds === 0 || this.#timer !== undefined) return;
    if (this.#committing) {
      this.#armedMeanwhile = true;
      return;
    }
    this.#timer = this.#environment.clock.after(this.#milliseconds, this.#fire);
  }

  disarm(): void {
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#armedMeanwhile = false;
  }

  readonly #fire = (): void => {
    this.#timer = undefined;
    void this.#run();
  };

  async #run(): Promise<void> {
    this.#committing = true;
    this.#armedMeanwhile = false;
    try {
      await this.#commit();
      this.#told = false;
    } catch (error) {
      const lossless = isLossless(error);
      // What found no space is tried again, and told once.
      if (!(lossless && this.#told)) this.#tell(error, lossless);
      this.#told = lossless;
      this.#armedMeanwhile ||= lossless;
    }
    this.#committing = false;
    if (this.#armedMeanwhile) this.arm();
  }

  #tell(error: unknown, lossless: boolean): void {
    const what = lossless
      ? "what was written could not be made stable; nothing is lost, and it is tried again"
      : "writes are refused: the bitmap could not be written";
    this.#environment.logger.log("error", what, { device: this.#device, error: String(error) });
  }
}
