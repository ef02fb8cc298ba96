/** What is told when the log cannot be written, and looking now and then whether there is space for it again. */
import type { BlockIoError, Environment, Timer } from "@dmkit/block-io";
import type { SegmentLog } from "./segment-log.ts";

// Milliseconds.
const RETRY_AFTER = 1000;

export class LogTrouble {
  readonly #log: SegmentLog;
  readonly #device: string;
  readonly #environment: Environment;
  #retry: Timer | undefined;
  #stopped = false;

  constructor(log: SegmentLog, device: string, environment: Environment) {
    this.#log = log;
    this.#device = device;
    this.#environment = environment;
    log.onTrouble = (error) => this.#begin(error);
  }

  tell(level: "warn" | "error", message: string, error: unknown): void {
    this.#environment.logger.log(level, message, { device: this.#device, error: String(error) });
  }

  stop(): void {
    this.#stopped = true;
    this.#retry?.cancel();
    this.#retry = undefined;
  }

  start(): void {
    this.#stopped = false;
  }

  /** The log is full, or dead. */
  #begin(error: BlockIoError): void {
    this.tell("error", "the cache device does not take what is written", error);
    if (this.#log.dead === undefined) this.#retryLater();
  }

  /** Though nobody writes. */
  #retryLater(): void {
    this.#retry ??= this.#environment.clock.after(RETRY_AFTER, () => {
      this.#retry = undefined;
      if (this.#log.full === undefined || this.#stopped) return;
      this.#log.retry();
      this.#retryLater();
    });
  }
}
