/**
 * The declaration of the target, and its table syntax:
 *
 *      <type> <backing> <cache> [<plog>] <#optional> <optional…> <#tunables> <tunables…>
 *
 * and, for people who come from later drivers, `<backing> <cache> [<#args> <key> <value>…]`.
 */
import {
  type BlockIoError,
  type DeviceUse,
  type OpenContext,
  type TableArguments,
  type Target,
  parseOptions,
  refuse,
  restOf,
  tunableNamed,
} from "@dmkit/block-io";
import type { Archiving, LocalLog, SegmentArchive } from "./device/archive/segment-archive.ts";
import type { WriteboostDevice } from "./device/device.ts";
import { writeboostControls } from "./device/control/messages.ts";
import type { Devices } from "./device/recovered.ts";
import type { OpenOptions } from "./open/open.ts";
import {
  type TunableName,
  type Tunables,
  NO_ARCHIVE,
  type WriteboostOptions,
  friendlyTunables,
  options,
  tunableNames,
  writeboostTunables,
} from "./options.ts";

type Settings = { -readonly [Key in keyof WriteboostOptions]: WriteboostOptions[Key] };

const optionalNames = [
  "segment_size_order",
  "nr_rambuf_pool",
  "dialect",
  "force",
  "grow_cache",
  "archive",
  "archive_flush",
  "ship_interval",
] as const;

// Names of the later drivers' arguments; those that are left out here have no counterpart.
const laterNames: Readonly<Record<string, TunableName>> = {
  writeback_threshold: "writeback_threshold",
  nr_max_batched_writeback: "nr_max_batched_writeback",
  update_sb_record_interval: "update_record_interval",
  sync_data_interval: "sync_interval",
  read_cache_threshold: "read_cache_threshold",
  write_around_mode: "write_around_mode",
};

function blank(backing: string, cache: string): Settings {
  const nothing = Object.fromEntries(Object.keys(options).map((name) => [name, undefined]));
  return {
    ...(nothing as { [Key in keyof WriteboostOptions]: undefined }),
    type: 0,
    backing,
    cache,
    nr_rambuf_pool: options.nr_rambuf_pool.default,
    force: options.force.default,
    grow_cache: options.grow_cache.default,
  };
}

function parse(args: TableArguments): WriteboostOptions {
  const first = args.peek();
  if (first !== undefined && !/^\d+$/.test(first)) return parseLater(args);
  const type = args.number("type", options.type);
  const settings = blank(args.text("backing", options.backing), args.text("cache", options.cache));
  settings.type = type;
  if (type === 1) settings.plog = args.text("plog", options.plog);
  const optional = args.counted("optional arguments");
  while (optional.remaining > 0) {
    const word = optional.word("name of an optional argument").toLowerCase();
    const name = optionalNames.find((known) => known === word);
    if (name === undefined) throw unknown("optional argument", word, optionalNames);
    if (name === "dialect") settings.dialect = optional.option(name, options.dialect) as "classic" | "v2";
    else if (name === "force" || name === "grow_cache")
      settings[name] = optional.option(name, options[name]) as boolean;
    else if (name === "archive") settings[name] = optional.text(name, options[name]);
    else if (name === "archive_flush")
      settings[name] = optional.option(name, options[name]) as "local" | "remote";
    else settings[name] = optional.number(name, options[name]);
  }
  const tunables = args.counted("tunables");
  while (tunables.remaining > 0) {
    const word = tunables.word("name of a tunable");
    const name = tunableNamed(writeboostTunables, word) as TunableName | undefined;
    if (name === undefined) throw unknown("tunable", word, tunableNames);
    settings[name] = tunables.number(name, options[name]);
  }
  return settings;
}

/** `<backing> <cache> [<#args> <key> <value>…]`; the cache device is of the v2 dialect. */
function parseLater(args: TableArguments): WriteboostOptions {
  const settings = blank(args.text("backing", options.backing), args.text("cache", options.cache));
  settings.dialect = "v2";
  const given = args.counted("arguments");
  while (given.remaining > 0) {
    const word = given.word("name of an argument").toLowerCase();
    if (word === "nr_read_cache_cells") {
      given.number(word, { type: "integer", min: 1, max: 2048, help: word });
      continue;
    }
    const name = Object.hasOwn(laterNames, word) ? laterNames[word] : undefined;
    if (name === undefined) throw unknown("argument", word, Object.keys(laterNames));
    settings[name] = given.number(name, options[name]);
  }
  // There, a threshold above 0 is all it takes to have writeback modulated.
  if ((settings.writeback_threshold ?? 0) > 0) settings.enable_writeback_modulator = 1;
  return settings;
}

function print(settings: WriteboostOptions): readonly string[] {
  const optional = optionalNames.flatMap((name) => {
    const value = settings[name];
    if (typeof value === "boolean") return value ? [name, "1"] : [];
    return value === undefined ? [] : [name, String(value)];
  });
  const tunables = tunableNames.flatMap((name) => {
    const value = settings[name];
    return value === undefined ? [] : [name, String(value)];
  });
  return [
    String(settings.type),
    settings.backing,
    settings.cache,
    ...(settings.plog === undefined ? [] : [settings.plog]),
    String(optional.length),
    ...optional,
    ...(tunables.length === 0 ? [] : [String(tunables.length), ...tunables]),
  ];
}

