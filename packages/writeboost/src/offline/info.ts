/** Offline: what an image is and how it is, by name. */
import type { ImageFacts, OfflineWork } from "@dmkit/block-io";
import type { Image } from "./examine/findings.ts";
import { BLOCK } from "../format/geometry.ts";
import { NO_UUID } from "../format/identity.ts";
import { type ScannedLog, adoptLog, scan } from "../open/scan.ts";

/** Throws `EFORMAT` where there is no cache, what devices throw, and the signal's reason. */
export async function imageFacts({ cache, backing }: Image, work: OfflineWork): Promise<ImageFacts> {
  const found = await scan(cache, backing?.size, work);
  const { geometry, first, last, lastWriteback, map, backingSize } = found;
  adoptLog(found, first, last, lastWriteback);
  return {
    format: "writeboost",
    dialect: found.dialect,
    segment_size_order: geometry.order,
    segment_bytes: geometry.slotSize,
    slots: geometry.slots,
    cache_bytes: geometry.slots * geometry.blocks * BLOCK,
    backing_bytes: backingSize ?? "unknown",
    state: stateOf(found),
    first_segment: first,
    last_segment: last,
    last_segment_written_back: lastWriteback,
    superblock_record: found.recordOnDevice,
    dirty_blocks: map.dirtyBlocks,
    ...identityFacts(found),
  };
}

function stateOf({ damage, identity, last, lastWriteback }: ScannedLog): string {
  if (damage !== undefined) return `damaged: ${damage}`;
  const dirty = last > lastWriteback ? "dirty" : "clean";
  if (typeof identity !== "object") return dirty;
  return identity.clean ? `${dirty}, closed in order` : `${dirty}, not closed in order`;
}

function identityFacts({ identity }: ScannedLog): ImageFacts {
  if (typeof identity !== "object")
    return {
      identity_record: { blank: "none", foreign: "unknown content", unreadable: "unreadable" }[identity],
    };
  return {
    cache_uuid: identity.cache,
    plog_uuid: identity.plog === NO_UUID ? "none" : identity.plog,
    plog_segments: identity.plogSegments,
    segments_known_to_be_flushed: identity.coveredId,
  };
}
