/** What a publication is asked to do, and what it says it did. */
import { type BlockDevice, BlockIoError, type Environment } from "@dmkit/block-io";
import { type BlobCodec, blobCodecs } from "../format/blob.ts";
import { type Digest, requireDigest } from "../format/digest.ts";
import { requireName } from "../format/layout.ts";
import { isImageSize } from "../format/manifest.ts";

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

/** Throws `EINVAL` for options that no publication can have; `chunkSize` is checked against the source. */
export function checkOptions({
  name,
  tag,
  codec,
  parallel,
  parent,
  replaces,
  hotList,
}: PublishOptions): void {
  requireName("image", name);
  requireName("tag", tag);
  if (parent !== undefined) requireDigest(parent);
  if (replaces !== undefined && replaces !== null) requireDigest(replaces);
  if (codec !== undefined && !blobCodecs.includes(codec)) {
    throw refuse(`${JSON.stringify(codec)} is no codec of blobs`, `Use one of ${blobCodecs.join(", ")}.`);
  }
  if (parallel !== undefined && !isWhole(parallel, 1, MOST_PARALLEL)) {
    throw refuse(`${String(parallel)} chunks at a time are not possible`, `Use 1 to ${MOST_PARALLEL}.`);
  }
  if (hotList?.every((chunk) => isWhole(chunk, 0, 2 ** 32 - 1)) === false) {
    throw refuse("the hot list has what is no number of a chunk", "Chunks are counted from 0 on.");
  }
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

function isWhole(value: unknown, least: number, most: number): boolean {
  return Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
}

function refuse(reason: string, hint: string): BlockIoError {
  return new BlockIoError(reason, { code: "EINVAL", op: "write", hint });
}
