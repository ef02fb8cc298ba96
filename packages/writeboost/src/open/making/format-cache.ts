/**
 * Formats a cache device and its plog; whether they may be is for the caller to find out. The order is what makes an interrupted format harmless: everything old
 * is gone, durably, before a header says that this is a cache; until then sector 0 says that nothing counts, and formatting
 * simply starts again.
 */
import {
  type BlockDevice,
  type SettingsTable,
  beginFormat,
  inParallel,
  refuse,
  checkSettings,
  setting,
  settingOf,
} from "@dmkit/block-io";
import type { Dialect } from "../../format/checksum.ts";
import {
  BLOCK,
  type Geometry,
  MAX_ORDER,
  MIN_SLOTS,
  SLOTS_START,
  geometryOf,
  plogSegmentSize,
  plogSegments,
  slotStart,
} from "../../format/geometry.ts";
import { HEADER_START, encodeHeader } from "../../format/superblock.ts";
import { options as table } from "../../options.ts";
import { plogNameOffset } from "../../device/log/plog-place.ts";
import { plogCapacity } from "../plog/plog-scan.ts";

/** What a cache device becomes. */
export interface FormatOptions {
  /** segment_size_order: log2 of the sectors in a segment, 4 … 10. */
  readonly order: number;
  readonly dialect: Dialect;
  /** RAM buffers it will be used with, which decide how much of the plog is used: 1 … 2048. Default 8. */
  readonly pool?: number | undefined;
  /** Called now and then with the slots zeroed so far. */
  readonly progress?: ((slots: number, of: number) => void) | undefined;
  /** Sector 0 says that the cache is being made larger: it does so until it is a header again. */
  readonly grows?: boolean | undefined;
  /** Ends it, and leaves a device that is not formatted. */
  readonly signal?: AbortSignal | undefined;
}

const formatSettings: SettingsTable<FormatOptions> = {
  order: setting.needed(settingOf(table.segment_size_order)),
  dialect: setting.needed(settingOf(table.dialect)),
  pool: settingOf(table.nr_rambuf_pool),
  progress: setting.call,
  grows: setting.flag,
  signal: setting.signal,
};

/**
 * Zeroes slot heads, the first MiB and of the plog what will be used, flushes, writes the header, flushes. Throws
 * `EINVAL` for devices that are too small, and values out of range; the signal's reason; what the devices throw.
 */
export async function formatCache(
  cache: BlockDevice,
  plog: BlockDevice | undefined,
  options: FormatOptions,
): Promise<Geometry> {
  checkSettings(formatSettings, options);
  const { order, progress, signal, grows = false } = options;
  const { geometry, plogUsed } = checkFormat(cache, plog, options);
  signal?.throwIfAborted();
  // While nothing is changed, in case it fails. What was punched or discarded before is made durable by the flushes.
  const slots = await writtenSlots(cache, geometry, signal);
  // The old header first and durably: a crash in the middle must not leave it in front of half-zeroed slots.
  if (!grows) await beginFormat(cache);
  await cache.writeZeroes(BLOCK, SLOTS_START - BLOCK);
  let zeroed = geometry.slots - slots.length;
  progress?.(zeroed, geometry.slots);
  await inParallel(slots, 32, async (slot) => {
    signal?.throwIfAborted();
    await cache.writeZeroes(slotStart(geometry, slot), BLOCK);
    zeroed += 1;
    if (zeroed % 1024 === 0 || zeroed === geometry.slots) progress?.(zeroed, geometry.slots);
  });
  if (plog !== undefined) {
    await plog.writeZeroes(0, plogUsed * plogSegmentSize(order));
    // The name that an earlier cache gave it.
    const name = plogNameOffset(plog.size, order);
    if (name !== undefined) await plog.writeZeroes(name, 512);
    await plog.flush();
  }
  await cache.flush();
  await cache.write(HEADER_START, encodeHeader(order));
  await cache.flush();
  return geometry;
}

/** What a device will be formatted as, `plogUsed` in plog segments. Throws `EINVAL` if it cannot be. */
export function checkFormat(
  cache: BlockDevice,
  plog: BlockDevice | undefined,
  { order, dialect, pool = 8 }: FormatOptions,
): { readonly geometry: Geometry; readonly plogUsed: number } {
  const geometry = geometryOf(cache.size, order);
  if (dialect === "v2" && (order !== MAX_ORDER || plog !== undefined)) {
    const reason = "the v2 dialect has segment_size_order 10 only, and no plog";
    const hint = "Use segment_size_order 10 and type 0, or the classic dialect.";
    throw refuse(cache.name, "EINVAL", reason, hint);
  }
  if (geometry.slots < MIN_SLOTS) {
    const reason = `there is room for ${geometry.slots} segments of ${geometry.slotSize} bytes, and at least ${MIN_SLOTS} are needed`;
    const hint = `Give at least ${SLOTS_START + MIN_SLOTS * geometry.slotSize} bytes, or a smaller segment_size_order.`;
    throw refuse(cache.name, "EINVAL", reason, hint);
  }
  return { geometry, plogUsed: plog === undefined ? 0 : plogSegments(pool, plogCapacity(plog, order)) };
}

/** The slots whose heads hold data. In a new sparse file there are none, and zeroing 200,000 of them takes seconds. */
async function writtenSlots(
  cache: BlockDevice,
  geometry: Geometry,
  signal: AbortSignal | undefined,
): Promise<number[]> {
  const { slots, slotSize } = geometry;
  const start = slotStart(geometry, 0);
  const written: number[] = [];
  for await (const { offset, length, kind } of cache.extents(start, slots * slotSize)) {
    signal?.throwIfAborted();
    if (kind !== "data") continue;
    const end = offset + length;
    // From the first head that ends behind `offset`, but none twice.
    const first = Math.floor((offset - start + slotSize - BLOCK) / slotSize);
    const next = Math.max(first, (written.at(-1) ?? -1) + 1);
    for (let slot = next; slot < slots && slotStart(geometry, slot) < end; slot += 1) written.push(slot);
  }
  return written;
}
