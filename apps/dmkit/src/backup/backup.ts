/**
 * A backup: all of a device on another one; or what has changed of it, on one that holds what it was before.
 *
 * Invariants:
 *
 * - what is on a destination that was there before is not taken for whole while it is not: its first block, which every
 *   file system and partition table needs, says so until all the rest is stable. Only a block is written whole or not at all;
 * - what is not known to have changed is taken from before only if samples of it are what the source has.
 */
import { createHash } from "node:crypto";
import {
  Bitmap,
  type BlockDevice,
  ByteAccess,
  type Environment,
  LinearDevice,
  SECTOR,
  contentsOf,
  inParallel,
  isZero,
  refuse,
} from "@dmkit/block-io";
import { differences } from "../compare.ts";
import { type CopyOptions, type CopyResult, copyDevice, requireRoomFor } from "../copy.ts";
import { isNewFile } from "../destination.ts";
import { withReading } from "../devices.ts";
import { EvenSample } from "../measure/even-sample.ts";

/** Bytes of the pieces that are changed or not, and of what comes last. */
export const PIECE: number = 64 * 1024;

/** Pieces that are compared before what was there is taken for what has not changed. */
const SAMPLES = 64;

/** What a destination begins with while it is written. */
const MARK = "dmkit backup, under way or cut short: this is no whole disk\n";

/**
 * What is under way: a backup of a device, of what has changed since a name and its id, or one that is put back. Sources as
 * `identityOf` has them.
 */
export type Note = Readonly<Partial<Record<"of" | "since" | "epoch" | "restore", string>>>;

/** Ranges of bytes, in order. */
export type Ranges = AsyncIterable<{ readonly offset: number; readonly length: number }>;

/** What goes along with a backup. */
export interface Work extends Pick<CopyOptions, "signal" | "progress"> {
  /** Called when nothing is refused any more, before the first byte is written. */
  readonly begins?: () => void;
}

/**
 * Copies all of a device.
 * @param blank the destination is a new file, which nobody finds before it is whole.
 * @param note what is under way, for who finds it cut short.
 */
export async function backUpAll(
  source: BlockDevice,
  destination: BlockDevice,
  blank: boolean,
  work: Work,
  note: Note = {},
): Promise<CopyResult> {
  const { begins, ...copying } = work;
  if (blank) {
    begins?.();
    return copyDevice(source, destination, { ...copying, destinationIsZero: true });
  }
  requireRoomFor(source, destination);
  return headLast(source, destination, note, work, async (head) => {
    if (head === source.size) return { copied: 0, zeroed: 0, skipped: 0 };
    // To the end of each: that of the destination is one of its blocks, which may be larger than those of the source.
    const rest = (device: BlockDevice): BlockDevice =>
      new LinearDevice(device, head, device.size - head, device.name);
    return copyDevice(rest(source), rest(destination), copying);
  });
}

/** The pieces of a device that are in ranges. */
export async function changedPieces(size: number, ranges: Ranges): Promise<Bitmap> {
  const pieces = new Bitmap(Math.ceil(size / PIECE));
  for await (const { offset, length } of ranges) {
    const first = Math.floor(offset / PIECE);
    pieces.fill(first, Math.ceil((offset + length) / PIECE) - first, true);
  }
  return pieces;
}

/**
 * Copies what has changed to a destination that holds what the source was before. Errors: `EINVAL` where it does not, or,
 * unless `force` is said, where nothing shows whether it does; those of the devices.
 */
export async function backUpChanges(
  source: BlockDevice,
  destination: BlockDevice,
  changed: Bitmap,
  note: Note,
  blank: boolean,
  work: Work,
  force = false,
): Promise<CopyResult> {
  requireRoomFor(source, destination);
  const isOurs = !blank && (await refuseAnother(destination, note));
  // The first piece may be missing from an attempt that was cut short.
  const isShown = await requireBefore(source, destination, changed, isOurs ? 1 : 0);
  if (!isShown && !blank && !isOurs && !force) await refuseUnknown(destination);
  const copy = (first: number): Promise<CopyResult> => copyPieces(source, destination, changed, first, work);
  if (!blank) return headLast(source, destination, note, work, () => copy(1));
  work.begins?.();
  return copy(0);
}

/** Throws `EIO` for the first range in which the copy differs. */
export async function verify(source: BlockDevice, copy: BlockDevice, work: Work): Promise<void> {
  for await (const { offset, length } of differences(source, copy, { ...work, length: source.size })) {
    throw refuse(
      copy.name,
      "EIO",
      `the copy differs from the source in ${length} bytes at byte ${offset}`,
      "Look for what is wrong with the destination, and back up to another one.",
      "read",
    );
  }
}

/**
 * Throws `EINVAL` where pieces that have not changed, from `first` on, are others than those of the source. False where
 * none of those has anything but zeroes, so that they show nothing.
 */
export async function requireBefore(
  source: BlockDevice,
  before: BlockDevice,
  changed: Bitmap,
  first: number,
): Promise<boolean> {
  let isShown = false;
  // Where either has data: what was never written on the one may be another disk's on the other.
  const samples = await Promise.all(
    [source, before].map((device) => sampleOf(device, source.size, changed, first)),
  );
  for (const piece of new Set(samples.flat())) {
    const [one, other] = await Promise.all(
      [source, before].map((device) => read(device, piece, source.size)),
    );
    if (one?.equals(other as Buffer)) {
      isShown ||= !isZero(one);
      continue;
    }
    throw refuse(
      before.name,
      "EINVAL",
      `does not hold what the device was: it differs at byte ${piece * PIECE}, where nothing has changed since`,
      "Give the backup that was made after that name began, or back up all of it, without --since.",
    );
  }
  return isShown;
}

