/**
 * Notices when the health of a device changes: that is logged once, and since when it is so is remembered for devices
 * that do not know.
 *
 * Devices are looked at every second and whenever somebody asks; what comes and goes in between is not seen here.
 */
import type { Clock, Environment, Health, Logger, Timer } from "@dmkit/block-io";

// Milliseconds between two looks.
const INTERVAL = 1000;

/** What was last known of one device. */
export class HealthRecord {
  readonly #clock: Clock;
  readonly #logger: Logger;
  #state: Health["state"] = "ok";
  #since: number | undefined;

  constructor({ clock, logger }: Environment) {
    this.#clock = clock;
    this.#logger = logger;
  }

  /** Takes down how a device is now; the same with the time since when. */
  note(device: string, health: Health): Health {
    const { state, why, help } = health;
    if (state !== this.#state) {
      this.#state = state;
      this.#since = this.#clock.wallTime();
      const level = state === "ok" || state === "degraded" ? "warn" : "error";
      const said = state === "needs check" ? "a device needs a check" : `a device is ${state}`;
      this.#logger.log(level, state === "ok" ? `${said} again` : said, {
        device,
        ...(why === undefined ? {} : { why }),
        ...(help === undefined ? {} : { help }),
      });
    }
    return state === "ok" ? health : { ...health, since: health.since ?? this.#since };
  }
}

/** Calls `look` every second until the function it returns is called. */
export function watchHealth(clock: Clock, look: () => void): () => void {
  let timer: Timer;
  const again = (): void => {
    timer = clock.after(INTERVAL, () => {
      look();
      again();
    });
  };
  again();
  return () => timer.cancel();
}

/** A line for people: `degraded since 2026-11-29T06:00:00.000Z: …`. */
export function describeHealth({ state, since, why }: Health): string {
  const from = since === undefined ? "" : ` since ${new Date(since).toISOString()}`;
  return `${state}${from}${why === undefined ? "" : `: ${why}`}`;
}
