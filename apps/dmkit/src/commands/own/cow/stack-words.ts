/**
 * Stacks of the `cow` target as the command line names them: `BASE [OFFSET] {BITMAP DATA [OFFSET]}…`, bottom to top,
 * as in a table, where an offset that is 0 may be left out.
 *
 * Invariant: where data starts is what was said, or what the layer has recorded, or 0 where nothing else is possible.
 * It is never guessed: what reads or writes at a wrong place destroys what is there.
 */
import { type BlockDevice, BlockIoError, LowerDevices, SECTOR } from "@dmkit/block-io";
import {
  type IdentityBlock,
  type StackDevices,
  type WithBitmap,
  BASE_UUID,
  findIdentity,
  readIdentity,
} from "@dmkit/cow";
import { schemes } from "../../../devices.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

/** An open stack; the devices are closed in reverse order. */
export interface OpenStack extends StackDevices {
  /** For bitmaps that are open for reading: they are opened for writing, and stay it. Errors: `EBUSY`, `EROFS`, those of opening. */
  readonly withBitmap: WithBitmap;
  close(): Promise<void>;
}

export interface StackWords {
  readonly words: readonly string[];
  /** Bytes of the target; left out: as the layers say, or all of the base. */
  readonly size?: number | undefined;
  /** Which layers are opened for writing, counted from 1; 0 is the base. */
  readonly writes?: (layer: number, layers: number) => boolean;
  /** Neither base nor data are read or written: an offset that is not known counts as 0. Default false. */
  readonly looksAtBitmaps?: boolean;
  /** Devices that are open already; by default the stack has its own. */
  readonly pool?: LowerDevices | undefined;
}

interface NamedStack {
  readonly base: string;
  /** Sectors; undefined: not said. */
  readonly baseOffset: number | undefined;
  readonly layers: readonly {
    readonly bitmap: string;
    readonly data: string;
    readonly offset: number | undefined;
  }[];
}

/** The devices of one command, each opened once. */
export function stackPool(): LowerDevices {
  return new LowerDevices(schemes, commandEnvironment);
}

/** Opens a stack's devices, not the stack. Errors: EPARSE, those of opening the devices. */
export async function openStackWords(request: StackWords): Promise<OpenStack> {
  const { words, pool = stackPool() } = request;
  const named = parseStack(words);
  const close = (): Promise<void> => (request.pool === undefined ? pool.close() : Promise.resolve());
  try {
    const stack = await openNamed(named, request, pool);
    const withBitmap: WithBitmap = async (layer, work) => {
      const name = named.layers[layer - 1]?.bitmap ?? "?";
      await work(await pool.own(name, await pool.open(name, "looks", { access: "read" })));
    };
    return { ...stack, withBitmap, close };
  } catch (error) {
    await close().catch(() => {});
    throw error;
  }
}

/** Runs `work` with a stack's devices, and closes them. Errors: those of {@link openStackWords}. */
export async function withStack<T>(request: StackWords, work: (stack: OpenStack) => Promise<T>): Promise<T> {
  const stack = await openStackWords(request);
  try {
    return await work(stack);
  } finally {
    await stack.close();
  }
}

/** Throws EPARSE. */
function parseStack(words: readonly string[]): NamedStack {
  const rest = [...words];
  const name = (what: string): string => {
    const word = rest.shift();
    // What is all digits is an offset wherever it stands, so that nothing is read in two ways.
    if (word !== undefined && !isOffset(word)) return word;
    throw new BlockIoError(word === undefined ? `${what} is missing` : `"${word}" is no ${what}`, {
      code: "EPARSE",
      op: "parse",
      hint: "Write: BASE [OFFSET] {BITMAP DATA [OFFSET]}…, bottom to top; offsets are in sectors. A file whose name is a number is written ./7.",
    });
  };
  const offset = (): number | undefined => {
    const [word] = rest;
    if (word === undefined || !isOffset(word)) return undefined;
    rest.shift();
    if (Number(word) <= Number.MAX_SAFE_INTEGER / SECTOR) return Number(word);
    throw new BlockIoError(`there is no sector ${word}`, {
      code: "EPARSE",
      op: "parse",
      hint: `Offsets are in sectors, 0 … ${Math.floor(Number.MAX_SAFE_INTEGER / SECTOR)}.`,
    });
  };
  const base = name("base");
  const baseOffset = offset();
  const layers = [];
  while (rest.length > 0) {
    layers.push({ bitmap: name("bitmap device"), data: name("data device"), offset: offset() });
  }
  return { base, baseOffset, layers };
}

