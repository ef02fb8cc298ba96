export { blockIoTargets } from "./builtin.ts";
export { type SimOutput, simMain } from "./cli.ts";
export { type Bias, type CrashReport, type Survivors, biases, countCandidates, crashDisks } from "./crash.ts";
export { type DiskSpec, SimDisk } from "./disk.ts";
export { DiskHandle, openDisk } from "./disk-handle.ts";
export { type ExhaustiveOptions, type ExhaustiveSummary, exhaust } from "./exhaustive.ts";
export {
  type Demand,
  type FaultKind,
  type FaultSpec,
  FaultInjector,
  demandOf,
  faultKinds,
  honestFaults,
  lyingFaults,
} from "./faults.ts";
export { FOREIGN, GARBAGE, INITIAL, ZERO, identify, stamp } from "./format/stamp.ts";
export { type KillOptions, type KillSummary, type ServedDevice, killRounds } from "./kill.ts";
export { type Rule, type Violation } from "./load.ts";
export { mutant, onDisks, replaced } from "./mutant.ts";
export { type Finding, type Version, Oracle } from "./oracle.ts";
export { type FaultMode, type Plan, type Reduction } from "./plan.ts";
export { Prng } from "./prng.ts";
export {
  type CrashMoment,
  type LoggedDisk,
  type LoggedRequest,
  type ReplayOptions,
  type ReplaySummary,
  readWriteLog,
  replayWriteLog,
} from "./replay-log.ts";
export { type OracleOptions, oracleCheck } from "./replay-oracle.ts";
export { type GenerationReport, type RunResult } from "./run-report.ts";
export { runPlan } from "./run.ts";
export { type SimFailure, type SimOptions, type SimSummary, commandFor, runSim } from "./simulate.ts";
export { type SweepOptions, type SweepSummary, sweepFaults } from "./sweep.ts";
export { type Geometry, type SimTarget, type WorkloadBounds } from "./target.ts";
export { toyCache, toyLog, toys, wrongToys } from "./toys/targets.ts";
export { World } from "./world.ts";
