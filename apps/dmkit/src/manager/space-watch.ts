/**
 * Looks what is left in the file systems below named devices, now and then: for metrics and whoever asks.
 *
 * One device after the other: a file system that does not answer keeps one thread waiting, and no more.
 */
import { type Clock, storageBelow } from "@dmkit/block-io";
import type { NamedDevice } from "./device/named-device.ts";
import type { Space } from "./snapshot.ts";

// Milliseconds between two looks.
const INTERVAL = 10_000;

interface Watched {
  readonly device: NamedDevice;
  space: Space | undefined;
}

export class SpaceWatch {
  readonly #clock: Clock;
  #last: number = Number.NEGATIVE_INFINITY;
  #isLooking = false;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** Looks at all of them unless that was done a moment ago, or is under way. Never rejects. */
  async look(all: readonly Watched[]): Promise<void> {
    if (this.#isLooking || this.#clock.now() - this.#last < INTERVAL) return;
    this.#isLooking = true;
    this.#last = this.#clock.now();
    for (const one of all) one.space = await spaceOf(one.device);
    this.#isLooking = false;
  }
}

async function spaceOf(device: NamedDevice): Promise<Space | undefined> {
  const below = device.lowers();
  const all = await storageBelow(below.length === 0 ? [device] : below).catch(() => []);
  const known = all.filter(({ free }) => free !== undefined);
  if (known.length === 0) return undefined;
  return {
    free: Math.min(...known.map(({ free = 0 }) => free)),
    unallocated: known.reduce((sum, { unallocated = 0 }) => sum + unallocated, 0),
  };
}
