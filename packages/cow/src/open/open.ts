/**
 * Opens a stack: judges what the layers say of themselves, gives a new top its identity, and makes sure that
 * what is read from now on is on stable storage.
 */
import {
  type BlockDevice,
  type Environment,
  type Limits,
  SECTOR,
  type SettingsTable,
  realEnvironment,
  refuse,
  requireBlank,
  requireRoom,
  stackLimits,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { BitmapLoader } from "../device/bitmap-loader.ts";
import { BitmapWriter } from "../device/bitmap-writer.ts";
import { MAX_LAYERS, OwnerMap } from "../core/owner-map.ts";
import { type CowRules, cowRules } from "../core/rules.ts";
import { snapshotsOf } from "../core/snapshots.ts";
import { CowDevice } from "../device/device.ts";
import { type CowParts, sourcesOf } from "../device/parts.ts";
import type { AliasedBlockSize } from "../format/aliased.ts";
import { checkSectors } from "../format/geometry.ts";
import type { IdentityBlock } from "../format/identity.ts";
import type { NewLayer } from "../device/parts.ts";
import {
  type LayerDevices,
  requireBlankLayer,
  requireEmpty,
  requireLayerRoom,
} from "../device/layer/layer.ts";
import { cowOptions } from "../options.ts";
import { chainSettings } from "../device/copy/work.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { bitmapSources, readIdentities, refuseData, refuseProblems, warnOfAliases } from "./judge.ts";
import { isNoLayer, ownIdentity } from "./own-identity.ts";
import { requireOwnPlaces } from "../device/layer/places.ts";
import { TopRecord } from "../device/top-record.ts";

/** How a stack is opened. */
export interface OpenStackOptions {
  /** Default: `cow`. */
  readonly name?: string;
  readonly environment?: Environment;
  /** Do not write, even if the top could be. Default false. */
  readonly readOnly?: boolean;
  /** Make a new layer of a top whose devices are not blank, unless it is one already. Default false. */
  readonly force?: boolean;
  /** Block size in bytes of the layers made by the original; without it they are refused. */
  readonly aliasedBlockSize?: AliasedBlockSize | undefined;
  /** Milliseconds the bits of a write may be in memory only; 0: until the next flush. Default: that of the tables. */
  readonly autocommit?: number;
  readonly openLayer?: CowParts["openLayer"];
  readonly frozen?: (layer: NewLayer) => void;
  readonly merging?: CowParts["merging"];
  readonly layers?: CowParts["layers"];
  readonly table?: CowParts["table"];
  /** Makes the device; for tests that put requests of their own between others. */
  readonly make?: (parts: CowParts) => CowDevice;
}

const openSettings: SettingsTable<OpenStackOptions> = {
  ...chainSettings,
  name: setting.anyText,
  environment: setting.environment,
  readOnly: setting.flag,
  force: setting.flag,
  autocommit: setting.number(0, cowOptions.autocommit.max * 1000),
  openLayer: setting.call,
  frozen: setting.call,
  merging: setting.object,
  layers: setting.call,
  table: setting.call,
  make: setting.call,
};

/** Opens a stack of at least one layer. Errors: EINVAL, EFORMAT, EROFS, those of the devices below. */
export async function openStack(
  stack: StackDevices,
  options: OpenStackOptions = {},
  rules: CowRules = cowRules,
): Promise<CowDevice> {
  const { name = "cow", environment = realEnvironment, force = false } = options;
  const { top, blocks, writable } = await examine(stack, options);
  const identity = writable ? await ownIdentity(stack, blocks, { environment, force }) : undefined;
  if (identity === undefined && blocks.at(-1)?.kind === "new") await requireEmpty(top.bitmap, stack.sectors);
  warnOfAliases(blocks, stack, name, environment);

  const map = new OwnerMap(stack.sectors, stack.layers.length);
  const all: CowParts = {
    name,
    size: stack.sectors * SECTOR,
    limits: limitsOf(stack, top, identity !== undefined),
    map,
    loader: new BitmapLoader(map, bitmapSources(stack.layers, blocks, options.aliasedBlockSize)),
    sources: sourcesOf(stack),
    ...(identity === undefined
      ? {}
      : {
          top: {
            layer: top,
            record: new TopRecord(top.bitmap, identity, rules),
            writer: new BitmapWriter(map, top.bitmap, top.data, rules),
          },
        }),
    stack,
    snapshots: snapshotsOf(blocks),
    view: (part) =>
      openStack(
        part,
        { name, environment, aliasedBlockSize: options.aliasedBlockSize, readOnly: true },
        rules,
      ),
    autocommit: options.autocommit ?? cowOptions.autocommit.default * 1000,
    environment,
    rules,
    openLayer: options.openLayer,
    frozen: options.frozen,
    merging: options.merging,
    layers: options.layers,
    table: options.table,
  };
  return options.make?.(all) ?? new CowDevice(all);
}

/** Throws what opening would throw, as far as it shows by reading. Errors: those of {@link openStack}. */
export async function checkStack(stack: StackDevices, options: OpenStackOptions = {}): Promise<void> {
  const { top, blocks, writable } = await examine(stack, options);
  if (blocks.at(-1)?.kind !== "new" || options.force === true) return;
  if (writable) await requireBlankLayer(top, stack.sectors, { force: false });
  await requireEmpty(top.bitmap, stack.sectors);
}

/** The top, and what the layers say of themselves, which goes together. */
async function examine(
  stack: StackDevices,
  options: OpenStackOptions,
): Promise<{ readonly top: LayerDevices; readonly blocks: IdentityBlock[]; readonly writable: boolean }> {
  const { name = "cow", environment = realEnvironment, force = false } = options;
  checkSettings(openSettings, options);
  const top = requireDevices(stack, name);
  const writable = options.readOnly !== true && !isReadOnly(top.bitmap) && !isReadOnly(top.data);
  const blocks = await readIdentities(stack);
  if (writable && (await isNoLayer(top, blocks.at(-1)))) {
    // It says what is there, and how to insist.
    if (!force) await requireBlank(top.bitmap, { force });
    else blocks[blocks.length - 1] = { kind: "new" };
  }
  refuseProblems(blocks, stack, writable, options.aliasedBlockSize);
  await refuseData(force && blocks.at(-1)?.kind === "new" ? blocks.slice(0, -1) : blocks, stack, {
    name,
    environment,
  });
  return { top, blocks, writable };
}

/** Throws for a stack that cannot be; returns its top. */
function requireDevices(stack: StackDevices, name: string): LayerDevices {
  const { base, baseOffset, layers, sectors } = stack;
  checkSectors(sectors);
  const top = layers.at(-1);
  if (top === undefined || layers.length > MAX_LAYERS) {
    throw refuse(name, "EINVAL", `a stack has 1 … ${MAX_LAYERS} layers`, undefined);
  }
  requireRoom(base, baseOffset, sectors * SECTOR);
  for (const layer of layers) requireLayerRoom(layer, sectors);
  requireOwnPlaces(stack, name);
  requireAlignment(base, baseOffset);
  for (const { data, offset } of layers) requireAlignment(data, offset);
  return top;
}

function requireAlignment(device: BlockDevice, offset: number): void {
  const block = device.limits.logicalBlockSize;
  if (offset % block === 0) return;
  throw refuse(
    device.name,
    "EINVAL",
    "the offset is not a multiple of the device's blocks",
    `Give an offset that is a multiple of ${block / SECTOR} sectors.`,
  );
}

function isReadOnly(device: BlockDevice): boolean {
  return device.limits.capabilities.readOnly;
}

function limitsOf(stack: StackDevices, top: LayerDevices, writable: boolean): Limits {
  const stacked = stackLimits([stack.base, ...stack.layers.map(({ data }) => data)]);
  const { capabilities } = top.data.limits;
  const punches = writable && capabilities.discard === "native" && capabilities.discardZeroes;
  return {
    ...stacked,
    discardGranularity: stacked.logicalBlockSize,
    capabilities: {
      readOnly: !writable,
      fua: "native",
      discard: punches ? "native" : "none",
      discardZeroes: punches,
      writeZeroes: capabilities.writeZeroes,
      fastZero: writable && capabilities.fastZero,
      extents: true,
    },
  };
}
