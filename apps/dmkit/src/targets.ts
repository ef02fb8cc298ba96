/** The static list of targets the app knows. Adding one is one line here. */
import { assocCache } from "@dmkit/assoc-cache";
import { TargetRegistry, basicTargets } from "@dmkit/block-io";
import { compression } from "@dmkit/compression";
import { cow } from "@dmkit/cow";
import { image } from "@dmkit/image";
import { writeboost } from "@dmkit/writeboost";
import { zram } from "@dmkit/zram";

export const targets: TargetRegistry = new TargetRegistry([
  ...basicTargets,
  writeboost,
  assocCache,
  cow,
  compression,
  zram,
  image,
]);
