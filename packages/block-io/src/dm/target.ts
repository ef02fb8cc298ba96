/** What a device-mapper target is: a declaration as data, and a function that opens it. */
import type { ByteRange, DeviceUse, Use } from "../below/claims.ts";
import type { UriScheme } from "../below/schemes.ts";
import {
  type Controlled,
  type Controls,
  type LongWork,
  type MessageOptions,
  type Messages,
  type TunableTable,
  carryOut,
  noControls,
  printValue,
} from "./controls.ts";
import { type BlockDevice, SECTOR } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import { type BlockIoError, refuse } from "../contract/errors.ts";
import type { Facts } from "../contract/facts.ts";
import { GuardedDevice } from "../contract/guard.ts";
import type { TableArguments } from "./arguments.ts";
import type { Footprint } from "./footprint.ts";
import type { ImageFormat } from "./image.ts";
import { type OptionSpec, type OptionTable, defaultOf, replaceReferences } from "./options.ts";
import type { Overlay } from "./overlay.ts";
import type { StackRules } from "./stack-rules.ts";
import type { Versions } from "./versions.ts";

/** What a target can tell about ranges of bytes beyond data and holes: which layer they come from, say. */
export interface RangeDescription {
  /** As NBD's metadata contexts: `dmkit:layer`. */
  readonly name: string;
  /**
   * The status where nothing is known under this name: lines of a table that have nothing to say, and everywhere once there is
   * no such description any more.
   */
  readonly otherwise: number;
  /** Where a name may mean something else at another time: tells the two apart, on any machine and for good. */
  readonly id?: string | undefined;
  /** Covers the range (whole logical blocks) in order without gaps; `status` has 32 bits, `length` is bytes. */
  describe(
    offset: number,
    length: number,
  ): AsyncIterable<{ readonly length: number; readonly status: number }>;
}

/** Begins the name of a description of what has changed since the name that follows began, as qemu has it: 1 where it has. */
export const DIRTY_BITMAP = "qemu:dirty-bitmap:";

/** A running target: a block device that can be asked and told things. */
export interface TargetDevice extends BlockDevice {
  /** As there are now; empty for most. */
  readonly descriptions: readonly RangeDescription[];
  /** The target's part of the device-mapper status line; empty if there is nothing to say. */
  status(): string;
  /** What it says of itself, by name; the values of its tunables are among it. */
  facts(): Facts;
  /**
   * Carries out a message (see controls.ts); resolves with its answer, often empty. Errors: `EINVAL` (unknown, out of
   * range), `EBUSY`, those of the target.
   */
  message(words: readonly string[], options?: MessageOptions): Promise<string>;
  /**
   * Options that have come to differ from those it was opened with: what messages have set, what was found on its
   * devices, what was made since. With them the table reopens the device as it is now.
   */
  settings(): Readonly<Record<string, unknown>>;
  /**
   * Saves what closing would save and may fail to, while the device can still go on: called when it is suspended. Close
   * ends a device whatever comes of it; who would rather keep one that cannot be closed without a loss asks first. Left
   * out: there is nothing of that kind. Errors: those of the devices; nothing is lost then.
   */
  secure?(): Promise<void>;
  /**
   * Brings home what was answered and lies where only this target finds it: resolves when the devices it stands in front
   * of have all of it, except for what was written meanwhile. For a table that goes on without this target. Left out:
   * there is nothing of that kind. Errors: the signal's reason, `EROFS` where nothing may be written, those of the
   * devices; what was brought home stays there.
   */
  writeHome?(options?: LongWork): Promise<void>;
  /**
   * Opens what it shows under the name of a snapshot, to be read; whoever opens it closes it, and it ends with the device. Left
   * out: there are none. Errors: `ENOENT`, with the names there are; `EBUSY` while that cannot be; those of the devices.
   */
  openSnapshot?(name: string): Promise<BlockDevice>;
}

/**
 * A {@link GuardedDevice} that can be asked and told things. With nothing overridden it has no status, messages and
 * descriptions.
 */
export abstract class GuardedTarget extends GuardedDevice implements TargetDevice {
  get descriptions(): readonly RangeDescription[] {
    return [];
  }

  status(): string {
    return "";
  }

  override facts(): Facts {
    return { ...factsOf(this.tunableValues()), ...this.doFacts(), ...super.facts() };
  }

  settings(): Readonly<Record<string, unknown>> {
    return this.tunableValues();
  }