function unknown(what: string, word: string, known: readonly string[]): BlockIoError {
  return refuse(undefined, "EPARSE", `there is no ${what} "${word}"`, `Known: ${known.join(", ")}.`, "parse");
}

function tunablesOf(settings: Partial<WriteboostOptions>): Partial<Tunables> {
  const tunables: Partial<Tunables> = {};
  for (const name of tunableNames) {
    const value = settings[name];
    if (value !== undefined) tunables[name] = value;
  }
  return tunables;
}

interface Uses {
  readonly backing: DeviceUse;
  readonly cache: DeviceUse;
  readonly plog: DeviceUse | undefined;
}

function usesOf({ backing, cache, plog }: WriteboostOptions, size: number): Uses {
  return {
    backing: [backing, "owns", { offset: 0, length: size }],
    cache: [cache, "owns"],
    plog: plog === undefined ? undefined : [plog, "owns"],
  };
}

/** Attaches a cache to the archive at a location, STORE/DISK. */
export type OpenArchive = (location: string, local: LocalLog) => Promise<SegmentArchive>;

/** The target with archives: `open` is asked for one when the option says where. */
export function writeboostWith(open: OpenArchive): Target<WriteboostOptions> {
  return {
    ...writeboost,
    async open(given, context): Promise<WriteboostDevice> {
      return openTarget(given, context, open);
    },
  };
}

/**
 * The target `writeboost`: a log on a fast device in front of a slow one. It owns its cache and plog devices, and a cache
 * device that is blank is formatted. Errors of opening: those of
 * {@link openWriteboost}; `ENOTSUP` where an archive is asked for, see {@link writeboostWith}.
 */
export const writeboost: Target<WriteboostOptions> = {
  name: "writeboost",
  version: [1, 0, 0],
  summary: "log-structured write cache: random writes become sequential ones on a fast device",
  synopsis: "<type> <backing> <cache> [<plog>] [<#optional> <optional…> [<#tunables> <tunables…>]]",
  options,
  ...writeboostControls,
  image: async () => (await import("./image.ts")).writeboostImages,
  stack: {
    defaults: (given) => ({ type: given["plog"] === undefined ? 0 : 1, ...friendlyTunables(given) }),
    conflict: ({ type, plog }) =>
      (type === 1) === (plog !== undefined)
        ? undefined
        : { option: "type", what: type === 1 ? "type 1 needs a plog" : "type 0 has no plog" },
    length: ({ backing }) => restOf(backing),
  },
  parse,
  print,
  uses(settings, size) {
    const { backing, cache, plog } = usesOf(settings, size);
    return plog === undefined ? [backing, cache] : [backing, cache, plog];
  },
  async check(settings, context) {
    const { checkWriteboost } = await import("./open/open.ts");
    const { devices, opening } = await openLowers(settings, context);
    await checkWriteboost(devices, opening);
  },
  async retire({ cache, plog }, { lower }) {
    const { eraseCache } = await import("./open/making/erase-cache.ts");
    await eraseCache(await lower(cache, "owns"), plog === undefined ? undefined : await lower(plog, "owns"));
  },
  async leave({ cache }, { lower }) {
    const { leaveCache } = await import("./open/making/erase-cache.ts");
    await leaveCache(await lower(cache, "owns"));
  },
  open: (given, context) => openTarget(given, context, noArchives),
};

const noArchives: OpenArchive = () => {
  const hint = "Leave archive out, or use a program that has archives: dmkit has.";
  return Promise.reject(refuse(undefined, "ENOTSUP", "this program has no archives", hint));
};

async function openTarget(
  given: WriteboostOptions,
  context: OpenContext,
  open: OpenArchive,
): Promise<WriteboostDevice> {
  const settings = parseOptions(options, given, "writeboost");
  const { openWriteboost } = await import("./open/open.ts");
  const { devices, opening } = await openLowers(settings, context);
  return openWriteboost(devices, {
    ...opening,
    archive: archivingOf(settings, open),
    environment: context.environment,
    progress: context.progress,
  });
}

function archivingOf(
  { archive, archive_flush: flush, ship_interval: seconds }: WriteboostOptions,
  open: OpenArchive,
): Archiving | "none" | undefined {
  if (archive === undefined || archive === NO_ARCHIVE) return archive;
  const interval = seconds === undefined ? undefined : seconds * 1000;
  return { attach: (local) => open(archive, local), flush, interval };
}

async function openLowers(
  settings: WriteboostOptions,
  { name, size, lower }: Pick<OpenContext, "name" | "size" | "lower">,
): Promise<{ readonly devices: Devices; readonly opening: OpenOptions }> {
  if ((settings.type === 1) !== (settings.plog !== undefined)) {
    const reason = settings.type === 1 ? "type 1 needs a plog device" : "type 0 has no plog device";
    throw refuse(name, "EINVAL", reason, "Type 0: <backing> <cache>; type 1: <backing> <cache> <plog>.");
  }
  const uses = usesOf(settings, size);
  const backing = await lower(...uses.backing);
  const cache = await lower(...uses.cache);
  const plog = uses.plog && (await lower(...uses.plog));
  const opening = {
    name,
    size,
    order: settings.segment_size_order,
    pool: settings.nr_rambuf_pool,
    dialect: settings.dialect,
    force: settings.force,
    grow: settings.grow_cache,
    tunables: tunablesOf(settings),
  };
  return { devices: { backing, cache, plog }, opening };
}
