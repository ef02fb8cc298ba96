import type { Plan } from "./plan.ts";
import { type RunResult, runPlan } from "./run.ts";
import type { SimTarget } from "./target.ts";
export async function shrink(target: SimTarget, plan: Plan): Promise<{ plan: Plan; result: RunResult }> {
  return { plan, result: await runPlan(target, plan) };
}
