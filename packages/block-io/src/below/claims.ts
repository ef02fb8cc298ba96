/**
 * Who uses which bytes of which device, and whether that goes together.
 *
 *      use      writes   relies on what is there
 *      owns     yes      yes      a cache its log and its disk, a stack its top layer
 *      reads    no       yes      a stack its base and the layers below the top
 *      shares   yes      no       linear, striped: they hand on what others read and write
 *      looks    no       no       the same, opened read-only
 *
 * Invariant: bytes that one claim relies on are written under no other claim.
 *
 * Bytes are the same where they end up in the same place, whatever devices are between ({@link BlockDevice.places}).
 * A device that hands requests on has a claim of its own on what is below; whoever stands on that device goes through
 * this very claim, so the two are no conflict. Where bytes end up can change with a table that is exchanged: places are
 * looked up whenever claims are compared, and {@link Claims.verify} is for whoever has changed one. While one is closed
 * and its successor not open yet, its claims are kept as they were ({@link Claims.keep}).
 *
 * This is about the devices of one process. Other processes are kept off a file by its lock (file-open.ts).
 */
import type { BlockDevice } from "../contract/device.ts";
import { BlockIoError } from "../contract/errors.ts";

/** What somebody does with a device below. */
export type Use = "owns" | "reads" | "shares" | "looks";

/** Bytes of a device. */
export interface ByteRange {
  readonly offset: number;
  readonly length: number;
}

/** A device below, what it is for, and the bytes that are used; without them all of the device. */
export type DeviceUse = readonly [reference: string, use: Use, range?: ByteRange];

/** Whom a claim belongs to. */
export interface Holder {
  /** For messages: `device cached`. */
  readonly name: string;
  /** For messages: how to make it let go. */
  readonly advice?: string | undefined;
}

/** The holder where nobody said who it is. */
export const PROGRAM = "this program";

/** Who makes claims: what was opened for one device. */
export interface Claimant {
  readonly holder: Holder;
  /** The device whose requests go to what is claimed; undefined while it is being opened. */
  device?: BlockDevice | undefined;
}

/** Somebody's use of some bytes of a device. */
export interface Claim {
  readonly claimant: Claimant;
  readonly device: BlockDevice;
  /** Undefined: all of the device, however large it is. */
  readonly range?: ByteRange | undefined;
  readonly use: Use;
  /** Name of the target that makes it, if it is one. */
  readonly target?: string | undefined;
}

/** Bytes at the end of the way down. */
interface Run {
  readonly on: BlockDevice | string;
  readonly start: number;
  readonly end: number;
  /** The devices that are passed. */
  readonly through: ReadonlySet<BlockDevice>;
}

/** A claim whose bytes stay where they were. */
interface Kept {
  readonly claim: Claim;
  readonly runs: readonly Run[];
  readonly holder: Holder;
  /** What others reach them through. */
  readonly device: BlockDevice;
}

interface Meaning {
  readonly writes: boolean;
  readonly relies: boolean;
  /** For messages: what a holder does to a device. */
  readonly verb: string;
}

const uses: Readonly<Record<Use, Meaning>> = {
  owns: { writes: true, relies: true, verb: "owns" },
  reads: { writes: false, relies: true, verb: "relies on" },
  shares: { writes: true, relies: false, verb: "writes to" },
  looks: { writes: false, relies: false, verb: "reads" },
};

/** Whether the device must be open for writing. */
export function isWriting(use: Use): boolean {
  return uses[use].writes;
}

/** The same use where nothing can be written. */
export function withoutWriting(use: Use): Use {
  return uses[use].relies ? "reads" : "looks";
}

/** A list of claims that go together. There is one for a process: {@link claims}. */
export class Claims {
  readonly #claims: Set<Claim> = new Set();
  /** Those in nobody's way, and with nobody in theirs. */
  readonly #lookers: Set<Claim> = new Set();
  readonly #kept: Set<Kept> = new Set();
  readonly #withinOne: boolean;

  /** @param withinOne whether claims of one claimant are compared with each other. */
  constructor(withinOne = true) {
    this.#withinOne = withinOne;
  }