  message(words: readonly string[], options: MessageOptions = {}): Promise<string> {
    const controlled: Controlled = {
      name: this.name,
      busy: this.requests.inFlight,
      readOnly: this.limits.capabilities.readOnly,
      values: () => this.tunableValues(),
      tune: (changes) => this.doTune(changes),
    };
    return carryOut(this as never, this.controls, controlled, this.#withoutSector(words), options);
  }

  /** What it can be told. */
  protected get controls(): Controls<never> {
    return noControls;
  }

  /** Its own facts, besides the tunables and those that are watched. */
  protected doFacts(): Facts {
    return {};
  }

  /** The values of its tunables, typed as their options are. */
  protected tunableValues(): Readonly<Record<string, unknown>> {
    return {};
  }

  /** Changes tunables; the values are in range. */
  protected doTune(_changes: Readonly<Record<string, unknown>>): Promise<void> | void {}

  /** Everybody's messages may begin with a sector: a device by itself is the line at every sector. */
  #withoutSector(words: readonly string[]): readonly string[] {
    const { sector, rest } = splitSector(words);
    return sector !== undefined && sector * SECTOR < this.size ? rest : words;
  }
}

/** The sector a message begins with, as device-mapper has it (`0`) or marked (`@0`), and what follows. */
export function splitSector(words: readonly string[]): {
  readonly sector: number | undefined;
  readonly rest: readonly string[];
} {
  const [first = "", ...rest] = words;
  const digits = /^@?(\d+)$/.exec(first)?.[1];
  if (digits === undefined || rest.length === 0) return { sector: undefined, rest: words };
  return { sector: Number(digits), rest };
}

function factsOf(values: Readonly<Record<string, unknown>>): Facts {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name,
      typeof value === "number" ? value : typeof value === "boolean" ? Number(value) : printValue(value),
    ]),
  );
}

/** What a target is given to run on. It does not close the devices below it: whoever opened them does. */
export interface OpenContext {
  /** For messages: the target's name, or the device's it is part of. */
  readonly name: string;
  /** Bytes of the table line. */
  readonly size: number;
  readonly environment: Environment;
  /**
   * Opens the device an option names, and says what it is for; the same name gives the same device within one stack.
   * @param range the bytes that are used; left out: all of the device.
   * Throws `EBUSY` where somebody else's use of these bytes does not go with it, see claims.ts.
   */
  readonly lower: (reference: string, use: Use, range?: ByteRange) => Promise<BlockDevice>;
  /** Gives back what `lower` gave for this range, while the target goes on. At the end all is given back. */
  readonly release?: (device: BlockDevice, range?: ByteRange) => Promise<void>;
  /**
   * To be told how far opening has come, in units of the target's own, and in a word what it does, if not that; worth it
   * for what may take seconds.
   */
  readonly progress?: ((done: number, of: number, what?: string) => void) | undefined;
  /**
   * Opens for writing what `lower` gave to be read, under the same reference and for the same range, until `onlyReads` is
   * told of what this gives. Throws `EBUSY` where somebody else relies on these bytes, `EROFS`; the claim stays what it was then.
   */
  readonly own?: (reference: string, device: BlockDevice, range?: ByteRange) => Promise<BlockDevice>;
  /** From now on the target only reads what it owned. */
  readonly onlyReads?: (device: BlockDevice, range?: ByteRange) => void;
}

/**
 * The declaration of a target; `export const linear = {…} satisfies Target<LinearOptions>`. A program loads the
 * declarations of all targets it knows, so what runs one is imported where it is opened: `open`, `check`, `image` …
 */
