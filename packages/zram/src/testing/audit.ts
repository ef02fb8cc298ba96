/** Looks through a disk's books: what the counts, the slabs and the backing device's blocks must agree on. */
import { kinds } from "../core/page-table.ts";
import { classOf, classSizes } from "../core/size-classes.ts";
import { SLAB } from "../core/slab-store.ts";
import type { ZramDevice } from "../device/device.ts";

/** What does not agree, one text for each. Compacts, to see whether all memory comes back. No writeback at a time. */
export function audit(device: ZramDevice): string[] {
  const { pages } = device.parts;
  const { table, slabs, blocks } = pages;
  const wrong: string[] = [];
  const demand = (what: string, found: number, expected: number): void => {
    if (found !== expected) wrong.push(`${what}: ${found}, not ${expected}`);
  };
  const counted = { compressed: [0, 0, 0, 0], stored: 0, same: 0, huge: 0, backed: 0, lost: 0, bytes: 0 };
  const addresses = new Set<number>();
  const taken = new Set<number>();
  const objects = new Map<number, number>();
  let inSlabs = 0;
  for (let page = 0; page < table.pages; page += 1) {
    const kind = table.kind(page);
    if (kind !== kinds.absent) counted.stored += 1;
    if (kind === kinds.same) counted.same += 1;
    if (kind === kinds.huge) counted.huge += 1;
    if (kind === kinds.lost) counted.lost += 1;
    if (kind === kinds.compressed)
      counted.compressed[table.priority(page)] = (counted.compressed[table.priority(page)] as number) + 1;
    if (kind === kinds.backing) {
      counted.backed += 1;
      taken.add(table.low(page));
      if (blocks?.get(table.low(page)) !== true) wrong.push(`page ${page} is on a block that is free`);
    }
    if (!pages.isInSlabs(page)) continue;
    inSlabs += 1;
    counted.bytes += pages.bytes(page).length;
    addresses.add(table.low(page));
    const kindOfSlab = classOf(pages.bytes(page).length);
    objects.set(kindOfSlab, (objects.get(kindOfSlab) ?? 0) + 1);
  }
  demand("orig_data_size", pages.stored, counted.stored);
  demand("same_pages", pages.same, counted.same);
  for (const [priority, count] of counted.compressed.entries())
    demand(`pages of priority ${priority}`, pages.compressed[priority] as number, count);
  demand("huge_pages", pages.huge, counted.huge);
  demand("pages that are lost", pages.lost, counted.lost);
  demand("bd_count", pages.backed, counted.backed);
  demand("compr_data_size", pages.compressedBytes, counted.bytes);
  demand("objects of their own", addresses.size, inSlabs);
  demand("blocks of their own", taken.size, counted.backed);
  // One of them is the mark.
  demand("blocks in use", blocks?.count() ?? 0, counted.backed + (blocks === undefined ? 0 : 1));
  if (slabs.usedBytes > slabs.limit) wrong.push(`${slabs.usedBytes} bytes are more than mem_limit`);
  pages.compact();
  let most = 0;
  for (const [kind, count] of objects) {
    const capacity = Math.floor(SLAB / (classSizes[kind] as number));
    most += (Math.ceil(count / capacity) + 1) * SLAB;
  }
  if (slabs.usedBytes > most) wrong.push(`${slabs.usedBytes} bytes are in use, ${most} would do`);
  return wrong;
}
