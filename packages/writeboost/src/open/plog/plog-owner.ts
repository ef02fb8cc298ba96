/**
 * Whose plog is it? What is in a plog that is given to a cache is replayed, or zeroed: before either, it must be
 * certain that it is this cache's, or holds nothing. Nothing is written here.
 *
 * What tells is a name, which stands on both devices: each state a crash or a flush that fails can leave is told from
 * what a stranger left by names alone, whatever else is in the plog. When a plog comes to a cache (recovery.ts):
 *
 *      1. the cache's record, without a plog        durable; from here on this cache has a uuid; it has the plog's size
 *      2. the name on the plog (plog-place.ts)      durable; nothing else is in it yet
 *      3. the cache's record, which names the plog  durable before the first record is written to the plog
 *
 * The name stays there through everything that happens to the plog later, zeroing included. If it has to say something else,
 * it is written in these steps as well, while nothing in the plog counts: a disk that loses power may spoil the sector that it
 * writes. Where a record without a plog has the size of one, what is in the place of the name does not matter.
 *
 * When a cache is retired (erase-cache.ts), its record is one without a plog first, then the name says so, then the cache is
 * erased and the plog after it: a crash in between leaves no plog that anybody would have to zero by hand.
 *
 * What is found, by what the cache's record says and what the plog says:
 *
 *      record            name on the plog     meaning
 *      none              none                 its blank plog; or a log of the original drivers, told by its records
 *      none              any                  another cache's, refused
 *      no plog           none                 it must be blank, but for a name; 1 or 2 may have been interrupted
 *      no plog           this cache           2 was done, 3 was not: nothing in it counts
 *      names it, in use  the same             its plog; what goes on where the log ends counts
 *      names it, in use  none, or any other   another plog, refused (pairing.ts)
 *      names it, closed  the same             its plog; what zeroing it at close has left is older than the log's end
 *      names it, closed  this cache, another  a plog it had before: nothing in it is needed, nor was at that close
 *      names it, closed  none                 another plog, which must be blank
 *      any but in use    retired              nothing in it counts, whosever it was
 *      any but none      another cache        refused (pairing.ts)
 *      damaged           its uuid             its plog, if its records follow the log
 *
 * A plog without room at its end got no name from older versions. Where such a one is in use, its cache cannot tell it
 * from data that is not known; but it does tell it from what is known for certain, and gives it a name.
 */
import { type BlockDevice, contentsOf, notBlank, refuse, given } from "@dmkit/block-io";
import { NO_UUID } from "../../format/identity.ts";
import {
  hasName,
  isRetired,
  plogBytes,
  readPlogIdentity,
  requireBlankPlog,
} from "../../device/log/plog-place.ts";
import type { ScannedPlog } from "./plog-scan.ts";
import type { ScannedLog } from "../scan.ts";

/**
 * `own`: what it holds is this cache's. `new`: it may be used, but nothing in it counts. Throws `EFORMAT` for one that
 * holds anything else, unless `force` is given. Pairing by name was checked before.
 */
export async function judgePlog(
  plog: BlockDevice,
  found: ScannedLog,
  scanned: ScannedPlog,
  force: boolean,
): Promise<"own" | "new"> {
  const { identity, geometry, superblock } = found;
  const bytes = await plogBytes(plog, identity);
  const name = await given(readPlogIdentity(plog, geometry.order, bytes));
  if (isRetired(name)) return "new";
  if (typeof identity === "object") {
    if (name?.cache === identity.cache)
      return identity.plog === NO_UUID || name.plog === identity.plog ? "own" : "new";
    if (identity.plog === NO_UUID || identity.clean || hasName(identity, bytes)) {
      await requireBlankPlog(plog, force, identity);
      return "new";
    }
    // An older version gave it no name, and a crash may have torn whatever is in it: any data may look like two bytes
    // of something else.
    const contents = force ? undefined : await contentsOf(plog);
    if (contents?.certain === true) throw notBlank(plog, contents, {});
    return "own";
  }
  // A damaged record still says who wrote it.
  const isOurs = name !== undefined && identity === "foreign" && superblock.uuid === name.cache;
  // The original drivers give no names: only its records can tell.
  const mayFollow = name === undefined && scanned.ids.some((id) => id > 0);
  if (isOurs || mayFollow) return follows(plog, found, scanned, force);
  await requireBlankPlog(plog, force);
  return "new";
}

/** A barrier writes two segments at once: the second may be there without the first. More is another cache's. */
function follows(
  { name }: BlockDevice,
  { last }: ScannedLog,
  { ids, rebuilt }: ScannedPlog,
  force: boolean,
): "own" | "new" {
  const stranger = ids.find((id) => id > last + rebuilt.length + 2);
  if (stranger === undefined) return "own";
  if (force) return "new";
  throw refuse(
    name,
    "EFORMAT",
    `the plog has segment ${stranger}, but the log ends at segment ${last}`,
    "Give the plog device the cache was used with; or, if what it holds is not needed any more, the option force. Nothing has been written.",
  );
}
