/**
 * A cache that was written through and not closed in order: the backing device has all that was acknowledged, and may have been
 * used without the cache since. So what is in its log must not be found again, whoever opens it: the cache begins anew.
 */
import type { Environment } from "@dmkit/block-io";
import type { Rules } from "../../core/rules.ts";
import type { Devices } from "../../device/recovered.ts";
import { HEADER_START, encodeGrowing } from "../../format/superblock.ts";
import { requirePair } from "../pairing.ts";
import { type Superblock, readSuperblock } from "../superblock.ts";

/**
 * The superblock of the cache; of such a one, which says from now on that it is made anew. Throws what does not belong together,
 * and what the devices throw.
 */
export async function withoutSuperfluous(
  devices: Devices,
  { logger }: Environment,
  { believesThrough }: Rules,
): Promise<Superblock> {
  const { cache } = devices;
  const superblock = await readSuperblock(cache);
  const { identity, header } = superblock;
  if (typeof identity !== "object" || identity.through !== true || identity.clean || believesThrough)
    return superblock;
  if (header.kind !== "writeboost" && header.kind !== "unreadable") return superblock;
  await requirePair(identity, devices);
  const text =
    "it was written through, and not closed: all it had is on the backing device, which may be newer; it begins empty";
  logger.log("warn", text, { device: cache.name });
  // As of one that is being made larger, nothing it has counts from here on, and whoever opens it goes on with that (grow.ts).
  await cache.write(HEADER_START, encodeGrowing(identity.order, identity.dialect));
  await cache.flush();
  return readSuperblock(cache);
}
