/**
 * Offline: writes the metadata of a dump back, byte for byte.
 *
 * Invariants:
 *
 * - nothing is written before the whole dump has been held against itself, the devices, and the data that is still
 *   there: metadata of one time over data of another would be worse than none;
 * - while anything is half done, sector 0 says so: the device is neither a cache nor blank, and opening refuses it.
 *   Restoring the same dump again completes it.
 */
import {
  type BlockDevice,
  type OfflineWork,
  type RestoreWork,
  type SettingsTable,
  inParallel,
  isZero,
  refuse,
  nextTurn,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import type { Image } from "./examine/findings.ts";
import { BLOCK, SLOTS_START, slotStart } from "../format/geometry.ts";
import { decodeHead, encodeHead } from "../format/head.ts";
import { NO_UUID } from "../format/identity.ts";
import { isWhole, segmentSize } from "../format/segment.ts";
import { HEADER_START, encodeRestoring } from "../format/superblock.ts";
import { readPast } from "../open/superblock.ts";
import { requirePairForView } from "../open/pairing.ts";
import { type ParsedDump, parseDump } from "./parse-dump.ts";

const restoreSettings: SettingsTable<RestoreWork> = { ...workSettings, force: setting.flag };

/**
 * Throws `EINVAL` if the dump cannot be true for these devices, `EFORMAT` if the backing device is another one or was
 * changed since, `EEXIST` without `force` if segments were written since; then nothing has been written.
 */
export async function restore(image: Image, dump: unknown, work: RestoreWork): Promise<void> {
  checkSettings(restoreSettings, work);
  const parsed = parseDump(image, dump);
  // Of the plog, the dump says all there is, its name included.
  await requirePairForView(parsed.identity, { cache: image.cache, backing: image.backing });
  const { backing } = image;
  if (backing !== undefined && backing.size < (parsed.backing ?? 0)) {
    const reason = `backingBytes: ${backing.name} has ${backing.size} bytes`;
    throw refuse(
      image.cache.name,
      "EINVAL",
      reason,
      "Give the right backing device. Nothing has been written.",
      "write",
    );
  }
  await checkData(image, parsed, work);
  await requireNewest(image.cache, parsed, work.force === true);
  const writer = new Restorer(image.cache);
  await restoreSlots(writer, parsed, work);
  await writer.put(image.cache, BLOCK, parsed.superblock.subarray(BLOCK));
  if (image.plog !== undefined) {
    for (const { offset, bytes } of parsed.plog) await writer.put(image.plog, offset, bytes);
  }
  if (writer.changed) await image.plog?.flush();
  await image.cache.flush();
  await writer.finish(parsed.superblock.subarray(0, BLOCK));
}

/** The data of every segment and record must be what the dump's checksum was made of. */
async function checkData(
  { cache, plog }: Image,
  { geometry, slots, raw, records }: ParsedDump,
  { environment, signal, progress }: OfflineWork,
): Promise<void> {
  let checked = 0;
  await inParallel([...slots], 4, async ([slot, { head, torn }]) => {
    signal?.throwIfAborted();
    checked += 1;
    if (checked % 64 === 0) {
      progress?.(checked, slots.size + geometry.slots);
      await nextTurn(environment.scheduler);
    }
    if (torn || raw.has(slot)) return;
    const segment = Buffer.allocUnsafeSlow(segmentSize(head.sectors.length));
    await cache.read(slotStart(geometry, slot), segment);
    encodeHead(head).copy(segment);
    if (isWhole(segment)) return;
    const reason = `the data in slot ${slot} is not what the dump's segment ${head.id} was made of`;
    const hint =
      "The cache has been used since the dump was made. Add torn: true to the segment only if it never was right.";
    throw refuse(cache.name, "EINVAL", reason, hint, "write");
  });
  if (plog === undefined) return;
  for (const { offset, bytes, matches } of records) {
    const data = Buffer.allocUnsafe(bytes);
    await plog.read(offset, data);
    if (!matches(data)) {
      const reason = `the plog's data at byte ${offset} is not what the dump's record was made of`;
      throw refuse(plog.name, "EINVAL", reason, "The cache has been used since the dump was made.", "write");
    }
  }
}

/**
 * A log does not lose its end unasked: that are flushed writes. One that is archived does not at all: what came after the
 * dump may be in the archive, or written back, and the two would not be the same disk any more.
 */
async function requireNewest(
  cache: BlockDevice,
  { identity, geometry, slots, raw }: ParsedDump,
  force: boolean,
): Promise<void> {
  const isArchived = typeof identity === "object" && identity.archive !== NO_UUID;
  if (force && !isArchived) return;
  const last = [...slots.values()].reduce((newest, { head }) => Math.max(newest, head.id), 0);
  for (let slot = 0; slot < geometry.slots; slot += 1) {
    if (slots.has(slot) || raw.has(slot)) continue;
    const [block, lost] = await readPast(cache, slotStart(geometry, slot), BLOCK);
    const id = lost.length === 0 ? (decodeHead(block, geometry.blocks)?.id ?? 0) : 0;
    if (id <= last) continue;
    if (!isArchived) {
      const hint =
        "Its flushed writes would be lost. Nothing has been written. If that is meant, give --force. A header that is damaged is mended by: dmkit fsck --repair";
      throw refuse(cache.name, "EEXIST", `segment ${id} came after the dump`, hint, "write");
    }
    const reason = `segment ${id} came after the dump, and the log is archived`;
    const hint = "Take the disk over from its archive (dmkit archive takeover). Nothing has been written.";
    throw refuse(cache.name, "EINVAL", reason, hint, "write");
  }
}

async function restoreSlots(
  writer: Restorer,
  { geometry, slots, raw }: ParsedDump,
  { environment, signal, progress }: OfflineWork,
): Promise<void> {
  const zero = Buffer.alloc(BLOCK);
  for (let slot = 0; slot < geometry.slots; slot += 1) {
    const known = slots.get(slot);
    const head = raw.get(slot) ?? (known === undefined ? zero : encodeHead(known.head));
    await writer.put(writer.cache, slotStart(geometry, slot), head);
    if (slot % 1024 !== 0) continue;
    signal?.throwIfAborted();
    progress?.(slots.size + slot, slots.size + geometry.slots);
    await nextTurn(environment.scheduler);
  }
  progress?.(slots.size + geometry.slots, slots.size + geometry.slots);
}

/** Writes only what differs, and marks the cache device before the first write. */
class Restorer {
  readonly cache: BlockDevice;
  changed = false;

  constructor(cache: BlockDevice) {
    this.cache = cache;
  }

  async put(device: BlockDevice, offset: number, bytes: Buffer): Promise<void> {
    const [present, lost] = await readPast(device, offset, bytes.length);
    if (lost.length === 0 && present.equals(bytes)) return;
    await this.#mark();
    if (isZero(bytes) && bytes.length < SLOTS_START) await device.writeZeroes(offset, bytes.length);
    else await device.write(offset, bytes);
  }

  /** The header last. */
  async finish(bytes: Buffer): Promise<void> {
    const [present, lost] = await readPast(this.cache, HEADER_START, BLOCK);
    if (lost.length === 0 && present.equals(bytes)) return;
    // Sectors 1 … 7 belong to the header; sector 0, which says that all is done, comes after them.
    await this.#mark();
    const rest = Buffer.from(bytes);
    encodeRestoring().copy(rest);
    await this.cache.write(HEADER_START, rest);
    await this.cache.flush();
    await this.cache.write(HEADER_START, bytes);
    await this.cache.flush();
  }

  async #mark(): Promise<void> {
    if (this.changed) return;
    this.changed = true;
    const [block] = await readPast(this.cache, HEADER_START, BLOCK);
    encodeRestoring().copy(block);
    await this.cache.write(HEADER_START, block);
    await this.cache.flush();
  }
}
