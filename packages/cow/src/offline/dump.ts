/**
 * `dump` and `restore` of a bitmap device: the identity and the set bits as plain data, and back, without loss.
 * Data devices are not touched.
 *
 * Restoring: the old identity is erased, flush; bits, flush; identity, flush. A crash in the middle leaves bits
 * without an identity, which is refused as a layer; then restore again.
 */
import { Bitmap, type BlockDevice, BlockIoError, type OfflineWork, SECTOR, isUuid } from "@dmkit/block-io";
import { IDENTITY_BLOCK, bitmapDeviceSize, bitmapLength, identityOffset } from "../format/geometry.ts";
import { type Identity, encodeIdentity, encodeOriginal } from "../format/identity.ts";
import { LAST_MOMENT, type Snapshot, snapshotNameProblem } from "../format/snapshot.ts";
import { BITMAP_STEP } from "../device/layer/layer.ts";
import { type Located, locateIdentity } from "../device/layer/locate.ts";
import { readSetBits } from "../device/layer/set-bits.ts";

/** Runs of set bits: number of the first one, and how many, in order. Bit n is bit n % 8 of byte n / 8. */
export type DumpedBits = readonly (readonly [first: number, count: number])[];

/** Plain data, ready for JSON. In a layer of dmkit bit n speaks for sector n. */
export type Dump = {
  readonly version: 1;
  readonly bits: DumpedBits;
  /** Bytes where sectors of the bitmap begin that could not be read; not there if all could. */
  readonly unreadable?: readonly number[];
} & (
  | { readonly identity: Identity }
  /** Made by the original: its bitmap is aliased. */
  | { readonly original: { readonly bitmapLength: number } }
);

type Work = Pick<OfflineWork, "signal" | "progress">;

/** Throws `EFORMAT` if there is no sound identity, or if bits are set that speak for no sector. */
export async function dump(bitmap: BlockDevice, work: Work): Promise<Dump> {
  const found = await locateIdentity(bitmap);
  if (found === undefined || found.block.kind === "damaged") {
    throw refusal(
      bitmap,
      "EFORMAT",
      found?.block.kind === "damaged" ? found.block.reason : "there is no identity of a layer",
    );
  }
  const { block, offset } = found;
  const set = await readSetBits(bitmap, offset * 8, work);
  const runs = set.bits.runs(true, 0, offset * 8);
  const bits = Array.from(runs, ({ first, count }): [number, number] => [first, count]);
  const unreadable = set.unreadable.length === 0 ? {} : { unreadable: set.unreadable };
  const [first = 0, count = 0] = bits.at(-1) ?? [];
  if (first + count > mostBits(block)) {
    throw refusal(bitmap, "EFORMAT", "bits are set that speak for no sector", "Repair it first.");
  }
  if (block.kind === "layer")
    return { version: 1, identity: withoutSamples(block.identity), bits, ...unreadable };
  return { version: 1, original: { bitmapLength: block.bitmapLength }, bits, ...unreadable };
}

/** They are of the data as it is now, which is not in the dump: the next opening takes new ones. */
function withoutSamples(identity: Identity): Identity {
  const { samples, ...rest } = identity;
  return samples === undefined ? identity : rest;
}

/** Bits that can be set. */
function mostBits(block: Exclude<Located["block"], { kind: "damaged" }>): number {
  return block.kind === "layer" ? block.identity.sectors : block.bitmapLength * SECTOR * 8;
}

/** Throws `EINVAL` if what is given is no dump, or does not fit the device; then nothing was written. */
export async function restore(
  bitmap: BlockDevice,
  given: unknown,
  { signal, progress }: Work,
): Promise<void> {
  const dumped = parse(given, bitmap);
  if (typeof dumped === "string") {
    throw refusal(
      bitmap,
      "EINVAL",
      `this cannot be restored: ${dumped}`,
      "Restore an unchanged dump to a device of its size.",
    );
  }
  signal?.throwIfAborted();
  const { offset: end, identity } = dumped;
  await eraseIdentities(bitmap, end);
  for (let offset = 0; offset < end; offset += BITMAP_STEP) {
    const bits = new Bitmap(Math.min(BITMAP_STEP, end - offset) * 8);
    if (fillPiece(bits, offset * 8, dumped.bits)) await bitmap.write(offset, Buffer.from(bits.bytes));
    else await bitmap.writeZeroes(offset, bits.length / 8);
    progress?.(offset + bits.length / 8, end);
  }
  await bitmap.flush();
  const block = Buffer.alloc(bitmap.limits.logicalBlockSize);
  identity.copy(block);
  await bitmap.write(end, block);
  await bitmap.flush();
}

