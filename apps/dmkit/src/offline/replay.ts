/**
 * `replay`: what one device of an image has and another one lacks, a cache and its slow device, goes there, or into files
 * that a target lays over it.
 *
 * Invariants:
 *
 * - it can be interrupted, and killed, at any time: run again it goes on, or starts again with the same result;
 * - with an overlay neither device is written: what a replay notes in the cache is kept in memory and forgotten.
 */
import { existsSync, rmSync } from "node:fs";
import {
  type BlockDevice,
  BlockIoError,
  type ImageDevices,
  type ImageFormat,
  type ImageReplay,
  type ImageReplayed,
  type OfflineWork,
  type OptionTable,
  type Overlay,
  openFile,
  parseOptions,
} from "@dmkit/block-io";
import type { OpenImage } from "./image.ts";
import { ScratchDevice } from "./scratch/scratch.ts";
import { usage } from "../ui/usage.ts";

/** What was said beside the devices, by option. */
export type ReplayWords = Readonly<Record<string, unknown>>;

/** Formats whose images can be replayed. */
export function replayable(
  formats: readonly ImageFormat[],
): readonly (ImageFormat & { readonly replay: ImageReplay })[] {
  return formats.flatMap(({ replay, ...format }) => (replay === undefined ? [] : { ...format, replay }));
}

/**
 * Throws `EFORMAT` for a format that is not replayed, `EPARSE` for words that are not for it, or have no such value.
 * @param formats all there are, to say which ones they are for.
 */
export function requireReplayable(
  { format, references }: OpenImage,
  words: ReplayWords,
  formats: readonly ImageFormat[],
): ImageReplay {
  const { replay } = format;
  if (replay === undefined) {
    throw new BlockIoError(`is ${format.name}: there is nothing to replay`, {
      code: "EFORMAT",
      device: Object.values(references)[0],
      hint: `Replayed are: ${namesOf(replayable(formats))}.`,
    });
  }
  for (const name of Object.keys(words)) {
    if (Object.hasOwn(replay.options, name)) continue;
    const takers = replayable(formats).filter((one) => Object.hasOwn(one.replay.options, name));
    throw usage(`--${name} is not for ${format.name}`, `It is for: ${namesOf(takers)}.`);
  }
  parseOptions(replay.options, words, "replay");
  return replay;
}

function namesOf(formats: readonly ImageFormat[]): string {
  return formats.map(({ name }) => name).join(", ");
}

/** Options of all formats that are replayed; the help names those it is for. */
export function replayOptions(formats: readonly ImageFormat[]): OptionTable {
  const table: Record<string, OptionTable[string]> = {};
  for (const { name, replay } of replayable(formats)) {
    for (const [option, spec] of Object.entries(replay.options)) {
      table[option] ??= { ...spec, help: `${name}: ${spec.help}` };
    }
  }
  return table;
}

/** The device that is written. Throws `EPARSE` if it was not given. */
export function writtenBy({ to }: ImageReplay, { devices }: Pick<OpenImage, "devices">): BlockDevice {
  const device = devices[to];
  if (device !== undefined) return device;
  throw usage(`the ${to} device is missing`, "Name it behind the first one.");
}

/** Writes to the device itself; all devices are writable. */
export async function replayInPlace(
  replay: ImageReplay,
  devices: ImageDevices,
  words: ReplayWords,
  work: OfflineWork,
): Promise<ImageReplayed> {
  const slow = writtenBy(replay, { devices });
  const result = await replay.run(devices, words, work);
  await slow.flush();
  return result;
}

/** Files of an overlay by what they are for. */
export type OverlayFiles = Readonly<Record<string, string>>;

/** The files in their order, `BITMAP,DATA`, or one name from which all are made. Throws `EPARSE`. */
export function overlayFiles({ files }: Overlay, text: string): OverlayFiles {
  const words = text.split(",");
  const roles = Object.entries(files);
  if (words.includes("") || (words.length !== 1 && words.length !== roles.length)) {
    const all = roles.map(([role]) => role.toUpperCase()).join(",");
    throw usage(`--overlay ${text}: expected ${all} or one name`, undefined);
  }
  return Object.fromEntries(
    roles.map(([role, ending], index) => [
      role,
      words.length === 1 ? `${text}${ending}` : (words[index] ?? ""),
    ]),
  );
}

/**
 * Writes to an overlay over the device, made if it is not there; all devices of the image are open read-only. What it
 * has made goes again if it fails, but stays if it is interrupted.
 */
export async function replayToOverlay(
  image: OpenImage & { readonly overlay: Overlay },
  replay: ImageReplay,
  files: OverlayFiles,
  words: ReplayWords,
  work: OfflineWork,
): Promise<ImageReplayed> {
  const { overlay } = image;
  const { environment } = work;
  const base = writtenBy(replay, image);
  const made = isNew(files);
  if (made) await overlay.make(files, base, environment);
  const opened: Record<string, BlockDevice> = {};
  try {
    for (const [role, path] of Object.entries(files)) opened[role] = await openFile(path, { environment });
    const layer = await overlay.open(opened, base, environment);
    try {
      const copies = Object.entries(image.devices).map(([role, device]) => [role, new ScratchDevice(device)]);
      const devices = { ...(Object.fromEntries(copies) as Record<string, BlockDevice>), [replay.to]: layer };
      const result = await replay.run(devices, words, work);
      await layer.flush();
      return result;
    } finally {
      await layer.close();
    }
  } catch (error) {
    if (made && work.signal?.aborted !== true) {
      for (const path of Object.values(files)) rmSync(path, { force: true });
    }
    throw error;
  } finally {
    for (const device of Object.values(opened)) await device.close();
  }
}

/** All files, or none, are there: an interrupted replay goes on in the overlay it has begun. Whether it has to be made. */
function isNew(files: OverlayFiles): boolean {
  const paths = Object.values(files);
  const there = paths.filter((path) => existsSync(path));
  if (there.length === 0 || there.length === paths.length) return there.length === 0;
  throw new BlockIoError("exists already, but another file of the layer does not", {
    code: "EEXIST",
    device: there[0],
    hint: "Give names of which all, or none, exist.",
  });
}
