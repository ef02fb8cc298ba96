/**
 * The real-process tier: a server in a process of its own, a real client that records what was acknowledged, a
 * SIGKILL at any moment, a restart, and the oracle's verdict on what is there. Nothing is simulated, so a round
 * cannot be repeated to the last step; the workload can.
 *
 * Killing a process is less than cutting the power: what the kernel holds survives. The oracle therefore demands
 * no more than after a crash, and what is not in the kernel's hands yet must not have been promised.
 */
import { type BlockDevice, SECTOR } from "../../../contract/device.ts";
import { Load, type Violation } from "./load.ts";
import { Oracle } from "../oracle/oracle.ts";
import { readAll } from "./passes.ts";
import { Prng } from "../prng.ts";
import { Trace } from "../trace.ts";
import { type Operation, drawOperations, drawProfile } from "./workload.ts";

/** A server that runs, and a client connected to it. */
export interface ServedDevice {
  /** The client's view. Requests in flight must fail soon after the server is gone. */
  readonly device: BlockDevice;
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>;
  /** SIGTERM; resolves when the process has ended by itself. */
  terminate(): Promise<void>;
}

export interface KillOptions {
  /** Starts the server on the same storage, and connects. */
  readonly start: (round: number) => Promise<ServedDevice>;
  readonly rounds: number;
  readonly seed?: number | undefined;
  /** Requests of a round, at most; 300 unless told otherwise. */
  readonly operations?: number | undefined;
  /** Share of rounds that end with SIGTERM, after which everything acknowledged must be there; 0.15. */
  readonly graceful?: number | undefined;
  readonly onProgress?: ((summary: KillSummary) => void) | undefined;
}

export interface KillSummary {
  rounds: number;
  /** Rounds that ended with SIGTERM. */
  graceful: number;
  operations: number;
  /** Requests that were on their way when the server was killed. */
  interrupted: number;
  readonly violations: Violation[];
}

/** Runs rounds until the first violation. The storage has to read as zeroes at first. */
export async function killRounds(options: KillOptions): Promise<KillSummary> {
  const { rounds, seed = 1, graceful = 0.15 } = options;
  const summary: KillSummary = { rounds: 0, graceful: 0, operations: 0, interrupted: 0, violations: [] };
  let oracle: Oracle | undefined;
  for (let round = 0; round <= rounds && summary.violations.length === 0; round += 1) {
    const random = new Prng(seed, round);
    const served = await options.start(round);
    oracle ??= new Oracle(served.device.size / SECTOR);
    const work = new Round(served, oracle, summary.violations);
    await work.verify();
    // The last round only looks at what the one before has left.
    if (round === rounds) {
      await served.device.close().catch(() => {});
      await served.terminate();
      break;
    }
    const id = round * 10_000 + 1;
    const kind = random.chance(graceful) ? "terminate" : "kill";
    summary.interrupted += await work.load(random, id, options.operations ?? 300, kind);
    if (kind === "terminate") summary.graceful += 1;
    summary.rounds += 1;
    summary.operations += work.operations;
    options.onProgress?.(summary);
  }
  return summary;
}

class Round {
  readonly #served: ServedDevice;
  readonly #oracle: Oracle;
  readonly #load: Load;
  #gone = false;

  constructor(served: ServedDevice, oracle: Oracle, violations: Violation[]) {
    this.#served = served;
    this.#oracle = oracle;
    this.#load = new Load(served.device, {
      oracle,
      trace: new Trace(),
      demand: "legal",
      mayFail: () => this.#gone,
      report: (violation) => violations.push(violation),
    });
  }

  get operations(): number {
    return this.#load.settled;
  }

  /** Reads everything. */
  async verify(): Promise<void> {
    for (const read of readAll(this.#served.device.size)) await this.#load.submit(read);
  }

  /** Works, and ends the server somewhere in the middle; resolves with the requests that were in flight. */
  async load(random: Prng, id: number, most: number, end: "kill" | "terminate"): Promise<number> {
    const { device } = this.#served;
    const profile = { ...drawProfile(random), operations: most, concurrency: random.pick([1, 2, 4, 8, 16]) };
    // A client cannot suspend what it does not own.
    const queue = drawOperations(random, device, profile, id).filter(({ kind }) => kind !== "suspend");
    const last = Math.min(queue.length, random.below(most));
    let inFlight = 0;
    let flushed = 0;
    let next = 0;
    const finish = (): Promise<void> => {
      this.#gone = true;
      inFlight = this.#load.inFlight;
      flushed = this.#oracle.beginFlush();
      return end === "kill" ? this.#served.kill() : this.#served.terminate();
    };
    const worker = async (): Promise<void> => {
      for (; next < last; ) {
        const operation = queue[next] as Operation;
        next += 1;
        await this.#load.submit(operation);
      }
    };
    // The first worker that finds nothing left to do ends the server, while the others still wait for theirs.
    const workers = Array.from({ length: profile.concurrency }, worker);
    await Promise.race(workers);
    await finish();
    await Promise.all(workers);
    await device.close().catch(() => {});
    // A server that was asked to end has stored what it had acknowledged.
    if (end === "terminate") this.#oracle.flushed(flushed);
    this.#oracle.crash();
    return inFlight;
  }
}
