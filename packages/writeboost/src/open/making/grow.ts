/**
 * A cache whose device was made larger, made as large. Where a segment lies follows from the length of the ring, so all
 * of them would lie elsewhere: the ring begins anew, empty, once nothing in it is needed any more.
 *
 *      write everything back → zero the heads of the slots that are new, flush → close in order
 *      → sector 0: "growing", flush → format (format-cache.ts) → open
 *
 * One sector decides: before it the cache is the old one, with all it had. From there on nothing on the device counts, and
 * whoever opens it goes on with formatting, so that a crash at any write leaves one or the other. What is new on the device
 * is written to before that: where it takes no writes, for want of space, say, the cache stays as it is.
 */
import { type BlockDevice, inParallel, refuse } from "@dmkit/block-io";
import type { Rules } from "../../core/rules.ts";
import type { WriteboostDevice } from "../../device/device.ts";
import type { Devices, Recovered } from "../../device/recovered.ts";
import type { Dialect } from "../../format/checksum.ts";
import { BLOCK, geometryOf, slotStart } from "../../format/geometry.ts";
import { HEADER_START, encodeGrowing } from "../../format/superblock.ts";
import { requireDialect, requireOrder } from "../stored-format.ts";
import type { Superblock } from "../superblock.ts";
import { formatCache } from "./format-cache.ts";

/** Throws `EINVAL` for a log that is archived: its segments are known by where they lie. */
export function requireGrowable({ name }: BlockDevice, isArchived: boolean): void {
  if (!isArchived) return;
  const hint = "Open it with archive none and grow_cache 1: that ends the archive. Then begin a new one.";
  throw refuse(name, "EINVAL", "a cache whose log is archived cannot be made larger", hint);
}

/** Whether there is room for a larger ring on the device than the cache has. */
export function hasRoom(cache: BlockDevice, { geometry }: Pick<Recovered, "geometry">): boolean {
  return geometryOf(cache.size, geometry.order).slots > geometry.slots;
}

/**
 * Ends a cache that was just opened, such that the next opening makes it as large as its device. Throws what keeps it
 * from being written back, and what the devices throw; then it is as it was.
 */
export async function beginToGrow(
  device: WriteboostDevice,
  cache: BlockDevice,
  { geometry, dialect }: Pick<Recovered, "geometry" | "dialect">,
  rules: Rules,
): Promise<void> {
  try {
    if (rules.emptiesFirst) await device.dropCaches();
    await tryNewSlots(cache, geometry);
  } catch (error) {
    await device.close().catch(() => {});
    throw error;
  }
  await device.close();
  await cache.write(HEADER_START, encodeGrowing(geometry.order, dialect));
  await cache.flush();
}

/** Behind the ring as it is, where nothing of it lies. */
async function tryNewSlots(cache: BlockDevice, { order, slots: from }: Recovered["geometry"]): Promise<void> {
  const wanted = geometryOf(cache.size, order);
  const fresh = Array.from({ length: wanted.slots - from }, (_, index) => from + index);
  await inParallel(fresh, 32, (slot) => cache.write(slotStart(wanted, slot), Buffer.alloc(BLOCK)));
  await cache.flush();
}

/**
 * Formats a cache that {@link beginToGrow} has ended. Returns its dialect, which nothing on the device shows afterwards;
 * undefined if it is no such cache. Throws `EINVAL` where another order or dialect is asked for, and what the devices throw.
 */
export async function goOnGrowing(
  { cache, plog }: Devices,
  header: Superblock["header"],
  asked: { readonly order: number | undefined; readonly dialect: Dialect | undefined; readonly pool: number },
): Promise<Dialect | undefined> {
  if (header.kind !== "growing") return undefined;
  requireOrder(cache, header.order, asked.order);
  requireDialect(cache, header.dialect, asked.dialect);
  await formatCache(cache, plog, {
    order: header.order,
    dialect: header.dialect,
    pool: asked.pool,
    grows: true,
  });
  return header.dialect;
}
