/**
 * Makes a failing run small: fewer operations, then fewer generations and faults, the earliest crash, the
 * fewest lost sectors, and completion in order. Every candidate is run; one that breaks the same rule replaces
 * the current one.
 *
 * Leaving operations out moves everything that comes after them. So a candidate is tried with a few crash
 * points and survivors, and at the end all crash points of what is left are tried, from the earliest on.
 */
import { realEnvironment } from "../../../contract/environment.ts";
import type { Survivors } from "../disk/crash.ts";
import type { Rule } from "./load.ts";
import type { CrashPoint, Plan, Reduction } from "./plan.ts";
import type { RunResult } from "../run-report.ts";
import { runPlan } from "./run.ts";
import type { SimTarget } from "../target.ts";

/** Beyond all work: the power fails when everything is done. */
const AT_THE_END = 1_000_000;
/** Real milliseconds for each of two attempts. */
const BUDGET_MS = 10_000;

/** A plan that fails, and how. */
export interface Failing {
  readonly plan: Plan;
  readonly result: RunResult;
}

/** The smallest failing plan found, or undefined if the plan does not fail at all. */
export async function shrink(target: SimTarget, plan: Plan): Promise<Failing | undefined> {
  const result = await runPlan(target, plan);
  const rule = result.violations[0]?.rule;
  if (rule === undefined || target.real === true) return undefined;
  const start: Failing = { plan, result };
  // Without its history a generation may need more operations: it is not known beforehand which is smaller.
  const short = await new Shrinker(target, rule, start).run(true);
  const long = await new Shrinker(target, rule, start).run(false);
  return cost(long) < cost(short) ? long : short;
}

class Shrinker {
  best: Failing;
  readonly #target: SimTarget;
  readonly #rule: Rule;
  readonly #deadline: number;

  constructor(target: SimTarget, rule: Rule, start: Failing) {
    this.#target = target;
    this.#rule = rule;
    this.best = start;
    this.#deadline = realEnvironment.clock.now() + BUDGET_MS;
  }

  /** @param generationsFirst leave out whole generations before anything else. */
  async run(generationsFirst: boolean): Promise<Failing> {
    await this.#pin();
    await this.#try({ inOrder: true });
    if (this.#target.create !== undefined) await this.#try({ calmCreate: true });
    await this.#try({ faults: {} });
    if (generationsFirst) await this.#dropGenerations();
    for (let before = Infinity; cost(this.best) < before && !this.#late; ) {
      before = cost(this.best);
      await this.#dropOperations();
      await this.#try({ inOrder: true });
      await this.#earlierCrashes();
      await this.#dropGenerations();
      await this.#dropFaults();
    }
    await this.#fewerLost();
    return this.best;
  }

  get #late(): boolean {
    return realEnvironment.clock.now() > this.#deadline;
  }

