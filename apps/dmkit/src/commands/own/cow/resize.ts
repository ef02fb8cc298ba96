/**
 * `dmkit cow resize`: all layers of a stack for a target of another length, from the bottom up.
 *
 * Invariant: a layer is of the old length, or of the new one: its bitmap is made anew beside it, and takes its name when all
 * of it is stable. Its data file only becomes longer before.
 */
import {
  chmodSync,
  chownSync,
  linkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  truncateSync,
} from "node:fs";
import { dirname } from "node:path";
import {
  type BlockDevice,
  SECTOR,
  asking,
  describeSize,
  parsePath,
  refuse,
  schemeOf,
  syncFolder,
} from "@dmkit/block-io";
import {
  bitmapDeviceSize,
  checkResize,
  createBitmapFile,
  labelledSize,
  layersToResize,
  resizable,
  resizeLayer,
} from "@dmkit/cow";
import { partOf, requireNewFile } from "../../../destination.ts";
import { tellCancelled } from "../../../offline/work.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";
import { endedBySignal } from "../../../ui/interrupt.ts";
import { startProgress } from "../../../ui/progress.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { type OpenStack, withStack } from "./stack-words.ts";

export interface ResizeFlags {
  readonly shrink: boolean;
  readonly force: boolean;
  /** A name for the old bitmap of the top. */
  readonly keep?: string;
  readonly quiet?: boolean;
}

const writes = (layer: number): boolean => layer > 0;

/** @param size bytes of the target. Errors: those of the layers, `EINVAL` for a bitmap that is no file. */
export async function resizeStack(size: number, words: string[], flags: ResizeFlags): Promise<number> {
  const { keep, quiet = false } = flags;
  if (keep !== undefined) requireNewFile(keep);
  const sectors = size / SECTOR;
  const request = { words, writes };
  const done = await endedBySignal("resize", async (signal) => {
    // What is served is refused before a file becomes longer.
    await withStack(request, (stack) => requireFiles(stack, sectors));
    return withStack(request, async (stack) => {
      const layers = await layersToResize(stack, sectors);
      const { shrink, force } = flags;
      for (const number of layers)
        await checkResize(layerOf(stack, number), sectors, { shrink, force, signal });
      for (const number of layers) {
        const layer = layerOf(stack, number);
        const progress = startProgress("resize", size, quiet);
        const isTop = number === stack.layers.length;
        await withNewBitmap(layer.bitmap, sectors, isTop ? keep : undefined, (into) =>
          resizeLayer(layer, into, sectors, {
            shrink,
            force,
            signal,
            progress: (bytes) => progress.update(bytes),
          }),
        ).finally(() => progress.stop());
      }
      return layers.length;
    });
  });
  if (done === "cancelled") return tellCancelled("resize");
  if (!quiet) {
    const what = done.value === 0 ? "is of that size already" : `${done.value} of its layers were resized`;
    process.stderr.write(`resize: ${describeSize(size)} (${sectors} sectors): ${what}\n`);
  }
  return exitCodes.ok;
}

function layerOf({ layers }: OpenStack, number: number): OpenStack["layers"][number] {
  return layers[number - 1] as OpenStack["layers"][number];
}

/** Makes data files as long as the layers will be. Throws `EINVAL` for bitmaps that are no files. */
async function requireFiles(stack: OpenStack, sectors: number): Promise<void> {
  const layers = await layersToResize(stack, sectors);
  const data = [];
  for (const number of layers) {
    const layer = layerOf(stack, number);
    if (fileOf(layer.bitmap) === undefined)
      throw refuse(
        layer.bitmap.name,
        "EINVAL",
        "is no file: its place cannot be taken by a new one at once",
        `Copy it to a file first: dmkit copy. It needs ${bitmapDeviceSize(sectors)} bytes.`,
      );
    const path = fileOf(layer.data);
    const { sectors: before } = await resizable(layer.bitmap);
    if (path !== undefined && before < sectors)
      data.push({ path, size: layer.offset + labelledSize(sectors) });
  }
  for (const { path, size } of data)
    asking({ device: path, op: "write" }, () => {
      if (statSync(path).size < size) truncateSync(path, size);
    });
}

/** The regular file behind a device, whole; undefined for anything else. */
function fileOf({ name }: BlockDevice): string | undefined {
  if (schemeOf(name) !== undefined) return undefined;
  const { path, partition } = parsePath(name);
  if (partition !== undefined) return undefined;
  return asking({ device: name, op: "open" }, () => {
    const real = realpathSync(path);
    return statSync(real).isFile() ? real : undefined;
  });
}

/** Runs `work` with a new file, which then takes the name of the bitmap; what that was may keep another name. */
async function withNewBitmap(
  bitmap: BlockDevice,
  sectors: number,
  keep: string | undefined,
  work: (into: BlockDevice) => Promise<unknown>,
): Promise<void> {
  const path = fileOf(bitmap) ?? bitmap.name;
  const part = partOf(path);
  const how = { device: path, op: "write" } as const;
  // The lock of the bitmap is ours: nobody else is making one.
  asking(how, () => rmSync(part, { force: true }));
  try {
    const into = await createBitmapFile(part, bitmapDeviceSize(sectors), commandEnvironment);
    try {
      await work(into);
      await into.flush();
    } finally {
      await into.close();
    }
    asking(how, () => {
      const { mode, uid, gid } = statSync(path);
      chmodSync(part, mode);
      if (process.getuid?.() === 0) chownSync(part, uid, gid);
      if (keep !== undefined) linkSync(path, keep);
      renameSync(part, path);
      syncFolder(dirname(path));
    });
  } catch (error) {
    rmSync(part, { force: true });
    throw error;
  }
}