/** Some of the pieces that have not changed, from `first` on, and in which a device has data before `size`. */
async function sampleOf(
  device: BlockDevice,
  size: number,
  changed: Bitmap,
  first: number,
): Promise<readonly number[]> {
  const sample = new EvenSample(SAMPLES);
  for await (const { offset, length, kind } of device.extents(0, device.size)) {
    if (offset >= size) break;
    if (kind !== "data") continue;
    const end = Math.min(changed.length, Math.ceil((offset + length) / PIECE));
    let piece = Math.max(first, Math.floor(offset / PIECE));
    for (piece = changed.find(false, piece, end); piece < end; piece = changed.find(false, piece + 1, end))
      sample.offer(piece);
  }
  return sample.chosen;
}

/** Throws `EINVAL` for a destination that is not blank, and of which nothing shows what it was. */
async function refuseUnknown(destination: BlockDevice): Promise<void> {
  if ((await contentsOf(destination)) === undefined) return;
  throw refuse(
    destination.name,
    "EINVAL",
    "nothing that has not changed since shows whether it holds what the device was",
    "If it is the right one: --force.",
  );
}

/** Copies the pieces that are set, from `first` on. */
async function copyPieces(
  source: BlockDevice,
  destination: BlockDevice,
  pieces: Bitmap,
  first: number,
  { signal, progress }: Work,
): Promise<CopyResult> {
  const to = new ByteAccess(destination);
  let [copied, zeroed] = [0, 0];
  const wanted = function* (): Iterable<number> {
    for (let piece = pieces.find(true, first); piece < pieces.length; piece = pieces.find(true, piece + 1))
      yield piece;
  };
  await inParallel(wanted(), 16, async (piece) => {
    signal?.throwIfAborted();
    const bytes = await read(source, piece, source.size);
    // What was discarded takes no room on the copy either.
    if (isZero(bytes)) {
      await to.writeZeroes(piece * PIECE, bytes.length, { mayUnmap: true });
      zeroed += bytes.length;
    } else {
      await to.write(piece * PIECE, bytes);
      copied += bytes.length;
    }
    progress?.(copied + zeroed);
  });
  await destination.flush();
  return { copied, zeroed, skipped: Math.max(0, source.size - first * PIECE) - copied - zeroed };
}

/** Runs `rest` for all but the first piece of a destination, which says what is under way meanwhile, and comes last. */
async function headLast(
  source: BlockDevice,
  destination: BlockDevice,
  what: Note,
  { signal, begins }: Work,
  rest: (head: number) => Promise<CopyResult>,
): Promise<CopyResult> {
  signal?.throwIfAborted();
  const head = Math.min(PIECE, source.size);
  const to = new ByteAccess(destination);
  const block = Math.min(head, destination.limits.logicalBlockSize);
  const note = Buffer.alloc(block);
  note.write(`${MARK}${textOf(what)}\n`);
  begins?.();
  await to.write(0, note);
  await destination.flush();
  const result = await rest(head);
  const first = await read(source, 0, source.size);
  if (head > block) await to.write(block, first.subarray(block));
  await destination.flush();
  await to.write(0, first.subarray(0, block));
  await destination.flush();
  return { ...result, copied: result.copied + head };
}

/** A note as it stands behind the mark, both in a sector: what is longer is told by its hash. */
function textOf(note: Note): string {
  const text = JSON.stringify(note);
  return Buffer.byteLength(text) < SECTOR - MARK.length
    ? text
    : createHash("sha256").update(text).digest("hex");
}

/** What was under way on a device when it was cut short, as {@link textOf} has it; undefined where nothing was. */
async function unfinished(device: BlockDevice): Promise<string | undefined> {
  const text = (await read(device, 0, device.size)).toString("utf8");
  return text.startsWith(MARK) ? (text.slice(MARK.length).split("\n")[0] ?? "") : undefined;
}

/**
 * Whether this very backup was cut short on a destination. Throws `EINVAL` where it was another one: what is there is
 * neither before nor after.
 */
async function refuseAnother(destination: BlockDevice, note: Note): Promise<boolean> {
  const found = await unfinished(destination);
  if (found === undefined || found === textOf(note)) return found !== undefined;
  throw refuse(
    destination.name,
    "EINVAL",
    `a backup was cut short here, and it was another one: ${found}`,
    "Run that one again, or back up all of it: without --since, with --force.",
  );
}

/** Whether this very work was cut short on a device: it may be begun again, whatever is there. */
export async function isUnfinished(device: BlockDevice, note: Note): Promise<boolean> {
  return device.size > 0 && (await unfinished(device)) === textOf(note);
}

/** Whether what a reference names is there, and this very work was cut short on it. Errors: those of opening. */
export async function wasCutShort(reference: string, note: Note, environment: Environment): Promise<boolean> {
  return !isNewFile(reference) && withReading(reference, environment, (device) => isUnfinished(device, note));
}

/** Whether a backup was cut short on a device, any. */
export async function isCutShort(device: BlockDevice): Promise<boolean> {
  return device.size > 0 && (await unfinished(device)) !== undefined;
}

/** Throws `EINVAL` for a device with a backup that was cut short: it is not to be read as a disk. */
export async function refuseUnfinished(device: BlockDevice): Promise<void> {
  if (!(await isCutShort(device))) return;
  throw refuse(
    device.name,
    "EINVAL",
    "a backup was cut short here: what is on it is no whole disk",
    "Run that dmkit backup or dmkit restore again, and then this.",
    "read",
  );
}

async function read(device: BlockDevice, piece: number, size: number): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(Math.min(PIECE, size - piece * PIECE));
  await device.read(piece * PIECE, bytes);
  return bytes;
}
