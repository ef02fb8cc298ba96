/** All of the corpus. */
import { assocCacheCases } from "./assoc-cache-cases.ts";
import type { Case } from "./case.ts";
import { compressionCases } from "./compression-cases.ts";
import { cowCases } from "./cow-cases.ts";
import { trackedCases } from "./tracked-cases.ts";
import { writeboostCases } from "./writeboost-cases.ts";

export const cases: readonly Case[] = [
  ...writeboostCases,
  ...assocCacheCases,
  ...cowCases,
  ...compressionCases,
  ...trackedCases,
];
