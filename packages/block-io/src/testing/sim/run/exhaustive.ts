/**
 * The exhaustive tier: every sequence of up to n operations from a small alphabet, and in it a crash at every
 * I/O boundary with every subset of the unstable sectors lost, as long as there are few of them; beyond that,
 * nothing, everything, headers, bodies, each prefix, and each single sector. After each crash the device is
 * opened and read whole; from two of the subsets, with another crash at every step of that recovery (losing
 * nothing, or a random half; for single operations, every subset again).
 *
 * The run itself goes on only once: at each step its state is copied to other disks, and crashed there.
 */
import { SECTOR } from "../../../contract/device.ts";
import { countCandidates, crashDisks, type Survivors } from "../disk/crash.ts";
import { type DiskSnapshot, SimDisk } from "../disk/disk.ts";
import { openDisk } from "../disk/disk-handle.ts";
import { Driver } from "./driver.ts";
import { Load, type Violation, show } from "./load.ts";
import { Oracle } from "../oracle/oracle.ts";
import { readAll } from "./passes.ts";
import { stream, streams } from "./plan.ts";
import type { Geometry, SimTarget } from "../target.ts";
import { Trace } from "../trace.ts";
import { type Operation, describeOperation } from "./workload.ts";
import { World, settleTurn } from "../disk/world.ts";

export interface ExhaustiveOptions {
  /** Operations in a sequence, at most. */
  readonly length: number;
  /** The geometry is the one of this seed; 1 unless told otherwise. */
  readonly seed?: number | undefined;
  /** Unstable sectors up to which every subset is tried; 8 unless told otherwise. */
  readonly dirty?: number | undefined;
  readonly onProgress?: ((summary: ExhaustiveSummary) => void) | undefined;
}

export interface ExhaustiveSummary {
  readonly target: string;
  sequences: number;
  /** Crashes followed by a recovery. */
  cycles: number;
  /** Of those, crashes during a recovery. */
  inRecovery: number;
  readonly failures: { readonly sequence: string; readonly violation: Violation }[];
}

type Letter = Pick<Operation, "kind" | "offset" | "length" | "fua">;

/** In sectors; cut off at the end of small devices. */
const alphabet: readonly (readonly [Operation["kind"], number, number, boolean])[] = [
  ["write", 0, 1, false],
  ["write", 0, 8, false],
  ["write", 4, 8, false],
  ["write", 2, 1, true],
  ["flush", 0, 0, false],
  ["discard", 0, 8, false],
  ["zeroes", 0, 4, false],
];

/** Stops at the first sequence that fails. */
export async function exhaust(target: SimTarget, options: ExhaustiveOptions): Promise<ExhaustiveSummary> {
  const summary = { target: target.name, sequences: 0, cycles: 0, inRecovery: 0, failures: [] };
  for (let length = 1; length <= options.length; length += 1) {
    for (const sequence of sequences(length)) {
      // One after the other, and all at once.
      for (const concurrency of length === 1 ? [1] : [1, length]) {
        await new Explorer(target, options, summary).explore(sequence, concurrency);
        if (summary.failures.length > 0) return summary;
      }
      summary.sequences += 1;
      options.onProgress?.(summary);
    }
  }
  return summary;
}

function* sequences(length: number): Generator<Operation[]> {
  const total = alphabet.length ** length;
  for (let number = 0; number < total; number += 1) {
    let rest = number;
    yield Array.from({ length }, (_, index) => {
      const [kind, offset, count, fua] = alphabet[rest % alphabet.length] as (typeof alphabet)[number];
      rest = Math.floor(rest / alphabet.length);
      return { id: index + 1, kind, offset: offset * SECTOR, length: count * SECTOR, fua };
    });
  }
}

/** A target on disks of its own. */
interface Scene {
  readonly world: World;
  readonly disks: readonly SimDisk[];
}

class Explorer {
  readonly #target: SimTarget;
  readonly #options: ExhaustiveOptions;
  readonly #summary: ExhaustiveSummary;
  readonly #geometry: Geometry;
  readonly #scratch: Scene;
  readonly #second: Scene;
  #sequence = "";
  #seen = "";
  // For a single operation, recovery is examined as thoroughly as the operation itself.
  #short = false;

  constructor(target: SimTarget, options: ExhaustiveOptions, summary: ExhaustiveSummary) {
    this.#target = target;
    this.#options = options;
    this.#summary = summary;
    this.#geometry = target.geometry(stream(this.#seed, streams.geometry));
    this.#scratch = this.#scene();
    this.#second = this.#scene();
  }

