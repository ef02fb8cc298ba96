/**
 * Opens a stack: judges what the layers say of themselves, gives a new top its identity, and makes sure that
 * what is read from now on is on stable storage.
 */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  type Limits,
  SECTOR,
  plainLimits,
  realEnvironment,
  requireBlank,
  requireRoom,
} from "@dmkit/block-io";
import { BitmapLoader, type BitmapSource } from "./bitmap-loader.ts";
import { BitmapWriter } from "./bitmap-writer.ts";
import { MAX_LAYERS, OwnerMap } from "./core/owner-map.ts";
import { type StackingProblem, judgeStack, nameOf } from "./core/stacking.ts";
import { CowDevice, type CowParts } from "./device.ts";
import type { AliasedBlockSize } from "./format/aliased.ts";
import { checkSectors } from "./format/geometry.ts";
import { type Identity, type IdentityBlock, randomUuid } from "./format/identity.ts";
import type { NewLayer } from "./freeze.ts";
import {
  type LayerDevices,
  readIdentity,
  requireBlankLayer,
  requireEmpty,
  requireLayerRoom,
  writeIdentity,
} from "./layer.ts";
import { locateIdentity } from "./locate.ts";
import { cowOptions } from "./options.ts";

/** The devices of a stack. The caller keeps them and closes them, after the stack. */
export interface StackDevices {
  readonly base: BlockDevice;
  /** Bytes. */
  readonly baseOffset: number;
  /** Bottom to top; at least one. */
  readonly layers: readonly LayerDevices[];
  /** Sectors of the target. */
  readonly sectors: number;
}

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
  readonly layers?: CowParts["layers"];
  readonly table?: CowParts["table"];
  /** Tests put faulty ones here. */
  readonly parts?: {
    readonly map?: (sectors: number, layers: number) => OwnerMap;
    readonly writer?: CowParts["makeWriter"];
    readonly device?: (parts: CowParts) => CowDevice;
  };
}

/** Opens a stack of at least one layer. Errors: EINVAL, EFORMAT, EROFS, those of the devices below. */
export async function openStack(stack: StackDevices, options: OpenStackOptions = {}): Promise<CowDevice> {
  const { name = "cow", environment = realEnvironment, parts = {} } = options;
  const top = requireDevices(stack, name);
  const writable = options.readOnly !== true && !isReadOnly(top.bitmap) && !isReadOnly(top.data);
  const force = options.force === true;
  const blocks = await readIdentities(stack);
  if (writable && (await isNoLayer(top, blocks.at(-1)))) {
    // It says what is there, and how to insist.
    if (!force) await requireBlank(top.bitmap, { force });
    else blocks[blocks.length - 1] = { kind: "new" };
  }
  refuseProblems(blocks, stack, writable, options);
  const identity = writable
    ? await ownIdentity(top, blocks, stack.sectors, { environment, force })
    : undefined;
  if (identity === undefined && blocks.at(-1)?.kind === "new") await requireEmpty(top.bitmap, stack.sectors);
  warnOfAliases(blocks, stack, name, environment);

  const map =
    parts.map?.(stack.sectors, stack.layers.length) ?? new OwnerMap(stack.sectors, stack.layers.length);
  const makeWriter =
    parts.writer ?? ((...args: ConstructorParameters<typeof BitmapWriter>) => new BitmapWriter(...args));
  const all: CowParts = {
    name,
    size: stack.sectors * SECTOR,
    limits: limitsOf(stack, top, identity !== undefined),
    map,
    loader: new BitmapLoader(map, bitmapSources(stack.layers, blocks, options.aliasedBlockSize)),
    sources: [
      { device: stack.base, offset: stack.baseOffset },
      ...stack.layers.map(({ data, offset }) => ({ device: data, offset })),
    ],
    ...(identity === undefined
      ? {}
      : { top: { layer: top, identity, writer: makeWriter(map, top.bitmap, top.data) } }),
    makeWriter,
    autocommit: options.autocommit ?? cowOptions.autocommit.default * 1000,
    environment,
    openLayer: options.openLayer,
    frozen: options.frozen,
    layers: options.layers,
    table: options.table,
  };
  return parts.device?.(all) ?? new CowDevice(all);
}

/** The identities of all layers, bottom to top. */
export function readIdentities({ layers, sectors }: StackDevices): Promise<IdentityBlock[]> {
  return Promise.all(layers.map(({ bitmap }) => readIdentity(bitmap, sectors)));
}

/** How the bitmaps of the layers are to be read. */
export function bitmapSources(
  layers: readonly LayerDevices[],
  blocks: readonly IdentityBlock[],
  aliasedBlockSize: AliasedBlockSize | undefined,
): BitmapSource[] {
  return layers.map(({ bitmap }, index) => ({
    bitmap,
    aliased: blocks[index]?.kind === "original" ? aliasedBlockSize : undefined,
  }));
}

