/** What a page holds, as whoever asks for extents is told. */
import type { Extent } from "@dmkit/block-io";
import { type PageTable, kinds } from "../core/page-table.ts";

export function extentKind(kind: number, table: PageTable, page: number): Extent["kind"] {
  if (kind === kinds.absent) return "hole";
  return kind === kinds.same && table.low(page) === 0 && table.high(page) === 0 ? "zero" : "data";
}
