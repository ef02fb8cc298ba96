/**
 * What a disk can do wrong, and when: faults by ordinal. The n-th request a fault applies to (counted from 1,
 * over all disks it names, from the start of its generation, recovery included) is the one that suffers; a
 * persistent fault goes on with every later one.
 *
 * Two classes. An *honest* fault is reported, so everything the contract promises can be demanded: nothing
 * acknowledged is lost. A *lie* is not, and what can be demanded then depends on what the target can detect:
 * see {@link demandOf}.
 */
import type { Prng } from "../prng.ts";

/** What a request does to a disk. */
export type IoKind = "read" | "write" | "flush" | "discard";

export type FaultKind =
  | "read-error"
  | "write-error"
  | "flush-error"
  | "flush-lossy"
  | "flush-lossless"
  | "enospc"
  | "short"
  | "hang"
  | "ignored-flush"
  | "rot"
  | "misdirected";

export interface FaultDescription {
  readonly applies: readonly IoKind[];
  /** Not reported by the disk. */
  readonly lie: boolean;
  readonly text: string;
}

export const faultKinds: Readonly<Record<FaultKind, FaultDescription>> = {
  "read-error": { applies: ["read"], lie: false, text: "a read fails with EIO" },
  "write-error": { applies: ["write"], lie: false, text: "a write fails with EIO, each sector old or new" },
  "flush-error": { applies: ["flush"], lie: false, text: "a flush fails, later writes are refused" },
  "flush-lossy": {
    applies: ["flush"],
    lie: false,
    text: "a flush fails and forgets what it should have made stable; later ones succeed, as fsync does",
  },
  "flush-lossless": {
    applies: ["flush"],
    lie: false,
    text: "a flush fails, nothing is lost, and the next one covers it",
  },
  enospc: { applies: ["write"], lie: false, text: "a write fails with ENOSPC and changes nothing" },
  short: { applies: ["read", "write"], lie: false, text: "only the first part is transferred, then EIO" },
  hang: {
    applies: ["read", "write", "flush"],
    lie: false,
    text: "a request is answered when nothing else can go on; persistent: never",
  },
  "ignored-flush": { applies: ["flush"], lie: true, text: "a flush succeeds and does nothing" },
  rot: { applies: ["read"], lie: true, text: "a bit of what is read has changed on the medium" },
  misdirected: { applies: ["write"], lie: true, text: "a write succeeds, but elsewhere on the disk" },
};

/**
 * Those that most runs draw from. Not `flush-lossless`, which has runs of its own: what the others did under a seed stays
 * as it was.
 */
export const honestFaults: readonly FaultKind[] = (Object.keys(faultKinds) as FaultKind[]).filter(
  (kind) => !faultKinds[kind].lie && kind !== "flush-lossless",
);

export interface FaultSpec {
  readonly kind: FaultKind;
  /** The first request that suffers, counted from 1 among those the fault applies to. */
  readonly ordinal: number;
  readonly persistent: boolean;
  /** Index of the only disk that suffers; all of them if absent. */
  readonly disk?: number | undefined;
}

/**
 * What the oracle may demand of a run.
 * `legal`: every read is legal, errors only after an honest fault.
 * `legal-or-error`: every read is legal or fails.
 * `known-or-error`: every read is some version once written to that sector, or fails.
 * `alive`: nothing hangs, nothing crashes; contents are not judged.
 */
export type Demand = "legal" | "legal-or-error" | "known-or-error" | "alive";

/** @param detects the lies the target claims to see through (by checksums over data and place). */
export function demandOf(faults: readonly FaultSpec[], detects: readonly FaultKind[]): Demand {
  let demand: Demand = "legal";
  for (const { kind } of faults) {
    if (!faultKinds[kind].lie) continue;
    if (!detects.includes(kind)) return "alive";
    if (kind !== "rot") demand = "known-or-error";
    else if (demand === "legal") demand = "legal-or-error";
  }
  return demand;
}

/** Counts requests and says which of them suffer. One for each generation of a run. */
export class FaultInjector {
  readonly specs: readonly FaultSpec[];
  readonly #seen: number[];
  readonly #fired: Map<FaultKind, number> = new Map();

  constructor(specs: readonly FaultSpec[] = []) {
    this.specs = specs;
    this.#seen = specs.map(() => 0);
  }

  /** How often each kind of fault has struck. */
  get fired(): ReadonlyMap<FaultKind, number> {
    return this.#fired;
  }

  /** Whether an honest fault has struck: from then on requests may fail. */
  get struck(): boolean {
    return this.#fired.size > 0;
  }

  /** The fault a request suffers, if any; called once for each request, when it is issued. */
  next(disk: number, io: IoKind): FaultKind | undefined {
    let suffers: FaultKind | undefined;
    for (let index = 0; index < this.specs.length; index += 1) {
      const spec = this.specs[index] as FaultSpec;
      if (spec.disk !== undefined && spec.disk !== disk) continue;
      if (!faultKinds[spec.kind].applies.includes(io)) continue;
      const seen = ((this.#seen[index] as number) += 1);
      if (seen === spec.ordinal || (spec.persistent && seen > spec.ordinal)) suffers ??= spec.kind;
    }
    if (suffers !== undefined) this.#fired.set(suffers, (this.#fired.get(suffers) ?? 0) + 1);
    return suffers;
  }
}

// Often early, in recovery; now and then late in a long run.
const spans = [8, 8, 60, 400] as const;

/** One or two random faults out of `kinds`; about half of them strike one disk only, drawn by `choice`. */
export function randomFaults(
  random: Prng,
  kinds: readonly FaultKind[],
  choice: Prng,
  disks: number,
): FaultSpec[] {
  const count = random.chance(0.2) ? 2 : 1;
  return Array.from({ length: count }, () => ({
    kind: random.pick(kinds as readonly [FaultKind, ...FaultKind[]]),
    ordinal: 1 + random.below(random.pick(spans)),
    persistent: random.chance(0.3),
    ...(disks > 1 && choice.chance(0.5) ? { disk: choice.below(disks) } : {}),
  }));
}
