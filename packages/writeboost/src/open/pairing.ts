/**
 * Whether devices belong together. Every way of pairing a cache with a backing device or a plog comes through here:
 * opening, views of the past, replaying, checking, repairing, restoring.
 *
 * What is known stands in the identity record: how long the backing device must be, after an orderly close the witness
 * of what was on it, and the name of the plog. A cache that was not closed in order says nothing of the contents of
 * its backing device: writeback may have changed them since they were last looked at.
 */
import {
  type BlockDevice,
  type BlockIoError,
  crc32c,
  given,
  refuse,
  witnessOf,
  isOfPlace,
} from "@dmkit/block-io";
import { type Identity, type StoredIdentity, NO_UUID, NO_WITNESS } from "../format/identity.ts";
import {
  hasName,
  isRetired,
  lacksName,
  placeBeingNamed,
  plogBytes,
  readPlogIdentity,
} from "../device/log/plog-place.ts";

/** What is given; what is not given is not looked at, except that a plog may be missing. */
export interface Pair {
  readonly cache: BlockDevice;
  readonly backing?: BlockDevice | undefined;
  readonly plog?: BlockDevice | undefined;
}

/** Why devices do not belong together. */
export interface Mismatch {
  readonly kind: "backing" | "plog-missing" | "plog-foreign";
  /** The one at fault. */
  readonly device: BlockDevice;
  readonly reason: string;
  /** What to do. */
  readonly hint: string;
}

const NOT_WRITTEN = "Nothing has been written.";

/** None if they do, as far as anybody knows; the backing device's first. Throws what the devices throw. */
export async function findMismatches(identity: StoredIdentity, devices: Pair): Promise<Mismatch[]> {
  if (typeof identity !== "object") return [];
  const { cache, backing } = devices;
  const found = [
    backing && (await backingMismatch(identity, cache, backing)),
    await plogMismatch(identity, devices),
  ];
  return found.filter((mismatch) => mismatch !== undefined);
}

/** Throws `EFORMAT` for devices that do not belong together. */
export async function requirePair(identity: StoredIdentity, devices: Pair): Promise<void> {
  const [mismatch] = await findMismatches(identity, devices);
  if (mismatch !== undefined) throw refuseMismatch(mismatch);
}

/** As {@link requirePair}, where the end of the log that may be in a plog is not needed. */
export async function requirePairForView(identity: StoredIdentity, devices: Pair): Promise<void> {
  const mismatches = await findMismatches(identity, devices);
  const mismatch = mismatches.find(({ kind }) => kind !== "plog-missing");
  if (mismatch !== undefined) throw refuseMismatch(mismatch);
}

/** A reason as text of a problem. */
export function sentence({ reason }: Pick<Mismatch, "reason">): string {
  return `${reason.charAt(0).toUpperCase()}${reason.slice(1)}.`;
}

function refuseMismatch({ device, reason, hint }: Mismatch): BlockIoError {
  return refuse(device.name, "EFORMAT", reason, hint);
}

async function backingMismatch(
  identity: Identity,
  cache: BlockDevice,
  backing: BlockDevice,
): Promise<Mismatch | undefined> {
  const { backingSize, clean } = identity;
  const owner = `the cache ${cache.name} (uuid ${identity.cache})`;
  const mismatch = (reason: string, hint: string): Mismatch => ({
    kind: "backing",
    device: backing,
    reason,
    hint: `${hint} ${NOT_WRITTEN}`,
  });
  if (backing.size < backingSize) {
    return mismatch(
      `${owner} needs the first ${backingSize} bytes of its backing device, this one has ${backing.size}`,
      "Give the backing device the cache was used with; if this is it, make it as long as it was.",
    );
  }
  if (!clean) return undefined;
  const [recorded, now] = await bothWitnesses(identity, backing);
  if (recorded === now) return undefined;
  return mismatch(
    `${owner} was closed over a backing device with the witness ${recorded.slice(0, 16)}, this one has ${now.slice(0, 16)}: it is another one, or was changed since without the cache`,
    "Give the right one. If it was changed on purpose, and what only the cache has may be lost, zero the first MiB of the cache device to start anew.",
  );
}

