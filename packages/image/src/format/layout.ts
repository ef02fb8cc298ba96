/**
 * Where things are in a store.
 *
 *     blobs/<first two digits>/<digest>     a blob; never changed
 *     images/<name>/<digest>                a manifest; created after all its blobs, never changed
 *     tags/<name>/<tag>/<n>                 what a tag says, n = 16 digits counted from 1: created if absent, and the
 *                                           highest is in force. So of two who move a tag at once, one is told
 *     gc/<n>                                a collection that runs: created if absent, removed at its end
 *
 * Whoever asks for a key of what cannot be a name or a digest is refused (`EINVAL`): all of a library's calls come by here.
 *
 * The body of a tag is text: the digest, a line feed, the time as ISO 8601, a line feed, the writer's token, a line feed.
 */
import { BlockIoError } from "@dmkit/block-io";
import { type Digest, isDigest, requireDigest } from "./digest.ts";

/** The tag that is meant where none is said. */
export const DEFAULT_TAG = "latest";

const name = /^[a-z0-9](?:[a-z0-9._-]{0,126}[a-z0-9])?$/;

/** Whether an image, or a tag, can be called so: 1 … 128 of a-z 0-9 . _ -, letters or digits at both ends. */
export function isName(text: string): boolean {
  return name.test(text);
}

/** Throws `EINVAL` for what no image or tag can be called. @param what which of the two. */
export function requireName(what: "image" | "tag", text: string): string {
  if (typeof text === "string" && isName(text)) return text;
  throw new BlockIoError(`${JSON.stringify(text)} is no name of ${what === "tag" ? "a tag" : "an image"}`, {
    code: "EINVAL",
    hint: "Names have 1 to 128 of a-z, 0-9 and, between these, . _ -",
  });
}

export const BLOBS = "blobs/";
export const IMAGES = "images/";
export const TAGS = "tags/";
export const COLLECTIONS = "gc/";

export function blobKey(digest: Digest): string {
  return `${BLOBS}${digest.slice(0, 2)}/${digest}`;
}

/** The digest a blob's key names, or undefined for another key. */
export function blobOfKey(key: string): Digest | undefined {
  const digest = key.slice(-64);
  return isDigest(digest) && key === blobKey(digest) ? digest : undefined;
}

export function manifestKey(image: string, digest: Digest): string {
  return `${IMAGES}${requireName("image", image)}/${requireDigest(digest)}`;
}

/** Image and digest that a manifest's key names. */
export function manifestOfKey(key: string): { readonly image: string; readonly digest: Digest } | undefined {
  const [, image = "", digest = "", more] = key.slice(IMAGES.length - 1).split("/");
  return more === undefined && isName(image) && isDigest(digest) ? { image, digest } : undefined;
}

export function tagPrefix(image: string, tag?: string): string {
  return `${TAGS}${requireName("image", image)}/${tag === undefined ? "" : `${requireName("tag", tag)}/`}`;
}

export function tagKey(image: string, tag: string, version: number): string {
  return `${tagPrefix(image, tag)}${String(version).padStart(16, "0")}`;
}

/** What a tag's key names. */
export function tagOfKey(
  key: string,
): { readonly image: string; readonly tag: string; readonly version: number } | undefined {
  const [, image = "", tag = "", version = "", more] = key.slice(TAGS.length - 1).split("/");
  if (more !== undefined || !isName(image) || !isName(tag) || !/^\d{16}$/.test(version)) return undefined;
  return { image, tag, version: Number(version) };
}

/** What a version of a tag says. */
export interface TagRecord {
  readonly digest: Digest;
  /** Milliseconds since 1970-01-01 UTC, by the clock of who wrote it. */
  readonly time: number;
  readonly token: string;
  /** What the writer had to say, one line: behind the token, which no program makes anything of. */
  readonly note?: string | undefined;
}

export function encodeTag({ digest, time, token, note }: TagRecord): Buffer {
  const writer = note === undefined ? token : `${token} ${note}`;
  return Buffer.from(`${digest}\n${new Date(time).toISOString()}\n${writer}\n`, "latin1");
}

/** Undefined for what is no record of a tag. */
export function decodeTag(body: Buffer): TagRecord | undefined {
  const [digest = "", time = "", writer = "", end, more] = body.toString("latin1").split("\n");
  const parsed = Date.parse(time);
  if (!isDigest(digest) || Number.isNaN(parsed) || end !== "" || more !== undefined) return undefined;
  const space = writer.indexOf(" ");
  if (space < 0) return { digest, time: parsed, token: writer };
  return { digest, time: parsed, token: writer.slice(0, space), note: writer.slice(space + 1) };
}
