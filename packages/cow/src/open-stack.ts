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
  parseOption,
  plainLimits,
  realEnvironment,
  requireBlank,
  requireRoom,
} from "@dmkit/block-io";
import { BitmapLoader, type BitmapSource } from "./bitmap-loader.ts";
import { BitmapWriter } from "./bitmap-writer.ts";
import { MAX_LAYERS, OwnerMap } from "./core/owner-map.ts";
import { type StackingOptions, type StackingProblem, judgeStack, nameOf } from "./core/stacking.ts";
import { CowDevice, type CowParts } from "./device.ts";
import type { AliasedBlockSize } from "./format/aliased.ts";
import { checkSectors } from "./format/geometry.ts";
import { BASE_UUID, type Identity, type IdentityBlock } from "./format/identity.ts";
import { type Uuid, randomUuid } from "./format/uuid.ts";
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
import { requireOwnPlaces } from "./places.ts";
import { judgeData, sampleData, takeLabel } from "./pairing.ts";
import { TopRecord } from "./top-record.ts";

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
  checkOptions(options, name);
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
  await refuseData(force && blocks.at(-1)?.kind === "new" ? blocks.slice(0, -1) : blocks, stack, {
    name,
    environment,
  });
  const identity = writable ? await ownIdentity(stack, blocks, { environment, force }) : undefined;
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
      : {
          top: {
            layer: top,
            record: new TopRecord(top.bitmap, identity),
            writer: makeWriter(map, top.bitmap, top.data),
          },
        }),
    stack,
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

/** A program's options are held to what a table allows. */
function checkOptions({ autocommit = 0, aliasedBlockSize }: OpenStackOptions, name: string): void {
  const { max } = cowOptions.autocommit;
  if (!(autocommit >= 0 && autocommit <= max * 1000)) {
    throw new BlockIoError(`autocommit: ${autocommit} is not allowed`, {
      code: "EINVAL",
      device: name,
      op: "open",
      hint: `autocommit takes 0 … ${max * 1000} ms.`,
    });
  }
  if (aliasedBlockSize !== undefined)
    parseOption("aliasedBlockSize", cowOptions.aliased_block_size, String(aliasedBlockSize));
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
function requireDevices(stack: StackDevices, name: string): LayerDevices {
  const { base, baseOffset, layers, sectors } = stack;
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
  requireOwnPlaces(stack, name);
  requireAlignment(base, baseOffset);
  for (const { data, offset } of layers) requireAlignment(data, offset);
  return top;
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

/** All problems of a stack as far as identities tell, bottom to top. */
export function judge(
  blocks: readonly IdentityBlock[],
  { baseOffset, layers, sectors }: StackDevices,
  options: Pick<StackingOptions, "writable"> & { readonly aliasedBlockSize?: AliasedBlockSize | undefined },
): StackingProblem[] {
  return judgeStack(blocks, {
    sectors,
    baseOffset: baseOffset / SECTOR,
    offsets: layers.map(({ offset }) => offset / SECTOR),
    writable: options.writable,
    aliasedKnown: options.aliasedBlockSize !== undefined,
  });
}

/** What speaks against the data devices of a stack, bottom to top. Errors: none, see `judgeData`. */
export async function judgeAllData(
  blocks: readonly IdentityBlock[],
  { layers, sectors }: StackDevices,
): Promise<StackingProblem[]> {
  const problems: StackingProblem[] = [];
  for (const [index, layer] of layers.entries()) {
    const block = blocks[index];
    const verdict = block && (await judgeData(layer, block, sectors));
    if (verdict !== undefined) problems.push({ layer: index + 1, ...verdict });
  }
  return problems;
}

/** Throws `EFORMAT` for a data device that is not the layer's; warns of one that has changed. */
export async function refuseData(
  blocks: readonly IdentityBlock[],
  stack: StackDevices,
  { name, environment }: { readonly name: string; readonly environment: Environment },
): Promise<void> {
  for (const problem of await judgeAllData(blocks, stack)) {
    if (problem.kind === "wrong-data") throw stackingError(problem, stack.layers);
    environment.logger.log("warn", problem.reason, {
      device: name,
      layer: problem.layer,
      hint: problem.hint,
    });
  }
}

function refuseProblems(
  blocks: readonly IdentityBlock[],
  stack: StackDevices,
  writable: boolean,
  { aliasedBlockSize }: OpenStackOptions,
): void {
  const { layers } = stack;
  const problems = judge(blocks, stack, { writable, aliasedBlockSize });
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
  stack: StackDevices,
  blocks: readonly IdentityBlock[],
  { environment: { random }, force }: { environment: Environment; force: boolean },
): Promise<Identity | undefined> {
  const block = blocks.at(-1);
  const top = stack.layers.at(-1) as LayerDevices;
  if (block?.kind === "layer") {
    // Bits that a killed process has written may be in a cache only. What is read from now on must stay.
    await top.data.flush();
    await top.bitmap.flush();
    return completed(stack, block.identity);
  }
  if (block?.kind !== "new") return undefined;
  await requireBlankLayer(top, stack.sectors, { force });
  await requireEmpty(top.bitmap, stack.sectors);
  const identity = {
    uuid: randomUuid(() => random.next()),
    parent: nameOf(blocks.at(-2)),
    sectors: stack.sectors,
    frozen: false,
    ...placesOf(stack, nameOf(blocks.at(-2))),
  };
  await writeIdentity(top.bitmap, identity);
  return takeLabel(top, identity, force);
}

/** Where the top of a stack has its data, and where what it lies on is, as its identity records it. */
export function placesOf(
  { baseOffset, layers }: StackDevices,
  parent: Uuid,
): Pick<Identity, "dataOffset" | "baseOffset"> {
  return {
    dataOffset: (layers.at(-1)?.offset ?? 0) / SECTOR,
    baseOffset: parent === BASE_UUID ? baseOffset / SECTOR : undefined,
  };
}

/** With what an earlier version, or a crash, has left out of the identity of the top. */
async function completed(stack: StackDevices, identity: Identity): Promise<Identity> {
  const top = stack.layers.at(-1) as LayerDevices;
  const { dataOffset, baseOffset } = placesOf(stack, identity.parent);
  let now = identity;
  if (identity.dataOffset !== dataOffset || identity.baseOffset !== baseOffset) {
    now = { ...now, dataOffset, baseOffset };
  }
  if (identity.samples === undefined) {
    const samples = await sampleData(top, identity.uuid, stack.sectors);
    if (samples.length > 0) now = { ...now, samples };
  }
  if (now !== identity) await writeIdentity(top.bitmap, now);
  return takeLabel(top, now);
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
      fua: "native",
      discard: punches ? "native" : "none",
      discardZeroes: punches,
      writeZeroes: capabilities.writeZeroes,
      fastZero: writable && capabilities.fastZero,
      extents: true,
    },
  };
}