/**
 * The same text twice if the contents are those of the last orderly close, or nobody can tell: nothing was noted then, or
 * a place that counts is not given now, which is no reason to withhold all others.
 */
async function bothWitnesses(
  { version, backingSample, witness, backingSize }: Identity,
  backing: BlockDevice,
): Promise<[recorded: string, now: string]> {
  if (version === 1) {
    const now = await given(oldSampleOf(backing, backingSize));
    if (now === undefined) return ["", ""];
    return [backingSample.toString(16).padStart(8, "0"), now.toString(16).padStart(8, "0")];
  }
  const now = witness === NO_WITNESS ? undefined : await given(witnessOf(backing, backingSize));
  return now === undefined ? ["", ""] : [witness, now];
}

/** Of records of version 1: CRC-32C over the first 64 KiB and 16 more blocks spread over the device. */
async function oldSampleOf(backing: BlockDevice, size: number): Promise<number> {
  const block = Buffer.alloc(4096);
  const blocks = Math.floor(size / 4096);
  const places = new Set<number>();
  for (let index = 0; index < 16; index += 1) {
    places.add(Math.min(index, Math.max(0, blocks - 1)));
    places.add(Math.floor((blocks * index) / 16));
  }
  let crc = 0;
  if (blocks === 0) return crc;
  for (const place of places) {
    await backing.read(place * 4096, block);
    crc = crc32c(block, crc);
  }
  return crc;
}

async function plogMismatch(identity: Identity, { cache, plog }: Pair): Promise<Mismatch | undefined> {
  const named = identity.plog !== NO_UUID;
  if (plog === undefined) {
    if (!named || identity.clean) return undefined;
    return {
      kind: "plog-missing",
      device: cache,
      reason: `the cache was used with a plog (type 1, uuid ${identity.plog}) and was not closed in order: without it flushed data would be lost`,
      hint: `Open it as type 1 with its plog device. ${NOT_WRITTEN}`,
    };
  }
  const foreign = (reason: string): Mismatch => ({
    kind: "plog-foreign",
    device: plog,
    reason,
    hint:
      named && !identity.clean
        ? `Give the plog device the cache was used with. ${NOT_WRITTEN}`
        : `Give the plog device the cache was used with, or a blank one: to make it one that nobody needs any more, zero its first and last MiB. ${NOT_WRITTEN}`,
  });
  const bytes = await plogBytes(plog, identity);
  if (bytes > plog.size) {
    return foreign(
      `the plog (uuid ${identity.plog}) of the cache ${cache.name} has ${bytes} bytes, this one has ${plog.size}: it is another one, or was cut short`,
    );
  }
  const own = await readPlogIdentity(plog, identity.order, bytes).catch((error: unknown) => {
    if (!isOfPlace(error)) throw error;
    return "unreadable" as const;
  });
  if (own === "unreadable") {
    if (!hasName(identity, bytes) || placeBeingNamed(identity) !== undefined) return undefined;
    const mismatch = foreign(
      `the name of the plog cannot be read: nobody knows whether it belongs to the cache ${cache.name}`,
    );
    const hint = `What is in the log without it can be shown (--at) and written back (replay --until). ${NOT_WRITTEN}`;
    return named && !identity.clean ? { ...mismatch, hint } : mismatch;
  }
  if (own === undefined) {
    if (!named || identity.clean || !(await lacksName(plog, identity, bytes))) return undefined;
    return foreign(
      `this is not the plog of the cache ${cache.name}: the name that the plog had been given (uuid ${identity.plog}) is not on it`,
    );
  }
  // Every plog a cache is given gets a uuid of its own: an earlier one lacks what was flushed since. After an orderly
  // close nothing is lacking.
  const isEnough = !named || identity.clean || own.plog === identity.plog;
  if (own.cache === identity.cache && isEnough) return undefined;
  if (isRetired(own) && (!named || identity.clean)) return undefined;
  return foreign(
    `this plog (uuid ${own.plog}) belongs to the cache with the uuid ${own.cache}; ${cache.name} has the uuid ${identity.cache} and ${named ? `the plog ${identity.plog}` : "no plog"}`,
  );
}
