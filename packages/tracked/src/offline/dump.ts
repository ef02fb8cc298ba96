/** `dump` and `restore`: superblock and bitmaps as plain data, and back, without loss. The tracked device is not touched. */
import { type BlockDevice, type OfflineWork, isUuid, nameProblem, refuse } from "@dmkit/block-io";
import { bitsOfPage } from "../device/pages.ts";
import { EpochTable } from "../core/epochs.ts";
import { currentSuperblock, readSuperblocks, writeSuperblocks } from "../device/superblocks.ts";
import { type Geometry, bitmapDeviceSize, chunksOf, geometryProblem } from "../format/geometry.ts";
import type { EpochRecord, Superblock } from "../format/superblock.ts";
import { createBitmaps } from "../open/create.ts";
import { findBitmaps } from "../open/bitmaps.ts";

/** Chunks in a row that are marked, from 0: the first, and how many. */
type DumpedRun = readonly [first: number, count: number];

/** Plain data, ready for JSON. */
export interface Dump {
  readonly version: 1;
  readonly superblock: Omit<Superblock, "epochs">;
  readonly epochs: readonly (EpochRecord & { readonly marked: readonly DumpedRun[] })[];
}

/** What is lost is marked in it. Errors: `EFORMAT`, those of the device. */
export async function dumpBitmaps(bitmap: BlockDevice, work: OfflineWork): Promise<Dump> {
  const { superblock, table } = await findBitmaps(bitmap, work);
  const { epochs: _, ...rest } = superblock;
  return {
    version: 1,
    superblock: rest,
    epochs: table.epochs.map(({ slot, number, name, begun, excess, bits }) => {
      const marked: DumpedRun[] = [];
      for (let at = bits.find(true, 0); at < table.chunks; at = bits.find(true, at)) {
        const end = bits.runEnd(at);
        marked.push([at, end - at]);
        at = end;
      }
      return { slot, number, name, begun, excess, marked };
    }),
  };
}

/**
 * Everything is marked, unless the bitmaps are on the device as they were then: how much was written since the dump is not
 * known, and the witness sees a part only. Throws `EINVAL` if what is given is no dump, or does not fit the device;
 * then nothing was written.
 */
export async function restoreBitmaps(bitmap: BlockDevice, given: unknown, work: OfflineWork): Promise<void> {
  const dump = parse(given);
  const need = typeof dump === "string" ? 0 : bitmapDeviceSize(dump.superblock.geometry);
  const problem =
    typeof dump === "string" ? dump : bitmap.size < need ? `it needs a device of ${need} bytes` : undefined;
  if (typeof dump === "string" || problem !== undefined) {
    const reason = `this cannot be restored: ${problem}`;
    throw refuse(
      bitmap.name,
      "EINVAL",
      reason,
      "Restore an unchanged dump to a device that is large enough.",
    );
  }
  work.signal?.throwIfAborted();
  const { superblock } = dump;
  const { geometry, uuid, nextNumber } = superblock;
  const table = new EpochTable(geometry);
  for (const { marked, ...record } of dump.epochs) {
    const { bits } = table.add(record, true);
    for (const [first, count] of marked) bits.set(first, count);
  }
  if (!(await isUnused(bitmap, superblock))) table.markAll();
  const epochs = table.epochs.map(({ slot, number, name, begun, excess }) => ({
    slot,
    number,
    name,
    begun,
    excess,
  }));
  const bits = (record: EpochRecord, page: number): Uint8Array => {
    const epoch = table.epochs.find(({ slot }) => slot === record.slot);
    return bitsOfPage(epoch as NonNullable<typeof epoch>, page);
  };
  const random = work.environment.random;
  await createBitmaps(bitmap, { geometry, uuid, nextNumber, epochs, random, bits });
  // As it was: until here a crash leaves a device that counts as blank, or one that was not closed.
  await writeSuperblocks(bitmap, { ...superblock, epochs, generation: Math.max(2, superblock.generation) });
}

/** Whether the bitmaps are on a device still, and nobody has opened them since. */
async function isUnused(
  bitmap: BlockDevice,
  { uuid, generation, clean }: Pick<Superblock, "uuid" | "generation" | "clean">,
): Promise<boolean> {
  const current = currentSuperblock(await readSuperblocks(bitmap));
  return current?.uuid === uuid && current.generation === generation && current.clean === clean;
}

/** The dump, or in words why it is none. */
function parse(given: unknown): Dump | string {
  const dump = given as Partial<Dump> | null;
  if (typeof dump !== "object" || dump === null || dump.version !== 1) return "it is no dump of this version";
  const { superblock, epochs } = dump;
  if (typeof superblock !== "object" || superblock === null || !Array.isArray(epochs))
    return "it has no superblock";
  const { geometry, uuid, generation, nextNumber, clean, witness } = superblock;
  if (typeof geometry !== "object" || geometry === null) return "it has no geometry";
  const problem = geometryProblem(geometry);
  if (problem !== undefined) return problem;
  const isWitness = witness === undefined || (typeof witness === "string" && /^[0-9a-f]{64}$/.test(witness));
  if (!isUuid(uuid) || !isWitness || typeof clean !== "boolean") return "the superblock is not sound";
  if (!isCount(generation) || !isCount(nextNumber) || nextNumber < 1) return "a number is out of range";
  for (const [index, epoch] of epochs.entries()) {
    const wrong = epochProblem(epoch, epochs.slice(0, index), nextNumber, geometry);
    if (wrong !== undefined) return `epoch ${index}: ${wrong}`;
  }
  return dump as Dump;
}

function epochProblem(
  epoch: Dump["epochs"][number],
  before: Dump["epochs"],
  nextNumber: number,
  geometry: Geometry,
): string | undefined {
  if (typeof epoch !== "object" || epoch === null || typeof epoch.name !== "string") return "it has no name";
  const { slot, number, name, begun, excess, marked } = epoch;
  const problem = nameProblem(name);
  if (problem !== undefined) return problem;
  if (!isCount(slot) || slot >= geometry.slots || !isCount(number) || number < 1 || number >= nextNumber)
    return "its slot or number is out of range";
  if (!isCount(begun) || typeof excess !== "boolean" || !Array.isArray(marked)) return "it is not whole";
  if (before.some((one) => one.slot === slot || one.number === number || one.name === name))
    return "there is one with its slot, number or name";
  const chunks = chunksOf(geometry);
  const fits = marked.every(
    (run: unknown) =>
      Array.isArray(run) &&
      isCount(run[0]) &&
      isCount(run[1]) &&
      run[0] <= chunks &&
      run[1] <= chunks - run[0],
  );
  return fits ? undefined : "chunks are marked that are not there";
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}
