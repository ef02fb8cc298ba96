/**
 * The flush that nobody asks for, a while after a write. One that lost nothing is tried again, and told once; any other
 * failure is the device's.
 */
import { type BlockIoError, type Timer, toBlockIoError } from "@dmkit/block-io";
import { RETRY_AFTER } from "../no-space.ts";
import type { DeviceV1Parts } from "./parts.ts";

/** What it does to the device. */
interface Flushed {
  readonly flush: () => Promise<void>;
  /** Not for an error that lost nothing. */
  readonly failed: (error: BlockIoError) => void;
}

type Parts = Pick<DeviceV1Parts, "name" | "environment" | "interval">;

export class LateFlush {
  readonly #device: Flushed;
  readonly #parts: Parts;
  #timer: Timer | undefined;
  /** No space was left the last time. */
  #isFull = false;
  #isOver = false;

  constructor(device: Flushed, parts: Parts) {
    this.#device = device;
    this.#parts = parts;
  }

  /** Something was written. @param after milliseconds. */
  arm(after: number = this.#parts.interval): void {
    if (!this.#isOver) this.#timer ??= this.#parts.environment.clock.after(after, () => void this.#run());
  }

  /** For good: a flush may be under way that wants to come back. */
  cancel(): void {
    this.#isOver = true;
    this.#timer?.cancel();
  }

  async #run(): Promise<void> {
    this.#timer = undefined;
    const { name, environment, interval } = this.#parts;
    try {
      await this.#device.flush();
      this.#isFull = false;
    } catch (error) {
      const failure = toBlockIoError(error, { device: name, op: "flush" });
      if (!failure.lossless) return this.#device.failed(failure);
      if (!this.#isFull)
        environment.logger.log("error", "no space is left below", { cause: failure.message });
      this.#isFull = true;
      this.arm(Math.max(RETRY_AFTER, interval));
    }
  }
}
