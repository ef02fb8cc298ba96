/**
 * Whether all that the devices of a plan use goes together: the claims they would make, by the rule of block-io
 * (claims.ts), and the locks of their files, which each device takes for itself; without anything being opened but disks whose partitions are named. A file is
 * its inode, as when it is open; of a device of the plan that only hands on requests the bytes are followed down, as the
 * target itself says.
 *
 * What cannot be known is taken to be in nobody's way: a URI is what it says, and the end of a disk is not looked for.
 */
import {
  type BlockDevice,
  BlockIoError,
  Claims,
  LowerDevices,
  type Place,
  SECTOR,
  type Segment,
  type TargetRegistry,
  identityOf,
  isWriting,
  originAt,
  parsePath,
  parseTable,
  plainLimits,
  realEnvironment,
  schemeOf,
  tableLength,
  withCapabilities,
  withoutLock,
  withoutWriting,
} from "@dmkit/block-io";
import { targets as allTargets } from "../targets.ts";
import { fileSize, knownLength, withLength } from "../manager/lengths.ts";
import type { PlannedDevice, PlannedFile, StackPlan } from "./plan.ts";
import { type StackProblem, asClause } from "./problem.ts";
import { deviceNamed } from "./read/references.ts";

// Bytes: of what is there as long as nobody knows where it ends. Other lines have room before it.
const ENDLESS = 2 ** 52;

/** What `serve` would refuse with `EBUSY`, at the devices that it would refuse; each once. */
export async function findConflicts(
  plan: StackPlan,
  targets: TargetRegistry = allTargets,
): Promise<StackProblem[]> {
  const problems: StackProblem[] = [];
  const claims = new Claims();
  const below = new Below(plan.files ?? []);
  for (const planned of plan.devices) {
    try {
      await claim(planned, targets, below, claims);
    } catch (error) {
      if (!(error instanceof BlockIoError) || error.code !== "EBUSY") throw error;
      const { device = planned.name, reason, hint } = error;
      problems.push({
        ...placeOf(planned),
        what: `${planned.name}: ${device} ${reason}`,
        allowed: hint && asClause(hint),
      });
    }
  }
  return problems;
}

/** Devices by reference, as claims know them. */
class Below {
  /** Those of the plan, by name. */
  readonly devices: Map<string, BlockDevice> = new Map();
  readonly #files: readonly PlannedFile[];
  readonly #partitions: Map<string, BlockDevice> = new Map();
  /** Who has which files open, by identity. */
  readonly #open: Map<string, Opening[]> = new Map();

  constructor(files: readonly PlannedFile[]) {
    this.#files = files;
  }

  of(reference: string): BlockDevice {
    const known = this.devices.get(deviceNamed(reference) ?? "");
    if (known !== undefined) return known;
    const scheme = schemeOf(reference);
    if (scheme === undefined) return this.#file(reference);
    // RAM disks of one size are several devices; one URI is one place.
    if (scheme === "mem" || scheme === "null") return fake(reference, ENDLESS);
    return fake(reference, ENDLESS, (offset, length) => [{ on: reference, offset, length }]);
  }

  /** Looks up where a partition is, which only its disk says; for who opens it to say is what is wrong with it. */
  async find(reference: string): Promise<void> {
    if (schemeOf(reference) !== undefined || parsePath(reference).partition === undefined) return;
    if (this.#partitions.has(reference)) return;
    const found = await LowerDevices.openOne(
      `${withoutLock(reference)}&raw`,
      "looks",
      {},
      realEnvironment,
    ).catch(() => undefined);
    if (found === undefined) return;
    this.#partitions.set(
      reference,
      fake(reference, found.size, (...at) => found.places?.(...at) ?? []),
    );
    await found.close();
  }

