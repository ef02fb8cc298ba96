/** A cache that writes through under the simulation: switched on and off while clients write, and taken away. */
import type { BlockDevice, Environment } from "@dmkit/block-io";
import { contentsOf } from "@dmkit/block-io/testing";
import type { WriteboostDevice } from "../index.ts";
import { readSuperblock } from "../open/superblock.ts";

/** The device of the last session, as it was at its end. */
export interface Session {
  last?: WriteboostDevice;
  /** A crash has cut short what takes the cache away. */
  isGoing?: boolean;
  /** What was taken away, and the device of the session after which it comes back. */
  kept?: readonly Buffer[] | undefined;
  /** A crash has cut short what puts it back. */
  isComing?: boolean;
}

/** Now and then, where the backing device had everything: what has come of the cache is a blank device. */
export async function takeAway(
  disks: readonly BlockDevice[],
  environment: Environment,
  session: Session,
): Promise<void> {
  if (session.kept !== undefined) return comeBack(disks.slice(1), environment, session);
  const isSafe = session.last?.facts()["backing_complete"] === 1;
  // Of what was partly taken away nothing comes back.
  const isWhole = session.isGoing === undefined;
  session.isGoing ??= isSafe && environment.random.next() < 0.5;
  if (!session.isGoing) {
    delete session.isGoing;
    return;
  }
  const { identity } = await readSuperblock(disks[1] as BlockDevice);
  // One that was closed in order is refused over a backing device that was changed.
  const isLeft = isWhole && typeof identity === "object" && identity.through === true && !identity.clean;
  const contents = isLeft ? await Promise.all(disks.slice(1).map(contentsOf)) : undefined;
  for (const [at, disk] of disks.slice(1).entries()) {
    // Header and identity record of a cache; all of a plog.
    await disk.writeZeroes(0, at === 0 ? 8192 : disk.size);
    await disk.flush();
  }
  delete session.isGoing;
  session.kept = contents;
}

/** The backing device has been used without it: none of it may be seen. */
async function comeBack(
  disks: readonly BlockDevice[],
  { random }: Environment,
  session: Session,
): Promise<void> {
  // What another cache has there is gone with that, so it is taken away, too.
  session.isComing ??= session.last?.facts()["backing_complete"] === 1 && random.next() < 0.7;
  if (session.isComing) {
    for (const [at, disk] of disks.entries()) {
      await disk.write(0, session.kept?.[at] as Buffer);
      await disk.flush();
    }
    delete session.kept;
  }
  delete session.isComing;
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
