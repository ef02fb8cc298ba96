/**
 * The contract every block device of dmkit keeps.
 *
 * Persistence, what a crash may and may not do:
 *
 * 1. `write` resolved, no flush since: each 512-byte sector of it holds old or new, independently.
 * 2. `flush` resolved: every write, writeZeroes and discard that resolved before the flush was issued is on
 *    stable storage.
 * 3. `write` with `fua` resolved: that write is on stable storage, whatever else is not.
 * 4. Nothing that was stable is lost or altered because of a crash during an unrelated or neighbouring write.
 * 5. After a failed flush nothing is assumed to be on disk: every flush that waited on it fails, and so do
 *    all later writes until the device is reopened. Reads of what may have been lost fail, too, where the
 *    device can tell: older data must not pass for what was acknowledged. Except where the error says that
 *    nothing was lost (`lossless`): a device that found no space for what it holds in memory, say, still holds
 *    it, and the next flush that succeeds covers it.
 * 6. Recovery is idempotent: crash during recovery, recover again, same result.
 *
 * A device may rely on this much of the devices below it: 512-byte sectors are written whole or not at all,
 * and writes that are not separated by a flush have no order.
 *
 * Concurrency: requests may be issued concurrently. Overlapping requests in flight have no order, but the
 * device settles on one result: no later read flips between old and new, and no sector is a mixture. A read
 * issued after a write resolved sees that write.
 *
 * Owners: what one device relies on of a device below it is written by nobody else. Whoever opens a device says what
 * for, and is refused where that does not go with what others do to the same bytes; see claims.ts.
 *
 * Buffers: the caller owns `into` and `from` again when the promise settles; a device keeps no reference.
 * Failure: a {@link BlockIoError}, never anything else. A failed write leaves each sector old or new.
 */

import type { Facts } from "./facts.ts";
import type { Health } from "./health.ts";

/** Bytes in a sector, the unit of tables and of atomicity. Always 512. */
export const SECTOR = 512;

/** How a device comes by an ability: not at all, by other means, or by itself. */
export type Ability = "none" | "emulated" | "native";

/** What a device is able to do. Every claim is proved by the conformance suite. */
export interface Capabilities {
  /** No write, flush, discard or writeZeroes is accepted (`EROFS`). */
  readonly readOnly: boolean;
  /** Forced unit access on writes. `emulated`: a write followed by a flush, see guard.ts. */
  readonly fua: "emulated" | "native";
  /** `none`: discard is accepted and does nothing. */
  readonly discard: Ability;
  /** After a discard the whole discard-granules of the range read as zeroes. */
  readonly discardZeroes: boolean;
  /** `emulated`: zeroes are written as data. */
  readonly writeZeroes: Ability;
  /** `writeZeroes` with `fast` is honoured; without this it always fails with `ENOTSUP`. */
  readonly fastZero: boolean;
  /** `extents` tells holes from data. Without it everything is reported as data. */
  readonly extents: boolean;
}

/** Sizes and abilities of a device; constant while it is open. */
export interface Limits {
  /** Bytes; offsets and lengths of all requests are multiples of it. */
  readonly logicalBlockSize: 512 | 4096;
  /** Bytes; writes of this size and alignment need no read-modify-write below. A power of two. */
  readonly physicalBlockSize: number;
  /** Bytes; the request size that gives good throughput. A multiple of the physical block size. */
  readonly optimalTransfer: number;
  /** Bytes; ranges smaller than this may be ignored by discard. A multiple of the logical block size. */
  readonly discardGranularity: number;
  readonly capabilities: Capabilities;
}

/**
 * What a byte range holds.
 * `data`: storage is allocated, contents are whatever was written.
 * `zero`: storage is allocated and reads as zeroes.
 * `hole`: no storage is allocated; reads as zeroes.
 */
export type ExtentKind = "data" | "zero" | "hole";

/** A byte range of one kind. */
export interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly kind: ExtentKind;
}

/** How a write is carried out. */
export interface WriteOptions {
  /** Resolve only when this write is on stable storage. */
  readonly fua?: boolean | undefined;
}

/** How zeroes are written. */
export interface WriteZeroesOptions extends WriteOptions {
  /** Storage may be given back; the range reads as zeroes either way. */
  readonly mayUnmap?: boolean | undefined;
  /** Fail with `ENOTSUP`, contents unchanged, if this would be no faster than writing zeroes as data. */
  readonly fast?: boolean | undefined;
}

/** What is known of a piece of storage below a device. For load and warnings; nothing about data rests on it. */
export interface StorageFacts {
  /** The same for devices that share it: a disk's number, or a name. */
  readonly id: string;
  /** Milliseconds it has been busy with anybody's requests, counted from some start: differences matter. */
  readonly busy?: number | undefined;
  /** Bytes left in the file system, where a part of the device has no storage yet. */
  readonly free?: number | undefined;
  /** Bytes of the device that have no storage yet: holes of a file. */
  readonly unallocated?: number | undefined;
}

