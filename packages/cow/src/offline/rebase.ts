/**
 * `rebase`: puts the top layer on another base or stack, and it shows the same as before. Where the old and the
 * new one differ and the layer has nothing of its own, what the old one shows is copied up into the layer; the
 * new parent is written last, when the layers of the new one are marked as frozen: the layer shows what they do. Until then the old stack is the right one, and it shows the same at every moment.
 * Where both are bases there is no parent to be told apart, only the witness of the base.
 */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  SECTOR,
  isGiven,
  realEnvironment,
  setting,
} from "@dmkit/block-io";
import { type WithBitmap, freezeLayers } from "../device/layer/freezing.ts";
import { writeIdentity } from "../device/layer/layer.ts";
import type { StackDevices } from "../device/layer/stack-devices.ts";
import { lyingOn } from "../device/layer/below.ts";
import { sampleData } from "../device/layer/pairing.ts";
import { type ChainOptions, layerAt, readChain, requireOwn, viewOf } from "./chain/chain.ts";
import { Left, copyAllBut } from "../device/copy/left.ts";
import {
  LayerRuns,
  type Piece,
  type Run,
  type WorkOptions,
  checkWork,
  bytesOf,
  fillLayer,
  pieces,
} from "../device/copy/work.ts";

/** Bytes compared with one request. */
const STEP = 512 * 1024;

/** How a layer is put on another stack. */
export interface RebaseOptions extends WorkOptions, ChainOptions {
  /** For the layers of the new stack: how one that is not marked as frozen is. Left out: their bitmaps are open as they are. */
  readonly withBitmap?: WithBitmap | undefined;
  readonly environment?: Environment | undefined;
}

/**
 * Puts the top of `stack` on `onto`, which has the same length; returns the bytes copied. Errors: EINVAL,
 * EROFS, EFORMAT, those of the devices; `AbortError` when told to stop.
 */
export async function rebase(
  stack: StackDevices,
  onto: StackDevices,
  options: RebaseOptions = {},
): Promise<number> {
  const { environment = realEnvironment, withBitmap } = checkWork(options, { withBitmap: setting.call });
  if (stack.sectors !== onto.sectors) {
    throw new BlockIoError("the two stacks are not of the same length", { code: "EINVAL", op: "open" });
  }
  const top = layerAt(stack, stack.layers.length);
  const target = (await readChain(onto, options)).at(-1);
  const identity = requireOwn(await readChain(stack, options), stack, stack.layers.length);
  const below = await viewOf({ ...stack, layers: stack.layers.slice(0, -1) }, options);
  const above = await viewOf(onto, options);
  try {
    const runs = new LayerRuns(stack.sectors, [{ bitmap: top.bitmap }]);
    const source = { device: below, offset: 0 };
    const left = new Left();
    let bytes = 0;
    for (const piece of pieces(stack.sectors, options)) {
      // Where nobody knows what the layer has, nothing can be said of what lies below it.
      for await (const part of runs.known(piece, (one, error) => left.add(one, error))) {
        const missing: Run[] = [];
        for await (const gap of gaps(runs, part)) {
          for await (const { sector, count } of differences(below, above, gap)) {
            missing.push({ sector, count, source });
          }
        }
        if (missing.length === 0) continue;
        bytes += bytesOf(await fillLayer(top, part, missing, (some, to) => copyAllBut(some, to, left)));
      }
    }
    await top.data.flush();
    await top.bitmap.flush();
    left.refuse(
      "copied up",
      "The layer is on what it was on, and shows the same. Replace the device with a copy that is whole, and run it again; bits of a layer that cannot be read come from a backup or a dump: zeroes in their place would say that it has nothing there.",
    );
    const samples = await sampleData(top, identity.uuid, stack.sectors);
    await freezeLayers(onto, onto.layers.length, { name: top.bitmap.name, environment, withBitmap });
    await writeIdentity(top.bitmap, { ...identity, ...(await lyingOn(onto, target)), samples });
    return bytes;
  } finally {
    await below.close();
    await above.close();
  }
}

/** What the layer does not have. */
async function* gaps(runs: LayerRuns, piece: Piece): AsyncIterable<Piece> {
  let at = piece.sector;
  for await (const { sector, count } of runs.in(piece)) {
    if (sector > at) yield { sector: at, count: sector - at };
    at = sector + count;
  }
  const end = piece.sector + piece.count;
  if (end > at) yield { sector: at, count: end - at };
}

/** Runs of sectors in which two devices differ. */
async function* differences(a: BlockDevice, b: BlockDevice, { sector, count }: Piece): AsyncIterable<Piece> {
  for (let at = sector; at < sector + count; at += STEP / SECTOR) {
    const length = Math.min(STEP / SECTOR, sector + count - at) * SECTOR;
    if ((await isHole(a, at * SECTOR, length)) && (await isHole(b, at * SECTOR, length))) continue;
    const ours = Buffer.allocUnsafe(length);
    const theirs = Buffer.allocUnsafe(length);
    if (!(await areRead(a, b, at * SECTOR, ours, theirs))) yield { sector: at, count: length / SECTOR };
    else if (!ours.equals(theirs)) yield* unequalSectors(ours, theirs, at);
  }
}

/** What cannot be read of one of them counts as different: if it is the new one, it must not show there. */
async function areRead(
  a: BlockDevice,
  b: BlockDevice,
  offset: number,
  ours: Buffer,
  theirs: Buffer,
): Promise<boolean> {
  return (await isGiven(a.read(offset, ours))) && (await isGiven(b.read(offset, theirs)));
}

function* unequalSectors(a: Buffer, b: Buffer, start: number): Iterable<Piece> {
  const differs = (at: number): boolean => a.compare(b, at, at + SECTOR, at, at + SECTOR) !== 0;
  for (let at = 0; at < a.length; at += SECTOR) {
    if (!differs(at)) continue;
    let end = at + SECTOR;
    while (end < a.length && differs(end)) end += SECTOR;
    yield { sector: start + at / SECTOR, count: (end - at) / SECTOR };
    at = end;
  }
}

async function isHole(device: BlockDevice, offset: number, length: number): Promise<boolean> {
  for await (const { kind } of device.extents(offset, length)) if (kind === "data") return false;
  return true;
}
