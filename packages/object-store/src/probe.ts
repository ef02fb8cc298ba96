/**
 * Whether a store honours conditions. Some accept `If-None-Match: *` and ignore it; every writer then believes that
 * it has won, and each overwrites the other. So before the first object is written, a key is created twice: a store
 * that does not refuse the second is not used.
 */
import { BlockIoError } from "@dmkit/block-io";
import type { ObjectStore } from "./store.ts";

/**
 * Resolves if `store` creates only what is absent, with its time: milliseconds since 1970-01-01 UTC by its clock, if it
 * tells. Rejects with `ENOTSUP` if it ignores the condition, and with the store's own error if it cannot be written.
 * `token` makes the probe's key unique (16 hexadecimal digits or more). Costs four requests; leaves a few bytes under
 * `probe/` if it fails in between.
 */
export async function probeConditionalCreate(store: ObjectStore, token: string): Promise<number | undefined> {
  const key = `probe/${token}`;
  const first = await store.create(key, Buffer.from(`${token}-first`));
  const second = await store.create(key, Buffer.from(`${token}-second`));
  const there = await store.head(key);
  // What cannot be removed is a few bytes under probe/.
  await store.remove(key).catch(() => {});
  if (first && !second) return there?.modified;
  throw new BlockIoError("this store overwrites objects that were to be created only if absent", {
    code: "ENOTSUP",
    device: store.name,
    hint:
      "Two writers would destroy each other's data. Use a store that honours If-None-Match on PUT " +
      "(Amazon S3, Ceph 16 or later, MinIO, Cloudflare R2), or a folder.",
  });
}
