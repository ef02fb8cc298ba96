/**
 * One run: several generations of a target on the same disks. A generation opens the device (which recovers),
 * verifies, works, and ends in a crash or a close, at a step that may lie anywhere, the recovery included. The
 * last generation has neither faults nor a crash: everything must complete then, and nothing may be stuck.
 */
import type { BlockDevice } from "../../../contract/device.ts";
import { BlockIoError } from "../../../contract/errors.ts";
import { SECTOR } from "../../../contract/device.ts";
import { crashDisks, type CrashReport } from "../disk/crash.ts";
import { SimDisk } from "../disk/disk.ts";
import { openDisk } from "../disk/disk-handle.ts";
import { type DriveStyle, Driver, type Outcome } from "./driver.ts";
import { type Demand, FaultInjector, type FaultKind, type FaultSpec, demandOf } from "../disk/faults.ts";
import { Load, type Rule, type Violation, hasFailed, show } from "./load.ts";
import { Oracle } from "../oracle/oracle.ts";
import { readAll, rewriteAll, verifyReads } from "./passes.ts";
import { type Plan, type RunShape, shapeOf, stream, streams } from "./plan.ts";
import type { Prng } from "../prng.ts";
import type { GenerationReport, RunResult } from "../run-report.ts";
import type { Geometry, SimTarget } from "../target.ts";
import { Trace } from "../trace.ts";
import { type Profile, drawOperations, drawProfile } from "./workload.ts";
import { World, settleTurn } from "../disk/world.ts";

/** Operations of generation g are numbered from g · this + 1. */
export const IDS_PER_GENERATION = 1000;

/** Thrown inside a run when going on would tell nothing more. */
class Over extends Error {}

export class Run {
  readonly target: SimTarget;
  readonly plan: Plan;
  readonly world: World;
  readonly trace: Trace;
  readonly violations: Violation[] = [];
  readonly #shape: RunShape;
  readonly #geometry: Geometry;
  readonly disks: SimDisk[];
  oracle: Oracle | undefined;
  #demand: Demand = "legal";
  #load: Load | undefined;
  #injector = new FaultInjector();
  #generations: GenerationReport[] = [];
  #faults = new Map<FaultKind, number>();
  #allFaults: FaultSpec[] = [];
  #cycles = 0;
  #inRecovery = 0;
  #steps = 0;
  #operations = 0;
  #openSteps = 8;
  #stepsPerOperation = 4;

