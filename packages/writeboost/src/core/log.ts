/**
 * Which of the segments found on a cache device are the log, after any crash.
 *
 * What is known of a log that dmkit wrote. Let L be the last segment a flush of the cache device covered, K
 * the tail (geometry.ts), N the ring's slots:
 *
 * - segments above L are at most L + K; each of them is on the device whole, torn, or not at all;
 * - they lie in the slots of ids L + 1 - N … L + K - N, so these may be torn or gone as well; all of them had
 *   been written back, durably, before the slot was used again;
 * - all ids in between, max(1, L + K - N + 1) … L, are intact.
 *
 * So the log is a run of consecutive valid ids [first, last] with first ≤ max(1, last + K - N + 1), and because
 * N > 2 K no run made of torn leftovers alone can look like that, unless it begins at id 1 and is the older
 * one. The highest such run is the log: what lies after it was never flushed, what lies before it was
 * written back. A run that begins right after the recorded last_writeback id will also do; so will one that begins before
 * that, and ends no earlier, where nothing older is left: a slot that cannot be read is emptied when its segment has been written back.
 *
 * Where there is no such run although there are segments, or where something lies further from the run than
 * a crash can put it, the device is damaged. That is reported, never guessed around.
 */

export interface LogFacts {
  /** By slot: the id its header claims and its metadata do not contradict; 0 for none. */
  readonly ids: Float64Array;
  /** By slot: 1 where the segment is known to be whole. */
  readonly valid: Uint8Array;
  /** K. */
  readonly tail: number;
  /** last_writeback_segment_id of the superblock record. */
  readonly record: number;
  /** Segments up to here were on the device when it was flushed, says the identity record; 0 if it is silent. */
  readonly covered: number;
}

export interface Log {
  /** First segment of the log; `last + 1` for an empty log. */
  readonly first: number;
  /** Last segment of the log; 0 if nothing was ever flushed. */
  readonly last: number;
  /** Slots that claim an id and are not part of the log: to be invalidated. */
  readonly stale: readonly number[];
  /** What no crash explains, if anything. */
  readonly damage: string | undefined;
}

/**
 * The slots whose checksums matter: segments above what a flush is known to have covered, and those whose
 * slots may have been in use again.
 */
export function needsChecksum(
  id: number,
  highest: number,
  covered: number,
  slots: number,
  tail: number,
): boolean {
  return id > covered || id + slots <= highest + tail;
}

export function findLog({ ids, valid, tail, record, covered }: LogFacts): Log {
  const slots = ids.length;
  const order = validIds(ids, valid);
  let chosen: { first: number; last: number } | undefined;
  // From the highest id down; runs of consecutive ids.
  for (let end = order.length - 1; end >= 0 && chosen === undefined; ) {
    const last = order[end] as number;
    let start = end;
    while (start > 0 && order[start - 1] === (order[start] as number) - 1) start -= 1;
    const first = order[start] as number;
    const isOldest = first <= record && record <= last && !ids.some((id) => id > 0 && id < first);
    if (first <= Math.max(1, last + tail - slots + 1) || first === record + 1 || isOldest)
      chosen = { first, last };
    end = start - 1;
  }
  const highest = ids.reduce((max, id) => Math.max(max, id), 0);
  if (chosen === undefined) {
    const lost = highest > tail || covered > 0;
    return {
      first: 1,
      last: 0,
      stale: claims(ids, () => true),
      damage: lost
        ? `segment ${Math.max(highest, covered)} was written, but there is no intact log that leads up to it`
        : undefined,
    };
  }
  const { first, last } = chosen;
  const future = highest - last;
  return {
    first,
    last,
    stale: claims(ids, (id) => id < first || id > last),
    damage:
      future > tail
        ? `the log ends at segment ${last}, but segment ${highest} is there; at most ${tail} can be lost in a crash`
        : last < covered
          ? `the log ends at segment ${last}, but everything up to ${covered} had been flushed`
          : undefined,
  };
}

function validIds(ids: Float64Array, valid: Uint8Array): Float64Array {
  return ids.filter((id, slot) => id > 0 && valid[slot] === 1).sort();
}

function claims(ids: Float64Array, matches: (id: number) => boolean): number[] {
  const slots: number[] = [];
  for (let slot = 0; slot < ids.length; slot += 1) {
    const id = ids[slot] as number;
    if (id > 0 && matches(id)) slots.push(slot);
  }
  return slots;
}

/** Blocks of segments up to here are clean: never above the log, whatever the record says. */
export function lastWriteback(log: Pick<Log, "first" | "last">, record: number, slots: number): number {
  return Math.min(log.last, Math.max(record, log.last - slots, log.first - 1, 0));
}
