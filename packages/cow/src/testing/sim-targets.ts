/**
 * The stack and its offline operations as simulation targets.
 *
 * Base and frozen layers are disks full of stamps or of zeroes; bitmaps of random runs decide what shows where,
 * so a sector taken from the wrong layer or from the wrong place is noticed. The writable layer's data begins as
 * noise: a bit without its data cannot go unnoticed either.
 */
import { type BlockDevice, type Environment, SECTOR } from "@dmkit/block-io";
import {
  type DiskSpec,
  type Geometry,
  type Prng,
  type RuledTarget,
  type SimTarget,
  ruled,
} from "@dmkit/block-io/testing";
import { type CowRules, cowRules } from "../core/rules.ts";
import { check } from "../offline/check.ts";
import { CowDevice } from "../device/device.ts";
import type { CowParts } from "../device/parts.ts";
import { bitmapDeviceSize } from "../format/geometry.ts";
import { BASE_UUID } from "../format/identity.ts";
import { labelledSize } from "../format/label.ts";
import type { Uuid } from "../format/uuid.ts";
import { type LayerDevices, readIdentity, writeIdentity, eraseIdentity } from "../device/layer/layer.ts";
import { commitTop } from "../offline/commit.ts";
import { rebase } from "../offline/rebase.ts";
import { squash } from "../offline/squash.ts";
import { bitmapRange, fillLayer } from "../offline/chain/work.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { openStack } from "../open/open.ts";
import { freeLabel, sampleData, takeLabel } from "../device/layer/pairing.ts";

/** First sector and the one after the last. */
type Extent = readonly [from: number, to: number];

export interface CowKnobs {
  /** Sectors of the target. */
  readonly sectors: number;
  /** What each frozen layer holds, bottom to top. */
  readonly frozen: readonly (readonly Extent[])[];
  /** Whether the base and each frozen layer is full of stamps; zeroes otherwise. */
  readonly stamped: readonly boolean[];
  /** The writable layer has no identity at first. */
  readonly isNew: boolean;
  /** Layers to be put on top while the stack runs. */
  readonly spares: number;
  /** Flushes between two freezes. */
  readonly freezeEvery: number;
  /** Milliseconds. */
  readonly autocommit: number;
  /** Data devices have room for a label, which is free; frozen layers have theirs, and samples of their data. */
  readonly labelled: boolean;
}

export type CowTarget = SimTarget<CowKnobs>;
export type RuledCow = RuledTarget<CowKnobs, CowRules>;

const uuid = (layer: number): Uuid => `10000000-0000-4000-8000-${String(layer).padStart(12, "0")}`;

function geometry(random: Prng, most: number, least = 0): Geometry<CowKnobs> {
  const sectors = random.pick([8, 17, 24, 64, 64, 200, 256, 4100]);
  const count = random.between(least, Math.max(least, sectors > 1000 ? Math.min(1, most) : most));
  const frozen = Array.from({ length: count }, () => runs(random, sectors));
  const stamped = Array.from({ length: count + 1 }, () => random.chance(0.6));
  const knobs: CowKnobs = {
    sectors,
    frozen,
    stamped,
    isNew: random.chance(0.3),
    spares: 0,
    freezeEvery: 0,
    autocommit: random.pick([0, 1, 1000]),
    labelled: random.chance(0.5),
  };
  return { disks: disksOf(knobs), knobs, stamped: (sector) => stamped[ownerOf(frozen, sector)] === true };
}

function runs(random: Prng, sectors: number): Extent[] {
  return Array.from({ length: random.below(5) }, () => {
    const from = random.below(sectors);
    return [from, Math.min(sectors, from + 1 + random.below(random.chance(0.5) ? 8 : sectors))] as const;
  });
}

function ownerOf(frozen: readonly (readonly Extent[])[], sector: number): number {
  return frozen.findLastIndex((layer) => layer.some(([from, to]) => sector >= from && sector < to)) + 1;
}