  /** Returns what gives it back. Throws `EBUSY` with who is in the way. */
  take(wanted: Claim): () => void {
    // Nobody can write to what is read-only itself, and several may rely on it.
    const { readOnly } = wanted.device.limits.capabilities;
    const claim = readOnly ? { ...wanted, use: withoutWriting(wanted.use) } : wanted;
    const into = claim.use === "looks" ? this.#lookers : this.#claims;
    if (into === this.#claims) this.#refuse(claim, into);
    into.add(claim);
    return () => into.delete(claim);
  }

  /** The names of those who use bytes of an origin, for whatever. */
  holdersOf(origin: string): string[] {
    const all = [...this.#claims, ...this.#lookers].map((claim) => ({ claim, runs: runsOf(claim) }));
    const found = [...all, ...this.#kept].filter(({ runs }) => runs.some(({ on }) => on === origin));
    return [...new Set(found.map(({ claim }) => claim.claimant.holder.name))];
  }

  /**
   * Keeps what a holder claims, and what others claim through its device, where that is now: to whoever else asks it is in
   * use, although the claims are given back, until what is returned is called.
   */
  keep(holder: Holder, device: BlockDevice): () => void {
    const kept = [...this.#claims]
      .map((claim) => ({ claim, runs: runsOf(claim), holder, device }))
      .filter(
        ({ claim, runs }) =>
          claim.claimant.holder === holder || runs.some(({ through }) => through.has(device)),
      );
    for (const one of kept) this.#kept.add(one);
    return () => {
      for (const one of kept) this.#kept.delete(one);
    };
  }

  /** Whether somebody relies on bytes that are read through a device. */
  reliesOn(device: BlockDevice): boolean {
    return [...this.#claims].some(
      (claim) => uses[claim.use].relies && runsOf(claim).some(({ through }) => through.has(device)),
    );
  }

  /** Whether all claims go together, now that a device lies elsewhere than before. Throws `EBUSY`. */
  verify(): void {
    const checked: Claim[] = [];
    for (const claim of this.#claims) {
      this.#refuse(claim, checked);
      checked.push(claim);
    }
  }

  #refuse(claim: Claim, others: Iterable<Claim>): void {
    const runs = runsOf(claim);
    if (uses[claim.use].writes && uses[claim.use].relies) refuseFolded(claim, runs);
    for (const other of others) {
      if (!clash(claim.use, other.use) || (!this.#withinOne && claim.claimant === other.claimant)) continue;
      const theirs = runsOf(other);
      const meets = runs.some((run) =>
        theirs.some((their) => overlap(run, their) && !goesThrough(run, other) && !goesThrough(their, claim)),
      );
      if (meets) throw conflict(claim, other);
    }
    this.#refuseKept(claim, runs);
  }

  #refuseKept(claim: Claim, runs: readonly Run[]): void {
    for (const { claim: other, runs: theirs, holder, device } of this.#kept) {
      if (claim.claimant.holder === holder || !clash(claim.use, other.use)) continue;
      // Whoever is above the holder goes through it, and what the holder stands on is gone through.
      const meets = runs.some(
        (run) =>
          !run.through.has(device) &&
          theirs.some((their) => overlap(run, their) && !goesThrough(their, claim)),
      );
      if (meets) throw conflict(claim, other);
    }
  }
}

/** All claims of this process. */
export const claims: Claims = new Claims();

function clash(one: Use, other: Use): boolean {
  return (uses[one].writes && uses[other].relies) || (uses[other].writes && uses[one].relies);
}

function overlap(one: Run, other: Run): boolean {
  return one.on === other.on && one.start < other.end && other.start < one.end;
}

function goesThrough({ through }: Run, { claimant }: Claim): boolean {
  return claimant.device !== undefined && through.has(claimant.device);
}

function runsOf({ device, range }: Claim): Run[] {
  const start = Math.min(range?.offset ?? 0, device.size);
  const end = range === undefined ? device.size : Math.min(device.size, start + range.length);
  const runs: Run[] = [];
  if (end > start) descend(device, start, end, [], runs);
  return runs;
}

/** Follows bytes down to where they are. */
function descend(
  device: BlockDevice,
  start: number,
  end: number,
  above: readonly BlockDevice[],
  runs: Run[],
): void {
  const passed = [...above, device];
  const places = device.places?.(start, end - start) ?? [{ on: device, offset: start, length: end - start }];
  for (const { on, offset, length } of places) {
    if (typeof on === "string" || on === device) {
      runs.push({ on, start: offset, end: offset + length, through: new Set(passed) });
    } else {
      descend(on, offset, offset + length, passed, runs);
    }
  }
}

/** What is written in one place and shows in another is no disk. */
function refuseFolded({ device }: Claim, runs: readonly Run[]): void {
  const twice = runs.some((run, index) => runs.some((other, at) => at < index && overlap(run, other)));
  if (!twice) return;
  throw new BlockIoError("shows some of its bytes in two places", {
    code: "EBUSY",
    device: device.name,
    op: "open",
    hint: "Map every part of the devices below it once.",
  });
}

function conflict({ device, claimant }: Claim, other: Claim): BlockIoError {
  const { range, use, target } = other;
  const { name, advice } = other.claimant.holder;
  const isSame = other.claimant === claimant;
  const isDirect = other.device.name === device.name;
  const holder = `${isSame ? "the same table" : name}${target === undefined ? "" : ` (${target})`}`;
  const part = range === undefined ? "" : `bytes ${range.offset} … ${range.offset + range.length - 1} of `;
  const what = `${part}${isDirect ? "it" : other.device.name}`;
  const otherwise = isSame || advice === undefined ? "" : ` Or ${advice}`;
  return new BlockIoError(
    `${isDirect ? "is in use" : "has bytes in it that are in use"}: ${holder} ${uses[use].verb} ${what}`,
    {
      code: "EBUSY",
      device: device.name,
      op: "open",
      hint: `Use another device, or another part of it: only linear, striped, delay and flakey share one, and only with each other.${otherwise}`,
    },
  );
}