/** Throws for a stack that cannot be; returns its top. */
function requireDevices({ base, baseOffset, layers, sectors }: StackDevices, name: string): LayerDevices {
  checkSectors(sectors);
  const top = layers.at(-1);
  if (top === undefined || layers.length > MAX_LAYERS) {
    throw new BlockIoError(`a stack has 1 … ${MAX_LAYERS} layers`, {
      code: "EINVAL",
      device: name,
      op: "open",
    });
  }
  requireRoom(base, baseOffset, sectors * SECTOR);
  for (const layer of layers) requireLayerRoom(layer, sectors);
  requireOwnDevices(layers, name);
  requireAlignment(base, baseOffset);
  for (const { data, offset } of layers) requireAlignment(data, offset);
  return top;
}

/** One bitmap for two layers, or the top's data shared with another, would be the end of both. */
function requireOwnDevices(layers: readonly LayerDevices[], name: string): void {
  const bitmaps = layers.map(({ bitmap }) => bitmap);
  const twice = bitmaps.find((bitmap, index) => bitmaps.indexOf(bitmap) !== index);
  const mixed = twice ?? layers.find(({ data }) => bitmaps.includes(data))?.data;
  if (mixed === undefined) return;
  throw new BlockIoError(`${mixed.name} is used twice in the stack`, {
    code: "EINVAL",
    device: name,
    op: "open",
    hint: "Every layer needs a bitmap device and a data device of its own.",
  });
}

function requireAlignment(device: BlockDevice, offset: number): void {
  const block = device.limits.logicalBlockSize;
  if (offset % block === 0) return;
  throw new BlockIoError("the offset is not a multiple of the device's blocks", {
    code: "EINVAL",
    device: device.name,
    op: "open",
    hint: `Give an offset that is a multiple of ${block / SECTOR} sectors.`,
  });
}

function refuseProblems(
  blocks: readonly IdentityBlock[],
  { layers, sectors }: StackDevices,
  writable: boolean,
  { aliasedBlockSize }: OpenStackOptions,
): void {
  const problems = judgeStack(blocks, { sectors, writable, aliasedKnown: aliasedBlockSize !== undefined });
  // A layer of the original on top is no error: the stack is read-only then.
  const problem = problems.find(({ kind }) => kind !== "original-top");
  if (problem === undefined) return;
  throw stackingError(problem, layers);
}

/** The error to refuse a stack with. */
export function stackingError(problem: StackingProblem, layers: readonly LayerDevices[]): BlockIoError {
  return new BlockIoError(`layer ${problem.layer}: ${problem.reason}`, {
    code: problem.kind === "frozen" ? "EROFS" : "EFORMAT",
    device: layers[problem.layer - 1]?.bitmap.name,
    op: "open",
    hint: problem.hint,
  });
}

/** Whether nothing on a bitmap says that it is, or was, one: whatever it holds is somebody else's. */
async function isNoLayer({ bitmap }: LayerDevices, block: IdentityBlock | undefined): Promise<boolean> {
  return block?.kind === "foreign" && (await locateIdentity(bitmap)) === undefined;
}

/** The identity of a top that is written: a new one gets it now. Undefined: it can only be read. */
async function ownIdentity(
  top: LayerDevices,
  blocks: readonly IdentityBlock[],
  sectors: number,
  { environment: { random }, force }: { environment: Environment; force: boolean },
): Promise<Identity | undefined> {
  const block = blocks.at(-1);
  if (block?.kind === "layer") {
    // Bits that a killed process has written may be in a cache only. What is read from now on must stay.
    await top.data.flush();
    await top.bitmap.flush();
    return block.identity;
  }
  if (block?.kind !== "new") return undefined;
  await requireBlankLayer(top, sectors, { force });
  await requireEmpty(top.bitmap, sectors);
  const identity = {
    uuid: randomUuid(() => random.next()),
    parent: nameOf(blocks.at(-2)),
    sectors,
    frozen: false,
  };
  await writeIdentity(top.bitmap, identity);
  return identity;
}

function warnOfAliases(
  blocks: readonly IdentityBlock[],
  { layers }: StackDevices,
  name: string,
  { logger }: Environment,
): void {
  for (const [index, { kind }] of blocks.entries()) {
    if (kind !== "original") continue;
    logger.log("warn", "the layer's bitmap is aliased: sectors that were never written may show as zeroes", {
      device: name,
      layer: index + 1,
      bitmap: layers[index]?.bitmap.name,
    });
  }
}

function isReadOnly(device: BlockDevice): boolean {
  return device.limits.capabilities.readOnly;
}

function limitsOf(stack: StackDevices, top: LayerDevices, writable: boolean): Limits {
  const sources = [stack.base, ...stack.layers.map(({ data }) => data)];
  const logicalBlockSize = sources.some(({ limits }) => limits.logicalBlockSize === 4096) ? 4096 : 512;
  const { physicalBlockSize, optimalTransfer, capabilities } = top.data.limits;
  const punches = writable && capabilities.discard === "native" && capabilities.discardZeroes;
  return {
    ...plainLimits,
    logicalBlockSize,
    physicalBlockSize: Math.max(physicalBlockSize, logicalBlockSize),
    optimalTransfer: Math.max(optimalTransfer, logicalBlockSize),
    discardGranularity: logicalBlockSize,
    capabilities: {
      readOnly: !writable,
      fua: "emulated",
      discard: punches ? "native" : "none",
      discardZeroes: punches,
      writeZeroes: capabilities.writeZeroes,
      fastZero: writable && capabilities.fastZero,
      extents: true,
    },
  };
}
