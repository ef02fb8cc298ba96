/** Holes of the original, and those this design has to close, each put back in: the simulation must find them. */
import { type SimTarget, breaking } from "@dmkit/block-io/testing";
import type { CompressionRules } from "../core/rules.ts";
import { fading, formatOneBusy, formatTwo, wide } from "./sim-targets.ts";

const broken = (name: string, changed: Partial<CompressionRules>): SimTarget =>
  breaking(formatTwo, name, changed);

/** What the original did to format 1, beyond what the format itself cannot keep; letters as in FAULTS.md. */
export const formatOneMutants: readonly SimTarget[] = [
  breaking(formatOneBusy, "acknowledges-before-metadata-is-stable", { flushesMetadata: false }),
  // A flush beside the one that the timer began, which has nothing left to write and waits for nobody.
  breaking(formatOneBusy, "flush-misses-metadata-in-flight", { waitsForOthers: false }),
  breaking(formatOneBusy, "metadata-before-data", { flushesData: false }),
];

/** To be looked for with the fault `write-error`. */
export const formatOneErrorMutants: readonly SimTarget[] = [
  breaking(formatOneBusy, "ignores-metadata-errors", { fails: () => false }),
];

/** To be looked for with the fault `rot`. */
export const rotMutants: readonly SimTarget[] = [broken("believes-payloads", { checks: () => true })];

/** To be looked for with the fault `write-error`. */
export const errorMutants: readonly SimTarget[] = [
  breaking(wide, "ignores-metadata-errors", { fails: (what) => what !== "metadata" }),
  breaking(wide, "ignores-payload-errors", { fails: (what) => what !== "payloads" }),
  breaking(wide, "ignores-journal-errors", { fails: (what) => what !== "journal" }),
];

export const compressionMutants: readonly SimTarget[] = [
  // As the original: in place at once.
  broken("no-journal", { commit: ["flush"] }),
  broken("flush-before-record", { commit: ["flush", "record"] }),
  broken("one-slot", { slotOf: () => 0 }),
  broken("no-replay", { replayed: () => [] }),
  // What the older record says is still missing only if the newer one is about other groups.
  breaking(wide, "replays-the-newest-only", { replayed: (records) => records.slice(-1) }),
  broken("replays-backward", { replayed: (records) => records.toReversed() }),
  broken("plans-before-in-place", { awaitsPlace: false }),
  broken("readers-do-not-wait", { announces: false }),
  broken("forgets-neighbours", { keepsNeighbours: false }),
  breaking(fading, "does-not-heal", { heals: [] }),
  breaking(fading, "heals-without-flush", { heals: ["write"] }),
];
