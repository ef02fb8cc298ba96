/** An image as it was at an earlier time, read-only: what `serve --at` exports. */
import { type BlockDevice, BlockIoError, type Environment, type ImageFormat } from "@dmkit/block-io";
import { recognise } from "./detect.ts";
import { OpenedDevices } from "./image.ts";
import { usage } from "../ui/usage.ts";

const UNKNOWN = "--at shows a cache and its disk: give the cache first. dmkit info tells what a device is.";

/** An opened view. */
export interface OpenView {
  readonly format: ImageFormat;
  readonly description: string;
  readonly device: BlockDevice;
  /** The words of a table, behind the target's name, that show it as it is now. */
  readonly words: readonly string[];
  /** The devices it does not close itself, to be closed after it. */
  readonly below: readonly BlockDevice[];
}

/**
 * Opens the devices of an image read-only, in the order of its view's roles, and the view over them. None is written to.
 * Errors: `EPARSE` (other devices), `EINVAL` with the range for a time that cannot be shown, `EFORMAT` for an image that
 * does not keep what was before, those of opening.
 */
export async function openView(
  images: readonly string[],
  at: number,
  formats: readonly ImageFormat[],
  environment: Environment,
): Promise<OpenView> {
  requireDevices(images, formats);
  const opened = new OpenedDevices(environment);
  try {
    const [first = ""] = images;
    const { format } = await recognise(await opened.read(first), formats, undefined, UNKNOWN);
    const { view } = format;
    if (view === undefined) {
      throw new BlockIoError(`is ${format.name}, which does not keep what was before`, {
        code: "EFORMAT",
        device: first,
        hint: `Serve it without --at. Images that do: ${formats.flatMap((one) => (one.view === undefined ? [] : one.name)).join(", ")}.`,
      });
    }
    requireDevices(images, [format]);
    const references: Record<string, string> = {};
    const devices: Record<string, BlockDevice> = {};
    for (const [index, role] of view.roles.entries()) {
      const reference = images[index] ?? "";
      references[role] = reference;
      devices[role] = await opened.read(reference);
    }
    const device = await view.open(devices, at);
    return {
      format,
      device,
      words: view.words(references),
      description: `${images.toReversed().join(" with ")} as of ${view.unit} ${at}`,
      below: Object.values(devices).toReversed(),
    };
  } catch (error) {
    await opened.close();
    throw error;
  }
}

/** Throws `EPARSE` unless these can be the devices of an image of one of the formats. */
function requireDevices(images: readonly string[], formats: readonly ImageFormat[]): void {
  const views = formats.flatMap(({ name, view }) => (view === undefined ? [] : { name, roles: view.roles }));
  if (views.some(({ roles }) => roles.length === images.length)) return;
  const wanted = views.map(({ name, roles }) => `${roles.join(", ")} of ${name}`).join("; or ");
  throw usage("--at goes with the devices of one image", `Give just these, in this order: ${wanted}.`);
}
