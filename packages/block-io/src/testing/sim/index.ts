export { blockIoTargets } from "./builtin.ts";
export { type SimOutput, simMain } from "./cli.ts";
export {
  type Bias,
  type CrashReport,
  type Survivors,
  biases,
  countCandidates,
  crashDisks,
} from "./disk/crash.ts";
export { type DiskSpec, SimDisk } from "./disk/disk.ts";
export { DiskHandle, openDisk } from "./disk/disk-handle.ts";
export { type ExhaustiveOptions, type ExhaustiveSummary, exhaust } from "./run/exhaustive.ts";
export {
  type Demand,
  type FaultKind,
  type FaultSpec,
  FaultInjector,
  demandOf,
  faultKinds,
  honestFaults,
} from "./disk/faults.ts";
export { FOREIGN, GARBAGE, INITIAL, ZERO, identify, stamp } from "./format/stamp.ts";
export { type KillOptions, type KillSummary, type ServedDevice, killRounds } from "./run/kill.ts";
export { type Rule, type Violation } from "./run/load.ts";
export { type RuledTarget, breaking, mutant, onDisks, replaced, ruled } from "./mutant.ts";
export type { Finding } from "./oracle/finding.ts";
export { type Version, Oracle } from "./oracle/oracle.ts";
export { type FaultMode, type Plan, type Reduction } from "./run/plan.ts";
export { Prng } from "./prng.ts";
export {
  type CrashMoment,
  type LoggedDisk,
  type LoggedRequest,
  type ReplayOptions,
  type ReplaySummary,
  readWriteLog,
  replayWriteLog,
} from "./oracle/replay-log.ts";
export { type OracleOptions, oracleCheck } from "./oracle/replay-oracle.ts";
export { type GenerationReport, type RunResult } from "./run-report.ts";
export { runPlan } from "./run/run.ts";
export { type SimFailure, type SimOptions, type SimSummary, commandFor, runSim } from "./run/simulate.ts";
export { type SweepOptions, type SweepSummary, sweepFaults } from "./run/sweep.ts";
export { isDeep, runsUntilFound } from "./tier.ts";
export { type Geometry, type SimTarget, type WorkloadBounds } from "./target.ts";
export { toyCache, toyLog, toys, wrongToys } from "./toys/targets.ts";
export { World } from "./disk/world.ts";
