/** Opening: finds the algorithms and the backing device, and starts an empty disk. */
import {
  type BlockDevice,
  type DeviceUse,
  type OpenContext,
  Bitmap,
  FORCE_WORD,
  filesOf,
  given,
  parseOptions,
  refuse,
  replacedFile,
  requireBlank,
} from "@dmkit/block-io";
import { Pages } from "../core/pages.ts";
import { type ZramRules, zramRules } from "../core/rules.ts";
import { PAGE } from "../core/size-classes.ts";
import { type Algorithms, closeAll } from "../device/algorithms.ts";
import { ZramDevice } from "../device/device.ts";
import { encodeBackingMark, isBackingMark } from "../format/backing.ts";
import { type ZramOptions, zramOptions, usesOf } from "../options.ts";
import { Snapshots } from "../device/snapshot/snapshots.ts";
import { openAlgorithms } from "./algorithms.ts";
import { type DictionaryReader, readDictionary } from "./dictionary.ts";

const MAX_PAGES = 2 ** 31;

/**
 * Opens a compressed RAM disk, from its snapshot if it has one. Errors: `EINVAL`, `EFORMAT`, `ENOMEM`, those of the
 * devices.
 */
export async function openZram(
  given: ZramOptions,
  context: OpenContext,
  rules: ZramRules = zramRules,
  read: DictionaryReader = readDictionary,
): Promise<ZramDevice> {
  // A table has been checked; a program has not.
  const options = parseOptions(zramOptions, given, "zram");
  const { name, size, environment } = context;
  const { pages, backing, withoutBacking, snapshots, readOnly, algorithms } = await prepare(
    options,
    context,
    read,
  );
  try {
    await snapshots?.erase();
    if (backing !== undefined) await claimBacking(backing, options.force);
    const blocks = backing && new Bitmap(Math.floor(backing.size / PAGE));
    // The mark.
    if (blocks !== undefined && blocks.length > 0) blocks.set(0);
    const store = new Pages(pages, blocks, rules);
    const limit = options.mem_limit === 0 ? Number.POSITIVE_INFINITY : options.mem_limit;
    const parts = {
      name,
      size,
      environment,
      pages: store,
      primary: algorithms[0].compressor,
      algorithms,
      backing,
      withoutBacking,
      snapshots,
      readOnly,
      limit: { pages: options.writeback_limit, isOn: options.writeback_limit_enable },
      policy: {
        recompress_after: options.recompress_after,
        writeback_after: options.writeback_after,
        writeback_daily: options.writeback_daily,
      },
      streams: options.max_comp_streams,
      compressedWriteback: options.compressed_writeback,
      rules,
    };
    const device = new ZramDevice(parts);
    // The limit is for writes: what a snapshot has comes back, however much that is.
    if (withoutBacking !== undefined) environment.logger.log("warn", `${name}: ${withoutBacking}`);
    const unread = await snapshots?.load(device, limit);
    store.slabs.limit = limit;
    if (unread === undefined || options.bad === "unreadable") {
      device.begin();
      return device;
    }
    const closed = new ZramDevice({ ...parts, readOnly: true, unread });
    const { why, help } = closed.health();
    environment.logger.log("warn", `${name}: ${why}. ${help}`);
    return closed;
  } catch (error) {
    await closeAll(algorithms);
    throw error;
  }
}

/** Opens a device again that has failed; where it cannot be given back it stays as it is. */
function reopening(
  first: BlockDevice,
  use: DeviceUse,
  { lower, release }: Pick<OpenContext, "lower" | "release">,
): () => Promise<BlockDevice> {
  let device: BlockDevice | undefined = first;
  const [before] = filesOf([first]).values();
  return async () => {
    if (release === undefined) return first;
    // That it cannot be flushed any more is known.
    if (device !== undefined) await release(device, use[2]).catch(() => {});
    device = undefined;
    device = await lower(...use);
    const [now] = filesOf([device]).values();
    if (now !== before) throw replacedFile(use[0]);
    return device;
  };
}

/** Throws what opening would throw, as far as it shows by reading little. */
export async function checkZram(options: ZramOptions, context: Needs): Promise<void> {
  const { algorithms } = await prepare(options, context, readDictionary);
  await closeAll(algorithms);
}

type Needs = Pick<OpenContext, "name" | "size" | "environment" | "lower" | "release">;

/** What the disk runs on. Nothing is written, nor erased, before everything is known to be right. */
interface Prepared {
  readonly pages: number;
  readonly backing: BlockDevice | undefined;
  readonly withoutBacking: string | undefined;
  readonly snapshots: Snapshots | undefined;
  readonly readOnly: boolean;
  readonly algorithms: Algorithms;
}

async function prepare(options: ZramOptions, context: Needs, read: DictionaryReader): Promise<Prepared> {
  const { name, size, lower } = context;
  const pages = Math.ceil(size / PAGE);
  if (pages > MAX_PAGES) {
    throw refuse(name, "EINVAL", `${size} bytes are more than ${MAX_PAGES * PAGE}`, "Use several devices.");
  }
  const uses = usesOf(options);
  const backing = uses.backing && (await lower(...uses.backing));
  const snapshot = uses.snapshot && (await lower(...uses.snapshot));
  const snapshots = snapshot && new Snapshots(snapshot, pages, reopening(snapshot, uses.snapshot, context));
  const algorithms = await openAlgorithms(options, context, read);
  try {
    await snapshots?.find({ diskSize: size, algorithms }, options.force);
    const readOnly = snapshot?.limits.capabilities.readOnly === true;
    const others = { pages, snapshots, readOnly, algorithms };
    if (backing === undefined || options.force) return { ...others, backing, withoutBacking: undefined };
    const claimed = await given(isClaimed(backing));
    if (claimed === false) await requireBlank(backing, { force: false });
    if (claimed !== undefined) return { ...others, backing, withoutBacking: undefined };
    const withoutBacking = `The first sector of ${backing.name} cannot be read, so nobody knows whose that is: no page goes there. If it was this disk's, give ${FORCE_WORD}, which writes that sector anew.`;
    return { ...others, backing: undefined, withoutBacking };
  } catch (error) {
    await closeAll(algorithms);
    throw error;
  }
}

/**
 * Pages of an earlier disk are of no use to anybody, but nobody can tell them from other data: so the first block says
 * what the others are.
 */
async function claimBacking(backing: BlockDevice, force: boolean): Promise<void> {
  if (isUseless(backing)) return;
  // One that a killed process has written may be in a volatile cache only: pages must not outlive it.
  const claimed = await given(isClaimed(backing));
  if (claimed === true) return backing.flush();
  // What cannot be read can be looked through when it was written.
  if (claimed === undefined) await backing.write(0, encodeBackingMark());
  if (force) await requireBlank(backing, { force });
  await backing.write(0, encodeBackingMark());
  await backing.flush();
}

/** Pages never go there. */
function isUseless({ size, limits }: BlockDevice): boolean {
  return size < PAGE || limits.capabilities.readOnly;
}

async function isClaimed(backing: BlockDevice): Promise<boolean> {
  if (isUseless(backing)) return true;
  const first = Buffer.alloc(backing.limits.logicalBlockSize);
  await backing.read(0, first);
  return isBackingMark(first);
}
