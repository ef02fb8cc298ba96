/** The declaration of the target `image`. */
import { type Target, parseOptions, printNamed, refuse, restOf } from "@dmkit/block-io";
import { imageControls } from "./device/messages.ts";
import { absoluteImageReference, parseImageReference } from "./open/reference.ts";
import { type ImageOptions, imageOptions, namedOptions } from "./options.ts";

/**
 * The target `image`: an image in an object store, read-only. Errors of `open`: `ENOENT`, `EFORMAT`, `EINVAL`, those
 * of the store.
 */
export const image: Target<ImageOptions> = {
  name: "image",
  version: [1, 0, 0],
  summary: "an image in an object store, read-only",
  synopsis: "<image> [<#words> (<key> <value>)…]",
  options: imageOptions,
  ...imageControls,
  versions: {
    takes: (reference) => /^(image:|s3:\/\/)/i.test(reference),
    load: async () => (await import("./offline/versions.ts")).imageVersions,
  },
  footprint: async () => (await import("./offline/footprint.ts")).imageFootprint,
  schemes: {
    image: {
      async open(reference, _access, environment) {
        const { openImage } = await import("./open/open-image.ts");
        return openImage({ image: reference }, { name: reference, environment });
      },
      absolute: absoluteImageReference,
    },
  },
  stack: { length: (options) => restOf(`image:${options.image}`) },
  parse(args) {
    const values: Record<string, unknown> = { image: args.text("image", imageOptions.image) };
    Object.assign(values, args.counted("words").named(namedOptions, imageOptions));
    args.end();
    const options = parseOptions(imageOptions, values, "image");
    parseImageReference(options.image);
    return options;
  },
  print: (options) => [options.image, ...printNamed(namedOptions, imageOptions, options)],
  async open(given, { name, size, environment }) {
    const options = parseOptions(imageOptions, given, "image");
    const { openImage } = await import("./open/open-image.ts");
    const device = await openImage(options, { name, environment });
    if (device.size === size) return device;
    await device.close();
    throw refuse(
      name,
      "EINVAL",
      `the image has ${device.size / 512} sectors, the table says ${size / 512}`,
      `Write ${device.size / 512} as the length; a part of an image is a linear over image:${options.image}.`,
    );
  },
};
