/** Offline: a cache device as data, for JSON and for pictures of its slots. Writes nothing. */
import type { BlockDevice } from "@dmkit/block-io";
import type { ScanOptions } from "../open/scan-options.ts";
import { scan } from "../open/scan.ts";

/** A metablock of a segment. */
export interface DumpedBlock {
  /** First sector on the backing device. */
  readonly sector: number;
  /** Bit j: sector j is in the log. */
  readonly bits: number;
}

export interface DumpedSegment {
  readonly slot: number;
  /** 0 where the head cannot be read. */
  readonly id: number;
  /** `log`: part of the log. `stale`: whole, but outside of it. `bad`: torn, damaged, or not to be read. */
  readonly state: "log" | "stale" | "bad";
  readonly clean: boolean;
  readonly blocks: readonly DumpedBlock[];
}

/** Header facts first, then every slot that claims an id or cannot be read, by slot. Throws `EFORMAT`. */
export async function dump(
  cache: BlockDevice,
  backingSize: number,
  options: ScanOptions = {},
): Promise<{
  readonly dialect: string;
  readonly order: number;
  readonly slots: number;
  readonly record: number;
  readonly lastWritebackId: number;
  readonly firstId: number;
  readonly lastId: number;
  readonly segments: readonly DumpedSegment[];
}> {
  const found = await scan(cache, backingSize, options);
  const { ids, valid, map, first, last, geometry, unreadable } = found;
  const segments: DumpedSegment[] = [];
  for (const [slot, id] of ids.entries()) {
    if (id === 0) {
      if (unreadable.has(slot)) segments.push({ slot, id, state: "bad", clean: false, blocks: [] });
      continue;
    }
    const start = slot * map.blocks;
    const length = map.lengths[slot] ?? 0;
    const state = valid[slot] === 0 ? "bad" : id >= first && id <= last ? "log" : "stale";
    segments.push({
      slot,
      id,
      state,
      clean: id <= found.lastWriteback,
      blocks: Array.from({ length }, (_, at) => ({
        sector: (map.keys[start + at] ?? 0) * 8,
        bits: map.dirty[start + at] ?? 0,
      })),
    });
  }
  return {
    dialect: found.dialect,
    order: geometry.order,
    slots: geometry.slots,
    record: found.record,
    lastWritebackId: found.lastWriteback,
    firstId: first,
    lastId: last,
    segments,
  };
}

/** One character a slot: `.` unused, `#` dirty log, `=` clean log, `?` stale, `!` bad; `width` a line. */
export function segmentMap(
  { slots, segments }: { readonly slots: number; readonly segments: readonly DumpedSegment[] },
  width = 64,
): string {
  const picture = Array.from({ length: slots }, () => ".");
  for (const { slot, state, clean } of segments) {
    picture[slot] = state === "bad" ? "!" : state === "stale" ? "?" : clean ? "=" : "#";
  }
  const lines: string[] = [];
  for (let at = 0; at < slots; at += width) lines.push(picture.slice(at, at + width).join(""));
  return lines.join("\n");
}
