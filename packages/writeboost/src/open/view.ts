/**
 * The device as it was when segment `id` had been written: read-only, over cache and backing device that
 * nobody serves meanwhile. Neither is written to; a plog is not looked at.
 *
 * It is exact for ids from the last one written back to the end of the log. Before that the backing device
 * has newer contents already, so such ids are refused. How far writeback had come is known from the superblock
 * record, which is exact after a clean close and may be behind after a crash.
 */
import {
  type BlockDevice,
  GuardedDevice,
  type SettingsTable,
  done,
  refuse,
  withCapabilities,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { Statistics } from "../core/statistics.ts";
import { type Dialect, dialects } from "../format/checksum.ts";
import { ReadPath } from "../device/request/read-path.ts";
import { requirePairForView } from "./pairing.ts";
import { type ScannedLog, adoptLog, scan } from "./scan.ts";
import { requireKnown } from "./unreadable.ts";
import { SegmentLog } from "../device/log/segment-log.ts";

/** How the contents at an earlier segment are looked at. */
export interface ViewOptions {
  /** Default: the device's. */
  readonly dialect?: Dialect | undefined;
  /** Of the device that shows them, in its errors. */
  readonly name?: string | undefined;
}

const viewSettings: SettingsTable<ViewOptions> = {
  dialect: setting.choice(...dialects),
  name: setting.anyText,
};

/** What {@link openAt} can show. */
export interface ViewRange {
  readonly firstId: number;
  readonly lastId: number;
}

/** The ids that can be viewed, none if the first is the greater one; 0 is the backing device without the cache. Throws `EFORMAT`, also for a wrong pair. */
export async function viewRange(
  devices: { readonly backing: BlockDevice; readonly cache: BlockDevice },
  options: ViewOptions = {},
): Promise<ViewRange> {
  const { dialect } = checkSettings(viewSettings, options);
  const found = await scan(devices.cache, devices.backing.size, { dialect });
  await requirePairForView(found.identity, devices);
  return { firstId: firstShown(found), lastId: found.last };
}

/** Before that the backing device has newer contents, even where nothing is left of the segments they were in. */
export function firstShown({ lastWriteback, record }: ScannedLog): number {
  return Math.max(lastWriteback, record);
}

/**
 * Throws `EINVAL` with the range for an id that cannot be shown, `EFORMAT` for what is no cache device, and for devices
 * that do not belong together.
 */
export async function openAt(
  devices: { readonly backing: BlockDevice; readonly cache: BlockDevice },
  id: number,
  options: ViewOptions = {},
): Promise<BlockDevice> {
  const { dialect } = checkSettings(viewSettings, options);
  const { backing, cache } = devices;
  const found = await scan(cache, backing.size, { dialect });
  await requirePairForView(found.identity, { cache, backing });
  const first = firstShown(found);
  if (!Number.isInteger(id) || id < first || id > found.last) {
    const hint =
      first > found.last
        ? `None can: the log ends at segment ${found.last}, and all up to ${first} are on the backing device already.`
        : `Segments ${first} … ${found.last} can: older ones are on the backing device already.`;
    throw refuse(cache.name, "EINVAL", `segment ${id} cannot be shown`, hint);
  }
  requireKnown(cache, found);
  const { gap } = found;
  // What may not have been written back counts as well, so that nothing older is shown in its place.
  const split =
    gap === undefined
      ? adoptLog(found, found.first, id, found.lastWriteback)
      : adoptLog(found, gap.from, id, gap.from - 1);
  if (split.length > 0) {
    const reason = `${split.length} blocks are spread over several segments`;
    const hint =
      "The log was written by an old driver. Open the device once as a writeboost target: that merges them.";
    throw refuse(cache.name, "ENOTSUP", reason, hint);
  }
  const log = new SegmentLog(cache, { ...found, last: id }, 1);
  return new View(options.name ?? `${cache.name}@${id}`, log, backing, gap?.doubtful ?? new Set());
}

class View extends GuardedDevice {
  readonly #reads: ReadPath;

  constructor(name: string, log: SegmentLog, backing: BlockDevice, doubtful: ReadonlySet<number>) {
    const limits = withCapabilities(backing.limits, {
      readOnly: true,
      fua: "emulated",
      discard: "none",
      discardZeroes: false,
      writeZeroes: "none",
      fastZero: false,
      extents: false,
    });
    super(name, backing.size, limits);
    const statistics = new Statistics();
    const size = backing.size;
    this.#reads = new ReadPath(
      { log, backing, plog: undefined, shipper: undefined, statistics, size },
      doubtful,
    );
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#reads.read(offset, into);
  }

  protected override doWrite(): Promise<void> {
    return done;
  }

  protected override doFlush(): Promise<void> {
    return done;
  }
}
