/**
 * Giving up a segment that cannot be read, or is damaged, and stops the ring. Its newest blocks go into the log again, as
 * the cache device gives them, with zeroes for sectors that it does not give. That supersedes it, as if a client had
 * written them, and is durable before its slot is used: so nothing else has to know of it, after a crash neither. A sector
 * that heals later is not looked at again, which is why somebody has to say the word.
 */
import {
  type BlockDevice,
  BlockIoError,
  ByteAccess,
  type Logger,
  SECTOR,
  readTwice,
  refuse,
} from "@dmkit/block-io";
import type { Entry } from "../../core/writeback-plan.ts";
import { BLOCK, slotOf, slotStart } from "../../format/geometry.ts";
import { dataStart, segmentSize } from "../../format/segment.ts";
import { readDurable } from "../log/read-slot.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import type { Parts } from "../parts.ts";
import { archivedError } from "../refusals.ts";
import type { Writeback } from "./writeback.ts";

/**
 * Gives up segment `id`; answers in words with what is lost. Throws `EINVAL` unless it is what is in the way, and cannot be
 * read; also with an archive, which would lack the segment; `EIO` of the backing device where that has the rest of a block.
 */
export async function giveUp(
  { log, backing, shipper }: Parts,
  writeback: Writeback,
  id: number,
  logger: Logger,
): Promise<string> {
  if (shipper !== undefined) throw archivedError(log.cache.name);
  const done = await writeback.between(async () => {
    log.check();
    const stopsAt = log.lastWriteback + 1;
    const length = log.map.lengths[slotOf(log.geometry, id)] ?? 0;
    const error =
      id === stopsAt && id <= log.durable
        ? await readDurable(log, id, Buffer.alloc(segmentSize(length)))
        : undefined;
    if (error === undefined) throw notInTheWay(log, id);
    const { entries, lost } = await salvage(log, backing, id);
    const isBelow = async (): Promise<boolean> => false;
    await writeback.bad.logAgain({ refused: entries, error, isBelow }, () => {});
    const sectors = runsOf(lost);
    logger.log("error", "a segment of the log was given up", { error: error.message, lost: sectors });
    const rest = `${entries.length} blocks are as the cache device gives them`;
    return lost.length === 0 ? rest : `${rest}, but for ${lost.length} sectors that are zero now: ${sectors}`;
  });
  await writeback.reach(id);
  return `segment ${id} is given up: ${done}`;
}

function notInTheWay(log: SegmentLog, id: number): BlockIoError {
  const reason = `segment ${id} is not one that writing back stops at, or it can be read`;
  const hint = "Send drop_caches: the error names the segment.";
  return refuse(log.cache.name, "EINVAL", reason, hint, "message");
}

/** Sectors as text, at most twenty runs of them: the log and an answer have room for so much. */
function runsOf(sectors: readonly number[]): string {
  const runs: [number, number][] = [];
  for (const sector of [...sectors].sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last !== undefined && last[1] + 1 === sector) last[1] = sector;
    else runs.push([sector, sector]);
  }
  const texts = runs.slice(0, 20).map(([from, to]) => (from === to ? `${from}` : `${from}-${to}`));
  return texts.join(", ") + (runs.length > 20 ? " …" : "");
}

/** What only segment `id` has, and sectors of the disk of which nobody has it. */
async function salvage(
  { map, geometry, cache }: SegmentLog,
  backing: BlockDevice,
  id: number,
): Promise<{ entries: Entry[]; lost: number[] }> {
  const access = new ByteAccess(backing);
  const slot = slotOf(geometry, id);
  const entries: Entry[] = [];
  const lost: number[] = [];
  for (let at = 0; at < (map.lengths[slot] as number); at += 1) {
    const index = slot * map.blocks + at;
    const block = map.keys[index] as number;
    const [bits, dirty] = [map.valid[index] as number, map.dirty[index] as number];
    if (dirty === 0 || map.find(block) !== index) continue;
    const data = Buffer.alloc(BLOCK);
    for (const sector of await readTwice(cache, slotStart(geometry, slot) + dataStart(at), data)) {
      const within = sector * SECTOR;
      if (((dirty >> sector) & 1) === 1) lost.push((block * BLOCK + within) / SECTOR);
      else if (((bits >> sector) & 1) === 1)
        await access.read(block * BLOCK + within, data.subarray(within, within + SECTOR));
    }
    entries.push({ block, id, index, bits, data });
  }
  return { entries, lost };
}
