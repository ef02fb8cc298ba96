/**
 * Notices when the health of a device changes: that is logged once, and since when it is so is remembered for devices
 * that do not know.
 *
 * Devices are looked at every second (session.ts) and whenever somebody asks.
 */
import { type Clock, type Environment, type Health, type Logger, printable } from "@dmkit/block-io";

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

/** Of a device that is not well: how, since when and why, and what helps. Nothing a terminal would act on. */
export function healthLines(name: string, health: Health): string[] {
  if (health.state === "ok") return [];
  const plain = (text: string): string => printable(text.replaceAll(/\s+/g, " "));
  const said = plain(`${name} is ${describeHealth(health)}`);
  return health.help === undefined ? [said] : [said, `  ${plain(health.help)}`];
}

/** A line for people: `degraded since 2026-11-29T06:00:00.000Z: …`. */
export function describeHealth({ state, since, why }: Health): string {
  const from = since === undefined ? "" : ` since ${new Date(since).toISOString()}`;
  return `${state}${from}${why === undefined ? "" : `: ${why}`}`;
}
