/** What a run has to say about itself. */
import type { CrashReport } from "./disk/crash.ts";
import type { FaultKind, FaultSpec } from "./disk/faults.ts";
import type { Violation } from "./run/load.ts";

/** What happened in a generation: all that shrinking needs to know. */
export interface GenerationReport {
  /** Numbers of the operations that were submitted. */
  readonly operations: readonly number[];
  /** Steps until it ended. */
  readonly steps: number;
  readonly faults: readonly FaultSpec[];
  /** Present if it ended in a crash. */
  readonly crash?: CrashReport | undefined;
}

export interface RunResult {
  readonly violations: readonly Violation[];
  readonly hash: string;
  readonly generations: readonly GenerationReport[];
  /** Crashes followed by a recovery. */
  readonly cycles: number;
  /** Of those, crashes during a recovery or a format. */
  readonly inRecovery: number;
  readonly steps: number;
  readonly operations: number;
  readonly faults: ReadonlyMap<FaultKind, number>;
}
