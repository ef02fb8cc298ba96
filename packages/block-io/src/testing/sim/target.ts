/**
 * What the simulation needs to know of a block device to put it on simulated disks and crash it.
 */
import type { BlockDevice } from "../../contract/device.ts";
import type { Environment } from "../../contract/environment.ts";
import type { ErrorCode } from "../../contract/errors.ts";
import type { DiskSpec } from "./disk/disk.ts";
import type { FaultKind } from "./disk/faults.ts";
import type { Prng } from "./prng.ts";

/** The disks of one run, and whatever else the target's author wants to vary from run to run. */
export interface Geometry<Knobs = unknown> {
  readonly disks: readonly DiskSpec[];
  readonly knobs: Knobs;
  /** Sectors that read as stamps at first (a backing disk filled with them shows); all others as zeroes. */
  readonly stamped?: ((sector: number) => boolean) | undefined;
}

/**
 * A block device under test. All methods see only what they are given; everything they return belongs to the
 * current generation and is abandoned without notice when it crashes.
 */
export interface SimTarget<Knobs = unknown> {
  /** How the command line and the reports call it. */
  readonly name: string;
  /** One line for `--list`. */
  readonly summary?: string | undefined;

  /**
   * Disks and knobs of one run. Tiny ones find most: a ring of three slots wraps, a cache of eight blocks
   * evicts. Draw from `random` only.
   */
  geometry(random: Prng): Geometry<Knobs>;

  /** Formats the disks, whatever is on them. A crash in the middle is followed by another call. */
  create?(disks: readonly BlockDevice[], env: Environment, knobs: Knobs): Promise<void>;

  /** Opens the device, recovery included. It need not close the disks when it is closed. */
  open(disks: readonly BlockDevice[], env: Environment, knobs: Knobs): Promise<BlockDevice>;

  /** After a clean close: whatever an offline checker finds wrong, one text for each problem. */
  check?(disks: readonly BlockDevice[], env: Environment, knobs: Knobs): Promise<readonly string[]>;

  /**
   * At the end of a run, faults off: drains caches and says what is stuck, one text for each problem. It must
   * come to an end by itself.
   */
  quiesce?(device: BlockDevice, knobs: Knobs): Promise<readonly string[]>;

  /** At the end of a run: gives back what `geometry` or `create` took from the real world. */
  dispose?(knobs: Knobs): Promise<void> | void;

  /** Sets a known fault up in the target's code, and returns what undoes it. See mutant.ts. */
  inject?(): () => void;

  /**
   * What survives. `crash` (default): all the contract promises. `close`: only what a clean close left, whatever was flushed
   * since; generations end in a close, and in a crash only where a fault lets that fail. `none`: nothing; the device is
   * opened once.
   */
  readonly survives?: "crash" | "close" | "none" | undefined;

  /**
   * Share of crashes in which only the process ends, and the disks go on with what is unstable: 0 … 1, none unless told
   * otherwise. For devices that go on from what they read without having written it.
   */
  readonly kills?: number | undefined;

  /** Codes with which requests may fail although no fault was injected, e.g. `ENOSPC` when it is full. */
  readonly mayFail?: readonly ErrorCode[] | undefined;

  /** The lies of a disk that the target sees through, by checksums over data and place. */
  readonly detects?: readonly FaultKind[] | undefined;

  /** Faults that are not injected, because the target is not made for them. Say why where you set it. */
  readonly excludes?: readonly FaultKind[] | undefined;

  /**
   * It does real I/O, or its promises need real turns of the event loop (sockets, threads, files). Runs wait
   * for the real world then, and are not reproducible to the last step.
   */
  readonly real?: boolean | undefined;

  /** Bounds for the workload, where the usual ones do not fit. */
  readonly workload?: WorkloadBounds | undefined;
}

export interface WorkloadBounds {
  /** Requests in a generation, at most; 40 unless told otherwise. */
  readonly operations?: number | undefined;
  /** Bytes in a request, at most; 256 KiB unless told otherwise. */
  readonly transfer?: number | undefined;
  /** Generations in a run, at most; 8 unless told otherwise. */
  readonly generations?: number | undefined;
}
