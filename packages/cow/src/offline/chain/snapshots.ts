/**
 * Snapshots of a stack that nobody serves: made, found, gone back to, deleted. What holds of them is in core/snapshots.ts.
 *
 *      make      layers below the top that are not marked as frozen are; files of a new, empty layer, which lies on the top; then
 *                the top is frozen and has the name, in one sector
 *      go back   layers below the snapshot that are not marked as frozen are; files of a new, empty layer, which lies on it
 *      delete    see squash.ts: the layer above gets what it lacks, then it lies on what the snapshot lay on
 */
import {
  type Environment,
  SECTOR,
  type SettingsTable,
  realEnvironment,
  refuse,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import {
  type Snapshots,
  layerOfSnapshot,
  requireNewName,
  snapshotsOf as namesOf,
} from "../../core/snapshots.ts";
import { type WorkOptions, chainSettings, checkWork } from "../../device/copy/work.ts";
import { type WithBitmap, freezeLayers } from "../../device/layer/freezing.ts";
import type { StackDevices } from "../../device/layer/stack-devices.ts";
import { identitiesGiven } from "../../open/judge.ts";
import { type LayerFiles, createLayerFiles, refuseOldFiles } from "../create/files.ts";
import { squash } from "../squash.ts";
import { type ChainOptions, layerAt, readChain, requireOwn } from "./chain.ts";

/** How the files of the new layer are made. */
export interface NewTopOptions extends ChainOptions {
  /** Bytes of the data file before the layer starts. Default 0. */
  readonly dataOffset?: number | undefined;
  /** For the layers below: how one that is not marked as frozen is. Left out: their bitmaps are open as they are. */
  readonly withBitmap?: WithBitmap | undefined;
  readonly environment?: Environment;
}

const topSettings: SettingsTable<NewTopOptions> = {
  ...chainSettings,
  dataOffset: setting.integer(0, Number.MAX_SAFE_INTEGER),
  withBitmap: setting.call,
  environment: setting.environment,
};

/** Which of the layers are snapshots, bottom to top. Errors: those of the devices. */
export async function snapshotsOf(stack: StackDevices): Promise<Snapshots> {
  return namesOf(await identitiesGiven(stack));
}

/** The layers up to a snapshot, which show it. Errors: `ENOENT`, `EINVAL` where several are called so. */
export async function upToSnapshot(stack: StackDevices, name: string): Promise<StackDevices> {
  const layer = layerOfSnapshot(await snapshotsOf(stack), name, "cow");
  return { ...stack, layers: stack.layers.slice(0, layer) };
}

/**
 * Makes the top a snapshot, and the files of a new layer that lies on it, or nothing. Errors: `EEXIST` (name, files), `EINVAL`,
 * `EROFS` where the top is frozen already, `EFORMAT`, those of the devices.
 */
export async function makeSnapshot(
  stack: StackDevices,
  name: string,
  files: LayerFiles,
  options: NewTopOptions = {},
): Promise<void> {
  const { environment = realEnvironment, dataOffset, withBitmap } = checkSettings(topSettings, options);
  const number = stack.layers.length;
  if (number === 0) {
    const hint =
      "Make a layer on it: dmkit cow create MAP DATA --base BASE. The base itself is what it was, then.";
    throw refuse(stack.base.name, "EINVAL", "there is no layer that could be a snapshot", hint);
  }
  const { bitmap } = layerAt(stack, number);
  const blocks = await readChain(stack, options);
  requireNewName(namesOf(blocks), name, bitmap.name);
  if (requireOwn(blocks, stack, number).frozen) {
    const hint = "Name all layers; the last one becomes the snapshot.";
    throw refuse(bitmap.name, "EROFS", "the top is frozen: another layer lies on it", hint);
  }
  const snapshot = { name, made: environment.clock.wallTime() };
  const { sectors } = stack;
  refuseOldFiles(files);
  // What the snapshot shows is what they do.
  await freezeLayers(stack, number - 1, { name: bitmap.name, environment, withBitmap });
  await createLayerFiles(files, { sectors, below: bitmap, snapshot, dataOffset, environment });
}

/**
 * Makes the files of a new layer that lies on a snapshot: with it on top the stack shows what that shows. The layers above stay
 * what they are. Errors: `ENOENT`, `EEXIST` (files), `EFORMAT`, those of the devices.
 */
export async function revertToSnapshot(
  stack: StackDevices,
  name: string,
  files: LayerFiles,
  options: NewTopOptions = {},
): Promise<StackDevices> {
  const { environment = realEnvironment, dataOffset, withBitmap } = checkSettings(topSettings, options);
  const part = await upToSnapshot(stack, name);
  await readChain(part, options);
  const { bitmap } = layerAt(part, part.layers.length);
  refuseOldFiles(files);
  await freezeLayers(part, part.layers.length, { name: bitmap.name, environment, withBitmap });
  await createLayerFiles(files, { sectors: stack.sectors, below: bitmap, dataOffset, environment });
  return part;
}

/**
 * Deletes a snapshot; returns its layer, from 1 at the bottom, which is none of the stack then, and the bytes copied. Done before:
 * does nothing. Errors: `ENOENT`, `EINVAL`, `EROFS`, `EFORMAT`, `EIO` when something is left, those of the devices; the signal's
 * reason.
 */
export async function deleteSnapshot(
  stack: StackDevices,
  name: string,
  options: WorkOptions & ChainOptions = {},
): Promise<{ readonly layer: number; readonly bytes: number }> {
  checkWork(options);
  const layer = layerOfSnapshot(await snapshotsOf(stack), name, "cow");
  if (layer === stack.layers.length) {
    const hint = "Name the layers above it, too: what it has goes into the next one.";
    throw refuse(
      layerAt(stack, layer).bitmap.name,
      "EINVAL",
      "the snapshot is the last layer that is named",
      hint,
    );
  }
  return { layer, bytes: await squash(stack, layer, layer + 1, { ...options, deletes: true }) };
}

/** The arguments of a table that shows a stack, by the names of its devices. */
export function tableOf({ base, baseOffset, layers }: StackDevices): readonly string[] {
  const words = layers.flatMap(({ bitmap, data, offset }) => [bitmap.name, data.name, `${offset / SECTOR}`]);
  return [base.name, `${baseOffset / SECTOR}`, ...words];
}
