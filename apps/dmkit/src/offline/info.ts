/** `info` of an image: what is on a device, and what its format says of it. */
import type { BlockDevice, ImageFacts, ImageFormat, OfflineWork } from "@dmkit/block-io";
import { isCutShort } from "../backup/backup.ts";
import { candidates } from "./detect.ts";
import { type ImageWords, type OpenImage, type OpenedDevices, withImage } from "./image.ts";
import { foreignOn } from "./protect.ts";
import { commandEnvironment } from "../ui/command-environment.ts";

/** What is known of the contents of a device. */
export type Contents =
  | {
      readonly kind: "image";
      readonly format: string;
      readonly certainty: string;
      readonly role: string;
      readonly text: string;
      readonly devices: Readonly<Record<string, string>>;
      /** Undefined: other devices are needed to tell. */
      readonly facts: ImageFacts | undefined;
      /** Required devices that were not given. */
      readonly missing: readonly string[];
    }
  /** A file system or the like, or several formats that would fit; undefined: nothing that is known. */
  | { readonly kind: "other"; readonly text: string | undefined };

/** Throws `EFORMAT` if a type, or several devices, are given and it is no image. */
export async function contentsOf(
  words: ImageWords,
  formats: readonly ImageFormat[],
  opened: OpenedDevices,
): Promise<Contents> {
  const certain = words.type !== undefined || words.devices.length > 1 || Object.keys(words.roles).length > 0;
  if (!certain) {
    const other = await unlessImage(await opened.read(words.devices[0] ?? ""), formats);
    if (other !== undefined) return other;
  }
  const look = async (image: OpenImage): Promise<Contents> => {
    const { format, certainty, role, text, devices, references } = image;
    const missing = format.roles
      .filter(({ name, required }) => required && devices[name] === undefined)
      .map(({ name }) => name);
    const work: OfflineWork = { environment: commandEnvironment };
    const facts = missing.length === 0 ? await format.info(devices, work) : undefined;
    return { kind: "image", format: format.name, certainty, role, text, devices: references, facts, missing };
  };
  return withImage(words, { formats, environment: commandEnvironment, partial: true }, look, opened);
}

/** What a device holds that is not exactly one of our formats. */
async function unlessImage(
  device: BlockDevice,
  formats: readonly ImageFormat[],
): Promise<Contents | undefined> {
  const found = await candidates(device, formats);
  if (found.length === 1) return undefined;
  if (found.length > 1) {
    return { kind: "other", text: `could be ${found.map(({ text }) => text).join(", or ")}` };
  }
  const text = (await isCutShort(device))
    ? "a backup that was cut short: no whole disk until it is run again"
    : await foreignOn(device);
  return { kind: "other", text };
}
