/**
 * Faults that this family of drivers has had, put back in one at a time: the simulation must find each of them.
 * Each decides something otherwise (core/rules.ts), or has disks on which a request or an error is lost.
 */
import { type BlockDevice, done } from "@dmkit/block-io";
import { type SimTarget, breaking, onDisks } from "@dmkit/block-io/testing";
import { type Log, type LogFacts, findLog } from "../core/log.ts";
import { type Knobs, targetNamed } from "./sim-targets.ts";

/** The oldest and the newest valid segment, whatever is between them. */
function findWithGaps({ ids, valid }: LogFacts): Log {
  const known = ids.filter((id, slot) => id > 0 && valid[slot] === 1);
  const last = Math.max(0, ...known);
  return { first: Math.max(1, Math.min(last, ...known)), last, stale: [], damage: undefined };
}

/** Starts at the oldest slot and stops at the first bad checksum, as the original did. */
function findUntilBad(facts: LogFacts): Log {
  const { ids, valid } = facts;
  const highest = ids.reduce((max, id) => Math.max(max, id), 0);
  let last = 0;
  let first = 1;
  for (let id = Math.max(1, highest - ids.length + 1); id <= highest; id += 1) {
    const slot = (id - 1) % ids.length;
    if (ids[slot] !== id || valid[slot] !== 1) break;
    if (last === 0) first = id;
    last = id;
  }
  return { first, last, stale: [], damage: undefined };
}

/** The backing device, the cache device or the plog, with one of its methods replaced. */
function altered(
  index: number,
  key: "flush" | "write",
  make: (original: () => Promise<void>) => () => Promise<void>,
) {
  return (disk: BlockDevice, at: number): BlockDevice =>
    at !== index
      ? disk
      : new Proxy(disk, {
          get: (target, name) => {
            const value: unknown = Reflect.get(target, name, target);
            if (typeof value !== "function") return value;
            const method = (value as () => Promise<void>).bind(target);
            return name === key ? make(method) : method;
          },
        });
}

const withoutFlush = (index: number): ReturnType<typeof altered> => altered(index, "flush", () => () => done);
const withoutErrors = (key: "flush" | "write"): ReturnType<typeof altered> =>
  altered(
    0,
    key,
    (original) =>
      (...given) =>
        original(...given).catch(() => {}),
  );

const ring0 = targetNamed("writeboost-0");
const long0 = targetNamed("writeboost-0-many");
const bad0 = targetNamed("writeboost-0-bad");
const discards0 = targetNamed("writeboost-0-discarding");
const through0 = targetNamed("writeboost-0-through");
const ring1 = targetNamed("writeboost-1");

export const mutants: readonly SimTarget<Knobs>[] = [
  breaking(ring0, "discard-to-backing-only", { isLogged: () => false }),
  breaking(ring0, "clean-before-backing-flush", { flushesBatch: () => false }),
  breaking(ring0, "reuses-slots-not-written-back", { mayReuse: (old, _written, flushed) => old <= flushed }),
  breaking(ring0, "partial-write-loses-the-rest", { keep: () => 0 }),
  breaking(ring0, "believes-gaps", { findLog: findWithGaps }),
  breaking(ring0, "stops-at-torn-slot", { findLog: findUntilBad }),
  breaking(long0, "keeps-stale-future", { findLog: (facts) => ({ ...findLog(facts), stale: [] }) }),
  breaking(ring0, "believes-headers", { needsChecksum: () => false }),
  breaking(ring0, "no-bound-on-tail", { mayWrite: () => true }),
  breaking(ring0, "newer-copy-in-ram-counts", { supersedes: () => true }),
  breaking(bad0, "frees-bad-blocks-before-they-are-logged-again", { secured: () => 0 }),
  breaking(targetNamed("writeboost-0-growing"), "grows-over-what-is-dirty", { emptiesFirst: false }),
  breaking(discards0, "discards-before-heads-are-durable", { emptiesDurably: false }),
  breaking(discards0, "empties-newer-copies-alone", { emptyTogether: (_map, slots) => slots.length }),
  breaking(discards0, "discards-what-is-not-written-back", { emptiedUpTo: (_recorded, flushed) => flushed }),
  breaking(through0, "acknowledges-before-the-backing-device", { mayAcknowledge: () => true }),
  breaking(through0, "believes-what-was-written-through", { believesThrough: true }),
  breaking(through0, "writes-through-past-what-is-logged", { isLogged: () => false }),
  breaking(ring1, "reuses-plog-before-cache-flush", { needsFlush: () => false }),
  onDisks(ring0, "ignores-flush-errors", withoutErrors("flush")),
  onDisks(ring0, "ignores-writeback-errors", withoutErrors("write")),
  onDisks(ring0, "acknowledges-before-cache-flush", withoutFlush(1)),
  onDisks(ring0, "never-flushes-backing", withoutFlush(0)),
  onDisks(ring1, "never-flushes-plog", withoutFlush(2)),
];
