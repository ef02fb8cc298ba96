/** The time a server has to end. */
import { BlockIoError, type Environment } from "@dmkit/block-io";

// Milliseconds that are always left, so that what needs no waiting still gets done.
const MOMENT = 100;

/** One time limit for all steps of shutting down; it begins to run when somebody first asks what is left. */
export class Deadline {
  /** Milliseconds. */
  readonly allowed: number;
  readonly #environment: Environment;
  #started: number | undefined;

  constructor(allowed: number, environment: Environment) {
    this.allowed = allowed;
    this.#environment = environment;
  }

  /** Milliseconds. */
  left(): number {
    const now = this.#environment.clock.now();
    this.#started ??= now;
    return Math.max(MOMENT, this.allowed - (now - this.#started));
  }

  /** A device whose storage does not answer must not keep the process for ever: better an error than a hang. */
  async closing(devices: Promise<void>): Promise<void> {
    let expired!: (error: BlockIoError) => void;
    const expiry = new Promise<never>((_resolve, reject) => {
      expired = reject;
    });
    const timer = this.#environment.clock.after(this.left(), () => {
      expired(
        new BlockIoError(`the devices did not close within ${this.allowed / 1000} s`, {
          code: "ETIMEDOUT",
          op: "close",
          hint: "What was not flushed may be lost. Check the storage below, or allow more by --shutdown-timeout.",
        }),
      );
    });
    try {
      await Promise.race([devices, expiry]);
    } finally {
      timer.cancel();
    }
  }
}