/** Where bytes of a device are; a string names what several devices may stand for, see devices/origin.ts. */
export interface Place {
  readonly on: BlockDevice | string;
  readonly offset: number;
  readonly length: number;
}

/** A block device. Offsets and lengths are bytes, multiples of the logical block size, inside the device. */
export interface BlockDevice {
  /** For messages and status: a path, a URI, a target's name. */
  readonly name: string;
  /** Bytes; a multiple of the logical block size; constant while the device is open. */
  readonly size: number;
  readonly limits: Limits;

  /** Fills `into` from `offset`. */
  read(offset: number, into: Buffer): Promise<void>;
  /** Writes `from` at `offset`. */
  write(offset: number, from: Buffer, options?: WriteOptions): Promise<void>;
  /** Makes stable all that resolved before this call. */
  flush(): Promise<void>;
  /** Advice: the range is not needed any more. It reads as zeroes or as before, but always the same. */
  discard(offset: number, length: number): Promise<void>;
  /** Makes the range read as zeroes; durable like a write. */
  writeZeroes(offset: number, length: number, options?: WriteZeroesOptions): Promise<void>;
  /**
   * Covers the range, in order, without gaps or overlaps. What cannot be told is data. Whoever stops early ends the
   * iteration (`break`, or the iterator's `return`): one left lying counts as a request in flight, which close and suspend
   * wait for.
   */
  extents(offset: number, length: number): AsyncIterable<Extent>;

  /** What is known now of the storage below; one entry for each piece. Never rejects. Nothing: see `storageOf`. */
  storage?(): Promise<readonly StorageFacts[]>;
  /**
   * Where the bytes of a range are: on the devices that requests are only handed on to, or in storage that several
   * devices may stand for. Without it they are nowhere but on this device. For claims.ts: whether two devices have
   * bytes in common. It may change when a table is exchanged.
   */
  places?(offset: number, length: number): readonly Place[];
  /**
   * The reference that opens exactly this again, where the one it was opened by may come to mean something else: a tag
   * that is moved. Left out: there is none but that.
   */
  readonly pinned?: string | undefined;

  /** Waits for I/O in flight, flushes, and holds new I/O back until {@link resume}. */
  suspend(): Promise<void>;
  /** Lets held and new I/O go on. */
  resume(): Promise<void>;
  /** Waits for I/O in flight, flushes, and lets go of everything. May be called again. */
  close(): Promise<void>;

  /** How it is doing, itself and the devices it has opened. Cheap. Left out: nothing can go wrong, or be told. */
  health?(): Health;
  /** What it says of itself, by name, without the devices it has opened. Cheap. Left out: nothing. */
  facts?(): Facts;
}

/**
 * What a device returns when a request was carried out before its method returned. Callers on a hot path may
 * compare with it to skip a trip through the microtask queue; everybody else just awaits it.
 */
export const done: Promise<void> = Promise.resolve();

/** The options of a write with forced unit access: one object for all, since hot paths make no new one. */
export const FUA: WriteOptions = { fua: true };

/** Abilities of a device that can do nothing special: the base to spread other claims over. */
export const plainCapabilities: Capabilities = {
  readOnly: false,
  fua: "emulated",
  discard: "none",
  discardZeroes: false,
  writeZeroes: "emulated",
  fastZero: false,
  extents: false,
};

/** All there is, at once, and as stable as the device gets: what one in memory can do. */
export const fullCapabilities: Capabilities = {
  readOnly: false,
  fua: "native",
  discard: "native",
  discardZeroes: true,
  writeZeroes: "native",
  fastZero: true,
  extents: true,
};

/** 512-byte sectors, 4 KiB physical blocks, and nothing special. */
export const plainLimits: Limits = {
  logicalBlockSize: 512,
  physicalBlockSize: 4096,
  optimalTransfer: 128 * 1024,
  discardGranularity: 4096,
  capabilities: plainCapabilities,
};

/** `limits` with some of its capabilities replaced. */
export function withCapabilities(limits: Limits, capabilities: Partial<Capabilities>): Limits {
  return { ...limits, capabilities: { ...limits.capabilities, ...capabilities } };
}

/** What is known of the storage below a device; of one that tells nothing, that there is some. */
export async function storageOf(device: BlockDevice): Promise<readonly StorageFacts[]> {
  const facts = (await device.storage?.()) ?? [];
  return facts.length > 0 ? facts : [{ id: device.name }];
}

/** The same of several devices; a piece that some of them have in common is told once. */
export async function storageBelow(devices: readonly BlockDevice[]): Promise<readonly StorageFacts[]> {
  return [...new Set((await Promise.all(devices.map(storageOf))).flat())];
}