  get #seed(): number {
    return this.#options.seed ?? 1;
  }

  async explore(sequence: readonly Operation[], concurrency: number): Promise<void> {
    this.#sequence = sequence.map(describeOperation).join("; ");
    this.#short = sequence.length === 1;
    const undo = this.#target.inject?.();
    const rejected = (reason: unknown): void => this.#report("unhandled", show(reason));
    process.on("unhandledRejection", rejected);
    try {
      await settleTurn();
      await this.#run(sequence, concurrency);
      await settleTurn();
    } finally {
      process.off("unhandledRejection", rejected);
      undo?.();
    }
  }

  async #run(sequence: readonly Operation[], concurrency: number): Promise<void> {
    const scene = this.#scene();
    const driver = this.#driver(scene.world);
    const { knobs, stamped } = this.#geometry;
    const formatting = this.#target.create?.(handles(scene), scene.world.environment(this.#seed), knobs);
    if (formatting !== undefined) {
      await driver.wait(formatting);
      scene.world.crash();
    }
    const opened = await driver.wait(
      this.#target.open(handles(scene), scene.world.environment(this.#seed), knobs),
    );
    if (opened.value === undefined) return this.#report("open", show(opened.error));
    const device = opened.value;
    const oracle = new Oracle(device.size / SECTOR, stamped);
    const load = this.#load(device, oracle, scene.world);
    const block = device.limits.logicalBlockSize;
    const queue = sequence.map((operation) => fitted(operation, device.size, block));
    driver.onStep = () => this.#crashHere(scene, oracle);
    const outcome = await driver.work(load, queue, concurrency);
    if (outcome !== "done") return this.#report("hang", "an operation is never answered");
    await driver.idle(50);
    await this.#crashHere(scene, oracle);
    scene.world.crash();
  }

  /** Tries the crashes that are possible in this state, on other disks. */
  async #crashHere(scene: Scene, oracle: Oracle): Promise<void> {
    const state = `${oracle.time} ${scene.disks.map((disk) => disk.changes).join(" ")}`;
    if (state === this.#seen || this.#summary.failures.length > 0) return;
    this.#seen = state;
    const snapshots = scene.disks.map((disk) => disk.snapshot());
    for (const survivors of this.#subsets(scene.disks)) {
      const thorough = survivors === "none" || survivors === "all";
      await this.#recover(this.#scratch, snapshots, survivors, oracle.fork(), thorough);
      if (this.#summary.failures.length > 0) return;
    }
  }

  /** Crashes a copy of the disks, opens the device, and reads all of it. */
  async #recover(
    scene: Scene,
    snapshots: readonly DiskSnapshot[],
    survivors: Survivors,
    oracle: Oracle,
    thorough: boolean,
  ): Promise<void> {
    for (const [index, disk] of scene.disks.entries()) disk.restore(snapshots[index] as DiskSnapshot);
    crashDisks(scene.disks, survivors, stream(this.#seed, streams.crash));
    scene.world.crash();
    oracle.crash();
    this.#summary.cycles += 1;
    const driver = this.#driver(scene.world);
    if (thorough) {
      driver.onStep = async () => {
        const again = scene.disks.map((disk) => disk.snapshot());
        const subsets = this.#short ? this.#subsets(scene.disks) : (["none", "uniform"] as const);
        for (const lost of subsets) {
          this.#summary.inRecovery += 1;
          await this.#recover(this.#second, again, lost, oracle.fork(), false);
        }
      };
    }
    const env = scene.world.environment(this.#seed);
    const opened = await driver.wait(this.#target.open(handles(scene), env, this.#geometry.knobs));
    driver.onStep = undefined;
    if (opened.value === undefined) {
      this.#report("open", `after a crash (${JSON.stringify(survivors)}): ${show(opened.error)}`);
      return;
    }
    const load = this.#load(opened.value, oracle, scene.world);
    const outcome = await driver.work(load, readAll(opened.value.size), 1);
    if (outcome !== "done") this.#report("hang", "a read after recovery is never answered");
    scene.world.crash();
  }

  #subsets(disks: readonly SimDisk[]): Survivors[] {
    const candidates = countCandidates(disks);
    const subsets: Survivors[] = ["none"];
    if (candidates === 0) return subsets;
    subsets.push("all");
    if (candidates <= (this.#options.dirty ?? 8)) {
      for (let mask = 1; mask < 2 ** candidates - 1; mask += 1) {
        subsets.push({ lost: numbers(candidates).filter((bit) => (mask >>> bit) & 1) });
      }
      return subsets;
    }
    subsets.push("headers", "bodies");
    for (const one of numbers(Math.min(candidates, 32))) {
      subsets.push({ lost: [one] });
      subsets.push({ lost: numbers(candidates).filter((other) => other !== one) });
      subsets.push({ lost: numbers(candidates).filter((other) => other > one) });
    }
    return subsets;
  }

  #scene(): Scene {
    const world = new World(new Trace());
    const disks = this.#geometry.disks.map((spec, index) => new SimDisk(spec, index, world, this.#seed));
    return { world, disks };
  }

  #driver(world: World): Driver {
    const style = { eagerness: 1, haste: 0, order: "first", wholeTurns: false, real: false } as const;
    return new Driver(world, stream(this.#seed, streams.schedule), style);
  }

  #load(device: ConstructorParameters<typeof Load>[0], oracle: Oracle, world: World): Load {
    return new Load(device, {
      oracle,
      trace: world.trace,
      demand: "legal",
      mayFail: (error) => this.#target.mayFail?.includes(error.code) === true,
      report: ({ rule, message }) => this.#report(rule, message),
    });
  }

  #report(rule: Violation["rule"], message: string): void {
    // Every sector of a lost write would be one.
    if (this.#summary.failures.length > 0) return;
    this.#summary.failures.push({ sequence: this.#sequence, violation: { rule, message } });
  }
}

function handles({ disks }: Scene): ReturnType<typeof openDisk>[] {
  return disks.map((disk) => openDisk(disk, 1));
}

/** The operation with its range cut to the device, in whole blocks. */
function fitted(operation: Operation, size: number, block: number): Operation {
  const { offset, length }: Letter = operation;
  if (length === 0) return operation;
  const start = Math.min(Math.floor(offset / block) * block, size - block);
  const end = Math.min(Math.max(Math.ceil((offset + length) / block) * block, start + block), size);
  return { ...operation, offset: start, length: end - start };
}

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}
