/**
 * Faults that this family of drivers has had, put back in one at a time: the simulation must find each of them.
 * Nothing in the device knows of this; see `mutant` in block-io's testing folder.
 */
import { type BlockDevice, done } from "@dmkit/block-io";
import { type SimTarget, mutant, onDisks, replaced } from "@dmkit/block-io/testing";
import { BadBlocks } from "../device/writeback/bad-blocks.ts";
import { Bypass } from "../device/request/bypass.ts";
import { type Log, type LogFacts, logRules } from "../core/log.ts";
import { mergeRules } from "../core/sectors.ts";
import type { PlannedWrite } from "../core/writeback-plan.ts";
import { recoverySteps } from "../open/recovery.ts";
import { SegmentLog } from "../device/log/segment-log.ts";
import { Writeback } from "../device/writeback/writeback.ts";
import { BatchCopier } from "../device/writeback/writeback-batch.ts";
import { targetNamed } from "./sim-targets.ts";

type Step = (...args: never[]) => Promise<void>;

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

function withoutFlush(index: number) {
  return (disk: BlockDevice, at: number): BlockDevice =>
    at !== index
      ? disk
      : new Proxy(disk, {
          get: (target, key) => {
            if (key === "flush") return () => done;
            const value: unknown = Reflect.get(target, key, target);
            return typeof value === "function" ? (value as () => unknown).bind(target) : value;
          },
        });
}

const noStep = (): Step => async () => {};
const ring0 = targetNamed("writeboost-0");
const long0 = targetNamed("writeboost-0-many");
const bad0 = targetNamed("writeboost-0-bad");
const ring1 = targetNamed("writeboost-1");

export const mutants: readonly SimTarget[] = [
  mutant(ring0, "discard-to-backing-only", () => replaced(Bypass.prototype, "inLog", () => () => false)),
  mutant(ring0, "clean-before-backing-flush", () => replaced<Step>(Writeback.prototype, "flush", noStep)),
  mutant(ring0, "ignores-flush-errors", () =>
    replaced<(this: Writeback) => Promise<void>>(
      Writeback.prototype,
      "flush",
      (original) =>
        async function (this: Writeback) {
          await original.call(this).catch(() => {});
        },
    ),
  ),
  mutant(ring0, "ignores-writeback-errors", () =>
    replaced<(this: BatchCopier, write: PlannedWrite) => Promise<void>>(
      BatchCopier.prototype,
      "write",
      (original) =>
        async function (this: BatchCopier, write) {
          await original.call(this, write).catch(() => {});
        },
    ),
  ),
  mutant(ring0, "reuses-slots-not-written-back", () =>
    replaced(
      SegmentLog.prototype,
      "canOpen",
      () =>
        function (this: SegmentLog) {
          const slot = this.opened % this.geometry.slots;
          if (this.lastFlushed < this.opened + 1 - this.pool) return false;
          const old = this.opened + 1 - this.geometry.slots;
          if (old > this.lastFlushed) return false;
          this.map.clean(slot);
          this.lastWriteback = Math.max(this.lastWriteback, old);
          return true;
        },
    ),
  ),
  mutant(ring0, "partial-write-loses-the-rest", () => replaced(mergeRules, "keep", () => () => 0)),
  mutant(ring0, "believes-gaps", () => replaced(logRules, "find", () => findWithGaps)),
  mutant(ring0, "stops-at-torn-slot", () => replaced(logRules, "find", () => findUntilBad)),
  mutant(long0, "keeps-stale-future", () => replaced<Step>(recoverySteps, "invalidate", noStep)),
  mutant(ring0, "believes-headers", () => replaced(logRules, "needsChecksum", () => () => false)),
  mutant(ring0, "no-bound-on-tail", () => replaced(SegmentLog.prototype, "mayWrite", () => () => true)),
  mutant(ring0, "newer-copy-in-ram-counts", () =>
    replaced(
      BatchCopier.prototype,
      "unsafe",
      (original) =>
        function (this: BatchCopier, index: number) {
          return (original as (index: number, durable: number) => number).call(this, index, Infinity);
        },
    ),
  ),
  mutant(bad0, "frees-bad-blocks-before-they-are-logged-again", () =>
    replaced<Step>(BadBlocks.prototype, "secure", noStep),
  ),
  onDisks(ring0, "acknowledges-before-cache-flush", withoutFlush(1)),
  onDisks(ring0, "never-flushes-backing", withoutFlush(0)),
  onDisks(ring1, "never-flushes-plog", withoutFlush(2)),
  mutant(ring1, "reuses-plog-before-cache-flush", () =>
    replaced(
      SegmentLog.prototype,
      "makeDurable",
      () =>
        function (this: SegmentLog, id: number) {
          return this.flushed(id);
        },
    ),
  ),
];
