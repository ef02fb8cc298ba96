/** What changes the layers of a stack while it is in use, as simulation targets. */
import { type BlockDevice, type Environment } from "@dmkit/block-io";
import { ruled } from "@dmkit/block-io/testing";
import { cowRules } from "../core/rules.ts";
import { snapshotsOf } from "../core/snapshots.ts";
import { CowDevice } from "../device/device.ts";
import type { CowParts } from "../device/parts.ts";
import { type LayerDevices, readIdentity } from "../device/layer/layer.ts";
import { readIdentities } from "../open/judge.ts";
import { openStack } from "../open/open.ts";

import {
  type CowKnobs,
  type RuledCow,
  chainOf,
  create,
  disksOf,
  geometry,
  problems,
  stackOf,
} from "./sim-stacks.ts";

/** Puts a new layer on top at every so many flushes, as long as there are any. */
class FreezingDevice extends CowDevice {
  readonly #spares: LayerDevices[];
  readonly #every: number;
  #flushes = 0;
  #freezing = false;

  constructor(parts: CowParts, spares: readonly LayerDevices[], every: number) {
    super(parts);
    this.#spares = [...spares];
    this.#every = every;
  }

  override async flush(): Promise<void> {
    this.#flushes += 1;
    const [spare] = this.#spares;
    if (spare !== undefined && !this.#freezing && this.#flushes % this.#every === 0)
      await this.#freeze(spare);
    await super.flush();
  }

  /** A layer that could not be put on top is the next one again: the stack is to be found by going up. */
  async #freeze(spare: LayerDevices): Promise<void> {
    this.#freezing = true;
    try {
      await this.freeze({ ...spare, force: true }, `${this.layers}`);
      this.#spares.shift();
    } finally {
      this.#freezing = false;
    }
  }
}

/** How many layers belong to the stack: up to the first that is not frozen. */
async function height(disks: readonly BlockDevice[], { sectors, frozen, spares }: CowKnobs): Promise<number> {
  const most = frozen.length + 1 + spares;
  const { layers } = stackOf(disks, sectors, most);
  for (let count = frozen.length + 1; count < most; count += 1) {
    const block = await readIdentity((layers[count - 1] as LayerDevices).bitmap, sectors);
    if (block.kind !== "layer" || !block.identity.frozen) return count;
  }
  return most;
}

export const freezeTarget: RuledCow = ruled(cowRules, (rules) => ({
  name: "cow-freeze",
  summary: "the same, with snapshots made while it is in use",
  geometry: (random) => {
    const { knobs, stamped } = geometry(random, 1);
    const freezing = { ...knobs, spares: random.between(1, 3), freezeEvery: random.between(1, 3) };
    return { disks: disksOf(freezing), knobs: freezing, stamped };
  },
  create,
  async open(disks, environment, knobs) {
    const { sectors, frozen, spares, freezeEvery, autocommit } = knobs;
    const count = await height(disks, knobs);
    const { layers } = stackOf(disks, sectors, frozen.length + 1 + spares);
    const device = (parts: CowParts): CowDevice =>
      new FreezingDevice(parts, layers.slice(count), freezeEvery);
    const options = { environment, autocommit, force: true, make: device };
    return openStack(stackOf(disks, sectors, count), options, rules);
  },
  async check(disks, _env, knobs) {
    const stack = stackOf(disks, knobs.sectors, await height(disks, knobs));
    const blocks = await readIdentities(stack);
    const lost = snapshotsOf(blocks).flatMap((snapshot, index) => {
      const isNamed = index >= knobs.frozen.length && index + 1 < blocks.length;
      return isNamed === (snapshot?.name === `${index + 1}`) ? [] : [`layer ${index + 1}: the name is wrong`];
    });
    return [...lost, ...(await problems(stack))];
  },
}));

/** Merges a layer below the top at every so many flushes, while requests go on, as long as there are any. */
class MergingDevice extends CowDevice {
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
      // Where it was cut short the stack is as it was.
      void this.merge(layer).catch(() => {});
    }
    await super.flush();
  }
}

export const mergeTarget: RuledCow = ruled(cowRules, (rules) => ({
  name: "cow-merge",
  summary: "layers below the top are merged into what they lie on while it is in use",
  geometry: (random) => {
    const { knobs, disks, stamped } = geometry(random, 3, 1);
    return { disks, stamped, knobs: { ...knobs, freezeEvery: random.between(1, 4) } };
  },
  create,
  async open(disks, environment, knobs) {
    const make = (parts: CowParts): CowDevice => new MergingDevice(parts, knobs.freezeEvery);
    const options = { environment, autocommit: knobs.autocommit, force: true, make };
    return openStack(await chainOf(disks, knobs), options, rules);
  },
  check: async (disks, _env, knobs) => problems(await chainOf(disks, knobs)),
}));
