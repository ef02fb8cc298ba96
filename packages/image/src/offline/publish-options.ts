/** What a publication is asked to do, and what it says it did. */
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  type SettingsTable,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { type BlobCodec, blobCodecs } from "../format/blob.ts";
import { type Digest, isDigest } from "../format/digest.ts";
import { requireName } from "../format/layout.ts";
import { MAX_CHUNK, MIN_CHUNK, isChunkSize, isImageSize } from "../format/manifest.ts";

/** How far a publication is, in bytes. */
export interface PublishProgress {
  /** Bytes of the source that are done, holes included. */
  readonly done: number;
  readonly total: number;
  /** Bytes that were read. */
  readonly read: number;
  /** Bytes that the store had already, or that occur twice. */
  readonly deduplicated: number;
  /** Bytes of bodies that were uploaded. */
  readonly uploaded: number;
}

/** What is published, under which name, and how. */
export interface PublishOptions {
  readonly name: string;
  readonly tag: string;
  /** Bytes; the parent's unless given, 512 KiB without one. */
  readonly chunkSize?: number | undefined;
  /** zstd unless given. */
  readonly codec?: BlobCodec | undefined;
  /** A manifest of the same name, whose blobs no collection takes; what the tag says now unless given. */
  readonly parent?: Digest | undefined;
  /**
   * What the tag must say, until this takes its place; null: there must be none. `EBUSY` where somebody else moves it.
   * Without `parent` it is the parent, too.
   */
  readonly replaces?: Digest | null | undefined;
  /** Reads every blob that is there already, and replaces those that are damaged. Default false. */
  readonly verify?: boolean | undefined;
  /**
   * With a parent: the ranges of the source that can differ from it, in order, in bytes; the others are not read. All
   * of the source unless given.
   */
  readonly changed?: AsyncIterable<{ readonly offset: number; readonly length: number }> | undefined;
  /** Chunks to fetch first when the image is opened. The parent's unless given. */
  readonly hotList?: readonly number[] | undefined;
  /** Chunks on their way at a time, 1 … 64. 8 unless given. */
  readonly parallel?: number | undefined;
  readonly environment?: Environment | undefined;
  /** To be found with the tag: one line of Latin-1. */
  readonly note?: string | undefined;
  /**
   * Called when all of the image is in the store, before the tag says it. What it throws ends the publication; the image
   * stays without the tag, and goes with a collection.
   */
  readonly check?: ((digest: Digest) => Promise<void>) | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: PublishProgress) => void) | undefined;
}

/** What was published. */
export interface Published extends PublishProgress {
  readonly digest: Digest;
  readonly blobs: number;
  /** How many of these the parent refers to, and were missing or damaged. */
  readonly repaired: number;
  /** Whether the tag says it now; false: somebody else moved the tag since this publication began. */
  readonly tagged: boolean;
}

/** Most chunks on their way at a time. */
const MOST_PARALLEL = 64;

const chunks = (value: unknown): boolean =>
  Array.isArray(value) &&
  value.every(
    (chunk) => Number.isSafeInteger(chunk) && (chunk as number) >= 0 && (chunk as number) < 2 ** 32,
  );
const digest = setting.as(
  "a digest: 64 hexadecimal digits",
  (value) => typeof value === "string" && isDigest(value),
);

/** What each takes; `chunkSize` is checked against the source. */
const publishSettings: SettingsTable<PublishOptions> = {
  name: setting.needed(setting.anyText),
  tag: setting.needed(setting.anyText),
  chunkSize: setting.as(
    `a power of two from ${MIN_CHUNK} to ${MAX_CHUNK}`,
    (value) => typeof value === "number" && isChunkSize(value),
  ),
  codec: setting.choice(...blobCodecs),
  parent: digest,
  replaces: setting.either(digest, setting.choice(null)),
  verify: setting.flag,
  changed: setting.as(
    "something that gives ranges, one after the other",
    (value) => typeof value === "object" && value !== null && Symbol.asyncIterator in value,
  ),
  hotList: setting.as("a list of numbers of chunks, from 0 on", chunks),
  parallel: setting.integer(1, MOST_PARALLEL),
  environment: setting.environment,
  note: setting.anyText,
  check: setting.call,
  signal: setting.signal,
  progress: setting.call,
};

/** Throws `EINVAL` for options that no publication can have. */
export function checkOptions(options: PublishOptions): void {
  const { name, tag } = checkSettings(publishSettings, options, "write");
  requireName("image", name);
  requireName("tag", tag);
}

/** Throws `EINVAL` for a device that no image can have the size of: an empty one. */
export function checkSource({ name, size }: BlockDevice): void {
  if (isImageSize(size)) return;
  throw new BlockIoError("is empty: there is nothing to publish", {
    code: "EINVAL",
    device: name,
    op: "read",
    hint: "Give a device or a file of one sector or more.",
  });
}
