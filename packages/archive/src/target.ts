/** The declaration of the target `archive`, and what attaches a cache to one: neither loads an archive before it is used. */
import { type Target, parseOptions, refuse, restOf } from "@dmkit/block-io";
import type { AttachedArchive, LocalLog } from "./open/attach.ts";
import { absoluteArchiveReference, atMoment, parseArchiveReference } from "./open/reference.ts";
import { type ArchiveOptions, archiveOptions } from "./options.ts";

/** Attaches a cache to the disk that `location` names, STORE/DISK; `signal` ends that. Errors: see `attachTo`. */
export async function attachArchive(
  location: string,
  local: LocalLog,
  signal?: AbortSignal,
): Promise<AttachedArchive> {
  const { attachDisk } = await import("./open/open-archive.ts");
  return attachDisk(location, local, signal);
}

/**
 * The target `archive`: a disk as of a moment, from the log in an object store, read-only. Errors of `open`: `ENOENT`,
 * `EINVAL`, `EFORMAT`, `EIO`, those of the store.
 */
export const archive: Target<ArchiveOptions> = {
  name: "archive",
  version: [1, 0, 0],
  summary: "a disk whose log is in an object store, read-only, as of any moment",
  synopsis: "<archive>",
  options: archiveOptions,
  schemes: {
    archive: {
      open: async (reference, _access, environment) =>
        (await import("./open/open-archive.ts")).openArchive(reference, environment),
      absolute: absoluteArchiveReference,
      at: atMoment,
    },
  },
  stack: { length: (options) => restOf(`archive:${options.archive}`) },
  parse(args) {
    const text = args.text("archive", archiveOptions.archive);
    args.end();
    parseArchiveReference(text);
    return { archive: text };
  },
  print: (options) => [options.archive],
  async open(given, { name, size, environment, progress }) {
    const options = parseOptions(archiveOptions, given, "archive");
    const { openArchive } = await import("./open/open-archive.ts");
    const device = await openArchive(options.archive, environment, name, {
      progress: ({ done, total }) => progress?.(done, total, "fetching the log"),
    });
    if (device.size === size) return device;
    await device.close();
    throw refuse(
      name,
      "EINVAL",
      `the disk has ${device.size / 512} sectors, the table says ${size / 512}`,
      `Write ${device.size / 512} as the length; a part of a disk is a linear over archive:${options.archive}.`,
    );
  },
};
