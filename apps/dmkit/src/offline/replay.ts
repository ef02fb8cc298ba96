/**
 * `replay`: what one device of an image has and another one lacks, a cache and its slow device, goes there, or into files
 * that a target lays over it.
 *
 * Invariants:
 *
 * - it can be interrupted, and killed, at any time: run again it goes on, or starts again with the same result;
 * - an overlay is a new one: nothing that is there is written over;
 * - with an overlay neither device is written: what a replay notes in the cache is kept in memory and forgotten.
 */
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
  MemoryOverlay,
  openFile,
  parseOptions,
} from "@dmkit/block-io";
import { withNewFiles } from "../destination.ts";
import type { OpenImage } from "./image.ts";
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
 * Writes to a new overlay over the device; all devices of the image are open read-only. Only a whole replay gives its
 * files their names: neither a failure nor a crash leaves a layer that lacks something. Errors: `EEXIST`.
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
  return withNewFiles(files, environment, async (parts) => {
    await overlay.make(parts, base, environment);
    const opened: Record<string, BlockDevice> = {};
    try {
      for (const [role, path] of Object.entries(parts)) opened[role] = await openFile(path, { environment });
      const layer = await overlay.open(opened, base, environment);
      try {
        const copies = Object.entries(image.devices).map(([role, one]) => [role, new MemoryOverlay(one)]);
        const devices = {
          ...(Object.fromEntries(copies) as Record<string, BlockDevice>),
          [replay.to]: layer,
        };
        const result = await replay.run(devices, words, work);
        await layer.flush();
        return result;
      } finally {
        await layer.close();
      }
    } finally {
      for (const device of Object.values(opened)) await device.close();
    }
  });
}
