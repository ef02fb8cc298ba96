/**
 * Decisions that data hangs on: what has to be stable before what, and what is believed. A device gets them when it is
 * opened; the simulation opens others with one of them changed, and has to notice.
 */
export interface CompressionRules {
  /** Whether a payload is the one that was stored. @param sum of what was read; @param stored by the metadata. */
  checks(sum: number, stored: number): boolean;
  /** What makes a record of the journal stable, together with all before it; in this order. */
  readonly commit: readonly ("record" | "flush")[];
  /** Of the two slots, the one for a record. */
  slotOf(number: number): number;
  /** Which records are replayed, in this order. @param records not known to be in place, in the order of their numbers. */
  replayed<Record>(records: readonly Record[]): readonly Record[];
  /** A record is planned when the one before is in place. */
  readonly awaitsPlace: boolean;
  /** Readers are told which groups are about to be overwritten in place. */
  readonly announces: boolean;
  /** The rest of an extent that is overwritten in part is read, and stored with what is new. */
  readonly keepsNeighbours: boolean;
  /** What is done for a place that does not have its payload, before the journal, which has, is written to. */
  readonly heals: readonly ("write" | "flush")[];
  /** Whether it is an error that this could not be written. */
  fails(what: "journal" | "payloads" | "metadata"): boolean;
  /** Format 1: data is stable before the metadata that describes it is written. */
  readonly flushesData: boolean;
  /** Format 1: metadata is stable before a flush is over. */
  readonly flushesMetadata: boolean;
  /** Format 1: a flush is over when what others were writing is written, too. */
  readonly waitsForOthers: boolean;
}

export const compressionRules: CompressionRules = Object.freeze<CompressionRules>({
  checks: (sum, stored) => sum === stored,
  commit: ["record", "flush"],
  slotOf: (number) => number % 2,
  replayed: (records) => records,
  awaitsPlace: true,
  announces: true,
  keepsNeighbours: true,
  heals: ["write", "flush"],
  fails: () => true,
  flushesData: true,
  flushesMetadata: true,
  waitsForOthers: true,
});
