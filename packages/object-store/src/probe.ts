/**
 * Whether a store honours conditions. Some accept `If-None-Match: *` and ignore it; every writer then believes that
 * it has won, and each overwrites the other. So before the first object is written, a key is created twice: a store
 * that does not refuse the second is not used.
 */
import { BlockIoError } from "@dmkit/block-io";
import type { ObjectStore } from "./store.ts";

/**
 * Resolves if `store` creates only what is absent; rejects with `ENOTSUP` if it ignores the condition, and with the
 * store's own error if it cannot be written. `token` makes the probe's key unique (16 hexadecimal digits or more).
 * Costs three requests; leaves a few
 * bytes under `probe/` if it fails in between.
 */
export async function probeConditionalCreate(store: ObjectStore, token: string): Promise<void> {
  const key = `probe/${token}`;
  const first = await store.create(key, Buffer.from(`${token}-first`));
  const second = await store.create(key, Buffer.from(`${token}-second`));
  // What cannot be removed is a few bytes under probe/.
  await store.remove(key).catch(() => {});
  if (first && !second) return;
  throw new BlockIoError("this store overwrites objects that were to be created only if absent", {
    code: "ENOTSUP",
    device: store.name,
    hint:
      "Two writers would destroy each other's data. Use a store that honours If-None-Match on PUT " +
      "(Amazon S3, Ceph 16 or later, MinIO, Cloudflare R2), or a folder.",
  });
}
