/** A cache that writes through under the simulation: switched on and off while clients write, and taken away. */
import type { BlockDevice, Environment } from "@dmkit/block-io";
import type { WriteboostDevice } from "../index.ts";

/** The device of the last session, as it was at its end. */
export interface Session {
  last?: WriteboostDevice;
  /** A crash has cut short what takes the cache away. */
  isGoing?: boolean;
}

/** Now and then, where the backing device had everything: what has come of the cache is a blank device. */
export async function takeAway(
  disks: readonly BlockDevice[],
  environment: Environment,
  session: Session,
): Promise<void> {
  const isSafe = session.last?.facts()["backing_complete"] === 1;
  session.isGoing ??= isSafe && environment.random.next() < 0.5;
  if (!session.isGoing) {
    delete session.isGoing;
    return;
  }
  for (const [at, disk] of disks.slice(1).entries()) {
    // Header and identity record of a cache; all of a plog.
    await disk.writeZeroes(0, at === 0 ? 8192 : disk.size);
    await disk.flush();
  }
  delete session.isGoing;
}

/** Sometimes it is switched on, or off, later. */
export function switched(
  device: WriteboostDevice,
  { clock, random }: Environment,
  session: Session,
): WriteboostDevice {
  session.last = device;
  if (random.next() < 0.5) return device;
  const timer = clock.after(Math.floor(random.next() * 50), () => {
    device.tune({ write_through: device.statusData.tunables.write_through === 1 ? 0 : 1 });
  });
  const close = device.close.bind(device);
  device.close = () => {
    timer.cancel();
    return close();
  };
  return device;
}
