/**
 * What offline tools can do with images of one format, nobody serving them: recognise, describe, check, repair,
 * dump, restore, draw, initialise. A package declares one {@link ImageFormat}; programs keep a static list.
 *
 * Invariant: `detect`, `info`, `check`, `dump` and `map` write nothing. `repair` writes only what needs no
 * guess, and what it is told to do with contents that are gone; a crash at any write leaves an image that a second repair completes; a second repair finds nothing.
 */
import type { BlockDevice } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";
import type { OptionTable } from "./options.ts";

/** A device an image consists of, by what it is for: `cache`, `plog`, `backing`, … */
export interface ImageRole {
  readonly name: string;
  /** Without it nothing can be said. Others make checks more complete when they are given. */
  readonly required: boolean;
  /** One line for help. */
  readonly help: string;
  /** A device that the image is a cache of. A cache of ours is not taken as one without an explicit word. */
  readonly cached?: boolean;
  /** A device that formatting leaves alone, but whose contents are lost when the image is used: it must be blank. */
  readonly overwritten?: boolean;
}

/** The devices of one image by role; those that are required are there. */
export type ImageDevices = Readonly<Record<string, BlockDevice>>;

/** Options of every offline operation. */
export interface OfflineWork {
  readonly environment: Environment;
  /** Ends the work at the next safe place; it rejects with the signal's reason. Can be run again. */
  readonly signal?: AbortSignal | undefined;
  /** Bytes, slots or blocks: only the ratio counts. */
  readonly progress?: ((done: number, total: number) => void) | undefined;
}

/** Options of {@link ImageFormat.restore}. */
export interface RestoreWork extends OfflineWork {
  /** Restore even what is known to have been used since the dump was made. Default false. */
  readonly force?: boolean | undefined;
}

/** How sure {@link ImageFormat.detect} is. `plausible`: there is no magic, but everything fits. */
export interface Detected {
  readonly certainty: "magic" | "plausible";
  /** The role this device has. */
  readonly role: string;
  /** One line: `writeboost cache, order 10, 1023 slots`. */
  readonly text: string;
  /**
   * What it was given when it was made, and no other image has; empty: that has been lost to damage. Undefined: the
   * format has no such thing, and one image cannot be told from another.
   */
  readonly identity?: string | undefined;
}

/**
 * `info`: a crash explains it, the next opening deals with it, nothing is lost. `warning`: it works, but look at
 * it. `error`: opening is refused, or data is lost.
 */
export type ProblemSeverity = "info" | "warning" | "error";

/** A finding of a check. Plain data, ready for JSON. */
export interface ImageProblem {
  /** Stable, kebab-case; each format's README lists its kinds. */
  readonly kind: string;
  readonly severity: ProblemSeverity;
  /** Role of the device it is on. */
  readonly role: string;
  /** Where, in the format's terms: `slot 7 (segment 1000)`. */
  readonly location: string;
  /** Bytes on that device, where it is one place. */
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
  /** What is wrong, one sentence. */
  readonly text: string;
  /** What `repair` does about it; undefined where every repair would be a guess. */
  readonly repair?: string | undefined;
  /** What a person can do where `repair` cannot. */
  readonly advice?: string | undefined;
}

/** What a repair did and what it left. */
export interface ImageRepair {
  readonly repaired: readonly ImageProblem[];
  readonly left: readonly ImageProblem[];
}

/** What a repair is told to do where it would have to guess. */
export interface ImageRepairSettings {
  /**
   * What becomes of contents that are gone. `keep`, the default: reading them stays an error, and nothing is written.
   * `unreadable`: the metadata says that they are lost. `zero`: they read as zeroes; **whoever reads them is not
   * told**.
   */
  readonly bad?: "keep" | "unreadable" | "zero" | undefined;
}

/**
 * Facts by name, in the order to print. A name is small words with underscores between them, which people are shown
 * as spaces; numbers are in the unit it says (`bytes`, `sectors`, …).
 */
export type ImageFacts = Readonly<Record<string, string | number | boolean>>;

/** A part of a drawn device; ranges come in order and do not overlap. What lies between them is not drawn. */
export interface MapRange {
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
  /** A key of {@link ImageMap.legend}. */
  readonly kind: string;
}

