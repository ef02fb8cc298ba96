/**
 * The stacks of the simulation targets.
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
} from "@dmkit/block-io/testing";
import { type CowRules } from "../core/rules.ts";
import { check } from "../offline/check.ts";
import { CowDevice } from "../device/device.ts";
import { bitmapDeviceSize } from "../format/geometry.ts";
import { BASE_UUID } from "../format/identity.ts";
import { labelledSize } from "../format/label.ts";
import type { Uuid } from "../format/uuid.ts";
import { type LayerDevices, eraseIdentity, readIdentity, writeIdentity } from "../device/layer/layer.ts";
import { bitmapRange, fillLayer } from "../device/copy/work.ts";
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
  /** Whether each frozen layer is a snapshot, called by its number. Left out: none is. */
  readonly named?: readonly boolean[];
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

export function geometry(random: Prng, most: number, least = 0): Geometry<CowKnobs> {
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

export function ownerOf(frozen: readonly (readonly Extent[])[], sector: number): number {
  return frozen.findLastIndex((layer) => layer.some(([from, to]) => sector >= from && sector < to)) + 1;
}

/** The base, then for each layer its bitmap and its data. */
export function disksOf({ sectors, frozen, stamped, spares, labelled }: CowKnobs): DiskSpec[] {
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
export function stackOf(disks: readonly BlockDevice[], sectors: number, count: number): StackDevices {
  const disk = (index: number): BlockDevice => disks[index] as BlockDevice;
  const layers: LayerDevices[] = Array.from({ length: count }, (_, index) => ({
    bitmap: disk(1 + 2 * index),
    data: disk(2 + 2 * index),
    offset: 0,
  }));
  return { base: disk(0), baseOffset: 0, layers, sectors };
}

/** Formats all layers, whatever is on them. */
export async function create(
  disks: readonly BlockDevice[],
  _env: Environment,
  knobs: CowKnobs,
): Promise<void> {
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
      const snapshot = knobs.named?.[index] === true ? { name: `${index + 1}`, made: index } : undefined;
      const identity = { uuid: uuid(index + 1), parent, sectors, frozen: index < frozen.length, snapshot };
      const samples = await sampleData({ bitmap, data, offset }, identity.uuid, sectors);
      const told = labelled ? { ...identity, samples } : identity;
      await writeIdentity(bitmap, told);
      if (index < frozen.length) await takeLabel({ bitmap, data, offset }, told);
    }
  }
}

export function open(
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

/** The layers that the top stands on by now, and itself. */
export async function chainOf(
  disks: readonly BlockDevice[],
  { sectors, frozen }: CowKnobs,
): Promise<StackDevices> {
  const whole = stackOf(disks, sectors, frozen.length + 1);
  const layers: LayerDevices[] = [];
  let parent: Uuid | undefined;
  for (const layer of whole.layers.toReversed()) {
    const block = await readIdentity(layer.bitmap, sectors);
    // A top without an identity stands on all there is: nothing has been merged before it had one.
    if (block.kind !== "layer") return whole;
    if (parent !== undefined && block.identity.uuid !== parent) continue;
    layers.unshift(layer);
    parent = block.identity.parent;
  }
  return { ...whole, layers };
}

export async function problems(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { layer, text } of check(stack)) found.push(`layer ${layer}: ${text}`);
  return found;
}

export function checkWhole(
  disks: readonly BlockDevice[],
  _env: Environment,
  { sectors, frozen }: CowKnobs,
): Promise<string[]> {
  return problems(stackOf(disks, sectors, frozen.length + 1));
}
