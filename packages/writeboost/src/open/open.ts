/** Opening: recovery or formatting, then a running device. Library callers and the target come through here. */
import {
  type BlockDevice,
  type Environment,
  MemoryOverlay,
  type SettingsTable,
  anyReadOnly,
  realEnvironment,
  refuse,
  requireRoom,
  checkSettings,
  setting,
  settingOf,
} from "@dmkit/block-io";
import { type Rules, rules as ours } from "../core/rules.ts";
import type { Archiving } from "../device/archive/segment-archive.ts";
import { WriteboostDevice } from "../device/device.ts";
import type { Dialect } from "../format/checksum.ts";
import { limitsOver, requireWholeBlocks } from "../device/limits.ts";
import { type Tunables, friendlyTunables, options as table, tunableSettings } from "../options.ts";
import type { Devices } from "../device/recovered.ts";
import { attachLog } from "./attach-log.ts";
import { beginToGrow, hasRoom, requireGrowable } from "./making/grow.ts";
import { recover, requireMakeable } from "./recovery.ts";
import { headerOf, readSuperblock } from "./superblock.ts";

/** How a cache is opened; a value that is out of its range is refused with `EINVAL` and the range. */
export interface OpenOptions {
  /** Default: `writeboost`. */
  readonly name?: string | undefined;
  /** Bytes; default: the whole backing device. */
  readonly size?: number | undefined;
  /** segment_size_order, 4 … 10. Default: the device's, 10 for a new one. */
  readonly order?: number | undefined;
  /** nr_rambuf_pool, 1 … 2048. Default 8. */
  readonly pool?: number | undefined;
  /** Default: the device's, classic for a new one. */
  readonly dialect?: Dialect | undefined;
  /** Format a cache or plog device that is not blank, and cache a device that is a cache itself. Default false. */
  readonly force?: boolean | undefined;
  /** A cache device that was made larger since is used to its end: once everything is written back, with an empty ring. */
  readonly grow?: boolean | undefined;
  /** Ranges: {@link options}. Those that are left out have the defaults of {@link defaultTunables}. */
  readonly tunables?: Partial<Tunables> | undefined;
  /** Where the log goes besides the cache device. `none`: nowhere any more, and what was archived ends here. */
  readonly archive?: Archiving | "none" | undefined;
  readonly environment?: Environment | undefined;
  /** Called while slots are read during recovery. */
  readonly progress?: ((done: number, of: number, what?: string) => void) | undefined;
}

/** What each takes: a number or a word as the option of a table has it, of which the name is another. */
const openSettings: SettingsTable<OpenOptions> = {
  name: setting.anyText,
  size: setting.integer(1, Number.MAX_SAFE_INTEGER),
  order: settingOf(table.segment_size_order),
  pool: settingOf(table.nr_rambuf_pool),
  dialect: settingOf(table.dialect),
  force: setting.flag,
  grow: setting.flag,
  tunables: setting.within(tunableSettings),
  archive: setting.either(setting.object, setting.choice("none")),
  environment: setting.environment,
  progress: setting.call,
};

/**
 * Opens a cache over `devices`, which stay the caller's to close. A blank cache device is formatted; one that holds a
 * cache is recovered; any other is refused, unless `force` is given. Where one of the devices is read-only so is the
 * cache: what recovery has to change is changed in memory, and nothing is written anywhere. Throws `EFORMAT` (unknown,
 * damaged or foreign content; nothing written), `EROFS` (a cache would have to be made first),
 * `EINVAL` (sizes; another order or dialect than the device has), or what the devices throw.
 */
export function openWriteboost(devices: Devices, options: OpenOptions = {}): Promise<WriteboostDevice> {
  return openWith(devices, options, ours);
}

/**
 * As {@link openWriteboost}, by other rules than ours: for tests.
 * @param addsNothing the log stays as it is, so that an archive it has need not be told: for who only writes back.
 */
