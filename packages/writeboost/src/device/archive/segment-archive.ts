/** Where segments go besides the cache device: what an archive is to a cache, and a cache to its archive. */
import type { BlockDevice, Environment, WatchedFacts } from "@dmkit/block-io";

/** A segment as an archive takes it: blocks of the disk, in no order. Its data is lent, see {@link SegmentArchive.write}. */
export interface ArchivedSegment {
  /** Milliseconds since 1970-01-01 UTC, when it was closed. */
  readonly time: number;
  /** First sectors of blocks of 4096 bytes. */
  readonly sectors: readonly number[];
  /** Which sectors of each block count: bit j for sector j, never 0. */
  readonly bits: readonly number[];
  /** 4096 bytes of each block. */
  readonly data: Buffer;
}

/** An archive that a cache is attached to: whoever reads it has the disk as it was after any segment. */
export interface SegmentArchive {
  /** For messages. */
  readonly name: string;
  /** The last segment that is in the archive. */
  readonly shipped: number;
  /** What is to be added to the id of a segment to get its id in the archive. */
  readonly offset: number;
  /** Why nothing is taken at the moment, although it was tried. */
  readonly trouble: Error | undefined;
  /** `ESHUTDOWN`, once it is known that another one writes, whether or not anything is written here. Left out: never. */
  readonly replaced?: Error | undefined;
  /**
   * Takes segments, the first of them `first`; each follows the last one that was taken. Resolves when they are in the
   * archive, however long that takes; one call at a time. Rejects only when there is no going on: `ESHUTDOWN`, another
   * one writes now, or it was closed. What the segments lie in is not looked at any more then: it is used for others.
   */
  write(first: number, segments: readonly ArchivedSegment[]): Promise<void>;
  /** Ends a write that is under way. */
  close(): Promise<void>;
  /** What it has of watched facts: requests to its store. Left out: nothing. */
  facts?(): WatchedFacts;
}

/** What an archive is told of a cache. */
export interface LocalLog {
  /** 32 hexadecimal digits that are kept on the cache device. */
  readonly token: string;
  /** The last segment; 0 if there never was one. */
  readonly last: number;
  /** The first that is still there. */
  readonly first: number;
  readonly backing: BlockDevice;
  /** Bytes of the backing device that count. */
  readonly size: number;
  readonly environment: Environment;
  /** Told how much of the disk has been published, where an archive begins; bytes, and in a word what is done. */
  readonly progress?: ((done: number, of: number, what: string) => void) | undefined;
}

/** Attaches a cache to an archive. Rejects where it must not be opened. */
export type AttachArchive = (local: LocalLog) => Promise<SegmentArchive>;

/** How a log is archived. */
export interface Archiving {
  readonly attach: AttachArchive;
  /** What the cache is called there, if that has been decided: 32 hexadecimal digits. For a new cache only. */
  readonly token?: string | undefined;
  /** When a flush is over: everything is on the cache device, or in the archive too. Default `local`. */
  readonly flush?: "local" | "remote" | undefined;
  /** Milliseconds after which everything acknowledged is on its way to the archive. Default 1000. */
  readonly interval?: number | undefined;
}
