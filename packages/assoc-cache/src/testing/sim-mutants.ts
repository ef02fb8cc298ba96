/**
 * The faults of the original, and the holes this design has to close, each put back in: the simulation must
 * find every one of them.
 */
import { type CacheRules, cacheRules } from "../core/rules.ts";
import { type BlockDevice, LinearDevice, RangeLock, SECTOR, done, isZero } from "@dmkit/block-io";
import { type SimTarget, breaking, mutant, onDisks, replaced } from "@dmkit/block-io/testing";
import { FrameTable, states } from "../core/frame-table.ts";
import { CacheState } from "../device/state.ts";
import { churning, hasty, historical, keeping, writeBack, writeThrough } from "./sim-targets.ts";

type Undo = () => void;

const nothing = async (): Promise<void> => {};
const always = (): boolean => true;
const never = (): boolean => false;

function wholeBlocks(this: CacheState, _block: number, count = 1): number {
  return count * this.blockBytes;
}

/** An entry on the device that may say dirty binds nobody. */
function dirtyOnly(this: FrameTable, frame: number): boolean {
  return this.isDirty(frame);
}

/** An I/O error leaves the frame of a block reserved for ever. */
function reservedForEver(): Undo {
  return replaced(
    FrameTable.prototype,
    "release",
    (original: (frame: number) => void) =>
      function (this: FrameTable, frame: number): void {
        if (this.stateOf(frame) !== states.filling) original.call(this, frame);
      },
  );
}

/** An I/O error leaks the job: what it had locked is never given back. */
function leakedJobs(): Undo {
  let failed = 0;
  const noticing = replaced(
    CacheState.prototype,
    "cacheFailed",
    (original: CacheState["cacheFailed"]) =>
      function (this: CacheState, error: unknown) {
        failed += 1;
        return original.call(this, error);
      },
  );
  const leaking = replaced(
    RangeLock.prototype,
    "release",
    (original: RangeLock["release"]) =>
      function (this: RangeLock, grant: Parameters<RangeLock["release"]>[0]): void {
        if (failed === 0) original.call(this, grant);
        else failed -= 1;
      },
  );
  return () => {
    leaking();
    noticing();
  };
}

/** Close waits for no fill, and what is being filled is stored as valid. */
const storingReserved: Partial<CacheRules> = {
  waitsForFills: false,
  isStoredClean: (frames, frame) =>
    frames.stateOf(frame) === states.filling || cacheRules.isStoredClean(frames, frame),
};

/** A configuration of zeroes counts as one: of no frames, with a sum that fits. */
const believingZeroes: Partial<CacheRules> = {
  configurationOf: (bytes, sectors) =>
    isZero(bytes, 0, 24)
      ? { geometry: { frames: 0, blockSectors: 0, ways: 0 }, writeBack: false, checksum: 0 }
      : cacheRules.configurationOf(bytes, sectors),
};

/** A disk on which the historical configuration cannot be made invalid. */
class Unforgetting extends LinearDevice {
  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const isLast = offset === this.size - SECTOR && from.length === SECTOR;
    return isLast && isZero(from, 0, 24) ? done : super.doWrite(offset, from, fua);
  }
}

const unforgetting = (disk: BlockDevice, index: number): BlockDevice =>
  index === 1 ? new Unforgetting(disk, 0, disk.size, disk.name) : disk;

/** Mutants of what happens after a failed read of the source. */
export const readErrorMutants: readonly SimTarget[] = [
  mutant(writeBack, "reserved-for-ever", reservedForEver),
];

/** Mutants of what happens after a failed write: with other faults they hide too well. */
export const writeErrorMutants: readonly SimTarget[] = [
  mutant(writeThrough, "reserved-for-ever", reservedForEver),
  mutant(writeBack, "leaks-failed-jobs", leakedJobs),
  mutant(writeThrough, "leaks-failed-jobs", leakedJobs),
  breaking(writeBack, "ignores-writeback-errors", { staysDirty: false }),
  breaking(writeBack, "gives-up-dirty-data", { isOnlyCopy: never }),
];

export const cacheMutants: readonly SimTarget[] = [
  breaking(writeThrough, "leaves-stale-copies", { dropsCopies: false }),
  breaking(writeThrough, "write-races-fill", { fillsAlone: false }),
  mutant(writeBack, "whole-last-block", () => replaced(CacheState.prototype, "bytesOf", () => wholeBlocks)),
  breaking(writeBack, "claims-before-data", { flushesData: false }),
  breaking(writeBack, "answers-before-claims", { flushesEntries: false }),
  breaking(writeBack, "claims-what-came-later", { isStaged: always }),
  breaking(writeBack, "writes-behind-dirty-frames", { mustSettle: never }),
  mutant(churning, "writes-behind-entries", () =>
    replaced(FrameTable.prototype, "isBinding", () => dirtyOnly),
  ),
  breaking(writeBack, "partial-frames", { covers: always }),
  breaking(writeBack, "cleans-what-changed", { isUnchanged: always }),
  mutant(writeBack, "cleans-before-source-is-stable", () =>
    replaced(CacheState.prototype, "flushSource", () => nothing),
  ),
  breaking(writeThrough, "believes-clean-entries", { believesClean: always }),
  breaking(writeThrough, "opens-without-a-mark", { marksInUse: never }),
  breaking(writeThrough, "evicts-under-readers", { mayEvict: always }),
  breaking(hasty("v2"), "stores-reserved-as-valid", storingReserved),
  breaking(hasty("v1"), "stores-reserved-as-valid", storingReserved),
  breaking(keeping, "believes-unstable-entries", { flushedOnOpening: (source) => [source] }),
  breaking(writeThrough, "believes-an-unstable-source", { flushedOnOpening: (_, cache) => [cache] }),
  onDisks(historical, "stays-valid-when-opened", unforgetting),
  breaking(historical, "zeroes-are-valid", believingZeroes),
];
