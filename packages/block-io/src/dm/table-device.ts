/**
 * Opens a table: the targets of its lines over the devices they name, as one device.
 *
 * The device owns everything it opened: closing it closes the targets, then the devices below them. While it is
 * suspended so are its targets: what they do by themselves (writeback, commits) rests as well.
 */
import { checkSettings } from "../contract/settings.ts";
import { join } from "../sync/join.ts";
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import { isWriting } from "../below/claims.ts";
import { type Environment, silentLogger } from "../contract/environment.ts";
import { BlockIoError, toBlockIoError, worstOf } from "../contract/errors.ts";
import { type Health, failureOf, healthOf, worstHealth } from "../contract/health.ts";
import type { FilesBelow } from "../below/files.ts";
import { LowerDevices } from "../below/lower-devices.ts";
import { parseOptions, replaceReferences } from "./options.ts";
import {
  type OpenTableOptions,
  type Segment,
  openTableSettings,
  printSegment,
  tableLength,
} from "./table.ts";
import type { MessageOptions } from "./controls.ts";
import type { Facts } from "../contract/facts.ts";
import {
  type OpenContext,
  type RangeDescription,
  type TargetDevice,
  currentArguments,
  requireRoom,
  splitSector,
} from "./target.ts";
import { MappedDevice, type Piece } from "../targets/mapped.ts";

interface OpenSegment {
  readonly segment: Segment;
  readonly device: TargetDevice;
  /** Bytes. */
  readonly start: number;
  readonly end: number;
}

/** A line of an open table. */
export interface TableSegment extends Segment {
  readonly device: TargetDevice;
}

/** Opens all segments or none. Errors: `EPARSE` (options), those of the targets and of the devices below. */
export async function openTable(given: readonly Segment[], options: OpenTableOptions): Promise<TableDevice> {
  checkSettings(openTableSettings, options);
  // A table's text has been checked; what a program has put together has not, and decides what is claimed below.
  const segments = given.map((segment) => ({
    ...segment,
    options: parseOptions(segment.target.options, segment.options, segment.target.name),
  }));
  const {
    environment,
    name: tableName = "table",
    readOnly = false,
    pins = new Map<string, string>(),
  } = options;
  const { schemes = {}, holder = { name: `table ${tableName}` } } = options;
  const lowers = new LowerDevices(schemes, environment, { readOnly, holder, files: options.files });
  const open: OpenSegment[] = [];
  const meant = segments.map((segment) => ({
    ...segment,
    options: replaceReferences(segment.target.options, segment.options, (reference) => pins.get(reference)),
  }));
  try {
    await claimAll(meant, lowers);
    if (meant.length > 1) await checkAll(meant, lowers, environment);
    for (const segment of ownersLast(meant)) {
      const { name } = segment.target;
      const device = await segment.target.open(segment.options, {
        name,
        size: segment.length * SECTOR,
        environment,
        lower: (reference, use, range) => lowers.open(reference, use, { range, target: name }),
        release: (below, range) => lowers.release(below, range),
        progress: options.progress,
        own: (reference, below, range) => lowers.own(reference, below, range),
        onlyReads: (below, range) => lowers.onlyReads(below, range),
      });
      const start = segment.start * SECTOR;
      open.push({ segment, device, start, end: start + device.size });
    }
    const inOrder = open.toSorted((a, b) => a.start - b.start);
    const table = new TableDevice(inOrder, lowers, tableName, pinsOf(segments, pins, inOrder, lowers));
    lowers.belongTo(table);
    return table;
  } catch (error) {
    await Promise.allSettled(open.map(({ device }) => device.close()));
    await lowers.close().catch(() => {});
    throw toBlockIoError(error, { device: options.name, op: "open" });
  }
}

/** What the references of a table mean that may come to mean something else, by how the table was given. */
function pinsOf(
  segments: readonly Segment[],
  before: ReadonlyMap<string, string>,
  open: readonly OpenSegment[],
  lowers: LowerDevices,
): ReadonlyMap<string, string> {
  const pins = new Map<string, string>();
  for (const [index, { target, options }] of segments.entries()) {
    replaceReferences(target.options, options, (reference) => {
      const pinned = lowers.pins.get(before.get(reference) ?? reference) ?? open[index]?.device.pinned;
      if (pinned !== undefined) pins.set(reference, pinned);
      return undefined;
    });
  }
  return pins;
}