  /** Runs the best plan with changes; keeps it if it fails in the same way. */
  async #try(changes: Partial<Reduction>): Promise<boolean> {
    if (this.#late) return false;
    const { plan } = this.best;
    const candidate: Plan = { ...plan, reduction: { ...plan.reduction, ...changes } };
    const result = await runPlan(this.#target, candidate);
    if (result.violations[0]?.rule !== this.#rule) return false;
    this.best = { plan: candidate, result };
    return true;
  }

  /** Writes down what the seed decided, so that it stays while other things go. */
  async #pin(): Promise<void> {
    const { generations } = this.best.result;
    const crashes: Record<number, CrashPoint> = {};
    for (const [index, { crash, steps }] of generations.entries()) {
      if (crash === undefined) continue;
      crashes[index] = { step: steps, survivors: crash.killed === true ? "kill" : { lost: crash.lost } };
    }
    const faults = Object.fromEntries(generations.map((generation, index) => [index, generation.faults]));
    // What a generation found wrong after opening, the final one finds as well.
    const found = generations.findLastIndex(({ crash }) => crash !== undefined) + 1;
    const pinned = { keep: this.#operations, faults, generations: generations.length };
    if (await this.#try({ ...pinned, crashes, generations: found })) return;
    if (await this.#try({ ...pinned, crashes })) return;
    await this.#try(pinned);
  }

  get #operations(): number[] {
    return this.best.result.generations.flatMap(({ operations }) => operations);
  }

  async #dropGenerations(): Promise<void> {
    const { generations } = this.best.result;
    for (let index = generations.length - 1; index >= 0; index -= 1) {
      const crashes = this.best.plan.reduction.crashes ?? {};
      if (crashes[index]?.step === 0) continue;
      const last = Object.keys(crashes).every(
        (other) => Number(other) <= index || crashes[Number(other)]?.step === 0,
      );
      const before = Object.fromEntries(Object.entries(crashes).filter(([other]) => Number(other) < index));
      if (last && (await this.#try({ generations: index, crashes: before }))) continue;
      await this.#try({ crashes: { ...crashes, [index]: { step: 0, survivors: "none" } } });
    }
  }

  /** Leaves out halves, quarters … of the operations, as long as it still fails. */
  async #dropOperations(): Promise<void> {
    const operations = this.#operations;
    for (
      let size = Math.ceil(operations.length / 2);
      size >= 1;
      size = size === 1 ? 0 : Math.ceil(size / 2)
    ) {
      for (let at = operations.length; at > 0; at -= size) {
        const keep = this.#operations;
        const gone = operations.slice(Math.max(0, at - size), at);
        const left = keep.filter((id) => !gone.includes(id));
        if (left.length < keep.length) await this.#tryWithout(left);
      }
    }
  }

  async #tryWithout(keep: readonly number[]): Promise<boolean> {
    if (await this.#try({ keep })) return true;
    const crashes = this.best.plan.reduction.crashes ?? {};
    const points = Object.entries(crashes).filter(([, { step }]) => step > 0);
    const last = points.at(-1)?.[0];
    if (last === undefined) return false;
    for (const survivors of ["none", "all", "headers", "bodies"] as const) {
      const end = { step: AT_THE_END, survivors };
      if (await this.#try({ keep, crashes: { ...crashes, [last]: end } })) return true;
      const all = Object.fromEntries(points.map(([index]) => [index, end]));
      if (points.length > 1 && (await this.#try({ keep, crashes: { ...crashes, ...all } }))) return true;
    }
    return false;
  }

  /** The earliest crash of each generation that still fails, with the simplest survivors. */
  async #earlierCrashes(): Promise<void> {
    for (const [index, report] of this.best.result.generations.entries()) {
      const crashes = this.best.plan.reduction.crashes ?? {};
      const point = crashes[index];
      if (point === undefined || point.step === 0) continue;
      const choices: Survivors[] = ["none", "all", "headers", "bodies", point.survivors];
      search: for (let step = 1; step <= Math.min(report.steps, 200); step += 1) {
        for (const survivors of choices) {
          if (step === report.steps && survivors === point.survivors) break search;
          if (await this.#try({ crashes: { ...crashes, [index]: { step, survivors } } })) break search;
        }
      }
    }
  }

  async #dropFaults(): Promise<void> {
    for (const [index, specs] of Object.entries(this.best.plan.reduction.faults ?? {})) {
      for (const spec of specs) {
        const { faults = {} } = this.best.plan.reduction;
        const left = faults[Number(index)]?.filter((other) => other !== spec) ?? [];
        await this.#try({ faults: { ...faults, [index]: left } });
      }
    }
  }

  /** Names the lost sectors one by one, and lets land what need not be lost. */
  async #fewerLost(): Promise<void> {
    for (const [index, { crash }] of this.best.result.generations.entries()) {
      if (crash === undefined || crash.lost.length === 0) continue;
      const point = (): CrashPoint | undefined => this.best.plan.reduction.crashes?.[index];
      const replace = (lost: readonly number[]): Promise<boolean> =>
        this.#try({
          crashes: {
            ...this.best.plan.reduction.crashes,
            [index]: { step: point()?.step ?? AT_THE_END, survivors: { lost } },
          },
        });
      if (point() === undefined || !(await replace(crash.lost))) continue;
      for (const number of crash.lost.slice(0, 200)) {
        const survivors = point()?.survivors;
        if (typeof survivors !== "object") break;
        await replace(survivors.lost.filter((other) => other !== number));
      }
    }
  }
}

function cost({ result }: Failing): number {
  const operations = result.generations.reduce((sum, generation) => sum + generation.operations.length, 0);
  const faults = result.generations.reduce((sum, generation) => sum + generation.faults.length, 0);
  return operations * 1000 + faults * 500 + result.cycles * 100 + Math.min(99, result.steps / 100);
}
