/**
 * The witness of a device's contents: taken when something that belongs to the device is closed, compared when it is
 * opened again. It tells another device from the right one, and one that somebody has written to in between.
 *
 * Invariants:
 *
 * - it changes with whatever a mount, a file system check or a partitioning tool writes: see format/places.ts;
 * - it is a cryptographic hash. A CRC will not do: data that carry a CRC of themselves, as the superblocks of ext4
 *   do, leave a CRC over them the same however they change;
 * - it depends on nothing but the first `size` bytes, so a copy of the device has the same, and so has a device that
 *   was made larger;
 * - it costs some hundred small reads at most. A small device is hashed whole.
 *
 * What it does not see is a change of a block in the middle that no superblock tells of: who writes such a block past the
 * cache may be shown the cache's older one afterwards.
 *
 * No time of a file (mtime, ctime) is looked at, nor a change cookie, so none that is wrong can lead to wrong data. As
 * evidence that nothing has changed a time is worthless: it can be set, a copy that keeps times has the one of before,
 * writes through a mapping or a loop device need not have changed it yet, and a clock can go back. As evidence that
 * something has changed it is wrong for every copy and restored backup, so that nothing may be refused or dropped for it.
 * And a block device has none. A hint that may neither allow nor refuse anything is not worth a place in a format.
 */
import { createHash } from "node:crypto";
import { ByteAccess } from "../bytes/byte-access.ts";
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import { HEAD, type Place, contentsOf, gptStarts, mbrEntries } from "../format/places.ts";

/** Bytes: a device of so many is hashed whole. */
const WHOLE = 1024 * 1024;
const GRAIN = 4096;
/** Bytes at the end: the second GPT, metadata of MD. */
const TAIL = 128 * 1024;
const SPREAD = 64;
// However many partitions there are, and one inside of the other.
const MOST_HEADS = 48;
const MOST_EBRS = 24;
const AT_A_TIME = 8;

/**
 * SHA-256 of the places that tell, as 64 hexadecimal digits. Throws what the device throws.
 * @param size bytes from the start that count, at most the device's; default: all.
 */
export async function witnessOf(device: BlockDevice, size: number = device.size): Promise<string> {
  const ranges = merged(await witnessPlaces(device, size), size);
  const hash = createHash("sha256").update(`${size}\n`);
  for (let first = 0; first < ranges.length; first += AT_A_TIME) {
    const some = ranges.slice(first, first + AT_A_TIME);
    const contents = await Promise.all(some.map((range) => contentsAt(device, range)));
    for (const [index, bytes] of contents.entries()) hash.update(`${some[index]?.offset}\n`).update(bytes);
  }
  return hash.digest("hex");
}

/**
 * Bytes where the blocks of 4 KiB begin that a witness is made of, in order; the last one may be short. For who has to
 * know block by block. Throws what the device throws.
 */
export async function witnessBlocks(device: BlockDevice, size: number = device.size): Promise<number[]> {
  const ranges = merged(await witnessPlaces(device, size), size);
  return ranges.flatMap(({ offset, length }) =>
    Array.from({ length: Math.ceil(length / GRAIN) }, (_, index) => offset + index * GRAIN),
  );
}

/** What is looked at; the places may overlap, and reach past the end. Throws what the device throws. */
async function witnessPlaces(device: BlockDevice, size: number): Promise<Place[]> {
  if (size <= WHOLE) return [{ offset: 0, length: size }];
  const places: Place[] = [
    { offset: 0, length: WHOLE / 4 },
    { offset: size - TAIL, length: TAIL },
  ];
  for (let index = 0; index < SPREAD; index += 1) {
    places.push({ offset: (index * (size - GRAIN)) / (SPREAD - 1), length: GRAIN });
  }
  // The first MiB is where a partition begins today, even if the table that said so is gone.
  const heads = [0, WHOLE, ...(await partitionStarts(device, size, places))];
  const seen = new Set<number>();
  for (let next = 0; next < heads.length && seen.size < MOST_HEADS; next += 1) {
    const offset = heads[next] as number;
    if (!isInside(offset, size) || seen.has(offset)) continue;
    seen.add(offset);
    const head = { offset, length: Math.min(HEAD, size - offset) };
    places.push(head);
    const { places: more, inner } = contentsOf(await contentsAt(device, head));
    places.push(...more.map((place) => ({ offset: offset + place.offset, length: place.length })));
    heads.push(...inner.map((start) => offset + start));
  }
  return places;
}

/** Bytes where partitions begin, by MBR and GPT. Further tables on the way are added to `places`. */
async function partitionStarts(device: BlockDevice, size: number, places: Place[]): Promise<number[]> {
  const head = await contentsAt(device, { offset: 0, length: HEAD });
  // Of a disk with larger blocks, sectors in an MBR are those blocks.
  const unit = device.limits.logicalBlockSize;
  const starts = gptStarts(head);
  const extended: number[] = [];
  for (const { start, extended: isExtended } of mbrEntries(head)) {
    (isExtended ? extended : starts).push(start * unit);
  }
  for (const base of extended) {
    for (let at = base, count = 0; isInside(at, size) && count < MOST_EBRS; count += 1) {
      const table = { offset: at, length: SECTOR };
      places.push(table);
      const entries = isInside(at + SECTOR - 1, size) ? mbrEntries(await contentsAt(device, table)) : [];
      starts.push(...entries.filter((entry) => !entry.extended).map(({ start }) => at + start * unit));
      const next = entries.find((entry) => entry.extended);
      if (next === undefined) break;
      at = base + next.start * unit;
    }
  }
  return starts;
}

/** In order, none twice, in whole grains, inside the device, and none longer than one request should be. */
function merged(places: readonly Place[], size: number): Place[] {
  const wanted = places
    .filter(({ offset }) => isInside(offset, size))
    .map((place) => aligned(place, size))
    .toSorted((a, b) => a.offset - b.offset);
  const ranges: { offset: number; length: number }[] = [];
  for (const { offset, length } of wanted) {
    const last = ranges.at(-1);
    const end = last === undefined ? 0 : last.offset + last.length;
    if (last !== undefined && offset <= end) last.length = Math.max(end, offset + length) - last.offset;
    else ranges.push({ offset, length });
  }
  return ranges.flatMap(({ offset, length }) => {
    const pieces: Place[] = [];
    for (let at = 0; at < length; at += WHOLE) {
      pieces.push({ offset: offset + at, length: Math.min(WHOLE, length - at) });
    }
    return pieces;
  });
}

function aligned({ offset, length }: Place, size: number): Place {
  const start = Math.floor(offset / GRAIN) * GRAIN;
  return { offset: start, length: Math.min(size, Math.ceil((offset + length) / GRAIN) * GRAIN) - start };
}

/** NaN, which numbers beyond 2^53 become, is nowhere. */
function isInside(offset: number, size: number): boolean {
  return offset >= 0 && offset < size;
}

async function contentsAt(device: BlockDevice, { offset, length }: Place): Promise<Buffer> {
  const bytes = Buffer.allocUnsafeSlow(length);
  // A partition may begin anywhere, and the part that counts end anywhere, on a device of larger blocks.
  await new ByteAccess(device).read(offset, bytes);
  return bytes;
}
