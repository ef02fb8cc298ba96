/** What stands behind a named device at one time: an open table, or an image that was opened without one. */
import {
  type AnyTarget,
  type BlockDevice,
  BlockIoError,
  type Environment,
  type FilesBelow,
  type Health,
  type Holder,
  type MessageOptions,
  type OpenContext,
  type RangeDescription,
  SECTOR,
  type Segment,
  type TargetDevice,
  type TargetRegistry,
  type Use,
  claims,
  failureOf,
  filesOf,
  healthOf,
  isTargetDevice,
  openTable,
  parseTable,
  quoteTableWord,
  refuse,
  toBlockIoError,
  unknownMessage,
  worstHealth,
} from "@dmkit/block-io";
import type { DeviceSchemes } from "@dmkit/block-io";
import type { SegmentStatus } from "../snapshot.ts";

export interface OpenedTable {
  readonly device: BlockDevice;
  /** Where requests go, if not to the device itself: see {@link TableDevice.direct}. */
  readonly direct?: BlockDevice;
  /** What it uses without having claimed it. */
  readonly unclaimed?: readonly { readonly device: BlockDevice; readonly use: Use }[];
  /** One line a segment, as it is now. */
  table(): string;
  segments(): readonly SegmentStatus[];
  /** The devices it has opened below. */
  lowers(): readonly BlockDevice[];
  /** The targets of its lines; undefined for an image that was opened without one. */
  readonly targets: readonly (TargetDevice | undefined)[];
  /** As there are now. */
  readonly descriptions: readonly RangeDescription[];
  message(words: readonly string[], options: MessageOptions): Promise<string>;
  /** The worst of all it opened. */
  health(): Health;
  /** What references of its table mean that may come to mean something else: see {@link TableDevice.pins}. */
  readonly pins?: ReadonlyMap<string, string>;
  /** What its files are: see {@link TableDevice.files}. */
  files(): FilesBelow;
  /** What it is that no table opens again: `segment 5 of …`. Left out: its table does. */
  readonly past?: string;
  /** Closes everything it opened. */
  close(): Promise<void>;
}

export interface OpenSettings {
  readonly name: string;
  readonly environment: Environment;
  readonly readOnly: boolean;
  readonly schemes: DeviceSchemes;
  readonly holder: Holder;
  readonly pins: ReadonlyMap<string, string>;
  readonly progress: OpenContext["progress"];
  readonly files?: FilesBelow | undefined;
}

/** Opens all segments or none. */
export async function openSegments(
  segments: readonly Segment[],
  settings: OpenSettings,
): Promise<OpenedTable> {
  const device = await openTable(segments, settings).catch((error: unknown) => {
    throw withHint(error, segments);
  });
  return {
    device,
    direct: device.direct,
    table: () => device.table,
    segments: () =>
      device.segments.map(({ start, length, target, device: segment }) =>
        segmentStatus(start, length, target, segment),
      ),
    lowers: () => device.below,
    targets: device.segments.map((segment) => segment.device),
    get descriptions() {
      return device.descriptions;
    },
    message: (words, options) => device.message(words, options),
    health: () => device.health(),
    pins: device.pins,
    files: () => device.files,
    close: () => closeAll([device]),
  };
}

/**
 * An image or a target that was opened by itself, under the table line it could have been opened with.
 * @param below devices it does not close, to be closed after it.
 */
export function openedAs(
  device: BlockDevice,
  args: { readonly target: AnyTarget; readonly words: () => readonly string[] },
  below: readonly BlockDevice[] = [],
): OpenedTable {
  const target = isTargetDevice(device) ? device : undefined;
  const length = device.size / SECTOR;
  // A target owns what it was put on, and an image its file or disk, as its lock says; of a URI others may have a part.
  const lowers = below.length === 0 ? [device] : below;
  const isFile = filesOf([device]).size > 0 && !device.limits.capabilities.readOnly;
  const use = below.length > 0 || isFile ? "owns" : "shares";
  return {
    device,
    unclaimed: lowers.map((lower) => ({ device: lower, use })),
    table: () => ["0", length, args.target.name, ...args.words().map(quoteTableWord)].join(" "),
    segments: () => [segmentStatus(0, length, args.target, device)],
    lowers: () => below,
    targets: [target],
    get descriptions() {
      return target?.descriptions ?? [];
    },
    message: (words, options) =>
      target?.message(words, options) ?? Promise.reject(unknownMessage(device.name, words)),
    health: () => worstHealth([device, ...below].map(healthOf)),
    files: () => filesOf([device, ...below]),
    close: () => closeAll([device, ...below]),
  };
}

/** Throws `EINVAL` for what no table can show: whoever looks at the device, or changes it, asks for its table. */
export function requireTable(opened: OpenedTable, targets: TargetRegistry): void {
  const { device } = opened;
  if (device.size === 0) {
    const hint = "Give it a size first: truncate -s 1G FILE";
    throw refuse(device.name, "EINVAL", "is empty: there is nothing to serve", hint, "open");
  }
  try {
    parseTable(opened.table(), targets);
  } catch (error) {
    const { reason } = toBlockIoError(error, {});
    const hint = "Give the file another name, or make a link to it, without line breaks.";
    throw refuse(device.name, "EINVAL", `no table can show it: ${reason}`, hint, "open");
  }
}

function segmentStatus(start: number, length: number, target: AnyTarget, device: BlockDevice): SegmentStatus {
  const status = isTargetDevice(device) ? device.status() : "";
  return { start, length, target: target.name, status, fields: device.facts?.() ?? {} };
}

/** The same error, with what a target of the table knows to do about it. */
function withHint(error: unknown, segments: readonly Segment[]): unknown {
  if (!(error instanceof BlockIoError)) return error;
  for (const { target, options, length } of segments) {
    const hint = target.hintFor?.(error, options, length * SECTOR);
    const { code, device, op, reason } = error;
    if (hint !== undefined) return new BlockIoError(reason, { code, device, op, cause: error, hint });
  }
  return error;
}

/** One after the other; every device is closed even if one fails, then the first failure is thrown. */
async function closeAll(devices: readonly BlockDevice[]): Promise<void> {
  const failures: unknown[] = [];
  for (const device of devices) {
    await device.close().catch((error: unknown) => failures.push(error));
    // A failed device closes without a word, but what was written to it may be lost.
    const failure = failureOf(device);
    if (failure !== undefined) failures.push(failure);
  }
  if (failures.length > 0) throw failures[0];
}

/** The same, with a claim on what it uses, which closing it gives back. Throws `EBUSY`; then nothing is claimed. */
export function claimed(opened: OpenedTable, holder: Holder): OpenedTable {
  const { device, unclaimed = [] } = opened;
  const claimant = { holder, device };
  const taken: (() => void)[] = [];
  const giveBack = (): void => {
    for (const one of taken.splice(0)) one();
  };
  try {
    for (const one of unclaimed) taken.push(claims.take({ claimant, ...one }));
  } catch (error) {
    giveBack();
    throw error;
  }
  return { ...opened, close: () => opened.close().finally(giveBack) };
}
