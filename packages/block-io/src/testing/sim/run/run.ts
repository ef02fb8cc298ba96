/**
 * One run: several generations of a target on the same disks. A generation opens the device (which recovers),
 * verifies, works, and ends in a crash or a close, at a step that may lie anywhere, the recovery included. The
 * last generation has neither faults nor a crash: everything must complete then, and nothing may be stuck.
 */
import { type BlockDevice, SECTOR } from "../../../contract/device.ts";
import { crashDisks, type CrashReport } from "../disk/crash.ts";
import { SimDisk } from "../disk/disk.ts";
import { openDisk } from "../disk/disk-handle.ts";
import { Driver, type Outcome } from "./driver.ts";
import type { FaultSpec } from "../disk/faults.ts";
import { Load, type Rule, type Violation, hasFailed, show } from "./load.ts";
import { Oracle } from "../oracle/oracle.ts";
import { readAll, rewriteAll, verifyReads } from "./passes.ts";
import { type Plan, type RunShape, shapeOf, stream, streams } from "./plan.ts";
import type { Prng } from "../prng.ts";
import { RunFaults } from "./run-faults.ts";
import type { GenerationReport, RunResult } from "../run-report.ts";
import type { Geometry, SimTarget } from "../target.ts";
import { Trace } from "../trace.ts";
import { type Profile, drawOperations, drawProfile } from "./workload.ts";
import { World, settleTurn } from "../disk/world.ts";

/** Operations of generation g are numbered from g · this + 1. */
export const IDS_PER_GENERATION = 1000;

/** Thrown inside a run when going on would tell nothing more. */
class Over extends Error {}

class Run {
  readonly target: SimTarget;
  readonly plan: Plan;
  readonly world: World;
  readonly trace: Trace;
  readonly violations: Violation[] = [];
  readonly #shape: RunShape;
  readonly #geometry: Geometry;
  readonly disks: SimDisk[];
  oracle: Oracle | undefined;
  readonly #faults: RunFaults;
  readonly #generations: GenerationReport[] = [];
  readonly #counts = { cycles: 0, inRecovery: 0, steps: 0, operations: 0 };
  #load: Load | undefined;
  #openSteps = 8;
  #stepsPerOperation = 4;

  constructor(target: SimTarget, plan: Plan, sink?: (line: string) => void) {
    this.target = target;
    this.plan = plan;
    this.trace = new Trace(sink);
    this.world = new World(this.trace);
    this.#geometry = target.geometry(stream(plan.seed, streams.geometry));
    this.#faults = new RunFaults(target.detects);
    this.#shape = shapeOf(target, plan, this.#geometry.disks.length);
    this.disks = this.#geometry.disks.map((spec, index) => new SimDisk(spec, index, this.world, plan.seed));
  }

