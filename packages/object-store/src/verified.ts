/**
 * Reading what must be right. A body that fails its check is fetched once more, since a bit is more often flipped
 * on the way than in the store; if it fails again, nothing of it is given out.
 */
import { BlockIoError } from "@dmkit/block-io";
import type { GetOptions, ObjectStore } from "./store.ts";

/**
 * The object as `decode` returns it. `decode` returns undefined for a body that is not what it should be, and throws
 * for what is whole and cannot be used all the same (a newer version, say). Rejects with `EIO` for two bad bodies.
 */
export async function getVerified<T>(
  store: ObjectStore,
  key: string,
  decode: (body: Buffer) => T | undefined,
  options?: GetOptions,
): Promise<T> {
  for (let attempt = 1; attempt <= 2; attempt += 1) {
    // The second is only for a first that was bad.
    const decoded = decode(await store.get(key, options));
    if (decoded !== undefined) return decoded;
  }
  throw new BlockIoError(`${key} is damaged: its checksum was wrong twice`, {
    code: "EIO",
    device: store.name,
    op: "read",
    hint: "Restore the object from a copy of the bucket, or an earlier version of it where the bucket keeps versions.",
  });
}
