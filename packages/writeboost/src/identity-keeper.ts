/**
 * The identity record of a running device, and what it pairs.
 *
 * Invariants: the record says `clean` only while nobody can change anything; `coveredId` only grows and never
 * runs ahead of what a flush has covered. Writes are one at a time, each of one sector.
 */
import { type BlockDevice, BlockIoError, type Random, crc32c } from "@dmkit/block-io";
import { plogSegmentSize } from "./format/geometry.ts";
import {
  IDENTITY_START,
  type Identity,
  NO_UUID,
  decodeIdentity,
  encodeIdentity,
  uuidAt,
} from "./format/identity.ts";

export class IdentityKeeper {
  readonly #cache: BlockDevice;
  #identity: Identity;
  #writing: Promise<void> | undefined;

  constructor(cache: BlockDevice, identity: Identity) {
    this.#cache = cache;
    this.#identity = identity;
  }

  get identity(): Identity {
    return this.#identity;
  }

  /** Whether a write is under way. */
  get busy(): boolean {
    return this.#writing !== undefined;
  }

  /** Writes the record with some of it changed. It is durable after the next flush of the cache device. */
  async write(changes: Partial<Identity>): Promise<void> {
    while (this.#writing !== undefined) await this.#writing.catch(() => {});
    this.#identity = { ...this.#identity, ...changes };
    this.#writing = this.#cache.write(IDENTITY_START, encodeIdentity(this.#identity)).finally(() => {
      this.#writing = undefined;
    });
    await this.#writing;
  }
}

/** 32 random hexadecimal digits. */
export function newUuid(random: Random): string {
  return Array.from({ length: 32 }, () => Math.floor(random.next() * 16).toString(16)).join("");
}

/** CRC-32C over the first 64 KiB and 16 more blocks spread over the device. */
export async function sampleOf(backing: BlockDevice): Promise<number> {
  const block = Buffer.alloc(4096);
  const blocks = Math.floor(backing.size / 4096);
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

/** Where a plog device has its copy of the identity: its last sector, if no plog segment reaches that far. */
export function plogIdentityOffset(plog: BlockDevice, order: number): number | undefined {
  const size = plogSegmentSize(order);
  const end = Math.floor(plog.size / size) * size;
  return plog.size - end >= 512 ? plog.size - 512 : undefined;
}

export async function readPlogIdentity(plog: BlockDevice, order: number): Promise<Identity | undefined> {
  const offset = plogIdentityOffset(plog, order);
  if (offset === undefined) return undefined;
  const sector = Buffer.alloc(512);
  await plog.read(offset, sector);
  const identity = decodeIdentity(sector);
  return typeof identity === "object" ? identity : undefined;
}

/**
 * Whether a plog has room for a copy of the identity record, and there is none of this cache, not even a damaged one:
 * a cache that names a plog has written that name to it, durably, before it named it.
 */
export async function lacksName(plog: BlockDevice, { order, cache }: Identity): Promise<boolean> {
  const offset = plogIdentityOffset(plog, order);
  if (offset === undefined) return false;
  const sector = Buffer.alloc(512);
  await plog.read(offset, sector);
  return uuidAt(sector) !== cache;
}

/** Refuses devices that do not belong together; throws `EFORMAT` before anything is written. */
export async function checkPairing(
  identity: Identity,
  devices: { cache: BlockDevice; backing: BlockDevice; plog: BlockDevice | undefined },
): Promise<void> {
  const { cache, backing, plog } = devices;
  const mismatch = (device: BlockDevice, reason: string, hint: string): BlockIoError =>
    new BlockIoError(reason, { code: "EFORMAT", device: device.name, op: "open", hint });
  if (backing.size !== identity.backingSize) {
    throw mismatch(
      backing,
      `the cache ${cache.name} belongs to a backing device of ${identity.backingSize} bytes, this one has ${backing.size}`,
      "Give the backing device the cache was used with. Nothing has been written.",
    );
  }
  if (identity.clean && (await sampleOf(backing)) !== identity.backingSample) {
    throw mismatch(
      backing,
      `this is not the backing device the cache ${cache.name} was used with, or it has been changed since without the cache`,
      "Give the right one; or, if it was changed on purpose, zero the first MiB of the cache device to start anew.",
    );
  }
  if (plog === undefined) {
    if (identity.plog === NO_UUID) return;
    if (identity.clean) return;
    throw mismatch(
      cache,
      "the cache was used with a plog (type 1) and was not closed in order: without it flushed data would be lost",
      "Open it as type 1 with its plog device. Nothing has been written.",
    );
  }
  const own = await readPlogIdentity(plog, identity.order);
  const named = identity.plog !== NO_UUID;
  if (own === undefined) {
    if (!named || identity.clean || !(await lacksName(plog, identity))) return;
    throw mismatch(
      plog,
      `this is not the plog of ${cache.name}: the name that the plog had been given is not on it`,
      "Give the plog device the cache was used with, as large as it was. Nothing has been written.",
    );
  }
  if (own.cache === identity.cache && (!named || own.plog === identity.plog)) return;
  throw mismatch(
    plog,
    `this plog belongs to another cache than ${cache.name}`,
    "Give the plog device the cache was used with. Nothing has been written.",
  );
}
