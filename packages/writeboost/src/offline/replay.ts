/**
 * Offline: applies the log to the backing device, sorted by address, and marks it clean; optionally only up to
 * a segment. It can be interrupted at any time: what was done stays done, and the next replay goes on.
 */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  SECTOR,
  type SettingsTable,
  isOfPlace,
  readWhatIsGiven,
  realEnvironment,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import { rules } from "../core/rules.ts";
import { IDENTITY_START, encodeIdentity } from "../format/identity.ts";
import { openWith } from "../open/open.ts";
import { options as tableOptions } from "../options.ts";
import { requirePair, requirePairForView } from "../open/pairing.ts";
import { type ScannedLog, scan } from "../open/scan.ts";
import { readSuperblock } from "../open/superblock.ts";
import { refuseWhole } from "./slice.ts";
import { firstShown, openAt } from "../open/view.ts";

/** How a log is brought to the backing device without a running cache. */
export interface ReplayOptions {
  /** The plog of type 1; without it what only it has is refused. */
  readonly plog?: BlockDevice | undefined;
  /** Stop applying after this segment; everything later is given up. Default: the end of the log. */
  readonly until?: number | undefined;
  /** Ends it between segments; it can be run again. */
  readonly signal?: AbortSignal | undefined;
  /** Called with the segment that is applied, and the last one to be. */
  readonly progress?: ((doneId: number, targetId: number) => void) | undefined;
  readonly environment?: Environment | undefined;
}

const replaySettings: SettingsTable<ReplayOptions> = {
  ...workSettings,
  plog: setting.device,
  until: setting.integer(0, Number.MAX_SAFE_INTEGER),
};

const CHUNK = 1024 * 1024;

/**
 * Throws what opening and writing back throw, and the signal's reason; where a segment is damaged, the hint says up
 * to which one there is a whole state. Devices that do not belong together are refused (`EFORMAT`) before anything
 * else is found out, and that is all they are told. Resolves with the last id applied.
 */
export async function replay(
  cache: BlockDevice,
  backing: BlockDevice,
  options: ReplayOptions = {},
): Promise<number> {
  const { plog, until } = checkSettings(replaySettings, options);
  const { identity } = await readSuperblock(cache);
  // What the plog has comes after all that can be told apart: up to a segment it is not needed.
  await (until === undefined ? requirePair : requirePairForView)(identity, { cache, backing, plog });
  await refuseWhole(cache, backing, identity, options);
  if (until !== undefined) return replayUntil(cache, backing, until, options);
  // What is mapped: a device that has grown is as large as it was to the cache.
  const size = typeof identity === "object" ? identity.backingSize : backing.size;
  try {
    return await replayAll(cache, backing, size, options);
  } catch (error) {
    throw await namingLastGood(error, cache, backing, options);
  }
}

async function replayAll(
  cache: BlockDevice,
  backing: BlockDevice,
  size: number,
  { plog, signal, progress, environment = realEnvironment }: ReplayOptions,
): Promise<number> {
  const tunables = { nr_max_batched_writeback: tableOptions.nr_max_batched_writeback.max };
  const device = await openWith({ backing, cache, plog }, { environment, size, tunables }, rules, true);
  try {
    await device.dropCaches({
      inOrder: true,
      ...(signal === undefined ? {} : { signal }),
      progress: ({ lastWritebackId, targetId }) => progress?.(lastWritebackId, targetId),
    });
    return device.statusData.lastWritebackId;
  } finally {
    await device.close();
  }
}

/** An error of replaying all; where that is for a damaged segment the hint names the last one before it. */
async function namingLastGood(
  error: unknown,
  cache: BlockDevice,
  backing: BlockDevice,
  { signal, environment }: ReplayOptions,
): Promise<unknown> {
  if (!(error instanceof BlockIoError) || (error.code !== "EIO" && error.code !== "EFORMAT")) return error;
  const found = await scan(cache, backing.size, { thorough: true, signal, environment }).catch(
    () => undefined,
  );
  const good = found === undefined ? undefined : lastGood(found);
  if (good === undefined) return error;
  const until = `Replay what came before the damage, up to segment ${good}, with: --until ${good}`;
  return new BlockIoError(error.reason, {
    code: error.code,
    device: error.device,
    op: error.op,
    offset: error.offset,
    length: error.length,
    cause: error,
    hint: error.hint === undefined ? until : `${error.hint} ${until}`,
  });
}

