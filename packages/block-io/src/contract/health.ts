/**
 * How a device is doing, in one notion for all devices: what is shown by `ls` and `status`, answered by `/healthz`,
 * exported as metrics and logged when it changes.
 *
 *     ok            all requests are carried out as promised
 *     degraded      they are, but something is missing: a cache passes through, requests wait for a server
 *     needs check   what is stored may not be what was acknowledged: look before relying on it
 *     failed        requests, or all that write, are refused
 *
 * A device tells its own state only, in words that make sense without it; whoever has devices below tells the worst
 * of them all ({@link worstHealth}).
 */
import { BlockIoError } from "./errors.ts";

/** From well to ill. */
export const healthStates = ["ok", "degraded", "needs check", "failed"] as const;

/** One of {@link healthStates}. */
export type HealthState = (typeof healthStates)[number];

/** How a device is doing, and what can be done about it. */
export interface Health {
  readonly state: HealthState;
  /** Milliseconds since 1970 when it came to be so, where that is known. */
  readonly since?: number | undefined;
  /** What is wrong, and where; there unless the state is `ok`. */
  readonly why?: string | undefined;
  /** What can be done about it: one sentence, imperative. */
  readonly help?: string | undefined;
}

/** Nothing is wrong. */
export const healthy: Health = { state: "ok" };

/** The first of those that are worst; {@link healthy} without any. */
export function worstHealth(all: Iterable<Health>): Health {
  let worst = healthy;
  for (const one of all) {
    if (healthStates.indexOf(one.state) > healthStates.indexOf(worst.state)) worst = one;
  }
  return worst;
}

// What has been said since the first of those asked whom the question has come to from above.
let said: Map<object, Health> | undefined;

/**
 * How a device says it is; one that says nothing is well. Who asks for the devices below asks with this: one that is
 * below several others is asked once, not once for each way that leads to it.
 */
export function healthOf(device: { health?(): Health }): Health {
  const before = said;
  const known = before?.get(device);
  if (known !== undefined) return known;
  said ??= new Map();
  try {
    const health = device.health?.() ?? healthy;
    said.set(device, health);
    return health;
  } finally {
    said = before;
  }
}

/** Why a device refuses writes, if it does and says so. */
export function failureOf(device: object): BlockIoError | undefined {
  const failure = "failure" in device ? device.failure : undefined;
  return failure instanceof BlockIoError ? failure : undefined;
}

/** The text of an error with those of its causes, each once: why a thing happened is often only in the last of them. */
export function wholeStory(error: unknown): string {
  const texts: string[] = [];
  for (let one = error; one instanceof Error && texts.length < 8; one = one.cause) {
    if (!texts.some((text) => text.includes(one.message))) texts.push(one.message);
  }
  return texts.length === 0 ? String(error) : texts.join(": ");
}
