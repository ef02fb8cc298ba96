/**
 * A run as data. The seed decides everything; a reduction, found by shrinking, takes things away from what the
 * seed decided. Both together fit on a command line and reproduce a run to the last step.
 */
import { type Survivors, biases, drawBias } from "../disk/crash.ts";
import { type FaultKind, type FaultSpec, faultKinds, honestFaults, randomFaults } from "../disk/faults.ts";
import { Prng } from "../prng.ts";
import type { SimTarget } from "../target.ts";

/** The purposes of random numbers; each generation has its own set. */
export const streams = {
  geometry: 1,
  run: 2,
  create: 3,
  final: 4,
  operations: 10,
  schedule: 11,
  crash: 12,
  disk: 13,
  environment: 14,
  profile: 15,
  faults: 16,
  kill: 17,
} as const;

/** A stream of a generation, counted from 0. */
export function stream(seed: number, purpose: number, generation = 0): Prng {
  return new Prng(seed, purpose + generation * 100);
}

/** Where a generation ends, and what is left. */
export interface CrashPoint {
  /** Steps of the generation before the power fails; 0: the generation is left out. */
  readonly step: number;
  readonly survivors: Survivors;
}

export interface Reduction {
  /** Operations that are carried out; all if absent. */
  readonly keep?: readonly number[] | undefined;
  /** Generations before the final one. */
  readonly generations?: number | undefined;
  /** Crashes that replace those the seed decided, by generation. */
  readonly crashes?: Readonly<Record<number, CrashPoint>> | undefined;
  /** Faults that replace those the seed decided, by generation. */
  readonly faults?: Readonly<Record<number, readonly FaultSpec[]>> | undefined;
  /** The power does not fail while the disks are formatted. */
  readonly calmCreate?: boolean | undefined;
  /** Lower I/O completes in the order it was issued, and requests are submitted one after the other. */
  readonly inOrder?: boolean | undefined;
}

/** Which faults the random tier may inject. */
export type FaultMode = "none" | "honest" | "all" | readonly FaultKind[];

export interface Plan {
  readonly seed: number;
  readonly faults: FaultMode;
  readonly reduction: Reduction;
}

/** What a generation does when its work is over. */
export type Ending = "crash" | "close";

export interface RunShape {
  readonly generations: number;
  readonly endings: readonly Ending[];
  readonly survivors: readonly Survivors[];
  readonly faults: readonly (readonly FaultSpec[])[];
}

/** The decisions of a run that do not depend on how it goes. */
export function shapeOf(target: SimTarget, { seed, faults, reduction }: Plan, disks: number): RunShape {
  const random = stream(seed, streams.run);
  const survives = target.survives ?? "crash";
  const most = survives === "none" ? 1 : (target.workload?.generations ?? 8);
  const drawn = random.between(1, most);
  const kinds = faultsOf(faults).filter((kind) => target.excludes?.includes(kind) !== true);
  const faulty = kinds.length > 0 && random.chance(Array.isArray(faults) ? 1 : 0.3);
  const endings: Ending[] = [];
  const survivors: Survivors[] = [];
  const injected: (readonly FaultSpec[])[] = [];
  for (let generation = 0; generation < drawn; generation += 1) {
    const ending = random.chance(0.85) ? "crash" : "close";
    const bias = drawBias(random);
    const choice = stream(seed, streams.faults, generation);
    const here = faulty && random.chance(0.6) ? randomFaults(random, kinds, choice, disks) : [];
    endings.push(survives === "crash" ? ending : "close");
    const kills = stream(seed, streams.kill, generation).chance(target.kills ?? 0);
    survivors.push(reduction.crashes?.[generation]?.survivors ?? (kills ? "kill" : bias));
    injected.push(reduction.faults === undefined ? here : (reduction.faults[generation] ?? []));
  }
  const generations = Math.min(drawn, reduction.generations ?? drawn);
  return { generations, endings, survivors, faults: injected };
}

function faultsOf(mode: FaultMode): readonly FaultKind[] {
  if (mode === "none") return [];
  if (mode === "honest") return honestFaults;
  if (mode === "all") return Object.keys(faultKinds) as FaultKind[];
  return mode;
}

