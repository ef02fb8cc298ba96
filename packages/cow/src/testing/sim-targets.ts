/** The stack and its offline operations as simulation targets; those that work while it is in use are in live-targets.ts. */
import { type BlockDevice, type Environment } from "@dmkit/block-io";
import { ruled } from "@dmkit/block-io/testing";
import { cowRules } from "../core/rules.ts";
import { BASE_UUID } from "../format/identity.ts";
import { type LayerDevices, readIdentity } from "../device/layer/layer.ts";
import { commitTop } from "../offline/commit.ts";
import { rebase } from "../offline/rebase.ts";
import { squash } from "../offline/squash.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { openStack } from "../open/open.ts";

import { freezeTarget, mergeTarget } from "./live-targets.ts";
import { snapshotTarget } from "./snapshot-target.ts";
import {
  type CowKnobs,
  type CowTarget,
  type RuledCow,
  checkWhole,
  create,
  geometry,
  open,
  problems,
  stackOf,
} from "./sim-stacks.ts";

export const stackTarget: RuledCow = ruled(cowRules, (rules) => ({
  name: "cow",
  summary: "a base, up to three frozen layers, and a writable one",
  geometry: (random) => geometry(random, 3),
  create,
  open: (disks, environment, knobs) => open(disks, environment, knobs, rules),
  check: checkWhole,
}));

/** Half of the generations begin with the operation: the others write first, and crash. */
const itsTurn = ({ random }: Environment): boolean => random.next() < 0.5;

export const commitTarget: CowTarget = {
  name: "cow-commit",
  summary: "the top is committed into the layer below, again and again",
  geometry: (random) => geometry(random, 2),
  create,
  async open(disks, environment, knobs) {
    if (itsTurn(environment))
      await commitTop(stackOf(disks, knobs.sectors, knobs.frozen.length + 1), { environment });
    return open(disks, environment, knobs);
  },
  check: checkWhole,
};

/** Without the top, when it has been dropped. */
async function dropped(disks: readonly BlockDevice[], { sectors, frozen }: CowKnobs): Promise<StackDevices> {
  const below = stackOf(disks, sectors, frozen.length);
  const block = await readIdentity((below.layers.at(-1) as LayerDevices).bitmap, sectors);
  return block.kind === "layer" && !block.identity.frozen
    ? below
    : stackOf(disks, sectors, frozen.length + 1);
}

export const dropTarget: CowTarget = {
  name: "cow-commit-drop",
  summary: "the top is committed once, and the layer below is the top from then on",
  geometry: (random) => geometry(random, 2, 1),
  create,
  async open(disks, environment, knobs) {
    const whole = stackOf(disks, knobs.sectors, knobs.frozen.length + 1);
    let stack = await dropped(disks, knobs);
    if (stack.layers.length === whole.layers.length && itsTurn(environment)) {
      await commitTop(whole, { drop: true, environment });
      stack = await dropped(disks, knobs);
    }
    return openStack(stack, { environment, autocommit: knobs.autocommit, force: true });
  },
  check: async (disks, _env, knobs) => problems(await dropped(disks, knobs)),
};

/** Without the layers below the top, when it has been put on the base. */
async function onBase(disks: readonly BlockDevice[], { sectors, frozen }: CowKnobs): Promise<StackDevices> {
  const whole = stackOf(disks, sectors, frozen.length + 1);
  const top = whole.layers.at(-1) as LayerDevices;
  const block = await readIdentity(top.bitmap, sectors);
  return block.kind === "layer" && block.identity.parent === BASE_UUID ? { ...whole, layers: [top] } : whole;
}

/** A target whose top is put on the base by `operation`, sooner or later. */
function lowered(
  name: string,
  summary: string,
  operation: (stack: StackDevices) => Promise<unknown>,
): CowTarget {
  return {
    name,
    summary,
    geometry: (random) => {
      const { knobs, disks, stamped } = geometry(random, 3, 1);
      return { disks, stamped, knobs: { ...knobs, isNew: false } };
    },
    create,
    async open(disks, environment, knobs) {
      let stack = await onBase(disks, knobs);
      if (stack.layers.length > 1 && itsTurn(environment)) {
        await operation(stack);
        stack = await onBase(disks, knobs);
      }
      return openStack(stack, { environment, autocommit: knobs.autocommit, force: true });
    },
    check: async (disks, _env, knobs) => problems(await onBase(disks, knobs)),
  };
}

export const squashTarget: CowTarget = lowered(
  "cow-squash",
  "all layers are squashed into the top one",
  (stack) => squash(stack, 1, stack.layers.length),
);

export const rebaseTarget: CowTarget = lowered("cow-rebase", "the top is put on the bare base", (stack) =>
  rebase(stack, { ...stack, layers: [] }),
);

/** Everything of this package that must survive crashes. */
export const simTargets: readonly CowTarget[] = [
  stackTarget,
  freezeTarget,
  mergeTarget,
  snapshotTarget,
  commitTarget,
  dropTarget,
  squashTarget,
  rebaseTarget,
];