  constructor(target: SimTarget, plan: Plan, sink?: (line: string) => void) {
    this.target = target;
    this.plan = plan;
    this.trace = new Trace(sink);
    this.world = new World(this.trace);
    this.#geometry = target.geometry(stream(plan.seed, streams.geometry));
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
      cycles: this.#cycles,
      inRecovery: this.#inRecovery,
      steps: this.#steps,
      operations: this.#operations,
      faults: this.#faults,
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
      const driver = this.#driver(random, this.#style(undefined));
      if (crashes > 0) driver.crashAt = random.below(random.pick([30, 400]));
      const env = this.world.environment(this.plan.seed);
      const made = await driver.wait(target.create(this.#open(0), env, this.#geometry.knobs));
      this.#steps += driver.steps;
      if (made.outcome === "done" && made.error === undefined) break;
      if (made.outcome !== "crash") this.#end("open", `create ${failure(made.outcome, made.error)}`);
      crashes -= 1;
      this.#inRecovery += 1;
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
    const driver = this.#driver(stream(seed, streams.schedule, generation), this.#style(profile, faults));
    const crashes =
      this.#shape.endings[generation] === "crash" || plan.reduction.crashes?.[generation] !== undefined;
    driver.crashAt = crashes ? this.#crashStep(random, profile, generation) : Number.POSITIVE_INFINITY;
    this.#inject(faults);
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
      this.#steps += driver.steps;
      this.#countFaults();
      this.#escapes();
    }
    let crash: CrashReport | undefined;
    // Power may fail after a clean close as well: nothing may be left unstable.
    if (outcome !== "closed" || this.#mayLoseAfterClose(random)) {
      if (this.violations.length === 0) crash = this.#crash(generation, random);
      if (outcome === "opening") this.#inRecovery += 1;
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
    this.#operations += load.settled;
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
      if (opened.error instanceof BlockIoError && (this.#injector.struck || this.#demand !== "legal"))
        return undefined;
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
      demand: this.#demand,
      mayFail: (error) =>
        this.#injector.struck || this.#demand !== "legal" || target.mayFail?.includes(error.code) === true,
      report: (violation) => this.violations.push(violation),
    });
    return this.#load;
  }

  /** A disk that has reported an error is not opened again as it is: what it still shows may never be stable. */
  #mayLoseAfterClose(random: Prng): boolean {
    const survives = this.target.survives ?? "crash";
    return survives === "crash" && (this.#injector.struck || random.chance(0.5));
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
    if (error instanceof BlockIoError && (this.#injector.struck || this.#demand !== "legal")) return false;
    return this.#end("error", `close ${failure(outcome, error)}`);
  }

  /** No faults, no crash: everything completes, everything is there, and stays when it is opened again. */
  async #finalGeneration(): Promise<void> {
    const { target, plan } = this;
    const random = stream(plan.seed, streams.final);
    const generation = this.#shape.generations;
    this.#inject([]);
    for (let turn = 0; turn < (target.survives === "none" ? 1 : 2); turn += 1) {
      const driver = this.#driver(random, this.#style(undefined));
      if (target.survives === "none" && this.oracle !== undefined) return;
      const load = await this.#openDevice(generation + turn, driver);
      if (load === undefined) return;
      const ids = (generation + turn) * IDS_PER_GENERATION + 1;
      const queue = readAll(load.device.size);
      if (turn === 0 && random.chance(0.3)) queue.push(...rewriteAll(load.device, ids));
      const outcome = await driver.work(load, queue, 4);
      if (outcome !== "done")
        this.#end("hang", `${load.inFlight} requests are never answered, without any fault`);
      this.#operations += load.settled;
      if (target.quiesce !== undefined && this.#demand === "legal") {
        const quiet = await driver.wait(target.quiesce(load.device, this.#geometry.knobs));
        if (quiet.value === undefined) this.#end("stuck", `quiesce ${failure(quiet.outcome, quiet.error)}`);
        for (const problem of quiet.value) this.#violate("stuck", problem);
      }
      if (!(await this.#close(load.device, driver))) return;
      this.#steps += driver.steps;
      this.world.crash();
      if (turn === 0) await this.#check();
    }
  }

  async #check(): Promise<void> {
    if (this.target.check === undefined || this.#demand !== "legal") return;
    const driver = this.#driver(stream(this.plan.seed, streams.final), this.#style(undefined));
    const env = this.world.environment(this.plan.seed);
    const checked = await driver.wait(this.target.check(this.#open(0), env, this.#geometry.knobs));
    if (checked.value === undefined) this.#end("check", `check ${failure(checked.outcome, checked.error)}`);
    for (const problem of checked.value) this.#violate("check", problem);
    this.world.crash();
  }

  #crash(generation: number, random: Prng): CrashReport {
    let survivors = this.#shape.survivors[generation] ?? "uniform";
    // What a disk shows that has reported an error may never be stable: no process may go on from there.
    if (survivors === "kill" && this.#injector.struck) survivors = "uniform";
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
    this.#cycles += 1;
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

  #inject(faults: readonly FaultSpec[]): void {
    this.#injector = new FaultInjector(faults);
    this.#allFaults.push(...faults);
    this.#demand = demandOf(this.#allFaults, this.target.detects ?? []);
    for (const disk of this.disks) disk.faults = this.#injector;
  }

  #countFaults(): void {
    for (const [kind, count] of this.#injector.fired) {
      this.#faults.set(kind, (this.#faults.get(kind) ?? 0) + count);
    }
  }

  #driver(random: Prng, style: DriveStyle): Driver {
    return new Driver(this.world, random, style);
  }

  #style(profile: Profile | undefined, faults: readonly FaultSpec[] = []): DriveStyle {
    const real = this.target.real === true;
    const inOrder = this.plan.reduction.inOrder === true;
    const { eagerness = 0.5, haste = 0, order = "random" } = profile ?? {};
    return {
      eagerness,
      haste,
      order: inOrder ? "first" : order,
      real,
      wholeTurns: real || faults.length > 0,
    };
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
