/** What a running cache can be asked and told, and the status and table lines. */
import { BlockIoError, SECTOR, parseOption } from "@dmkit/block-io";
import { spans } from "../core/history.ts";
import type { AssocCacheDevice, Tuning } from "../device.ts";
import { type Policy, policies } from "../format/superblock.ts";
import { cacheOptions, tunables } from "../options.ts";

/** The answer to a message, or undefined if it is none of ours. Throws `EINVAL` for bad arguments. */
export async function answer(
  device: AssocCacheDevice,
  words: readonly string[],
): Promise<string | undefined> {
  const [verb = "", ...rest] = words;
  switch (verb) {
    case "status":
      return statusLine(device);
    case "stats":
      return statsLine(device);
    case "table":
      return tableLine(device);
    case "clean":
      await device.clean();
      return "";
    case "policy":
      await device.setPolicy(policyFrom(device, rest[0]));
      return "";
    case "set":
      device.setTuning(tuned(device, rest));
      return "";
    case "invalidate":
      await device.invalidate(...range(device, rest));
      return "";
    default:
      return undefined;
  }
}

/** The historical figures, then `key value` pairs. */
export function statusLine({ state, metadata, policy }: AssocCacheDevice): string {
  const { statistics, frames } = state;
  if (!state.readOnly) void state.space.look();
  const recent = state.history.of("5min", state.environment.clock.now());
  const more: Readonly<Record<string, string | number>> = {
    policy,
    health: healthOf(state),
    needs_check: metadata.needsCheck ? 1 : 0,
    metadata: `v${metadata.version}`,
    frames: frames.geometry.frames,
    used: frames.bound,
    dirty: frames.dirty,
    read_hits: statistics.readHits,
    read_misses: statistics.reads - statistics.readHits,
    write_hits: statistics.writeHits,
    write_misses: statistics.writes - statistics.writeHits,
    bypassed: statistics.bypassed,
    written_back: statistics.writtenBack,
    cache_errors: statistics.cacheErrors,
    writeback_errors: statistics.writebackErrors,
    blocks_5min: recent.reads + recent.writes,
    hits_5min: recent.read_hits + recent.write_hits,
  };
  // Only where it is so: the usual line is as it was.
  const missing = state.space.missing > 0 ? { missing_space: state.space.missing } : {};
  const pairs = Object.entries({ ...more, ...missing }).map(([key, value]) => `${key} ${value}`);
  return [statistics.statsLine(), ...pairs].join(" ");
}

function healthOf({ sourceError, cacheError, cacheFull }: AssocCacheDevice["state"]): string {
  if (sourceError !== undefined) return "source-failed";
  if (cacheError !== undefined) return "cache-failed";
  return cacheFull === undefined ? "ok" : "cache-full";
}

/** What happened in each span of time, as JSON in one line. */
export function statsLine({ state }: AssocCacheDevice): string {
  const now = state.environment.clock.now();
  return JSON.stringify(Object.fromEntries(spans.map((span) => [span, state.history.of(span, now)])));
}

/** The configuration in the historical words. */
export function tableLine({ state, policy }: AssocCacheDevice): string {
  const { frames, blockSectors, ways } = state.frames.geometry;
  const megabytes = Math.floor((frames * blockSectors) / 2048);
  const kilobytes = Math.floor((blockSectors * SECTOR) / 1024);
  return `conf: capacity(${megabytes}M), associativity(${ways}), block size(${kilobytes}K), ${policy}`;
}

function policyFrom(device: AssocCacheDevice, word: string | undefined): Policy {
  const policy = policies.find((name) => name === word);
  if (policy !== undefined) return policy;
  throw bad(device, `there is no policy "${word ?? ""}"`, `Policies: ${policies.join(", ")}.`);
}

function tuned(device: AssocCacheDevice, [name, value]: readonly string[]): Tuning {
  const known = tunables.find((tunable) => tunable === name);
  if (known === undefined || value === undefined) {
    throw bad(
      device,
      `cannot set "${name ?? ""}"`,
      `Write: set <key> <value>, with one of: ${tunables.join(", ")}.`,
    );
  }
  return { ...device.tuning, [known]: parseOption(known, cacheOptions[known], value) };
}

/** `<sector> <sectors>` as bytes. */
function range(device: AssocCacheDevice, [start, length]: readonly string[]): [number, number] {
  const [first, count] = [start, length].map((word) =>
    /^\d+$/.test(word ?? "") ? Number(word) : Number.NaN,
  );
  const sectors = device.size / SECTOR;
  if (first !== undefined && count !== undefined && first <= sectors && count <= sectors - first) {
    return [first * SECTOR, count * SECTOR];
  }
  throw bad(device, "the range is not inside the device", "Write: invalidate <first sector> <sectors>.");
}

function bad(device: AssocCacheDevice, reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EINVAL", device: device.name, op: "message", hint });
}
