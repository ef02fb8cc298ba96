/**
 * A cache that was written through and not closed in order: the backing device has all that was acknowledged, and may have been
 * used without the cache since. So what is in its log must not be found again, whoever opens it: the cache begins anew.
 */
import type { Environment } from "@dmkit/block-io";
import type { Rules } from "../../core/rules.ts";
import type { Devices } from "../../device/recovered.ts";
import { requirePair } from "../pairing.ts";
import { type Superblock, readSuperblock } from "../superblock.ts";
import { eraseCache } from "./erase-cache.ts";
import { formatCache } from "./format-cache.ts";

/** The superblock of the cache, made anew if it was such a one. Throws what does not belong together, and what the devices throw. */
export async function withoutSuperfluous(
  devices: Devices,
  pool: number,
  { logger }: Environment,
  { believesThrough }: Rules,
): Promise<Superblock> {
  const { cache, plog } = devices;
  const superblock = await readSuperblock(cache);
  const { identity, header } = superblock;
  if (typeof identity !== "object" || identity.through !== true || identity.clean || believesThrough)
    return superblock;
  if (header.kind !== "writeboost" && header.kind !== "unreadable") return superblock;
  await requirePair(identity, devices);
  const text =
    "it was written through, and not closed: all it had is on the backing device, which may be newer; it begins empty";
  logger.log("warn", text, { device: cache.name });
  await eraseCache(cache, plog);
  await formatCache(cache, plog, { order: identity.order, dialect: identity.dialect, pool });
  return readSuperblock(cache);
}
