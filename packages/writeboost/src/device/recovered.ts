/** What a device is started with: what recovery has found, or made. */
import type { BlockDevice } from "@dmkit/block-io";
import type { BlockMap } from "../core/block-map.ts";
import type { Dialect } from "../format/checksum.ts";
import type { Geometry } from "../format/geometry.ts";
import type { Identity } from "../format/identity.ts";

/** What a cache consists of. They stay the caller's to close. */
export interface Devices {
  /** The slow device: it has the contents, but for what is dirty in the cache. */
  readonly backing: BlockDevice;
  /** The fast device that holds the log. */
  readonly cache: BlockDevice;
  /** Type 1 has one. */
  readonly plog: BlockDevice | undefined;
}

/** Older copies of a block with dirty sectors that no newer copy has. */
export interface Split {
  readonly block: number;
  /** Cache blocks and the segments they belong to, oldest first. */
  readonly copies: { readonly index: number; readonly id: number }[];
}

/** Where a device goes on. */
export interface Recovered {
  readonly geometry: Geometry;
  readonly dialect: Dialect;
  readonly map: BlockMap;
  /** The oldest segment that is still there. */
  readonly first: number;
  readonly last: number;
  readonly lastWriteback: number;
  /** The superblock record as it is on the device now: it may be behind. */
  readonly recorded: number;
  /** As it is on the device now; undefined where its place belongs to somebody else. */
  readonly identity: Identity | undefined;
  /** P; 0 without a plog. */
  readonly plogSegments: number;
  /** The name of the plog, if it is in its first sector. */
  readonly plogName: Buffer | undefined;
  /** What the original drivers left spread over several copies: to be merged. */
  readonly split: readonly Split[];
  /**
   * Writes the identity record. Called here unless something has to be merged: a record says that newest
   * copies are the whole truth, so it must not be there before they are.
   */
  readonly introduce: () => Promise<Identity | undefined>;
}

/** Where a log goes on. */
export type LogStart = Pick<Recovered, "geometry" | "dialect" | "map" | "last" | "lastWriteback">;
