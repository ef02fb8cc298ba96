/** The static list of targets the app knows: adding one is one line here. Nothing else of the app names one. */
import { archive, attachArchive } from "@dmkit/archive";
import { assocCache } from "@dmkit/assoc-cache";
import { TargetRegistry, basicTargets } from "@dmkit/block-io";
import { compression } from "@dmkit/compression";
import { cow } from "@dmkit/cow";
import { image } from "@dmkit/image";
import { tracked } from "@dmkit/tracked";
import { writeboostWith } from "@dmkit/writeboost";
import { zram } from "@dmkit/zram";

const writeboost = writeboostWith(attachArchive);

/** All targets this program knows, by name and alias. */
export const targets: TargetRegistry = new TargetRegistry([
  ...basicTargets,
  writeboost,
  assocCache,
  cow,
  tracked,
  compression,
  zram,
  image,
  archive,
]);

export interface DefaultDisk {
  /** A target. */
  readonly target: string;
  /** The option of the file that has the contents, and says how large the disk is. */
  readonly disk: string;
  /** Sparse files by option; sizes in bytes. */
  readonly files: Readonly<Record<string, { readonly file: string; readonly size: number }>>;
}

/** What `dmkit serve` makes when it is told of no disk. */
export const defaultDisk: DefaultDisk = {
  target: writeboost.name,
  disk: "backing",
  files: {
    backing: { file: "backing.img", size: 10 * 2 ** 30 },
    cache: { file: "cache.img", size: 2 ** 30 },
  },
};
