/**
 * The faults of the original, and the holes this design has to close, each put back in: the simulation must
 * find every one of them. Two more are beyond its reach, because a close ends a run: a frame that an error leaves
 * reserved, and a reserved one that close stores as valid. Tests of the device look for those.
 */
import { type SimTarget, mutant, replaced } from "@dmkit/block-io/testing";
import { FrameTable } from "../core/frame-table.ts";
import { loadRules } from "../opening/load.ts";
import { MetadataV2 } from "../running/metadata-v2.ts";
import { Reader } from "../running/reader.ts";
import { SourcePath } from "../running/source-path.ts";
import { CacheState } from "../running/state.ts";
import { Writeback } from "../running/writeback.ts";
import { Writer } from "../running/writer.ts";
import { churning, writeBack, writeThrough } from "./sim-targets.ts";

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

/** Mutants of what happens after a failed write: with other faults they hide too well. */
export const writeErrorMutants: readonly SimTarget[] = [
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
];
