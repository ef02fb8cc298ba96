/**
 * Whether a device may be written over: the one place that decides what "blank" is, for every format and for
 * whoever opens or formats it.
 *
 * A device is blank if nothing on it has a signature that is known (format/signatures.ts) and its first MiB is zero.
 * A device whose formatting was interrupted is blank as well: it was given away then. Only what is certain not to be
 * chance, like a file system made there since, takes it back. Whatever is not blank is
 * written over only by an explicit word.
 *
 * At most 1.75 MiB are read, in two requests, whatever the size of the device. A hole is read like everything else:
 * that takes no longer than to ask for it, and a server that is wrong about its holes does no harm.
 */
import { ByteAccess } from "../bytes/byte-access.ts";
import { isZero } from "../bytes/bytes.ts";
import type { BlockDevice } from "../contract/device.ts";
import { type BlockIoError, type ErrorCode, refuse } from "../contract/errors.ts";
import { END, type Ends, type FoundSignature, START, findSignatures } from "../format/signatures.ts";
import { encodeUnfinished } from "../format/unfinished.ts";

/** A part of a device; all of it unless told otherwise. Bytes. */
export interface Area {
  readonly offset: number;
  readonly length: number;
}

/** What is on a device that is not blank. */
export interface Contents {
  /** To follow "holds": `an XFS file system`. */
  readonly text: string;
  /** Whether that is known by a signature; else it is data of whatever kind. */
  readonly known: boolean;
  /**
   * Whether it is known for certain. Two bytes that name a file system may be any data: enough to ask for a word on a
   * device of which nothing else is known, and not to refuse one that is ours by other evidence.
   */
  readonly certain: boolean;
  /** Whether it is a cache of ours, or a part of one: what is on the device below it may be older. */
  readonly cache: boolean;
  /** Bytes from the start of the area: where that is seen. */
  readonly offset: number;
}

/** How a device is to be written over. */
export interface Overwriting {
  /** Somebody has said the word: signatures are erased, and what was there counts no more. */
  readonly force: boolean;
  /** The word, as the one who reads the error would give it. Default: the option `force` of tables and stack files. */
  readonly word?: string | undefined;
  /** Default `EFORMAT`: opening it. `EEXIST`: making something new. */
  readonly code?: ErrorCode | undefined;
  readonly area?: Area | undefined;
}

/** How tables and stack files say that a device may be written over. */
export const FORCE_WORD = "the option force (in a table: force 1, in a stack file: force: true)";

/** Undefined if it is blank. Errors: those of reading. */
export async function contentsOf(device: BlockDevice, area?: Area): Promise<Contents | undefined> {
  const ends = await readEnds(device, area);
  const all = [...findSignatures(ends)];
  const unfinished = all.some(({ kind }) => kind === "unfinished");
  const found = all.filter((one) => one.kind !== "unfinished" && !(unfinished && one.needsHeader));
  const best = found.find(({ certain }) => certain) ?? (unfinished ? undefined : found[0]);
  if (best !== undefined) {
    const { name, kind, offset, certain } = best;
    return { text: name, known: true, certain, cache: kind === "cache", offset };
  }
  if (unfinished || isZero(ends.start)) return undefined;
  const offset = ends.start.findIndex((byte) => byte !== 0);
  return {
    text: `data that is not known: byte ${offset} is not zero`,
    known: false,
    certain: false,
    cache: false,
    offset,
  };
}

/**
 * In what the bytes of something are packed, which is no disk then: `a tar archive`, `a gzip file`, `a qcow2 image`. Undefined
 * where nothing says that they are. Errors: those of reading.
 */
export async function packedIn(device: BlockDevice): Promise<string | undefined> {
  const found = [...findSignatures(await readEnds(device, undefined))];
  return found.find(({ kind, qemu, certain }) => certain && (kind === "packed" || qemu !== undefined))?.name;
}

/** Throws (see {@link Overwriting}) unless the device, or the area of it, may be written over; nothing is written then. */
export async function requireBlank(device: BlockDevice, how: Overwriting): Promise<void> {
  if (how.force) return eraseSignatures(device, how.area);
  const contents = await contentsOf(device, how.area);
  if (contents !== undefined) throw notBlank(device, contents, how);
}

/** The error for a device that is not blank. */
export function notBlank(
  { name }: BlockDevice,
  { text }: Contents,
  { word = FORCE_WORD, code = "EFORMAT" }: Omit<Overwriting, "force">,
): BlockIoError {
  return refuse(
    name,
    code,
    `holds something already: ${text}`,
    `Nothing was written. If that is not needed any more, give ${word}; or zero the device.`,
  );
}

/**
 * Refuses a cache where the device below a new cache should be: as a rule two words were exchanged. Throws `EFORMAT`.
 */
export async function requireNoCache(
  device: BlockDevice,
  { force, word = FORCE_WORD, code = "EFORMAT" }: Omit<Overwriting, "area">,
): Promise<void> {
  if (force) return;
  const contents = await contentsOf(device);
  if (contents?.cache !== true) return;
  throw refuse(
    device.name,
    code,
    `is to be cached, but holds ${contents.text} itself`,
    `Check the order of the devices; nothing was written. If it is right, give ${word}.`,
  );
}

/** Makes every signature that is known unknown, durably, by zeroing its bytes; what else there is stays. */
export async function eraseSignatures(device: BlockDevice, area?: Area): Promise<void> {
  const start = area?.offset ?? 0;
  const access = new ByteAccess(device);
  const found: FoundSignature[] = [...findSignatures(await readEnds(device, area))];
  for (const { offset, length } of found) {
    await access.write(start + offset, Buffer.alloc(length));
    // One after the other: what a crash leaves of them must not pass for less than it was, as a cache that has lost what says
    // which device it belongs to.
    await device.flush();
  }
}

/**
 * The first step of a format that writes anything but zeroes before its superblock: from here on the device counts as
 * blank until block 0 is written again. Durable.
 * @param length bytes from the start that are zeroed with it: whole blocks; one unless told otherwise.
 */
export async function beginFormat(
  device: BlockDevice,
  length: number = device.limits.logicalBlockSize,
): Promise<void> {
  const block = Buffer.alloc(length);
  encodeUnfinished().copy(block);
  await device.write(0, block);
  await device.flush();
}

async function readEnds(device: BlockDevice, area: Area | undefined): Promise<Ends> {
  const { offset, length: size } = area ?? { offset: 0, length: device.size };
  const access = new ByteAccess(device);
  const start = Buffer.alloc(Math.min(START, size));
  await access.read(offset, start);
  if (size <= START) return { size, start, end: start.subarray(Math.max(0, size - END)) };
  const end = Buffer.alloc(Math.min(END, size));
  await access.read(offset + size - end.length, end);
  return { size, start, end };
}
