/** What pages hold, as whoever asks for extents is told. */
import type { Extent } from "@dmkit/block-io";
import { type PageTable, kinds } from "../core/page-table.ts";
import { PAGE } from "../core/size-classes.ts";

/** The extents of a range of bytes, joined where they are of one kind. */
export function* extentsOf(table: PageTable, offset: number, length: number): Generator<Extent> {
  const end = offset + length;
  for (let at = offset; at < end; ) {
    const start = at;
    const kind = extentKind(table, Math.floor(at / PAGE));
    do at = Math.min(end, (Math.floor(at / PAGE) + 1) * PAGE);
    while (at < end && extentKind(table, Math.floor(at / PAGE)) === kind);
    yield { offset: start, length: at - start, kind };
  }
}

function extentKind(table: PageTable, page: number): Extent["kind"] {
  const kind = table.kind(page);
  if (kind === kinds.absent) return "hole";
  return kind === kinds.same && table.low(page) === 0 && table.high(page) === 0 ? "zero" : "data";
}