export async function openWith(
  devices: Devices,
  options: OpenOptions,
  rules: Rules,
  addsNothing = false,
): Promise<WriteboostDevice> {
  checkSettings(openSettings, options);
  const environment = options.environment ?? realEnvironment;
  const { size, pool } = requireSuitable(devices, options);
  const { backing, cache, plog } = devices;
  const readOnly = anyReadOnly([backing, cache, plog]);
  if (options.grow) requireGrowable(cache, options.archive !== undefined && options.archive !== "none");
  const archiving = readOnly ? undefined : options.archive;
  const below = readOnly ? await inMemory(devices) : devices;
  const recovered = await recover(
    below,
    {
      order: options.order,
      dialect: options.dialect,
      pool,
      size,
      force: options.force === true,
      archived: readOnly || addsNothing || options.archive !== undefined,
      progress: options.progress,
    },
    environment,
    rules,
  );
  const attached =
    archiving &&
    (await attachLog(below, recovered, archiving, {
      size,
      environment,
      name: cache.name,
      progress: options.progress,
    }));
  try {
    const device = new WriteboostDevice(below, attached?.recovered ?? recovered, {
      name: options.name ?? "writeboost",
      archive: attached?.archive,
      size,
      pool,
      tunables: options.tunables ?? {},
      environment,
      readOnly,
      rules,
    });
    await device.start(recovered.split);
    if (recovered.split.length > 0) {
      await device.flush();
      await recovered.introduce();
      await below.cache.flush();
    }
    if (options.grow !== true || readOnly || !hasRoom(cache, recovered)) return device;
    await beginToGrow(device, cache, recovered, rules);
    return await openWith(devices, { ...options, grow: false }, rules);
  } catch (error) {
    await attached?.archive?.to.close();
    throw error;
  }
}

/** Throws what opening would throw, as far as it shows in the options and in the first sectors. */
export async function checkWriteboost(devices: Devices, options: OpenOptions): Promise<void> {
  const { pool } = requireSuitable(devices, options);
  const { order, dialect, force = false } = options;
  const { cache } = devices;
  if (anyReadOnly(Object.values(devices))) return;
  const superblock = await readSuperblock(cache);
  if (superblock.header.kind === "growing" || headerOf(cache, superblock) !== "none") return;
  await requireMakeable(devices, { order, dialect, pool, force });
}

/** Throws `EINVAL` for options, or devices, that go together with nothing. */
function requireSuitable(
  devices: Devices,
  { size = devices.backing.size, pool = table.nr_rambuf_pool.default }: OpenOptions,
): { readonly size: number; readonly pool: number } {
  const { backing, cache, plog } = devices;
  requireRoom(backing, 0, size);
  requireWholeBlocks(size, cache, limitsOver(devices));
  if (cache === backing || plog === backing || plog === cache) {
    const reason = "backing, cache and plog must be different devices";
    throw refuse(cache.name, "EINVAL", reason, "Give each of them its own device.");
  }
  return { size, pool };
}

/** What recovery writes stays in memory. Throws `EROFS` for a cache that would have to be made first. */
async function inMemory({ backing, cache, plog }: Devices): Promise<Devices> {
  if (headerOf(cache, await readSuperblock(cache)) === "none") {
    const reason = "there is no cache on the device, and none can be made read-only";
    const hint = backing.limits.capabilities.readOnly
      ? "The backing device can only be read: use it without a cache."
      : "Open it for writing once, or read the backing device by itself.";
    throw refuse(cache.name, "EROFS", reason, hint);
  }
  return {
    backing: new MemoryOverlay(backing),
    cache: new MemoryOverlay(cache),
    plog: plog && new MemoryOverlay(plog),
  };
}

/**
 * A cache over two devices with dmkit's friendlier defaults: writeback on when the backing device is idle,
 * everything durable after a second, a superblock record every five. Creates it if the cache device is blank.
 */
export async function openEmbedded(
  backing: BlockDevice,
  cache: BlockDevice,
  options: Omit<OpenOptions, "progress"> = {},
): Promise<WriteboostDevice> {
  checkSettings(openSettings, options);
  const { tunables = {} } = options;
  return await openWriteboost(
    { backing, cache, plog: undefined },
    { ...options, tunables: { ...friendlyTunables(tunables), ...tunables } },
  );
}