/**
 * What is written comes first: what is read as well is not opened twice then. All ranges are looked at before the first
 * target is opened, and may write.
 */
async function claimAll(segments: readonly Segment[], lowers: LowerDevices): Promise<void> {
  const wanted = segments.flatMap(({ target, options, length }) =>
    (target.uses?.(options, length * SECTOR) ?? []).map((asked) => ({ asked, target: target.name })),
  );
  const writes = ({ asked: [, use] }: (typeof wanted)[number]): boolean => isWriting(use);
  for (const { asked, target } of [...wanted.filter(writes), ...wanted.filter((one) => !writes(one))]) {
    const range = asked[2];
    const device = await lowers.prepare(asked, target);
    if (range !== undefined) requireRoom(device, range.offset, range.length);
  }
}

/** What is refused by one line must not be found after another has been opened, and has written. */
async function checkAll(
  segments: readonly Segment[],
  lowers: LowerDevices,
  environment: Environment,
): Promise<void> {
  // What is to be told is told by opening.
  const quiet = { ...environment, logger: silentLogger };
  const lower: OpenContext["lower"] = async (...asked) => lowers.prepared(...asked);
  for (const { target, options, length } of segments) {
    const { name } = target;
    await target.check?.(options, { name, size: length * SECTOR, environment: quiet, lower });
  }
}

/** Those that own nothing write nothing when they are opened. */
function ownersLast(segments: readonly Segment[]): readonly Segment[] {
  const isOwner = ({ target, options, length }: Segment): boolean =>
    (target.uses?.(options, length * SECTOR) ?? []).some(([, use]) => use === "owns");
  return [...segments.filter((segment) => !isOwner(segment)), ...segments.filter(isOwner)];
}

/** Made by {@link openTable}. */
export class TableDevice extends MappedDevice {
  readonly #segments: readonly OpenSegment[];
  readonly #lowers: LowerDevices;
  /**
   * What the references it was given mean, where they may come to mean something else (a tag that is moved): whoever
   * opens a table in its place, or itself again, gives them to have the same below.
   */
  readonly pins: ReadonlyMap<string, string>;

  constructor(
    segments: readonly OpenSegment[],
    lowers: LowerDevices,
    name: string,
    pins: ReadonlyMap<string, string>,
  ) {
    super(
      name,
      tableLength(segments.map(({ segment }) => segment)) * SECTOR,
      segments.map(({ device }) => device),
      segments.map(({ start }) => start),
    );
    this.#segments = segments;
    this.#lowers = lowers;
    this.pins = pins;
  }

  /** What its files are: a table that is opened by their paths in its place may find others there. */
  get files(): FilesBelow {
    return this.#lowers.files;
  }

  /** The devices it has opened below its targets. */
  get below(): readonly BlockDevice[] {
    return this.#lowers.devices;
  }

  /** The table it was opened with, and what has changed since. */
  get table(): string {
    return this.#segments
      .map(({ segment, device }) =>
        printSegment(segment, currentArguments(segment.target, segment.options, device, this.pins)),
      )
      .join("\n");
  }

  /** The targets, in the order of the table. */
  get segments(): readonly TableSegment[] {
    return this.#segments.map(({ segment, device }) => ({ ...segment, device }));
  }

  /**
   * Where requests may go at once, past the table: to a target that is all of it. Its guard checks, counts and holds
   * them, and suspending or closing the table suspends or closes it. For whoever lets nothing in from before the table
   * is suspended or closed until it is resumed.
   */
  get direct(): BlockDevice {
    const [only] = this.#segments;
    return only?.start === 0 && only.end === this.size ? only.device : this;
  }

  /** The guard of a target that is all of the table decides for it: what it takes again, the table must not refuse. */
  protected override get failsForGood(): boolean {
    return this.direct === this;
  }

