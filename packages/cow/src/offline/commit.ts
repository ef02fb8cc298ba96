/**
 * `commit`: moves the top layer's sectors into the layer below, or into the base. For each piece:
 *
 *      0  the layer below gets a new name for its contents, once, stable: what else lies on it is refused from then on
 *      1  data of the layer below, stable
 *      2  its bits, stable
 *      3  the top's bits are cleared
 *
 * Until 3 the top covers what changes below it, afterwards both say the same: the stack shows the same at every
 * moment. Cut short, it goes on with the bits that are left. The top's data is given back at the end, when all
 * its bits are known to be gone.
 *
 * What cannot be read or written is left in the top, with its bits, and told at the end.
 */
import { BlockIoError, type Environment, SECTOR, realEnvironment, setting } from "@dmkit/block-io";
import { changing } from "../core/reliance.ts";
import { requireNoSnapshot, snapshotsOf } from "../core/snapshots.ts";
import type { Identity, IdentityBlock } from "../format/identity.ts";
import { lyingOn } from "../device/layer/below.ts";
import { type LayerDevices, eraseIdentity, writeIdentity } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { readIdentities } from "../open/judge.ts";
import { giveLabelBack, sampleData } from "../device/layer/pairing.ts";
import { type ChainOptions, layerAt, readChain, requireOwn } from "./chain/chain.ts";
import { Left, copyAllBut } from "../device/copy/left.ts";
import {
  LayerRuns,
  type Piece,
  type Run,
  type WorkOptions,
  bytesOf,
  checkWork,
  changeBits,
  clearBits,
  fillLayer,
  pieces,
} from "../device/copy/work.ts";

/** How the top is moved into the layer below. */
export interface CommitOptions extends WorkOptions, ChainOptions {
  /** Then make the layer below the top: the emptied one becomes new. Otherwise it stays on top, empty. */
  readonly drop?: boolean;
}

/** Bytes moved. Errors: EROFS, EFORMAT, EIO when something is left, those of the devices; `AbortError` when told to stop. */
export async function commitTop(stack: StackDevices, options: CommitOptions = {}): Promise<number> {
  checkWork(options, { drop: setting.flag });
  const blocks = await readChain(stack, options);
  const top = layerAt(stack, stack.layers.length);
  requireCommittable(blocks, stack);
  requireNoSnapshot(snapshotsOf(blocks), [stack.layers.length - 1], "cow");
  const { environment = realEnvironment } = options;
  const below = stack.layers.at(-2);
  let bytes = 0;
  const own = blocks.at(-1);
  if (own?.kind === "layer") {
    const lower = below && requireOwn(blocks, stack, stack.layers.length - 1);
    // What is below has its new name before the first change, and keeps the old one where there is nothing to be changed.
    let changed: Identity | undefined;
    await writeIdentity(top.bitmap, { ...own.identity, samples: undefined, baseWitness: undefined });
    const begin = async (): Promise<void> => {
      if (lower === undefined || changed !== undefined) return;
      changed = changing(lower, own.identity.uuid, environment);
      await writeIdentity((below as LayerDevices).bitmap, changed);
    };
    const runs = new LayerRuns(stack.sectors, [{ bitmap: top.bitmap }]);
    const left = new Left();
    for (const piece of pieces(stack.sectors, options)) {
      for await (const part of runs.known(piece, (one, error) => left.add(one, error))) {
        try {
          bytes += await commitPiece(runs, part, { top, below, stack, left, begin });
        } catch (error) {
          left.add(part, error);
        }
      }
    }
    await top.bitmap.flush();
    left.refuse("committed", LEFT_HINT);
    await giveBack(top, stack.sectors);
    const now = changed ?? lower;
    if (now !== undefined) await sampleBelow(now, layerAt(stack, stack.layers.length - 1));
    const block = now && ({ kind: "layer", identity: now } as const);
    await writeIdentity(top.bitmap, {
      ...own.identity,
      samples: undefined,
      ...(await lyingOn(stack, block)),
    });
  }
  if (options.drop) await dropTop(stack, environment);
  return bytes;
}

const LEFT_HINT =
  "They are in the top layer as before, and the stack shows the same. Replace the device with a copy that is whole, and run it again.";

interface Place {
  readonly top: LayerDevices;
  readonly below: LayerDevices | undefined;
  readonly stack: StackDevices;
  readonly left: Left;
  /** Before what is below is changed. */
  readonly begin: () => Promise<void>;
}

async function commitPiece(
  runs: LayerRuns,
  piece: Piece,
  { top, below, stack: { base, baseOffset }, left, begin }: Place,
): Promise<number> {
  const source = { device: top.data, offset: top.offset };
  const found: Run[] = [];
  for await (const { sector, count } of runs.in(piece)) found.push({ sector, count, source });
  if (found.length === 0) return 0;
  await begin();
  let copied: readonly Run[];
  if (below !== undefined)
    copied = await fillLayer(below, piece, found, (some, to) => copyAllBut(some, to, left));
  else {
    copied = await copyAllBut(found, { device: base, offset: baseOffset }, left);
    await base.flush();
  }
  if (bytesOf(copied) === bytesOf(found)) await clearBits(top.bitmap, piece);
  else await changeBits(top.bitmap, piece, copied, false);
  return bytesOf(copied);
}

async function giveBack({ data, offset }: LayerDevices, sectors: number): Promise<void> {
  if (data.limits.capabilities.discard === "none") return;
  await data.discard(offset, sectors * SECTOR);
  await data.flush();
}

/** What the layer below is known by from now on. */
async function sampleBelow(identity: Identity, below: LayerDevices): Promise<void> {
  const samples = await sampleData(below, identity.uuid, identity.sectors);
  await writeIdentity(below.bitmap, { ...identity, samples: samples.length > 0 ? samples : undefined });
}

/** The top becomes new, the layer below can be written again: whatever else lies on it is not to be opened any more. */
async function dropTop(stack: StackDevices, environment: Pick<Environment, "random">): Promise<void> {
  const blocks = await readIdentities(stack);
  const top = layerAt(stack, stack.layers.length);
  const block = blocks.at(-1);
  if (block?.kind === "layer") await giveLabelBack(top, block.identity);
  await eraseIdentity(top.bitmap, stack.sectors);
  const below = stack.layers.length - 1;
  if (below === 0) return;
  const { samples, ...identity } = requireOwn(blocks, stack, below);
  const changed = changing(identity, undefined, environment);
  await writeIdentity(layerAt(stack, below).bitmap, { ...changed, samples, frozen: false });
}

function requireCommittable(blocks: readonly IdentityBlock[], stack: StackDevices): void {
  const { layers, base } = stack;
  const top = blocks.at(-1);
  if (top?.kind !== "new" && requireOwn(blocks, stack, layers.length).frozen) {
    throw new BlockIoError("the top is frozen: another layer lies on it", {
      code: "EROFS",
      device: layers.at(-1)?.bitmap.name,
      op: "open",
      hint: "Name all layers; commit moves the last one into the one below.",
    });
  }
  if (layers.length > 1) requireOwn(blocks, stack, layers.length - 1);
  const below = layers.at(-2);
  const written = [
    ...layers.slice(-2).flatMap(({ bitmap, data }) => [bitmap, data]),
    ...(below ? [] : [base]),
  ];
  const fixed = written.find(({ limits }) => limits.capabilities.readOnly);
  if (fixed === undefined) return;
  throw new BlockIoError("is open read-only", { code: "EROFS", device: fixed.name, op: "open" });
}
