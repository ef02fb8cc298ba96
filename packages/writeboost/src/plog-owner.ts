/**
 * Whose plog is it? What is in a plog that is given to a cache is replayed, or zeroed: before either, it must be
 * certain that it is this cache's, or holds nothing. Nothing is written here.
 */
import { type BlockDevice, BlockIoError, contentsOf, notBlank, requireBlank } from "@dmkit/block-io";
import { BLOCK } from "./format/geometry.ts";
import { IDENTITY_START, NO_UUID, uuidAt } from "./format/identity.ts";
import { plogBytes, plogNameOffset, readPlogIdentity } from "./plog-place.ts";
import type { ScannedPlog } from "./plog-scan.ts";
import type { ScannedLog } from "./scan.ts";

/**
 * `own`: what it holds is this cache's. `new`: it may be used, but nothing in it counts. Throws `EFORMAT` for one that
 * holds anything else, unless `force` is given. Pairing by name was checked before.
 */
export async function judgePlog(
  plog: BlockDevice,
  cache: BlockDevice,
  found: ScannedLog,
  scanned: ScannedPlog,
  force: boolean,
): Promise<"own" | "new"> {
  const { identity, geometry } = found;
  const bytes = await plogBytes(plog, identity);
  const name = await readPlogIdentity(plog, geometry.order, bytes);
  if (typeof identity === "object") {
    if (name?.cache === identity.cache) return "own";
    const nameless = plogNameOffset(bytes, geometry.order) === undefined;
    if (identity.plog === NO_UUID || identity.clean || !nameless) {
      await requireBlank(plog, { force });
      return "new";
    }
    // It has no room for a name, and a crash may have torn whatever is in it.
    const contents = force ? undefined : await contentsOf(plog);
    if (contents?.known === true) throw notBlank(plog, contents, {});
    return "own";
  }
  // The original drivers give no names: only its records can tell. A damaged record still says who wrote it.
  const block = Buffer.alloc(BLOCK);
  await cache.read(IDENTITY_START, block);
  const known = name === undefined || (identity === "foreign" && uuidAt(block) === name.cache);
  if (known && scanned.ids.some((id) => id > 0)) return follows(plog, found, scanned, force);
  await requireBlank(plog, { force });
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
  throw new BlockIoError(`the plog has segment ${stranger}, but the log ends at segment ${last}`, {
    code: "EFORMAT",
    device: name,
    op: "open",
    hint: "Give the plog device the cache was used with; or, if what it holds is not needed any more, the option force. Nothing has been written.",
  });
}