  async execute(): Promise<RunResult> {
    const rejected = (reason: unknown): void =>
      this.#violate("unhandled", `unhandled rejection: ${show(reason)}`);
    process.on("unhandledRejection", rejected);
    const undo = this.target.inject?.();
    try {
      await settleTurn();
      await this.#create();
      for (let generation = 0; generation < this.#shape.generations; generation += 1) {
        if (this.plan.reduction.crashes?.[generation]?.step === 0) {
          this.#generations.push({ operations: [], steps: 0, faults: [] });
          continue;
        }
        await this.#generation(generation);
        await settleTurn();
        if (this.violations.length > 0) break;
      }
      if (this.violations.length === 0) await this.#finalGeneration();
      await settleTurn();
    } catch (error) {
      if (!(error instanceof Over)) throw error;
      await settleTurn();
    } finally {
      undo?.();
      this.world.crash();
      this.#load?.abandon();
      await this.target.dispose?.(this.#geometry.knobs);
      process.off("unhandledRejection", rejected);
    }
    return {
      violations: this.violations,
      hash: this.trace.digest,
      generations: this.#generations,
      ...this.#counts,
      faults: this.#faults.counts,
    };
  }

  /** Formats the disks; the power may fail while at it. */
  async #create(): Promise<void> {
    const { target } = this;
    if (target.create === undefined) return;
    const random = stream(this.plan.seed, streams.create);
    let crashes =
      target.survives === undefined && this.plan.reduction.keep === undefined ? random.below(3) - 1 : 0;
    for (;;) {
      const driver = this.#driver(random);
      if (crashes > 0) driver.crashAt = random.below(random.pick([30, 400]));
      const env = this.world.environment(this.plan.seed);
      const made = await driver.wait(target.create(this.#open(0), env, this.#geometry.knobs));
      this.#counts.steps += driver.steps;
      if (made.outcome === "done" && made.error === undefined) break;
      if (made.outcome !== "crash") this.#end("open", `create ${failure(made.outcome, made.error)}`);
      crashes -= 1;
      this.#counts.inRecovery += 1;
      crashDisks(this.disks, "uniform", random);
      this.world.crash();
    }
    this.world.crash();
  }

  async #generation(generation: number): Promise<void> {
    const { plan, target } = this;
    const { seed } = plan;
    const random = stream(seed, streams.crash, generation);
    const faults = this.#shape.faults[generation] ?? [];
    const profile = drawProfile(stream(seed, streams.profile, generation), target.workload);
    const driver = this.#driver(stream(seed, streams.schedule, generation), profile, faults);
    const crashes =
      this.#shape.endings[generation] === "crash" || plan.reduction.crashes?.[generation] !== undefined;
    driver.crashAt = crashes ? this.#crashStep(random, profile, generation) : Number.POSITIVE_INFINITY;
    this.#faults.inject(this.disks, faults);
    if (this.trace.verbose)
      this.trace.line(`generation ${generation}, power fails at step ${driver.crashAt}`);
    const operations: number[] = [];
    let outcome: "closed" | "opening" | "crashed";
    try {
      outcome = await this.#live(generation, driver, profile, random, operations);
    } catch (error) {
      this.#generations.push({ operations, steps: driver.steps, faults });
      throw error;
    } finally {
      this.#counts.steps += driver.steps;
      this.#faults.count();
      this.#escapes();
    }
    let crash: CrashReport | undefined;
    // Power may fail after a clean close as well: nothing may be left unstable.
    if (outcome !== "closed" || this.#mayLoseAfterClose(random)) {
      if (this.violations.length === 0) crash = this.#crash(generation, random);
      if (outcome === "opening") this.#counts.inRecovery += 1;
    } else this.world.crash();
    this.#generations.push({ operations, steps: driver.steps, faults, crash });
  }

  /** Opens, verifies, works, and closes if there is no crash. */
  async #live(
    generation: number,
    driver: Driver,
    profile: Profile,
    random: Prng,
    operations: number[],
  ): Promise<"closed" | "opening" | "crashed"> {
    const load = await this.#openDevice(generation, driver);
    if (load === undefined) return "opening";
    this.#openSteps = driver.steps;
    const { device } = load;
    const drawn = drawOperations(
      stream(this.plan.seed, streams.operations, generation),
      device,
      profile,
      generation * IDS_PER_GENERATION + 1,
    );
    const { keep } = this.plan.reduction;
    const queue = keep === undefined ? drawn : drawn.filter(({ id }) => keep.includes(id));
    load.submitted = operations;
    const verify = random.pick(["all", "all", "all", "some", "none"] as const);
    let outcome = await driver.work(load, verifyReads(device.size, verify, random), profile.concurrency);
    if (outcome === "done") outcome = await driver.work(load, queue, profile.concurrency);
    if (queue.length > 0)
      this.#stepsPerOperation = Math.ceil((driver.steps - this.#openSteps) / queue.length);
    this.#counts.operations += load.settled;
    if (outcome === "done") outcome = await driver.idle(random.chance(0.3) ? random.below(200) : 0);
    if (outcome === "hung") this.#end("hang", `${load.inFlight} requests are never answered`);
    if (outcome === "crash" || outcome === "blocked" || driver.crashAt !== Number.POSITIVE_INFINITY)
      return "crashed";
    return (await this.#close(device, driver)) ? "closed" : "crashed";
  }

  /** A device that is open, or undefined if that failed or crashed. */
  async #openDevice(generation: number, driver: Driver): Promise<Load | undefined> {
    const { target, plan } = this;
    const disks = this.#open(plan.seed + generation * 7919);
    const env = this.world.environment(plan.seed);
    const opened = await driver.wait(target.open(disks, env, this.#geometry.knobs));
    this.#escapes();
    if (opened.outcome === "crash" || opened.outcome === "blocked") return undefined;
    const device = opened.value;
    if (device === undefined) {
      if (this.#faults.excuses(opened.error)) return undefined;
      return this.#end("open", `open ${failure(opened.outcome, opened.error)}`);
    }
    this.trace.note(0x200, device.size);
    this.oracle ??= new Oracle(device.size / SECTOR, this.#geometry.stamped);
    if (this.oracle.sectors !== device.size / SECTOR) {
      return this.#end(
        "open",
        `the device had ${this.oracle.sectors} sectors and now has ${device.size / SECTOR}`,
      );
    }
    this.#load = new Load(device, {
      oracle: this.oracle,
      trace: this.trace,
      demand: this.#faults.demand,
      onlyClose: target.survives === "close",
      mayFail: (error) => this.#faults.excuses(error) || target.mayFail?.includes(error.code) === true,
      report: (violation) => this.violations.push(violation),
    });
    return this.#load;
  }

  /** A disk that has reported an error is not opened again as it is: what it still shows may never be stable. */
  #mayLoseAfterClose(random: Prng): boolean {
    const survives = this.target.survives ?? "crash";
    return survives === "crash" && (this.#faults.struck || random.chance(0.5));
  }

  /** Whether a clean close succeeded. */
  async #close(device: BlockDevice, driver: Driver): Promise<boolean> {
    const submitted = this.oracle?.beginFlush() ?? 0;
    const { outcome, error } = await driver.wait(device.close());
    this.#escapes();
    if (outcome === "hung") this.#end("hang", "close is never answered");
    if (outcome !== "done") return false;
    if (error === undefined) {
      if (!hasFailed(device)) this.oracle?.flushed(submitted);
      return true;
    }
    if (this.#faults.excuses(error)) return false;
    return this.#end("error", `close ${failure(outcome, error)}`);
  }

  /** No faults, no crash: everything completes, everything is there, and stays when it is opened again. */
  async #finalGeneration(): Promise<void> {
    const { target, plan } = this;
    const random = stream(plan.seed, streams.final);
    const generation = this.#shape.generations;
    this.#faults.inject(this.disks, []);
    for (let turn = 0; turn < (target.survives === "none" ? 1 : 2); turn += 1) {
      const driver = this.#driver(random);
      if (target.survives === "none" && this.oracle !== undefined) return;
      const load = await this.#openDevice(generation + turn, driver);
      if (load === undefined) return;
      const ids = (generation + turn) * IDS_PER_GENERATION + 1;
      const queue = readAll(load.device.size);
      if (turn === 0 && random.chance(0.3)) queue.push(...rewriteAll(load.device, ids));
      const outcome = await driver.work(load, queue, 4);
      if (outcome !== "done")
        this.#end("hang", `${load.inFlight} requests are never answered, without any fault`);
      this.#counts.operations += load.settled;
      if (target.quiesce !== undefined && this.#faults.demand === "legal") {
        const quiet = await driver.wait(target.quiesce(load.device, this.#geometry.knobs));
        if (quiet.value === undefined) this.#end("stuck", `quiesce ${failure(quiet.outcome, quiet.error)}`);
        for (const problem of quiet.value) this.#violate("stuck", problem);
      }
      if (!(await this.#close(load.device, driver))) return;
      this.#counts.steps += driver.steps;
      this.world.crash();
      if (turn === 0) await this.#check();
    }
  }

  async #check(): Promise<void> {
    if (this.target.check === undefined || this.#faults.demand !== "legal") return;
    const driver = this.#driver(stream(this.plan.seed, streams.final));
    const env = this.world.environment(this.plan.seed);
    const checked = await driver.wait(this.target.check(this.#open(0), env, this.#geometry.knobs));
    if (checked.value === undefined) this.#end("check", `check ${failure(checked.outcome, checked.error)}`);
    for (const problem of checked.value) this.#violate("check", problem);
    this.world.crash();
  }

  #crash(generation: number, random: Prng): CrashReport {
    let survivors = this.#shape.survivors[generation] ?? "uniform";
    // What a disk shows that has reported an error may never be stable: no process may go on from there.
    if (survivors === "kill" && this.#faults.struck) survivors = "uniform";
    const report = crashDisks(this.disks, survivors, random);
    this.trace.note(0x300, generation, report.candidates, report.lost.length);
    for (const number of report.lost) this.trace.note(0x301, number);
    if (this.trace.verbose) {
      const lost = `${report.lost.length} of ${report.candidates} unstable sectors are lost`;
      this.trace.line(report.killed === true ? "KILL: what is unstable stays so" : `CRASH: ${lost}`);
    }
    this.world.crash();
    this.#load?.abandon();
    if (report.killed === true) this.oracle?.kill();
    else this.oracle?.crash();
    this.#counts.cycles += 1;
    return report;
  }

  /** The step at which the power fails: often during recovery, mostly at work, sometimes when all is done. */
  #crashStep(random: Prng, profile: Profile, generation: number): number {
    const kind = random.weighted([2, 6, 2]);
    const opening = random.below(this.#openSteps + 2);
    const working = this.#openSteps + random.below(profile.operations * this.#stepsPerOperation + 4);
    const pinned = this.plan.reduction.crashes?.[generation];
    if (pinned !== undefined) return pinned.step;
    // Far beyond the work: idle for a while, then the end.
    return kind === 0 ? opening : kind === 1 ? working : 1_000_000;
  }

  #driver(random: Prng, profile?: Profile, faults: readonly FaultSpec[] = []): Driver {
    const real = this.target.real === true;
    const inOrder = this.plan.reduction.inOrder === true;
    const { eagerness = 0.5, haste = 0, order = "random" } = profile ?? {};
    const wholeTurns = real || faults.length > 0;
    const style = { eagerness, haste, order: inOrder ? "first" : order, real, wholeTurns } as const;
    return new Driver(this.world, random, style);
  }

  #open(seed: number): BlockDevice[] {
    return this.disks.map((disk) => openDisk(disk, seed));
  }

  #escapes(): void {
    for (const error of this.world.escaped.splice(0)) {
      this.#violate("escaped", `a timer or deferred work threw: ${show(error)}`);
    }
  }

  #violate(rule: Rule, message: string): void {
    this.violations.push({ rule, message });
  }

  #end(rule: Rule, message: string): never {
    this.#violate(rule, message);
    throw new Over();
  }
}

/** Runs a plan once. `sink` gets the decision log, line by line. */
export function runPlan(target: SimTarget, plan: Plan, sink?: (line: string) => void): Promise<RunResult> {
  return new Run(target, plan, sink).execute();
}

function failure(outcome: Outcome, error: unknown): string {
  return error === undefined ? `is never answered (${outcome})` : `failed without any fault: ${show(error)}`;
}
