/** What a running stack says of itself. */
import { type Facts, type Health, healthy } from "@dmkit/block-io";
import type { OwnerMap } from "../core/owner-map.ts";
import { PAGE_SECTORS } from "../format/geometry.ts";
import type { Counters } from "./counters.ts";

/**
 * `<layers> <allocated sectors of each, bottom to top> <stacks> <maps> <preparing> <sending> <requests> <bytes>`. A
 * number with a `+` is of the part of the bitmap that has been needed so far.
 */
export function statusLine(map: OwnerMap, counters: Counters): string {
  const more = map.unknownPages > 0 ? "+" : "";
  const allocated = Array.from({ length: map.top }, (_, index) => `${map.allocated(index + 1)}${more}`);
  const maps = map.pages - map.unknownPages;
  return [map.top, ...allocated, 1, maps, ...counters.values].join(" ");
}

/** The figures of the status line by name. */
export function cowFacts(map: OwnerMap, counters: Counters): Facts {
  const allocated = Array.from({ length: map.top }, (_, index): [string, number] => [
    `allocated_sectors_${index + 1}`,
    map.allocated(index + 1),
  ]);
  const [preparing = 0, sending = 0, requests = 0, bytes = 0] = counters.values;
  return {
    layers: map.top,
    ...Object.fromEntries(allocated),
    // Where bitmaps were not needed yet, more is allocated.
    unread_bitmap_pages: map.unknownPages,
    bitmap_pages: map.pages,
    preparing,
    sending,
    requests,
    bytes,
  };
}

/** What the bitmaps do not give. @param missing pages that nobody knows the owners of. */
export function bitmapHealth(missing: number): Health {
  if (missing === 0) return healthy;
  return {
    state: "degraded",
    why: `${missing} sectors of a bitmap cannot be read: the ${PAGE_SECTORS} sectors that each speaks for are out of reach`,
    help: "Run dmkit cow check on the layers; restore that bitmap, or copy it to a device that is whole.",
  };
}
