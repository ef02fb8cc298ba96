/** Looks through a disk's books: what the counts, the slabs and the backing device's blocks must agree on. */
import { kinds } from "../core/page-table.ts";
import { PAGE } from "../core/size-classes.ts";
import { SLAB } from "../core/slab-store.ts";
import type { ZramDevice } from "../device.ts";

/** What does not agree, one text for each. Discards everything to see whether all memory comes back. */
export async function audit(device: ZramDevice): Promise<string[]> {
  const { pages } = device.parts;
  const { table, slabs, blocks } = pages;
  const wrong: string[] = [];
  const demand = (what: string, found: number, expected: number): void => {
    if (found !== expected) wrong.push(`${what}: ${found}, not ${expected}`);
  };
  const counted = { stored: 0, same: 0, huge: 0, backed: 0, bytes: 0 };
  const addresses = new Set<number>();
  const taken = new Set<number>();
  let inSlabs = 0;
  for (let page = 0; page < table.pages; page += 1) {
    const kind = table.kind(page);
    if (kind !== kinds.absent) counted.stored += 1;
    if (kind === kinds.same) counted.same += 1;
    if (kind === kinds.huge) counted.huge += 1;
    if (kind === kinds.backing) {
      counted.backed += 1;
      taken.add(table.low(page));
      if (blocks?.get(table.low(page)) !== true) wrong.push(`page ${page} is on a block that is free`);
    }
    if (!pages.isInSlabs(page)) continue;
    inSlabs += 1;
    counted.bytes += pages.bytes(page).length;
    addresses.add(table.low(page));
  }
  demand("orig_data_size", pages.stored, counted.stored);
  demand("same_pages", pages.same, counted.same);
  demand("huge_pages", pages.huge, counted.huge);
  demand("bd_count", pages.backed, counted.backed);
  demand("compr_data_size", pages.compressedBytes, counted.bytes);
  demand("objects of their own", addresses.size, inSlabs);
  demand("blocks of their own", taken.size, counted.backed);
  demand("blocks in use", blocks?.count() ?? 0, counted.backed);
  if (slabs.usedBytes > slabs.limit) wrong.push(`${slabs.usedBytes} bytes are more than mem_limit`);
  if (slabs.usedBytes > counted.bytes * 2 + 100 * SLAB) wrong.push(`${slabs.usedBytes} bytes are lost`);
  await device.discard(0, device.size - (device.size % PAGE));
  pages.drop(table.pages - 1);
  demand("mem_used_total without pages", slabs.usedBytes, 0);
  demand("blocks in use without pages", blocks?.count() ?? 0, 0);
  return wrong;
}
