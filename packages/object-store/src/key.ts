/**
 * Keys of objects: segments of `A-Z a-z 0-9 . _ -` between slashes, 1 to 512 bytes in all. No segment is empty,
 * begins with a dot or ends with one, so that a key is a path in any file system, needs no escaping in a URI, and
 * leaves names that begin with a dot to a store's own use.
 */
import { BlockIoError } from "@dmkit/block-io";

/** The longest key in bytes. S3 allows 1024 with the prefix of the bucket. */
export const MAX_KEY = 512;

const segment = /^[A-Za-z0-9_-](?:[A-Za-z0-9._-]*[A-Za-z0-9_-])?$/;

/** Returns `key`; throws `EINVAL` for what cannot be one. */
export function checkKey(key: string): string {
  if (key.length <= MAX_KEY && key.split("/").every((part) => segment.test(part))) return key;
  throw new BlockIoError(`${JSON.stringify(key.slice(0, 80))} cannot be the key of an object`, {
    code: "EINVAL",
    hint: `Use up to ${MAX_KEY} letters, digits and . _ - between slashes; no part begins or ends with a dot.`,
  });
}

/** As {@link checkKey} for the beginning of keys: it may be empty, and its last segment may be cut anywhere. */
export function checkPrefix(prefix: string): string {
  if (prefix !== "") checkKey(prefix.endsWith("/") ? prefix.slice(0, -1) : `${prefix}0`);
  return prefix;
}