/** The options that reproduce a plan with `npm run sim`. */
export function planToArguments({ seed, faults, reduction }: Plan): string[] {
  const words = ["--seed", String(seed)];
  if (faults !== "honest") words.push("--faults", typeof faults === "string" ? faults : faults.join(","));
  if (reduction.generations !== undefined) words.push("--generations", String(reduction.generations));
  if (reduction.keep !== undefined) words.push("--keep", ranges(reduction.keep));
  if (reduction.crashes !== undefined && Object.keys(reduction.crashes).length > 0) {
    const crashes = Object.entries(reduction.crashes).map(([generation, { step, survivors }]) => {
      const what = typeof survivors === "string" ? survivors : `lost=${ranges(survivors.lost)}`;
      return `${generation}@${step}:${what}`;
    });
    words.push("--crash", crashes.join("/"));
  }
  if (reduction.faults !== undefined) {
    const injected = Object.entries(reduction.faults).flatMap(([generation, specs]) =>
      specs.map(
        ({ kind, ordinal, persistent, disk }) =>
          `${generation}@${kind}:${ordinal}${persistent ? "+" : ""}${disk === undefined ? "" : `:disk${disk}`}`,
      ),
    );
    words.push("--inject", injected.length > 0 ? injected.join("/") : "none");
  }
  if (reduction.calmCreate) words.push("--calm-create");
  if (reduction.inOrder) words.push("--in-order");
  return words;
}

/** Values of the options {@link planToArguments} writes, by name. */
export interface PlanOptions {
  readonly keep?: string | undefined;
  readonly crash?: string | undefined;
  readonly inject?: string | undefined;
  readonly generations?: string | undefined;
  readonly "calm-create"?: boolean | undefined;
  readonly "in-order"?: boolean | undefined;
}

/** Throws a TypeError that names the option and what it should look like. */
export function parseReduction(options: PlanOptions): Reduction {
  return {
    keep: options.keep === undefined ? undefined : parseRanges(options.keep, "--keep"),
    generations: options.generations === undefined ? undefined : Number(options.generations),
    crashes: options.crash === undefined ? undefined : parseCrashes(options.crash),
    faults: options.inject === undefined ? undefined : parseFaults(options.inject),
    calmCreate: options["calm-create"],
    inOrder: options["in-order"],
  };
}

function parseCrashes(text: string): Record<number, CrashPoint> {
  const crashes: Record<number, CrashPoint> = {};
  for (const part of text.split("/")) {
    const match = /^(\d+)@(\d+):(?:lost=([\d,-]*)|([a-z-]+))$/.exec(part);
    const bias = ([...biases, "kill"] as const).find((name) => name === match?.[4]);
    if (match === null || (match[4] !== undefined && bias === undefined)) {
      throw new TypeError(`--crash ${part}: expected GENERATION@STEP:BIAS or GENERATION@STEP:lost=NUMBERS`);
    }
    const survivors = bias ?? { lost: parseRanges(match[3] ?? "", "--crash") };
    crashes[Number(match[1])] = { step: Number(match[2]), survivors };
  }
  return crashes;
}

function parseFaults(text: string): Record<number, FaultSpec[]> {
  const faults: Record<number, FaultSpec[]> = {};
  if (text === "none") return faults;
  for (const part of text.split("/")) {
    const match = /^(\d+)@([a-z-]+):(\d+)(\+?)(?::disk(\d+))?$/.exec(part);
    if (match === null || !Object.hasOwn(faultKinds, match[2] as string)) {
      throw new TypeError(
        `--inject ${part}: expected GENERATION@FAULT:ORDINAL, then + if it persists, then :diskN`,
      );
    }
    const spec: FaultSpec = {
      kind: match[2] as FaultKind,
      ordinal: Number(match[3]),
      persistent: match[4] === "+",
      ...(match[5] === undefined ? {} : { disk: Number(match[5]) }),
    };
    (faults[Number(match[1])] ??= []).push(spec);
  }
  return faults;
}

/** `1-3,7` for 1, 2, 3, 7; `-` for nothing. */
function ranges(numbers: readonly number[]): string {
  const parts: string[] = [];
  for (let index = 0; index < numbers.length; ) {
    const first = numbers[index] as number;
    let last = first;
    while (numbers[index + 1] === last + 1) {
      last += 1;
      index += 1;
    }
    index += 1;
    parts.push(first === last ? String(first) : `${first}-${last}`);
  }
  return parts.length > 0 ? parts.join(",") : "-";
}

function parseRanges(text: string, option: string): number[] {
  if (text === "-" || text === "") return [];
  return text.split(",").flatMap((part) => {
    const match = /^(\d+)(?:-(\d+))?$/.exec(part);
    const first = Number(match?.[1]);
    const last = Number(match?.[2] ?? first);
    if (match === null || last < first || last - first > 100_000) {
      throw new TypeError(`${option} ${part}: expected a number or FIRST-LAST`);
    }
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  });
}