/** The last segment before the first damage, if everything dirty up to there is in the log, and is anything. */
function lastGood(found: ScannedLog): number | undefined {
  const { damage, rotten, ids, first, last, record, lastWriteback, identity, problems } = found;
  // Blocks behind the end of the device, in a log that knows of no device: it may well be the wrong one.
  const strange = problems.some(({ problem }) => problem === "sector");
  if (typeof identity !== "object" && strange) return undefined;
  const bad = rotten.map((slot) => ids[slot] as number).filter((id) => id > lastWriteback && id <= last);
  if ((damage === undefined && bad.length === 0) || found.gap?.isKnown === false) return undefined;
  // After an orderly close even the oldest must be there; after a crash the log begins where it can.
  const closed = typeof identity === "object" && identity.clean;
  if (closed && first > Math.max(record, identity.lastId - ids.length) + 1) return undefined;
  const good = Math.min(last, ...bad.map((id) => id - 1));
  // Written back need not be enough: blocks of which there are newer copies are left out.
  return good > 0 && good >= firstShown(found) ? good : undefined;
}

/**
 * Writes the device as it was at segment `until` over the backing device: only what differs. What that does not give is
 * written where the log has it, and left alone elsewhere. What the cache device does not give is left alone as well, and
 * its error thrown at the end. The log is not changed, so a whole replay afterwards goes forward again.
 */
async function replayUntil(
  cache: BlockDevice,
  backing: BlockDevice,
  until: number,
  { signal, progress }: ReplayOptions,
): Promise<number> {
  const view = await openAt({ backing, cache }, until);
  await forgetWitness(cache);
  const wanted = Buffer.allocUnsafe(CHUNK);
  const present = Buffer.allocUnsafe(CHUNK);
  let failure: BlockIoError | undefined;
  for (let at = 0; at < view.size; at += CHUNK) {
    if (signal?.aborted === true) {
      throw new BlockIoError("replay was interrupted", { code: "ESHUTDOWN", device: cache.name });
    }
    const length = Math.min(CHUNK, view.size - at);
    const [there, here] = [wanted.subarray(0, length), present.subarray(0, length)];
    const unknown = await readWhatIsGiven(view, at, there);
    const missing = await readWhatIsGiven(backing, at, here);
    if (unknown.size + missing.size > 0)
      failure = (await writeBlocks(view, { cache, backing }, at, there, here, unknown, missing)) ?? failure;
    else if (!there.equals(here)) await backing.write(at, there);
    progress?.(at + length, view.size);
  }
  await backing.flush();
  if (failure !== undefined) throw failure;
  return until;
}

/**
 * Writes what differs, block by block. `unknown` sectors of the view are tried once more, and left as they are if that
 * fails; `missing` ones of the backing device are written where the log has them. Returns the error of the view where the
 * log is to blame.
 */
async function writeBlocks(
  view: BlockDevice,
  { cache, backing }: { readonly cache: BlockDevice; readonly backing: BlockDevice },
  at: number,
  wanted: Buffer,
  present: Buffer,
  unknown: ReadonlySet<number>,
  missing: ReadonlySet<number>,
): Promise<BlockIoError | undefined> {
  let failure: BlockIoError | undefined;
  const block = backing.limits.logicalBlockSize;
  for (let from = 0; from < wanted.length; from += block) {
    const [sector, end] = [from / SECTOR, from + block];
    const isMissing = missing.has(sector);
    const piece = wanted.subarray(from, end);
    if (unknown.has(sector)) {
      const error = await view.read(at + from, piece).catch((thrown: unknown) => thrown);
      if (error !== undefined && !isOfPlace(error)) throw error;
      if (error !== undefined) {
        // What the backing device gives neither to the view nor to us is no matter of the log.
        if (!isMissing || error.device === cache.name) failure ??= error;
        continue;
      }
    }
    if (isMissing || !piece.equals(present.subarray(from, end))) await backing.write(at + from, piece);
  }
  return failure;
}

/** The backing device is about to change: its witness in the identity record does not count any more. */
async function forgetWitness(cache: BlockDevice): Promise<void> {
  const { identity } = await readSuperblock(cache);
  if (typeof identity !== "object" || !identity.clean) return;
  await cache.write(IDENTITY_START, encodeIdentity({ ...identity, clean: false }));
  await cache.flush();
}
