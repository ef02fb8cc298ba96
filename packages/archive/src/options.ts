/** The options of the target `archive`. */
import type { OptionsOf } from "@dmkit/block-io";
import { absoluteArchiveReference } from "./open/reference.ts";

/** The options of `archive`: types, help. */
export const archiveOptions = {
  archive: {
    type: "text",
    scheme: "archive",
    absolute: (text: string, folder: string): string =>
      absoluteArchiveReference(text, folder).slice("archive:".length),
    help: "STORE/DISK[@ID|@TIME]; STORE is s3://BUCKET[/PREFIX] or a folder",
  },
} as const;

/** What a view is opened with, as {@link archiveOptions} says it. */
export type ArchiveOptions = OptionsOf<typeof archiveOptions>;