function isOffset(word: string): boolean {
  return /^\d+$/.test(word);
}

async function openNamed(
  { base: baseName, baseOffset: saidOfBase, layers: names }: NamedStack,
  { size, writes = () => false, looksAtBitmaps = false }: StackWords,
  pool: LowerDevices,
): Promise<StackDevices> {
  const all = [
    { reference: baseName, layer: 0 },
    ...names.flatMap(({ bitmap, data }, index) => [
      { reference: bitmap, layer: index + 1 },
      { reference: data, layer: index + 1 },
    ]),
  ].map((one) => ({
    ...one,
    access: writes(one.layer, names.length) ? ("write" as const) : ("read" as const),
  }));
  // What is written first: one device may hold the base and a layer that is written.
  for (const access of ["write", "read"] as const) {
    // Whether places overlap is for the stack to judge: where they are is not known before.
    for (const one of all) if (one.access === access) await pool.open(one.reference, "looks", { access });
  }
  const open = (reference: string): Promise<BlockDevice> => pool.open(reference, "looks", { access: "read" });
  const base = await open(baseName);
  const opened = [];
  for (const { bitmap, data, offset } of names)
    opened.push({ bitmap: await open(bitmap), data: await open(data), said: offset });
  const sectors = await sectorsOf(base, saidOfBase, opened, size);
  const blocks: IdentityBlock[] = [];
  const layers = [];
  for (const [index, { bitmap, data, said }] of opened.entries()) {
    const block = await readIdentity(bitmap, sectors).catch((): undefined => undefined);
    if (block !== undefined) blocks.push(block);
    const recorded =
      block?.kind === "layer" ? block.identity.dataOffset : block?.kind === "new" ? 0 : undefined;
    const what = `the data of layer ${index + 1}`;
    const offset = looksAtBitmaps ? (said ?? recorded ?? 0) : placeOn(data, sectors, said ?? recorded, what);
    layers.push({ bitmap, data, offset: offset * SECTOR });
  }
  const [bottom] = blocks;
  const isRecorded = bottom?.kind === "layer" && bottom.identity.parent === BASE_UUID;
  const recorded = isRecorded ? bottom.identity.baseOffset : undefined;
  const known = saidOfBase ?? recorded ?? (looksAtBitmaps || names.length === 0 ? 0 : undefined);
  return { base, baseOffset: placeOn(base, sectors, known, "the target") * SECTOR, layers, sectors };
}

/** Sectors. Throws EPARSE where it is not known, and could be anything. */
function placeOn(device: BlockDevice, sectors: number, known: number | undefined, what: string): number {
  if (known !== undefined) return known;
  if (device.size - sectors * SECTOR < SECTOR) return 0;
  throw new BlockIoError(`where ${what} starts is neither said nor recorded`, {
    code: "EPARSE",
    device: device.name,
    op: "parse",
    hint: "Write its sector behind the name, as the table does: BASE OFFSET {BITMAP DATA OFFSET}…",
  });
}

async function sectorsOf(
  base: BlockDevice,
  baseOffset: number | undefined,
  layers: readonly { readonly bitmap: BlockDevice }[],
  size: number | undefined,
): Promise<number> {
  if (size !== undefined) return size / SECTOR;
  for (const { bitmap } of layers) {
    const found = await findIdentity(bitmap);
    if (found?.kind === "layer") return found.identity.sectors;
  }
  return Math.floor(base.size / SECTOR) - (baseOffset ?? 0);
}
