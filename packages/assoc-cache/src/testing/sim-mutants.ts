/**
 * The faults of the original, and the holes this design has to close, each put back in: the simulation must
 * find every one of them.
 */
import { type BlockDevice, LinearDevice, RangeLock, SECTOR, done, isZero } from "@dmkit/block-io";
import { type SimTarget, mutant, onDisks, replaced } from "@dmkit/block-io/testing";
import { FrameTable, states } from "../core/frame-table.ts";
import { AssocCacheDevice } from "../device/device.ts";
import { loadRules } from "../open/load.ts";
import { MetadataV1 } from "../device/metadata/metadata-v1.ts";
import { MetadataV2 } from "../device/metadata/metadata-v2.ts";
import { Reader } from "../device/reader.ts";
import { SourcePath } from "../device/source-path.ts";
import { CacheState } from "../device/state.ts";
import { Writeback } from "../device/writeback.ts";
import { Writer } from "../device/writer.ts";
import { churning, hasty, historical, keeping, writeBack, writeThrough } from "./sim-targets.ts";

type Undo = () => void;

const nothing = async (): Promise<void> => {};
const always = (): boolean => true;
const never = (): boolean => false;

/** The target with one method done differently. */
function without(target: SimTarget, name: string, owner: object, key: string, method: unknown): SimTarget {
  return mutant(target, name, () => replaced(owner, key, () => method));
}

/** Errors of writing back are ignored: the block counts as clean. */
function ignoringWritebackErrors(): Undo {
  return replaced(
    Writeback.prototype,
    "copyRun",
    (original: (...args: unknown[]) => Promise<void>) =>
      async function (this: Writeback, ...args: unknown[]): Promise<void> {
        await original.apply(this, args).catch(() => {});
      },
  );
}

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
function reservedStoredAsValid(metadata: typeof MetadataV1 | typeof MetadataV2): () => Undo {
  return () => {
    let frames: FrameTable | undefined;
    const hurrying = replaced(
      AssocCacheDevice.prototype,
      "waitForFills",
      () =>
        async function (this: AssocCacheDevice): Promise<void> {
          ({ frames } = this.state);
        },
    );
    const storing = replaced(
      metadata.prototype,
      "saveClean",
      (original: () => Promise<void>) =>
        function (this: MetadataV1 | MetadataV2): Promise<void> {
          for (let frame = 0; frame < (frames?.geometry.frames ?? 0); frame += 1) {
            if (frames?.stateOf(frame) === states.filling) frames.setState(frame, states.clean);
          }
          return original.call(this);
        },
    );
    return () => {
      storing();
      hurrying();
    };
  };
}

/** A configuration of zeroes counts as one: of no frames, with a sum that fits. */
function zeroesAreValid(): Undo {
  return replaced(
    loadRules,
    "configurationOf",
    (original: typeof loadRules.configurationOf): typeof loadRules.configurationOf =>
      (bytes, sectors) =>
        isZero(bytes, 0, 24)
          ? { geometry: { frames: 0, blockSectors: 0, ways: 0 }, writeBack: false, checksum: 0 }
          : original(bytes, sectors),
  );
}

/** A disk on which the historical configuration cannot be made invalid. */
class Unforgetting extends LinearDevice {
  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const isLast = offset === this.size - SECTOR && from.length === SECTOR;
    return isLast && isZero(from, 0, 24) ? done : super.doWrite(offset, from, fua);
  }
}

const unforgetting = (disk: BlockDevice, index: number): BlockDevice =>
  index === 1 ? new Unforgetting(disk, 0, disk.size, disk.name) : disk;

/** One of the two devices is not flushed on opening. */
function opensUnflushed(skipped: "source" | "cache"): () => Undo {
  return () =>
    replaced(
      loadRules,
      "makeStable",
      (original: typeof loadRules.makeStable): typeof loadRules.makeStable =>
        ([source, cache]) =>
          original([skipped === "source" ? cache : source] as BlockDevice[]),
    );
}

/** Mutants of what happens after a failed read of the source. */
export const readErrorMutants: readonly SimTarget[] = [
  mutant(writeBack, "reserved-for-ever", reservedForEver),
];

/** Mutants of what happens after a failed write: with other faults they hide too well. */
export const writeErrorMutants: readonly SimTarget[] = [
  mutant(writeThrough, "reserved-for-ever", reservedForEver),
  mutant(writeBack, "leaks-failed-jobs", leakedJobs),
  mutant(writeThrough, "leaks-failed-jobs", leakedJobs),
  mutant(writeBack, "ignores-writeback-errors", ignoringWritebackErrors),
  without(writeBack, "gives-up-dirty-data", Writer.prototype, "isOnlyCopy", never),
];

export const cacheMutants: readonly SimTarget[] = [
  without(writeThrough, "leaves-stale-copies", SourcePath.prototype, "clear", nothing),
  without(writeThrough, "write-races-fill", Reader.prototype, "fillsAlone", never),
  without(writeBack, "whole-last-block", CacheState.prototype, "bytesOf", wholeBlocks),
  without(writeBack, "claims-before-data", MetadataV2.prototype, "flushData", nothing),
  without(writeBack, "answers-before-claims", MetadataV2.prototype, "flushEntries", nothing),
  without(writeBack, "claims-what-came-later", MetadataV2.prototype, "isStaged", always),
  without(writeBack, "writes-behind-dirty-frames", SourcePath.prototype, "settle", nothing),
  without(churning, "writes-behind-entries", FrameTable.prototype, "isBinding", dirtyOnly),
  without(writeBack, "partial-frames", Writer.prototype, "covers", always),
  without(writeBack, "cleans-what-changed", Writeback.prototype, "isUnchanged", always),
  without(writeBack, "cleans-before-source-is-stable", CacheState.prototype, "flushSource", nothing),
  without(writeThrough, "believes-clean-entries", loadRules, "believesClean", always),
  without(writeThrough, "opens-without-a-mark", loadRules, "marksInUse", never),
  without(writeThrough, "evicts-under-readers", CacheState.prototype, "isUnused", always),
  mutant(hasty("v2"), "stores-reserved-as-valid", reservedStoredAsValid(MetadataV2)),
  mutant(hasty("v1"), "stores-reserved-as-valid", reservedStoredAsValid(MetadataV1)),
  mutant(keeping, "believes-unstable-entries", opensUnflushed("cache")),
  mutant(writeThrough, "believes-an-unstable-source", opensUnflushed("source")),
  onDisks(historical, "stays-valid-when-opened", unforgetting),
  mutant(historical, "zeroes-are-valid", zeroesAreValid),
];
