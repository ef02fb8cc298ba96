/**
 * The daemons that wake up by time: modulator, superblock recorder, sync. Each is a timer that is set again
 * when its work is done, and runs only while its tunable says so.
 */
import type { Clock, Timer } from "@dmkit/block-io";
import type { Tunables } from "../options.ts";

/** What the daemons do; failures are the callee's to report. */
export interface DaemonWork {
  readonly modulate: () => Promise<void>;
  readonly record: () => Promise<void>;
  readonly sync: () => Promise<void>;
}

export class Daemons {
  readonly #modulator: Periodic;
  readonly #recorder: Periodic;
  readonly #sync: Periodic;

  constructor(clock: Clock, work: DaemonWork) {
    this.#modulator = new Periodic(clock, work.modulate);
    this.#recorder = new Periodic(clock, work.record);
    this.#sync = new Periodic(clock, work.sync);
  }

  /** Starts, stops or changes the pace of each. */
  configure(tunables: Tunables): void {
    this.#modulator.every(tunables.enable_writeback_modulator);
    this.#recorder.every(tunables.update_record_interval);
    this.#sync.every(tunables.sync_interval);
  }

  /** Stops all, and waits for what is running. */
  async stop(): Promise<void> {
    await Promise.all([this.#modulator.stop(), this.#recorder.stop(), this.#sync.stop()]);
  }
}

class Periodic {
  readonly #clock: Clock;
  readonly #work: () => Promise<void>;
  #seconds = 0;
  #timer: Timer | undefined;
  #running: Promise<void> | undefined;

  constructor(clock: Clock, work: () => Promise<void>) {
    this.#clock = clock;
    this.#work = work;
  }

  every(seconds: number): void {
    if (seconds === this.#seconds) return;
    this.#seconds = seconds;
    this.#timer?.cancel();
    this.#timer = undefined;
    if (this.#running === undefined) this.#arm();
  }

  async stop(): Promise<void> {
    this.every(0);
    await this.#running;
  }

  #arm(): void {
    if (this.#seconds === 0) return;
    this.#timer = this.#clock.after(this.#seconds * 1000, () => {
      this.#timer = undefined;
      this.#running = this.#work().finally(() => {
        this.#running = undefined;
        this.#arm();
      });
    });
  }
}
