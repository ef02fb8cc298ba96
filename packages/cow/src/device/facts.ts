/** What a running stack says of itself. */
import { type Facts, type Health, healthy, quoteTableWord } from "@dmkit/block-io";
import type { OwnerMap } from "../core/owner-map.ts";
import type { Snapshots } from "../core/snapshots.ts";
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
export function cowFacts(map: OwnerMap, counters: Counters, snapshots: Snapshots): Facts {
  const allocated = Array.from({ length: map.top }, (_, index): [string, number] => [
    `allocated_sectors_${index + 1}`,
    map.allocated(index + 1),
  ]);
  const [preparing = 0, sending = 0, requests = 0, bytes = 0] = counters.values;
  return {
    layers: map.top,
    ...Object.fromEntries(allocated),
    snapshots: snapshots.filter((snapshot) => snapshot !== undefined).length,
    ...Object.fromEntries(
      snapshots.flatMap((one, index) => (one ? [[`snapshot_${index + 1}`, one.name]] : [])),
    ),
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

/** Words of a table line in front of the layers: base and its offset; words of a layer. */
const [BASE_WORDS, LAYER_WORDS] = [2, 3];

/**
 * One line a snapshot, bottom to top: name, when it was made, layer, and the arguments of a table that shows it.
 * @param table the arguments that show the whole stack; empty if there are none
 */
export function snapshotList(snapshots: Snapshots, table: readonly string[]): string {
  // How layers of the original are read, say.
  const named = table.slice(BASE_WORDS + LAYER_WORDS * snapshots.length);
  const lines = snapshots.flatMap((snapshot, index) => {
    if (snapshot === undefined) return [];
    const layers = table.slice(0, BASE_WORDS + LAYER_WORDS * (index + 1));
    const words = [...layers, ...named].map(quoteTableWord);
    return [[snapshot.name, new Date(snapshot.made).toISOString(), index + 1, ...words].join(" ")];
  });
  return lines.join("\n");
}
