/** What is on a device: asks every format; a magic counts more than everything that merely fits. */
import {
  type BlockDevice,
  BlockIoError,
  type Detected,
  type ImageFormat,
  codeOf,
  contentsOf,
  didYouMean,
  isGiven,
  isUnfinished,
} from "@dmkit/block-io";

/** A format, and what it says of a device. `forced`: it does not recognise it, somebody said so. */
export interface Recognised {
  readonly format: ImageFormat;
  readonly certainty: Detected["certainty"] | "forced";
  readonly role: string;
  readonly text: string;
}

/** Formats that may be on the device: those with a magic, else those for which everything fits. */
export async function candidates(
  device: BlockDevice,
  formats: readonly ImageFormat[],
): Promise<Recognised[]> {
  const found: Recognised[] = [];
  if (device.size === 0) return found;
  let unreadable: unknown;
  for (const format of formats) {
    try {
      const detected = await format.detect(device);
      if (detected !== undefined) found.push({ format, ...detected });
    } catch (error) {
      // What one format has to look at may be in a bad sector that is of no concern to the one it is.
      if (codeOf(error) !== "EIO") throw error;
      unreadable ??= error;
    }
  }
  const certain = found.filter(({ certainty }) => certainty === "magic");
  if (certain.length > 0) return certain;
  // What merely fits is no answer as long as another format could not be asked.
  if (unreadable !== undefined) throw unreadable;
  return found;
}

/**
 * The format of a device. Throws `EFORMAT` if it is none or could be several, `EPARSE` for an unknown type.
 * @param unknown what to do about one that is not known.
 */
export async function recognise(
  device: BlockDevice,
  formats: readonly ImageFormat[],
  type?: string,
  unknown = "If you know what it is, say so with --type NAME.",
): Promise<Recognised> {
  if (type !== undefined) return forced(device, formatNamed(type, formats));
  const found = await candidates(device, formats);
  const [first] = found;
  if (first !== undefined && found.length === 1) return first;
  if (first === undefined && (await isGivenUp(device))) {
    throw new BlockIoError("counts as blank: what it held was given up, or formatting it was interrupted", {
      code: "EFORMAT",
      device: device.name,
      hint: "There is nothing to work on. What a table no longer names had written back all it had.",
    });
  }
  const names = formats.map(({ name }) => name).join(", ");
  const reason =
    device.size === 0
      ? "is empty (0 bytes)"
      : first === undefined
        ? `is none of the known formats (tried ${names || "nothing"})`
        : `could be ${found.map(({ text }) => text).join(", or ")}`;
  throw new BlockIoError(reason, {
    code: "EFORMAT",
    device: device.name,
    hint: device.size === 0 ? "There is nothing to work on." : unknown,
  });
}

async function isGivenUp(device: BlockDevice): Promise<boolean> {
  const start = Buffer.alloc(Math.min(device.size, 4096));
  const isSaid = (await isGiven(device.read(0, start))) && isUnfinished(start);
  return isSaid && (await contentsOf(device)) === undefined;
}

/** Throws `EPARSE`. */
export function formatNamed(type: string, formats: readonly ImageFormat[]): ImageFormat {
  const format = formats.find(({ name }) => name === type);
  if (format !== undefined) return format;
  const names = formats.map(({ name }) => name);
  throw new BlockIoError(`there is no image format "${type}"`, {
    code: "EPARSE",
    hint: `${didYouMean(type, names)}Known formats: ${names.join(", ")}.`,
  });
}

async function forced(device: BlockDevice, format: ImageFormat): Promise<Recognised> {
  if (device.size === 0) return recognise(device, [format]);
  const detected = await format.detect(device);
  if (detected !== undefined) return { format, ...detected };
  const role = format.roles[0]?.name ?? "device";
  return { format, certainty: "forced", role, text: `${format.name}, because of --type` };
}