  /**
   * A file is open for writing in one device, or for reading in any number; so are the bytes of each of its partitions,
   * all of which share what has it open. Throws `EBUSY`.
   */
  lock(reference: string, device: string, writes: boolean): void {
    const { path, partition, lock } = parsePath(reference);
    if (!lock) return;
    const wanted: Opening = { device, partition, writes, at: this.#partitions.get(reference) };
    const file = identityOf(path);
    const others = this.#open.get(file) ?? [];
    const holder = others.find((other) => excludes(wanted, other));
    if (holder !== undefined) {
      const hint = "Make the file a device of its own, and have both stand on that: they can share it then.";
      const where = holder.partition === undefined ? "" : `, partition ${holder.partition} of it`;
      throw new BlockIoError(`is open in device ${holder.device}${where}`, {
        code: "EBUSY",
        device: reference,
        hint,
      });
    }
    this.#open.set(file, [...others, wanted]);
  }

  #file(reference: string): BlockDevice {
    const { path, partition } = parsePath(reference);
    const found = this.#partitions.get(reference);
    if (found !== undefined) return found;
    // One that was not found is no part of anything.
    const origin = (partition === undefined ? originAt(path) : undefined) ?? { name: reference, offset: 0 };
    const size = fileSize(reference, this.#files) ?? ENDLESS;
    return fake(reference, size, (offset, length) => [
      { on: origin.name, offset: origin.offset + offset, length },
    ]);
  }
}

/** A file, or a partition of one, that a device has open. */
interface Opening {
  readonly device: string;
  readonly partition: number | undefined;
  readonly writes: boolean;
  /** Undefined for a whole, and where a partition is that was not found. */
  readonly at: BlockDevice | undefined;
}

function excludes(one: Opening, other: Opening): boolean {
  if (!one.writes && !other.writes) return false;
  if ((one.partition === undefined) !== (other.partition === undefined)) return true;
  if (one.device === other.device) return false;
  return one.partition === other.partition || meet(one.at, other.at);
}

function meet(one: BlockDevice | undefined, other: BlockDevice | undefined): boolean {
  const [here] = one?.places?.(0, one.size) ?? [];
  const [there] = other?.places?.(0, other.size) ?? [];
  if (here === undefined || there === undefined) return false;
  return here.offset < there.offset + there.length && there.offset < here.offset + here.length;
}

async function claim(
  planned: PlannedDevice,
  targets: TargetRegistry,
  below: Below,
  claims: Claims,
): Promise<void> {
  for (const { of } of planned.length?.parts ?? []) await below.find(of);
  const segments = segmentsOf(planned, targets, below);
  const handedOn = await Promise.all(segments.map((segment) => handingOn(segment, below)));
  const size = tableLength(segments) * SECTOR;
  const device: BlockDevice = fake(`dm:${planned.name}`, size, (offset, length) =>
    placesIn(segments, handedOn, device, offset, length),
  );
  below.devices.set(planned.name, device);
  const claimant = { holder: { name: `device ${planned.name}` }, device };
  for (const { target, options, length } of segments) {
    for (const [reference, wanted, range] of target.uses?.(options, length * SECTOR) ?? []) {
      const use = planned.readOnly ? withoutWriting(wanted) : wanted;
      claims.take({ claimant, device: below.of(reference), range, use, target: target.name });
      if (schemeOf(reference) === undefined) below.lock(reference, planned.name, isWriting(use));
    }
  }
}

function segmentsOf(planned: PlannedDevice, targets: TargetRegistry, below: Below): readonly Segment[] {
  const { length } = planned;
  const bytes = length === undefined ? 0 : (knownLength(length, (of) => below.of(of).size) ?? 0);
  // Nothing is left for a device: that is for who opens it to say.
  return parseTable(withLength(planned.table, Math.max(1, bytes)), targets);
}

/** The device of a line that only hands on requests; undefined where they end. Such a one writes nothing when it is opened. */
async function handingOn(
  { target, options, length }: Segment,
  below: Below,
): Promise<BlockDevice | undefined> {
  const size = length * SECTOR;
  const uses = target.uses?.(options, size) ?? [];
  for (const [reference] of uses) await below.find(reference);
  if (uses.length === 0 || uses.some(([, use]) => use !== "shares")) return undefined;
  const context = { name: target.name, size, environment: realEnvironment };
  const lower = async (reference: string): Promise<BlockDevice> => below.of(reference);
  // One that does not fit is refused by who opens it.
  return target.open(options, { ...context, lower }).catch(() => undefined);
}

function placesIn(
  segments: readonly Segment[],
  handedOn: readonly (BlockDevice | undefined)[],
  device: BlockDevice,
  offset: number,
  length: number,
): readonly Place[] {
  return segments.flatMap((segment, index): readonly Place[] => {
    const start = segment.start * SECTOR;
    const from = Math.max(offset, start);
    const until = Math.min(offset + length, start + segment.length * SECTOR);
    if (until <= from) return [];
    const line = handedOn[index];
    return line === undefined
      ? [{ on: device, offset: from, length: until - from }]
      : [{ on: line, offset: from - start, length: until - from }];
  });
}

/** What claims look at of a device; nothing is read or written. */
function fake(name: string, size: number, places?: BlockDevice["places"]): BlockDevice {
  const limits = withCapabilities(plainLimits, { readOnly: false });
  return { name, size, limits, ...(places && { places }) } as BlockDevice;
}

function placeOf({ where }: PlannedDevice): Pick<StackProblem, "file" | "line" | "column"> {
  const [, file = where, line = "1", column = "1"] = /^(.*):(\d+):(\d+)$/.exec(where) ?? [];
  return { file, line: Number(line), column: Number(column) };
}
