/** `tracked` as a target of tables and stack files. */
import {
  type BlockDevice,
  type DeviceUse,
  type OpenContext,
  type Target,
  parseOptions,
  printNamed,
  restOf,
} from "@dmkit/block-io";
import { trackedControls } from "./device/messages.ts";
import type { OpenTrackedOptions } from "./open/open.ts";
import { type TrackedOptions, namedOptions, trackedOptions } from "./options.ts";

/**
 * The target `tracked`: bitmaps of what has changed on a device since named moments. Errors of `open`: `EINVAL`, `EFORMAT`,
 * `EROFS`, `EBUSY`, those of the devices.
 */
export const tracked: Target<TrackedOptions> = {
  name: "tracked",
  version: [1, 0, 0],
  summary: "persistent bitmaps of what has changed on a device since named moments, for incremental backup",
  synopsis: "<device> <bitmap device> [<#words> (<key> <value>)…]",
  options: trackedOptions,
  ...trackedControls,
  image: async () => (await import("./image.ts")).trackedImages,
  stack: { length: ({ device }) => restOf(device) },
  parse(args) {
    const device = args.text("device", trackedOptions.device);
    const bitmap = args.text("bitmap device", trackedOptions.bitmap);
    const named = args.counted("words").named(namedOptions, trackedOptions);
    args.end();
    return parseOptions(trackedOptions, { device, bitmap, ...named }, "tracked");
  },
  print: (options) => [options.device, options.bitmap, ...printNamed(namedOptions, trackedOptions, options)],
  uses: (options, size) => Object.values(usesOf(options, size)),
  async check(options, context) {
    const { checkTracked } = await import("./open/open.ts");
    const { data, bitmap } = await lowersOf(options, context);
    await checkTracked(data, bitmap, settingsOf(options, context));
  },
  async retire(options, { lower }) {
    const { retireBitmaps } = await import("./open/retire.ts");
    await retireBitmaps(await lower(options.bitmap, "owns"));
  },
  async open(given, context) {
    const options = parseOptions(trackedOptions, given, "tracked");
    const { openTracked } = await import("./open/open.ts");
    const { data, bitmap } = await lowersOf(options, context);
    return openTracked(data, bitmap, settingsOf(options, context));
  },
};

// A write that goes past it would be missing in the bitmaps.
function usesOf(
  { device, bitmap }: Pick<TrackedOptions, "device" | "bitmap">,
  size: number,
): Record<"device" | "bitmap", DeviceUse> {
  return { device: [device, "owns", { offset: 0, length: size }], bitmap: [bitmap, "owns"] };
}

async function lowersOf(
  options: TrackedOptions,
  { size, lower }: Pick<OpenContext, "size" | "lower">,
): Promise<{ readonly data: BlockDevice; readonly bitmap: BlockDevice }> {
  const uses = usesOf(options, size);
  return { data: await lower(...uses.device), bitmap: await lower(...uses.bitmap) };
}

function settingsOf(
  { granularity, epochs, reset, force, ahead }: TrackedOptions,
  { name, size, environment }: Pick<OpenContext, "name" | "size" | "environment">,
): OpenTrackedOptions {
  return { name, size, environment, granularity, epochs, reset: reset?.split(","), force, ahead };
}