/** The base, then for each layer its bitmap and its data. */
function disksOf({ sectors, frozen, stamped, spares, labelled }: CowKnobs): DiskSpec[] {
  const size = sectors * SECTOR;
  const room = labelled ? labelledSize(sectors) : size;
  const fill = (index: number): DiskSpec["fill"] => (stamped[index] === true ? "stamps" : "zero");
  const disks: DiskSpec[] = [{ name: "base", size, fill: fill(0) }];
  for (let layer = 1; layer <= frozen.length + 1 + spares; layer += 1) {
    const noise = sectors > 1000 ? "zero" : "noise";
    disks.push({ name: `map${layer}`, size: bitmapDeviceSize(sectors) });
    disks.push({ name: `data${layer}`, size: room, fill: layer <= frozen.length ? fill(layer) : noise });
  }
  return disks;
}

/** The stack of the first `count` layers. */
function stackOf(disks: readonly BlockDevice[], sectors: number, count: number): StackDevices {
  const disk = (index: number): BlockDevice => disks[index] as BlockDevice;
  const layers: LayerDevices[] = Array.from({ length: count }, (_, index) => ({
    bitmap: disk(1 + 2 * index),
    data: disk(2 + 2 * index),
    offset: 0,
  }));
  return { base: disk(0), baseOffset: 0, layers, sectors };
}

/** Formats all layers, whatever is on them. */
async function create(disks: readonly BlockDevice[], _env: Environment, knobs: CowKnobs): Promise<void> {
  const { sectors, frozen, isNew, spares, labelled } = knobs;
  const { layers } = stackOf(disks, sectors, frozen.length + 1 + spares);
  const all = { sector: 0, count: sectors };
  for (const [index, { bitmap, data, offset }] of layers.entries()) {
    await bitmap.write(0, Buffer.alloc(bitmapRange(all).length));
    if (labelled) await freeLabel({ bitmap, data, offset }, sectors);
    const held = frozen[index] ?? [];
    // Copied onto itself: only the bits are meant.
    const source = { device: data, offset };
    if (held.length > 0) {
      await fillLayer(
        { bitmap, data, offset },
        all,
        held.map(([from, to]) => ({ sector: from, count: to - from, source })),
      );
    }
    if (index > frozen.length || (index === frozen.length && isNew)) await eraseIdentity(bitmap, sectors);
    else {
      const parent = index === 0 ? BASE_UUID : uuid(index);
      const identity = { uuid: uuid(index + 1), parent, sectors, frozen: index < frozen.length };
      const samples = await sampleData({ bitmap, data, offset }, identity.uuid, sectors);
      const told = labelled ? { ...identity, samples } : identity;
      await writeIdentity(bitmap, told);
      if (index < frozen.length) await takeLabel({ bitmap, data, offset }, told);
    }
  }
}

function open(
  disks: readonly BlockDevice[],
  environment: Environment,
  knobs: CowKnobs,
  rules?: CowRules,
): Promise<CowDevice> {
  const { sectors, frozen, autocommit } = knobs;
  // There is noise on the disks of new layers.
  return openStack(
    stackOf(disks, sectors, frozen.length + 1),
    { environment, autocommit, force: true },
    rules,
  );
}

async function problems(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { layer, text } of check(stack)) found.push(`layer ${layer}: ${text}`);
  return found;
}

function checkWhole(
  disks: readonly BlockDevice[],
  _env: Environment,
  { sectors, frozen }: CowKnobs,
): Promise<string[]> {
  return problems(stackOf(disks, sectors, frozen.length + 1));
}

export const stackTarget: RuledCow = ruled(cowRules, (rules) => ({
  name: "cow",
  summary: "a base, up to three frozen layers, and a writable one",
  geometry: (random) => geometry(random, 3),
  create,
  open: (disks, environment, knobs) => open(disks, environment, knobs, rules),
  check: checkWhole,
}));

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
      await this.freeze({ ...spare, force: true });
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
  summary: "the same, with new layers put on top while it is in use",
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
  check: async (disks, _env, knobs) => problems(stackOf(disks, knobs.sectors, await height(disks, knobs))),
}));

/** Half of the generations begin with the operation: the others write first, and crash. */
const itsTurn = ({ random }: Environment): boolean => random.next() < 0.5;

export const commitTarget: CowTarget = {
  name: "cow-commit",
  summary: "the top is committed into the layer below, again and again",
  geometry: (random) => geometry(random, 2),
  create,
  async open(disks, environment, knobs) {
    if (itsTurn(environment)) await commitTop(stackOf(disks, knobs.sectors, knobs.frozen.length + 1));
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
      await commitTop(whole, { drop: true });
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
  commitTarget,
  dropTarget,
  squashTarget,
  rebaseTarget,
];