export interface Target<Options> {
  /** As in tables; also the package's name. */
  readonly name: string;
  readonly aliases?: readonly string[];
  readonly version: readonly [major: number, minor: number, patch: number];
  /** One line for lists and help. */
  readonly summary: string;
  /** The arguments in a table, in words: `<device> <offset>`. */
  readonly synopsis: string;
  readonly options: OptionTable;
  /** What it begins anew whenever it is opened, although more was to be added, in a word: `log`. Left out: nothing. */
  readonly beginsAnew?: string;
  /** Whether what clients write is in this process's memory, and goes with the device. Left out: it is not. */
  inMemory?(options: Options): boolean;
  /** Reads the arguments of a table line; throws `EPARSE`. */
  parse(args: TableArguments): Options;
  /** The arguments such that `parse` gives the same options again. */
  print(options: Options): readonly string[];
  /**
   * What `open` will ask `lower` for, for a device of `size` bytes. It is opened and claimed for the whole table before
   * any target is opened: a table that cannot be has written nothing.
   */
  uses?(options: Options, size: number): readonly DeviceUse[];
  /**
   * Throws what `open` would throw, as far as it shows in the options and by reading; writes nothing. All targets of a
   * table are asked before the first is opened, and may write. Left out by targets that own no device.
   */
  check?(
    options: Options,
    context: Pick<OpenContext, "name" | "size" | "environment" | "lower">,
  ): Promise<void>;
  /**
   * Makes what it keeps of its disk, or tells of it, worthless, durably: for a table that has gone after all was brought
   * home ({@link TargetDevice.writeHome}), since the disk goes on without it. Opened again it begins anew, or says so, or is
   * refused. Left out where nothing is kept. Errors: those of the devices; `EBUSY` where somebody else uses them by now.
   */
  retire?(options: Options, context: Pick<OpenContext, "lower">): Promise<void>;
  /**
   * Notes durably on its devices that the disk goes on without what only they have, which could not be brought home, and whose
   * loss was agreed to: opened again it is refused, with what to do, since that would come over what was written since. Nothing is
   * lost by it. Left out: as `retire`. Errors: as there.
   */
  leave?(options: Options, context: Pick<OpenContext, "lower">): Promise<void>;
  /** The options that can be set while it runs. Its devices take them as messages. */
  readonly tunables?: TunableTable;
  /** What its devices can be told besides. */
  readonly messages?: Messages<never>;
  /** Loads what offline tools can do with images of it: recognise, check, repair, dump … Left out: it has none. */
  readonly image?: () => Promise<ImageFormat>;
  /** Loads how a device can be kept as it is by it, and written to all the same. */
  readonly overlay?: () => Promise<Overlay>;
  /** Loads what data would take that is stored by it. Left out: what it takes anyway. */
  readonly footprint?: () => Promise<Footprint>;
  /** Where it keeps versions of whole devices, for backups. Left out: nowhere. */
  readonly versions?: Versions;
  /** URI schemes of devices it opens without a table. */
  readonly schemes?: Readonly<Record<string, UriScheme>>;
  /** What stack files ask besides the options. */
  readonly stack?: StackRules<Options>;
  /**
   * What to do about an error of opening a device of `size` bytes with these options, where the target knows better
   * than who has thrown it. Undefined: it does not.
   */
  hintFor?(error: BlockIoError, options: Options, size: number): string | undefined;
  /** Checks the options by the table above: they may come from a program. Throws `EPARSE`, what opening throws. */
  open(options: Options, context: OpenContext): Promise<TargetDevice>;
}

/**
 * A target whose options nobody but itself looks into, as a registry keeps it: what its `parse` returns goes
 * to its own `print` and `open` only.
 */
export type AnyTarget = Target<unknown>;

/** Options without those that `are` so, which are as if nothing had been said. */
export function withoutOptions(
  target: AnyTarget,
  options: object,
  are: (spec: OptionSpec) => boolean,
): Record<string, unknown> {
  const left: Record<string, unknown> = { ...options };
  for (const [name, spec] of Object.entries(target.options)) {
    if (are(spec)) left[name] = defaultOf(spec);
  }
  return left;
}

/**
 * The arguments of a table line that opens an open target again as it is. Words that count once, when something is
 * made, are not among them.
 * @param pins what references mean that might come to mean something else ({@link BlockDevice.pinned}).
 */
export function currentArguments(
  target: AnyTarget,
  options: unknown,
  device: TargetDevice,
  pins?: ReadonlyMap<string, string>,
): readonly string[] {
  const given = { ...(options as object), ...device.settings() };
  const now = withoutOptions(target, given, ({ once }) => once === true);
  return target.print(replaceReferences(target.options, now, (reference) => pins?.get(reference)));
}

/**
 * Refuses a lower device that is too small for what is mapped on it, or would have to begin inside one of its blocks; all
 * in bytes.
 */
export function requireRoom(device: BlockDevice, offset: number, length: number): void {
  const areBytes = [offset, length].every((bytes) => Number.isSafeInteger(bytes) && bytes >= 0);
  const doFit = areBytes && offset <= device.size && length <= device.size - offset;
  const { logicalBlockSize } = device.limits;
  if (doFit && offset % logicalBlockSize === 0) return;
  const [reason, hint] = doFit
    ? [
        `offset ${offset} is inside a block: the device has blocks of ${logicalBlockSize} bytes, and reads and writes whole ones`,
        `Give an offset of a multiple of ${logicalBlockSize} bytes, which is ${logicalBlockSize / SECTOR} sectors.`,
      ]
    : [
        `${length} bytes at offset ${offset} do not fit: the device has ${device.size} bytes`,
        "Give a larger device, a smaller length or another offset.",
      ];
  throw refuse(device.name, "EINVAL", reason, hint);
}
