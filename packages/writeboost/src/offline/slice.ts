/**
 * Whether a disk is given in the place of the slice of it that a cache was over. A cache that was not closed in order says of its
 * backing device how long it was, and nothing of what is on it; so a longer one may be it, grown or not all of it mapped. What
 * can tell is looked at here, before anything is written:
 *
 * - what the log has of blocks that were written back, and nothing newer of, is on the backing device as well: where some of
 *   it is found in its place the device is the right one; where there are several and none is, it is not;
 * - a partition in which that is found, or, where the log has none of it, one that is as long as the cache needs it.
 */
import {
  type BlockDevice,
  type Environment,
  given,
  isZero,
  partitionsOf,
  refuse,
  shellQuote,
} from "@dmkit/block-io";
import { BLOCK, SECTORS_PER_BLOCK, slotOf, slotStart } from "../format/geometry.ts";
import type { StoredIdentity } from "../format/identity.ts";
import { adoptLog, scan } from "../open/scan.ts";

/** Blocks that are compared at most, and that have to differ for a device to be another one. */
const MOST = 64;
const LEAST = 4;

interface Work {
  readonly signal?: AbortSignal | undefined;
  readonly environment?: Environment | undefined;
}

interface Sample {
  /** Byte on the backing device. */
  readonly offset: number;
  /** Sectors that count. */
  readonly valid: number;
  readonly data: Buffer;
}

/** Throws `EFORMAT` where the cache was over a slice of what is given; what cannot be read tells nothing. */
export async function refuseWhole(
  cache: BlockDevice,
  backing: BlockDevice,
  identity: StoredIdentity,
  { signal, environment }: Work,
): Promise<void> {
  if (typeof identity !== "object" || identity.clean || identity.through === true) return;
  const { backingSize } = identity;
  if (backing.size <= backingSize) return;
  const samples = await samplesOf(cache, backingSize, { signal, environment });
  if (await hasAny(backing, 0, samples)) return;
  const partitions = (await partitionsOf(backing).catch(() => undefined)) ?? [];
  const fitting = partitions.filter(({ length }) => length >= backingSize);
  for (const { number, offset } of fitting)
    if (await hasAny(backing, offset, samples)) throw wrong(cache, backing, backingSize, number);
  if (samples.length >= LEAST) throw wrong(cache, backing, backingSize, undefined);
  const same = fitting.find(({ length }) => length === backingSize);
  if (same !== undefined) throw wrong(cache, backing, backingSize, same.number);
}

function wrong(
  cache: BlockDevice,
  { name, size }: BlockDevice,
  backingSize: number,
  partition: number | undefined,
): Error {
  const isPath = !name.includes("?") && !name.includes("://");
  const slice = `losetup -o OFFSET --sizelimit ${backingSize} ${shellQuote(name)}`;
  const hint =
    partition === undefined
      ? `If the cache was over a slice of it, give that: ${slice}. Is it the right one, and its first ${backingSize} bytes are what the cache was over, OFFSET is 0.`
      : `Give that partition: ${isPath ? shellQuote(`${name}?partition=${partition}`) : `number ${partition} of it`}. Was the cache over the first ${backingSize} bytes of the disk itself, give those, as ${slice} with OFFSET 0.`;
  const reason = `the cache ${cache.name} was over a device of ${backingSize} bytes, and this one has ${size}: ${
    partition === undefined
      ? "nothing that the cache has written back is on it"
      : `it looks like the disk of whose partition ${partition} that was`
  }`;
  return refuse(name, "EFORMAT", reason, `${hint} Nothing has been written.`);
}

/** Some of what the log has of blocks that are on the backing device, as far as they say anything. */
async function samplesOf(cache: BlockDevice, backingSize: number, options: Work): Promise<Sample[]> {
  // What is wrong with the log is told by whoever reads it next.
  const found = await scan(cache, backingSize, options).catch((): undefined => undefined);
  options.signal?.throwIfAborted();
  if (found === undefined || found.damage !== undefined || found.gap !== undefined) return [];
  const { map, geometry, first, last, lastWriteback } = found;
  adoptLog(found, first, last, lastWriteback);
  const indexes: number[] = [];
  for (let id = first; id <= lastWriteback; id += 1) {
    const start = slotOf(geometry, id) * map.blocks;
    for (let index = start; index < start + map.blocks; index += 1)
      if (map.valid[index] !== 0 && map.find(map.keys[index] as number) === index) indexes.push(index);
  }
  const samples: Sample[] = [];
  const step = Math.max(1, Math.floor(indexes.length / MOST));
  for (let at = 0; at < indexes.length && samples.length < MOST; at += step) {
    const index = indexes[at] as number;
    const data = Buffer.alloc(BLOCK);
    const from = slotStart(geometry, Math.floor(index / map.blocks)) + BLOCK * (1 + (index % map.blocks));
    const isRead = await given(cache.read(from, data).then(() => true));
    const sample = { offset: (map.keys[index] as number) * BLOCK, valid: map.valid[index] as number, data };
    if (
      isRead === true &&
      sectorsOf(sample).some((sector) => !isZero(data, sector * 512, sector * 512 + 512))
    )
      samples.push(sample);
  }
  return samples;
}

/** Whether any of them is on the device, `start` bytes behind its place. */
async function hasAny(device: BlockDevice, start: number, samples: readonly Sample[]): Promise<boolean> {
  const there = Buffer.alloc(BLOCK);
  for (const sample of samples) {
    if (start + sample.offset + BLOCK > device.size) continue;
    if ((await given(device.read(start + sample.offset, there).then(() => true))) !== true) continue;
    const { data } = sample;
    const isSame = (sector: number): boolean =>
      data.compare(there, sector * 512, sector * 512 + 512, sector * 512, sector * 512 + 512) === 0;
    if (sectorsOf(sample).every(isSame)) return true;
  }
  return false;
}

function sectorsOf({ valid }: Sample): number[] {
  return Array.from({ length: SECTORS_PER_BLOCK }, (_, sector) => sector).filter(
    (sector) => ((valid >> sector) & 1) === 1,
  );
}
