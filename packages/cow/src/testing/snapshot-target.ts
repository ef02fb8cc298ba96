/** Snapshots deleted, and other layers committed, while the stack is in use: all that are left show what they did. */
import { type BlockDevice, type Environment, SECTOR, isZero } from "@dmkit/block-io";
import { ruled } from "@dmkit/block-io/testing";
import { cowRules } from "../core/rules.ts";
import { snapshotsOf } from "../core/snapshots.ts";
import { CowDevice } from "../device/device.ts";
import type { CowParts } from "../device/parts.ts";
import { readIdentities } from "../open/judge.ts";
import { openStack } from "../open/open.ts";
import { type CowKnobs, type RuledCow, chainOf, create, geometry, ownerOf, problems } from "./sim-stacks.ts";

/** Takes a layer out at every so many flushes, while requests go on, as long as there are any. */
class DeletingDevice extends CowDevice {
  readonly #every: number;
  readonly #random: Environment["random"];
  #flushes = 0;

  constructor(parts: CowParts, every: number) {
    super(parts);
    this.#every = every;
    this.#random = parts.environment.random;
  }

  override async flush(): Promise<void> {
    this.#flushes += 1;
    if (this.layers > 1 && this.#flushes % this.#every === 0) {
      const layer = 1 + Math.floor(this.#random.next() * (this.layers - 1));
      const name = this.snapshots[layer - 1]?.name;
      // Where it was cut short the stack is as it was, and what a snapshot lies on is not committed.
      void (name === undefined ? this.merge(layer) : this.deleteSnapshot(name)).catch(() => {});
    }
    await super.flush();
  }
}

/** Snapshots that do not show what they were made with. */
async function changed(disks: readonly BlockDevice[], knobs: CowKnobs): Promise<string[]> {
  const stack = await chainOf(disks, knobs);
  const found: string[] = [];
  for (const [index, snapshot] of snapshotsOf(await readIdentities(stack)).entries()) {
    if (snapshot === undefined) continue;
    const view = await openStack({ ...stack, layers: stack.layers.slice(0, index + 1) }, { readOnly: true });
    const bytes = Buffer.alloc(view.size);
    await view.read(0, bytes);
    await view.close();
    const layers = knobs.frozen.slice(0, Number(snapshot.name));
    for (let sector = 0; sector < knobs.sectors; sector += 1) {
      const isStamped = !isZero(bytes, sector * SECTOR, (sector + 1) * SECTOR);
      if (isStamped === knobs.stamped[ownerOf(layers, sector)]) continue;
      found.push(`snapshot ${snapshot.name}: sector ${sector} has changed`);
      break;
    }
  }
  return found;
}

export const snapshotTarget: RuledCow = ruled(cowRules, (rules) => ({
  name: "cow-snapshot",
  summary: "snapshots are deleted, and other layers committed, while it is in use",
  geometry: (random) => {
    const { knobs, disks, stamped } = geometry(random, 3, 1);
    const named = knobs.frozen.map(() => random.chance(0.7));
    return { disks, stamped, knobs: { ...knobs, named, freezeEvery: random.between(1, 4) } };
  },
  create,
  async open(disks, environment, knobs) {
    const make = (parts: CowParts): CowDevice => new DeletingDevice(parts, knobs.freezeEvery);
    const options = { environment, autocommit: knobs.autocommit, force: true, make };
    return openStack(await chainOf(disks, knobs), options, rules);
  },
  check: async (disks, _env, knobs) => [
    ...(await problems(await chainOf(disks, knobs))),
    ...(await changed(disks, knobs)),
  ],
}));