  /** Its own, or the first of its targets'. */
  override get failure(): BlockIoError | undefined {
    return (
      super.failure ?? this.#segments.map(({ device }) => failureOf(device)).find((one) => one !== undefined)
    );
  }

  /** The worst of its own, its targets' and that of the devices below them. */
  override health(): Health {
    const targets = this.#segments.map(({ device }) => healthOf(device));
    return worstHealth([...targets, this.#lowers.health(), super.health()]);
  }

  /** Those of all segments. */
  override get descriptions(): readonly RangeDescription[] {
    const all = this.#segments.flatMap(({ device }) => device.descriptions);
    return [...new Map(all.map((one) => [one.name, one])).values()].map(({ name, otherwise }) => {
      const some = all.filter((one) => one.name === name);
      const id = some.some((one) => one.id === undefined) ? undefined : some.map((one) => one.id).join("+");
      const describe: RangeDescription["describe"] = (...range) =>
        this.#describe({ name, otherwise }, ...range);
      return { name, otherwise, id, describe };
    });
  }

  /** One device-mapper status line a segment. */
  override status(): string {
    return this.#segments
      .map(({ segment: { start, length, target }, device }) =>
        [start, length, target.name, device.status()].join(" ").trimEnd(),
      )
      .join("\n");
  }

  /** Those of the only segment; of several, each has its own. */
  override facts(): Facts {
    const [only, second] = this.#segments;
    return only !== undefined && second === undefined ? only.device.facts() : {};
  }

  /** To the only segment, or to the one at the sector that the message begins with: `0 …` or `@0 …`. */
  override async message(words: readonly string[], options?: MessageOptions): Promise<string> {
    const { sector, rest } = splitSector(words);
    if (sector !== undefined) return this.#find(sector * SECTOR).device.message(rest, options);
    const [only, second] = this.#segments;
    if (only !== undefined && second === undefined) return only.device.message(words, options);
    throw new BlockIoError("the table has several segments", {
      code: "EINVAL",
      device: this.name,
      op: "message",
      hint: "Begin the message with the sector of the segment it is for: @0 …",
    });
  }

  protected override locate(offset: number): Piece {
    const { device, start, end } = this.#find(offset);
    return { device, offset: offset - start, length: end - offset };
  }

  protected override doSuspend(): Promise<void> {
    return this.#all((device) => device.suspend());
  }

  protected override doResume(): Promise<void> {
    return this.#all((device) => device.resume());
  }

  protected override async doClose(): Promise<void> {
    const closing: (() => Promise<void>)[] = this.#segments.map(
      ({ device }) =>
        () =>
          device.close(),
    );
    const results: PromiseSettledResult<void>[] = [];
    // The devices below last: a target writes to them while it closes.
    for (const close of [...closing, () => this.#lowers.close()])
      results.push(...(await Promise.allSettled([close()])));
    const failed = worstOf(results);
    if (failed !== undefined) throw failed.error;
  }

  #all(work: (device: TargetDevice) => Promise<void>): Promise<void> {
    return join(this.#segments.map(({ device }) => work(device)));
  }

  async *#describe(
    { name, otherwise }: Pick<RangeDescription, "name" | "otherwise">,
    offset: number,
    length: number,
  ): ReturnType<RangeDescription["describe"]> {
    for (let at = offset; at < offset + length; ) {
      const { device, start, end } = this.#find(at);
      const count = Math.min(end, offset + length) - at;
      const description = device.descriptions.find((one) => one.name === name);
      if (description === undefined) yield { length: count, status: otherwise };
      else yield* description.describe(at - start, count);
      at += count;
    }
  }

  #find(offset: number): OpenSegment {
    let low = 0;
    let high = this.#segments.length - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (offset < (this.#segments[middle] as OpenSegment).end) high = middle;
      else low = middle + 1;
    }
    const found = this.#segments[low];
    if (found !== undefined && offset >= found.start && offset < found.end) return found;
    throw new BlockIoError(`nothing is mapped at byte ${offset}`, { code: "EINVAL", device: this.name });
  }
}

/** Whether a device can be asked and told things. */
export function isTargetDevice(device: BlockDevice): device is TargetDevice {
  return "facts" in device && "message" in device;
}
