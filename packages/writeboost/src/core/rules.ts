/**
 * The decisions on which it depends whether anything is lost: one value, handed from whoever opens a cache down to
 * those who decide. A test that puts a fault in hands down another one (testing/mutants.ts).
 */
import { isSound, resemblesRecord } from "../format/plog.ts";
import { emptyTogether } from "./emptying.ts";
import { findLog, lastWriteback, needsChecksum } from "./log.ts";
import { planWriteback } from "./writeback-plan.ts";

/** Where copies of a block may be. */
interface Copies {
  readonly map: { find(block: number): number };
  /** Whether a crash could bring back a copy that is not in the map any more. */
  mayComeBack(block: number): boolean;
}

export interface Rules {
  readonly findLog: typeof findLog;
  /** Whether a segment on the device may be torn. */
  readonly needsChecksum: typeof needsChecksum;
  /** Blocks of segments up to there are clean after a crash. */
  readonly lastWriteback: typeof lastWriteback;
  /** Whether the data of a plog record is what its checksum was made of. */
  readonly isSound: typeof isSound;
  /** Whether data in the plog could pass for a record of a segment after `id`. */
  readonly resemblesRecord: typeof resemblesRecord;
  /** Sectors that a copy with `bits` has to take along from an older one that has `dirty` of them. */
  readonly keep: (dirty: number, bits: number) => number;
  /** Sectors of an older copy that one rebuilt from the plog lacks. */
  readonly lacks: (older: number, bits: number) => number;
  /** Whether a block may not go past the log. */
  readonly isLogged: (copies: Copies, block: number) => boolean;
  /** The same where the log is archived: what goes past it is missing there. */
  readonly isLoggedToArchive: () => boolean;
  /** Whether the slot of segment `old` may be used again. */
  readonly mayReuse: (old: number, lastWriteback: number, lastFlushed: number) => boolean;
  /** Whether segment `id` may be written without a flush. */
  readonly mayWrite: (id: number, durable: number, tail: number) => boolean;
  /** Whether a flush is needed for segment `id` to be durable. */
  readonly needsFlush: (id: number, durable: number) => boolean;
  /** Whether a newer copy, in segment `id`, makes older ones needless. */
  readonly supersedes: (id: number, durable: number) => boolean;
  readonly plan: typeof planWriteback;
  /** With fewer slots left than this, writeback begins unasked, before writers have to stand still. */
  readonly reserve: (batch: number, slots: number) => number;
  /** Whether the backing device is flushed before a batch of writeback counts. */
  readonly flushesBatch: (wrote: boolean) => boolean;
  /** Whether everything is written back before the ring is made larger, and thereby empty. */
  readonly emptiesFirst: boolean;
  /** Up to where the log must be durable before older copies of bad blocks go, the newest of which are in segment `id`. */
  readonly secured: (id: number) => number;
  /** Whether a request that writes through is over, when something of it is in the log alone, or nothing is. */
  readonly mayAcknowledge: (isDirty: boolean) => boolean;
  /** Whether the log of a cache that was written through counts after a crash. */
  readonly believesThrough: boolean;
  /** Up to which segment what the cache device has may be given back. */
  readonly emptiedUpTo: (recorded: number, lastFlushed: number) => number;
  readonly emptyTogether: typeof emptyTogether;
  /** Whether heads of segments that are given back are empty, durably, before their data is discarded. */
  readonly emptiesDurably: boolean;
}

export const rules: Rules = Object.freeze({
  findLog,
  needsChecksum,
  lastWriteback,
  isSound,
  resemblesRecord,
  keep: (dirty: number, bits: number) => dirty & ~bits,
  lacks: (older: number, bits: number) => older & ~bits,
  isLogged: (copies: Copies, block: number) => copies.map.find(block) >= 0 || copies.mayComeBack(block),
  isLoggedToArchive: () => true,
  mayReuse: (old: number, written: number) => old <= written,
  mayWrite: (id: number, durable: number, tail: number) => id - durable <= tail,
  needsFlush: (id: number, durable: number) => durable < id,
  supersedes: (id: number, durable: number) => id <= durable,
  plan: planWriteback,
  reserve: (batch: number, slots: number) => Math.min(batch, Math.floor(slots / 8)),
  flushesBatch: (wrote: boolean) => wrote,
  emptiesFirst: true,
  secured: (id: number) => id,
  mayAcknowledge: (isDirty: boolean) => !isDirty,
  believesThrough: false,
  emptiedUpTo: (recorded: number) => recorded,
  emptyTogether,
  emptiesDurably: true,
});