/** Whether any of the runs are in this piece, which begins at bit `start`. */
function fillPiece(piece: Bitmap, start: number, runs: DumpedBits): boolean {
  let any = false;
  for (let at = firstAfter(runs, start); at < runs.length; at += 1) {
    const [first, count] = runs[at] as DumpedBits[number];
    const from = Math.max(first - start, 0);
    if (from >= piece.length) break;
    piece.set(from, Math.min(first + count - start, piece.length) - from);
    any = true;
  }
  return any;
}

/** Index of the first run that ends after bit `start`. */
function firstAfter(runs: DumpedBits, start: number): number {
  let [low, high] = [0, runs.length];
  while (low < high) {
    const middle = Math.floor((low + high) / 2);
    const [first, count] = runs[middle] as DumpedBits[number];
    if (first + count > start) high = middle;
    else low = middle + 1;
  }
  return low;
}

/** The one in its place, and what is left of others, which might be found instead. */
async function eraseIdentities(bitmap: BlockDevice, place: number): Promise<void> {
  await bitmap.writeZeroes(place, IDENTITY_BLOCK);
  await bitmap.flush();
  for (;;) {
    const other = await locateIdentity(bitmap);
    if (other === undefined) return;
    await bitmap.writeZeroes(other.offset, IDENTITY_BLOCK);
    await bitmap.flush();
  }
}

interface Parsed {
  /** Byte where the identity goes. */
  readonly offset: number;
  readonly identity: Buffer;
  readonly bits: DumpedBits;
}

/** What is to be written, or in words why nothing is. */
function parse(given: unknown, { size }: BlockDevice): Parsed | string {
  if (!isFields(given) || given["version"] !== 1) return "it is no dump of this version";
  const { identity, original, bits } = given;
  if ("unreadable" in given)
    return 'it lacks what could not be read, see "unreadable": add these bits, and take that word out';
  if (isIdentity(identity)) {
    if (size < bitmapDeviceSize(identity.sectors)) return `it is of a target of ${identity.sectors} sectors`;
    const offset = identityOffset(bitmapLength(identity.sectors));
    return areRuns(bits, identity.sectors)
      ? { offset, identity: encodeIdentity(identity), bits }
      : "its bits cannot be";
  }
  if (!isFields(original) || !isCount(original["bitmapLength"])) return "it has no identity";
  const length = original["bitmapLength"];
  const offset = identityOffset(length);
  if (!(offset <= size - IDENTITY_BLOCK)) return `its bitmap has ${length} sectors`;
  return areRuns(bits, length * SECTOR * 8)
    ? { offset, identity: encodeOriginal(length), bits }
    : "its bits cannot be";
}

function areRuns(value: unknown, end: number): value is DumpedBits {
  if (!Array.isArray(value)) return false;
  let next = 0;
  return value.every((run: unknown) => {
    if (!Array.isArray(run) || run.length !== 2) return false;
    const [first, count] = run as unknown[];
    if (typeof first !== "number" || !Number.isSafeInteger(first) || !isCount(count)) return false;
    if (first < next || first >= end || count > end - first) return false;
    next = first + count;
    return true;
  });
}

function isIdentity(value: unknown): value is Identity {
  if (!isFields(value)) return false;
  const { uuid, parent, sectors, frozen, dataOffset, baseOffset, labelled, samples } = value;
  const { contents, changedBy, contentsBelow, baseWitness, snapshot } = value;
  // A length that a target can have: its bytes can be counted.
  const possible = isCount(sectors) && sectors <= Number.MAX_SAFE_INTEGER / SECTOR;
  const isOffset = (offset: unknown): boolean =>
    offset === undefined || offset === 0 || (isCount(offset) && offset <= Number.MAX_SAFE_INTEGER / SECTOR);
  return (
    possible &&
    isUuid(uuid) &&
    isUuid(parent) &&
    typeof frozen === "boolean" &&
    isOffset(dataOffset) &&
    isOffset(baseOffset) &&
    (labelled === undefined || typeof labelled === "boolean") &&
    samples === undefined &&
    [contents, changedBy, contentsBelow].every((name) => name === undefined || isUuid(name)) &&
    (baseWitness === undefined || (typeof baseWitness === "string" && /^[0-9a-f]{32}$/.test(baseWitness))) &&
    (snapshot === undefined || (frozen && isSnapshot(snapshot)))
  );
}

function isSnapshot(value: unknown): value is Snapshot {
  if (!isFields(value)) return false;
  const { name, made } = value;
  const isTime = made === 0 || (isCount(made) && made <= LAST_MOMENT);
  return isTime && typeof name === "string" && snapshotNameProblem(name) === undefined;
}

function isFields(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** A whole number, at least 1. */
function isCount(value: unknown): value is number {
  return typeof value === "number" && Number.isSafeInteger(value) && value >= 1;
}

function refusal(
  bitmap: BlockDevice,
  code: "EINVAL" | "EFORMAT",
  reason: string,
  hint?: string,
): BlockIoError {
  return new BlockIoError(reason, { code, device: bitmap.name, hint });
}
