/**
 * Whether all that the devices of a plan use goes together: the claims they would make, by the rule of block-io
 * (claims.ts), and the locks of their files, which each device takes for itself; without anything being opened. A file is
 * its inode, as when it is open; of a device of the plan that only hands on requests the bytes are followed down, as the
 * target itself says.
 *
 * What cannot be known is taken to be in nobody's way: a URI is what it says, and the end of a disk is not looked for.
 */
import {
  type BlockDevice,
  BlockIoError,
  Claims,
  type Place,
  SECTOR,
  type Segment,
  type TargetRegistry,
  isWriting,
  originAt,
  parsePath,
  parseTable,
  plainLimits,
  realEnvironment,
  schemeOf,
  tableLength,
  withCapabilities,
  withoutWriting,
} from "@dmkit/block-io";
import { targets as allTargets } from "../targets.ts";
import { fileSize, knownLength } from "../manager/lengths.ts";
import { type PlannedDevice, type PlannedFile, type StackPlan, tableOfLength } from "./plan.ts";
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
  /** Who has a file open, and whether for writing. */
  readonly #locks: Map<string, Map<string, boolean>> = new Map();

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

  /** A file is open for writing in one device, or for reading in any number. Throws `EBUSY`. */
  lock(reference: string, device: string, writes: boolean): void {
    const { path, partition } = parsePath(reference);
    const key = originAt(path)?.name ?? path;
    // All partitions of a disk share what has it open.
    const owner = partition === undefined ? `device ${device}` : "devices on its partitions";
    const holders = this.#locks.get(key) ?? new Map<string, boolean>();
    this.#locks.set(key, holders);
    for (const [holder, isWriter] of holders) {
      if (holder === owner || !(writes || isWriter)) continue;
      const hint = "Make the file a device of its own, and have both stand on that: they can share it then.";
      throw new BlockIoError(`is open in ${holder}`, { code: "EBUSY", device: reference, hint });
    }
    holders.set(owner, writes || holders.get(owner) === true);
  }

  #file(path: string): BlockDevice {
    // Where a partition begins only its disk says.
    const words = parsePath(path);
    const origin = originAt(words.partition === undefined ? words.path : path) ?? { name: path, offset: 0 };
    const size = fileSize(path, this.#files) ?? ENDLESS;
    return fake(path, size, (offset, length) => [
      { on: origin.name, offset: origin.offset + offset, length },
    ]);
  }
}

async function claim(
  planned: PlannedDevice,
  targets: TargetRegistry,
  below: Below,
  claims: Claims,
): Promise<void> {
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
  return parseTable(tableOfLength(planned, Math.max(1, bytes)), targets);
}

/** The device of a line that only hands on requests; undefined where they end. Such a one writes nothing when it is opened. */
async function handingOn(
  { target, options, length }: Segment,
  below: Below,
): Promise<BlockDevice | undefined> {
  const size = length * SECTOR;
  const uses = target.uses?.(options, size) ?? [];
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
