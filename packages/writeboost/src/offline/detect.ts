/**
 * Recognises cache and plog devices. A cache has a magic; where that is damaged, the identity record names it. A
 * plog device has the copy of the identity record in its first or last sector, or is recognised by a record with a valid
 * checksum at the start of one of its segments. One that holds nothing and has no copy cannot be told from zeroes.
 */
import { type BlockDevice, type Detected, refuse } from "@dmkit/block-io";
import {
  BLOCK,
  MAX_ORDER,
  MIN_ORDER,
  SLOTS_START,
  blocksPerSegment,
  geometryOf,
  plogSegmentSize,
} from "../format/geometry.ts";
import { IDENTITY_START, type Identity } from "../format/identity.ts";
import { decodeRecord } from "../format/plog.ts";
import { findPlogIdentity, isRetired } from "../device/log/plog-place.ts";
import { readSuperblock } from "../open/superblock.ts";

// As many plog segments are in use with the default number of buffers.
const PLOG_SEGMENTS = 8;

export async function detectImage(device: BlockDevice): Promise<Detected | undefined> {
  return (await detectCache(device)) ?? (await detectPlog(device));
}

async function detectCache(device: BlockDevice): Promise<Detected | undefined> {
  if (device.size < IDENTITY_START + BLOCK) return undefined;
  const { header, identity } = await readSuperblock(device);
  const known = typeof identity === "object" ? identity : undefined;
  // A cache without a record has never had a name.
  const id = known?.cache ?? (identity === "blank" && header.kind === "writeboost" ? undefined : "");
  const cache = (text: string): Detected => ({ certainty: "magic", role: "cache", text, identity: id });
  if (header.kind === "writeboost")
    return cache(cacheText(device, known?.order ?? header.order ?? MAX_ORDER, known));
  if (header.kind === "unfinished") return undefined;
  if (header.kind === "growing") return cache("writeboost cache, being made larger: to be opened once");
  if (header.kind === "restoring") return cache("writeboost cache, restore of a dump not finished");
  // The smallest cache has three slots, so a small device is no cache even if such a record is on it.
  if (known !== undefined && device.size >= SLOTS_START)
    return cache(`${cacheText(device, known.order, known)}, its header ${lostHeaders[header.kind]}`);
  if (header.kind === "unreadable") throw refuse(device.name, "EIO", "sector 0 cannot be read", undefined);
  return undefined;
}

const lostHeaders = { blank: "is zero", foreign: "is damaged", unreadable: "cannot be read" } as const;

function cacheText(device: BlockDevice, order: number, identity: Identity | undefined): string {
  const slots =
    identity === undefined || identity.slots === 0 ? geometryOf(device.size, order).slots : identity.slots;
  const state = identity === undefined ? "" : identity.clean ? ", closed in order" : ", not closed in order";
  const dialect = identity?.dialect === "v2" ? ", v2" : "";
  return `writeboost cache, order ${order}, ${slots} slots${dialect}${state}`;
}

async function detectPlog(device: BlockDevice): Promise<Detected | undefined> {
  // A plog needs single sectors; a larger block tells that this is none.
  if (device.limits.logicalBlockSize !== 512) return undefined;
  const name = await findPlogIdentity(device);
  if (name === undefined) return detectRecords(device);
  const { order, plog } = name;
  const fit = Math.floor(device.size / plogSegmentSize(order));
  const retired = isRetired(name) ? ", of a cache that was given up: it counts as blank" : "";
  const text = `writeboost plog, order ${order}, ${fit} segments${retired}`;
  return { certainty: "magic", role: "plog", text, identity: plog };
}

async function detectRecords(device: BlockDevice): Promise<Detected | undefined> {
  const buffer = Buffer.alloc(512 + BLOCK);
  for (let order = MIN_ORDER; order <= MAX_ORDER; order += 1) {
    const size = plogSegmentSize(order);
    const fit = Math.floor(device.size / size);
    const bounds = { blocks: blocksPerSegment(order), backing: Number.MAX_SAFE_INTEGER };
    for (let segment = 0; segment < Math.min(fit, PLOG_SEGMENTS); segment += 1) {
      await device.read(segment * size, buffer);
      const record = decodeRecord(buffer, 0, bounds);
      if (record === undefined) continue;
      const text = `writeboost plog, records of segment ${record.id}`;
      // It had a name, or is of a cache that has none, which is what refuses then.
      return { certainty: "plausible", role: "plog", text, identity: "" };
    }
  }
  return undefined;
}
