/** The faults of a run: those its disks have now, how often each kind has struck, and what they excuse. */
import { BlockIoError } from "../../../contract/errors.ts";
import type { SimDisk } from "../disk/disk.ts";
import { type Demand, FaultInjector, type FaultKind, type FaultSpec, demandOf } from "../disk/faults.ts";

export class RunFaults {
  /** How often each kind has struck in the generations that were {@link count}ed. */
  readonly counts: Map<FaultKind, number> = new Map();
  readonly #detects: readonly FaultKind[];
  readonly #all: FaultSpec[] = [];
  #injector = new FaultInjector();
  #demand: Demand = "legal";

  /** @param detects the lies the target claims to see through. */
  constructor(detects: readonly FaultKind[] = []) {
    this.#detects = detects;
  }

  /** What can be demanded of the run from here on, after all faults that its disks have had. */
  get demand(): Demand {
    return this.#demand;
  }

  /** Whether an honest fault has struck in this generation. */
  get struck(): boolean {
    return this.#injector.struck;
  }

  /** From now on the disks have these faults, and no others: a generation begins. */
  inject(disks: readonly SimDisk[], faults: readonly FaultSpec[]): void {
    this.#injector = new FaultInjector(faults);
    this.#all.push(...faults);
    this.#demand = demandOf(this.#all, this.#detects);
    for (const disk of disks) disk.faults = this.#injector;
  }

  /** Adds what has struck in this generation, which is over. */
  count(): void {
    for (const [kind, count] of this.#injector.fired) {
      this.counts.set(kind, (this.counts.get(kind) ?? 0) + count);
    }
  }

  /** Whether a target may answer with this error. */
  excuses(error: unknown): boolean {
    return error instanceof BlockIoError && (this.struck || this.#demand !== "legal");
  }
}
