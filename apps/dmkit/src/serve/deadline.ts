/** The time a server has to end. */
import { BlockIoError, type Environment } from "@dmkit/block-io";
import { endsWithin } from "./ends-within.ts";

// Milliseconds that are always left, so that what needs no waiting still gets done.
const MOMENT = 100;
// Milliseconds a process may take to end when everything has been said.
const ENDING = 500;

/** One time limit for all steps of shutting down; it begins to run when it is told to, or asked what is left. */
export class Deadline {
  /** Milliseconds. */
  readonly allowed: number;
  // A little less, so that the process is gone when the time is over.
  readonly #limit: number;
  readonly #environment: Environment;
  #started: number | undefined;

  constructor(allowed: number, environment: Environment) {
    this.allowed = allowed;
    this.#limit = allowed - Math.min(ENDING, allowed / 10);
    this.#environment = environment;
  }

  /** Milliseconds for clients to go; as much is left to close the devices, also of clients that do not go. */
  leftForClients(): number {
    return this.left() / 2;
  }

  /** The time begins to run, unless it does already. */
  begin(): void {
    this.#started ??= this.#environment.clock.now();
  }

  /** Milliseconds. */
  left(): number {
    this.begin();
    const past = this.#environment.clock.now() - (this.#started ?? 0);
    return Math.max(MOMENT, this.#limit - past);
  }

  /**
   * A device whose storage does not answer must not keep the process for ever: better an error than a hang.
   * @param open names of those that are not closed.
   */
  async closing(devices: Promise<void>, open: () => readonly string[]): Promise<void> {
    if (await endsWithin(this.#environment.clock, this.left(), devices)) return;
    const names = open();
    const which = names.length === 0 ? "the devices" : names.map((name) => `device ${name}`).join(", ");
    throw new BlockIoError(`${which} did not close within ${this.allowed / 1000} s`, {
      code: "ETIMEDOUT",
      op: "close",
      hint: "What was not flushed may be lost. Check the storage below, or allow more by --shutdown-timeout.",
    });
  }
}
