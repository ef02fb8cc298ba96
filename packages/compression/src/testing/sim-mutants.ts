/** Holes of the original, and those this design has to close, each put back in: the simulation must find them. */
import type { BlockDevice } from "@dmkit/block-io";
import { type SimTarget, mutant, replaced } from "@dmkit/block-io/testing";
import { Applier } from "../device/v2/applier.ts";
import { Committer } from "../device/v2/committer.ts";
import { Journal } from "../device/v2/journal.ts";
import { Store } from "../device/v2/store.ts";
import { CompressionDeviceV1 } from "../device/v1/device.ts";
import { MetadataV1 } from "../device/v1/metadata.ts";
import { type Knobs, formatOneRaw, formatTwo, wide } from "./sim-targets.ts";

/** The private parts of a journal that its mutants use. */
interface Inside {
  readonly lower: BlockDevice;
  placeOf(number: number): number;
}

function without(name: string, owner: object, key: string, method: unknown): SimTarget {
  return mutant(formatTwo, name, () => replaced(owner, key, () => method));
}

/** As the original: in place at once, no journal. */
async function flushOnly(this: Inside): Promise<void> {
  await this.lower.flush();
}

/** Acknowledged before it is stable. */
async function writeOnly(this: Inside, number: number, record: Buffer): Promise<void> {
  await this.lower.write(this.placeOf(number), record);
}

/** Errors of one method are as good as success. */
function ignoringErrors(
  name: string,
  owner: object,
  key: string,
  target: SimTarget<Knobs> = wide,
): SimTarget {
  return mutant(target, name, () =>
    replaced(
      owner,
      key,
      (original: (...args: unknown[]) => Promise<void>) =>
        async function (this: unknown, ...args: unknown[]): Promise<void> {
          await original.apply(this, args).catch(() => {});
        },
    ),
  );
}

/** What the original did to format 1, beyond what the format itself cannot keep; letters as in FAULTS.md. */
export const formatOneMutants: readonly SimTarget[] = [
  mutant(formatOneRaw, "acknowledges-before-metadata-is-stable", () =>
    replaced(MetadataV1.prototype, "metadataStable", () => async () => {}),
  ),
  // A flush beside the one that the timer began, which has nothing left to write and waits for nobody.
  mutant(formatOneRaw, "flush-misses-metadata-in-flight", () => {
    const undo = [
      replaced(MetadataV1.prototype, "atRest", () => async () => {}),
      replaced(
        CompressionDeviceV1.prototype,
        "doFlush",
        () =>
          function (this: { flushAll(): Promise<void> }): Promise<void> {
            return this.flushAll();
          },
      ),
    ];
    return () => undo.forEach((one) => one());
  }),
  mutant(formatOneRaw, "metadata-before-data", () =>
    replaced(MetadataV1.prototype, "dataStable", () => async () => {}),
  ),
];

/** To be looked for with the fault `write-error`. */
export const formatOneErrorMutants: readonly SimTarget[] = [
  ignoringErrors("ignores-metadata-errors", MetadataV1.prototype, "writePage", formatOneRaw),
];

/** To be looked for with the fault `rot`. */
export const rotMutants: readonly SimTarget[] = [
  without("believes-payloads", Store.prototype, "checks", () => true),
];

/** To be looked for with the fault `write-error`. */
export const errorMutants: readonly SimTarget[] = [
  ignoringErrors("ignores-metadata-errors", Applier.prototype, "writeMetadata"),
  ignoringErrors("ignores-payload-errors", Applier.prototype, "writePayloads"),
  ignoringErrors("ignores-journal-errors", Journal.prototype, "commit"),
];

export const compressionMutants: readonly SimTarget[] = [
  without("no-journal", Journal.prototype, "commit", flushOnly),
  without(
    "flush-before-record",
    Journal.prototype,
    "commit",
    async function (this: Inside, number: number, record: Buffer) {
      await this.lower.flush();
      await writeOnly.call(this, number, record);
    },
  ),
  without("one-slot", Journal.prototype, "slotOf", () => 0),
  without("no-replay", Journal.prototype, "pending", async () => []),
  mutant(formatTwo, "replays-the-newest-only", () =>
    replaced(
      Journal.prototype,
      "pending",
      (original: Journal["pending"]) =>
        async function (this: Journal) {
          return (await original.call(this)).slice(-1);
        },
    ),
  ),
  mutant(formatTwo, "replays-backward", () =>
    replaced(
      Journal.prototype,
      "pending",
      (original: Journal["pending"]) =>
        async function (this: Journal) {
          return (await original.call(this)).toReversed();
        },
    ),
  ),
  without("plans-before-in-place", Committer.prototype, "inPlace", async () => {}),
  without("readers-do-not-wait", Applier.prototype, "announce", () => {}),
  without("forgets-neighbours", Committer.prototype, "loadKept", async () => undefined),
];