/** One device, or one level of a stack, from its first to its last byte. */
export interface MapStrip {
  readonly title: string;
  /** Bytes. */
  readonly size: number;
  readonly ranges: Iterable<MapRange>;
}

/** An image as a picture. */
export interface ImageMap {
  readonly strips: readonly MapStrip[];
  /** What kinds of ranges there are, in the order to explain them. */
  readonly legend: Readonly<Record<string, MapKind>>;
}

/** What can lie at a place of an image. */
export interface MapKind {
  readonly meaning: string;
  /** One character for text; a range smaller than a cell shows by the highest `weight` in it. */
  readonly character: string;
  /** `#rrggbb`. */
  readonly colour: string;
  readonly weight: number;
}

/** For formats of which one device lacks what another one has, as the slow device of a cache does: puts it there. */
export interface ImageReplay {
  /** The role that is written. */
  readonly to: string;
  /** What it can be told besides; given are only those that were said, each checked by this table. */
  readonly options: OptionTable;
  /**
   * Can be interrupted, and killed, at any time: run again it goes on, or starts again with the same result. All devices
   * are writable; `to` may be a layer over the one it is meant for.
   */
  run(
    devices: ImageDevices,
    options: Readonly<Record<string, unknown>>,
    work: OfflineWork,
  ): Promise<ImageReplayed>;
}

/** What a replay of a log found. */
export interface ImageReplayed {
  readonly facts: ImageFacts;
  /** What was replayed, behind that word: `12 dirty blocks`. */
  readonly text: string;
}

/** For formats that keep what was before: the image as it was then, to be read. */
export interface ImageView {
  /** The devices it takes, in the order of a command line. */
  readonly roles: readonly string[];
  /** What time is counted in: `segment`. */
  readonly unit: string;
  /** Writes nothing to the devices. Throws `EINVAL` with the range for what cannot be shown, `EFORMAT`. */
  open(devices: ImageDevices, at: number): Promise<BlockDevice>;
  /** The words of a table, behind the target's name, that show it as it is now. */
  words(references: Readonly<Record<string, string>>): readonly string[];
}

/** The declaration of a format; devices are opened, and closed, by the caller. */
export interface ImageFormat {
  /** As the target's name. */
  readonly name: string;
  readonly summary: string;
  /** The one `detect` recognises first. */
  readonly roles: readonly ImageRole[];
  /** Undefined if it is not this format; never throws for what is on the device. Reads little. */
  detect(device: BlockDevice): Promise<Detected | undefined>;
  /** Throws `EFORMAT` if it is not this format. */
  info(devices: ImageDevices, work: OfflineWork): Promise<ImageFacts>;
  /** Everything that can be verified. Problems of content are yielded, those of devices thrown. */
  check(devices: ImageDevices, work: OfflineWork): AsyncIterable<ImageProblem>;
  /** Only formats that have something to put right; the devices are writable. */
  repair?(devices: ImageDevices, work: OfflineWork, settings?: ImageRepairSettings): Promise<ImageRepair>;
  /** Whether `repair` can do something about contents that are gone. Default false. */
  readonly marksBad?: boolean;
  /** Metadata as plain data, such that `restore` of it gives the same metadata. */
  dump?(devices: ImageDevices, work: OfflineWork): Promise<unknown>;
  /**
   * Throws `EINVAL` if the dump cannot be true for these devices; `EEXIST` without `force` where damaged metadata show
   * all the same that the image was used since. Sound ones are compared with the dump by who asks for it.
   */
  restore?(devices: ImageDevices, dump: unknown, work: RestoreWork): Promise<void>;
  map(devices: ImageDevices, work: OfflineWork): Promise<ImageMap>;
  readonly replay?: ImageReplay;
  readonly view?: ImageView;
  /** Makes a new image; `options` are `name=value` words, checked against the format's table of options. */
  format?(devices: ImageDevices, options: Readonly<Record<string, string>>, work: OfflineWork): Promise<void>;
  /** Whether `format` with these options goes on from an image that is there, and refuses everything else. */
  keepsImage?(options: Readonly<Record<string, string>>): boolean;
  /** Names, ranges and help of what `format` understands. */
  readonly formatOptions?: OptionTable;
}
