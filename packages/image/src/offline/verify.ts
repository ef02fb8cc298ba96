/** Verification: every blob of an image is fetched and compared with its digest. */
import { join, checkSettings, workSettings } from "@dmkit/block-io";
import type { ObjectStore } from "@dmkit/object-store";
import { BlobCoder } from "../device/blob-coder.ts";
import { Blobs } from "../device/blobs.ts";
import { BLOB_HEAD, MAX_BLOB } from "../format/blob.ts";
import { type Digest, digestAt } from "../format/digest.ts";
import { blobKey } from "../format/layout.ts";
import { PAGE_CHUNKS, chunkCount } from "../format/manifest.ts";
import { readManifest } from "../open/manifests.ts";

/** A blob that is not what the image needs. */
export interface BlobProblem {
  readonly kind: "missing" | "damaged";
  readonly blob: Digest;
  /** Bytes of the image that cannot be read for it; undefined for its hot list. */
  readonly offset: number | undefined;
  readonly length: number | undefined;
}

/** How a verification is ended, and how it says how far it is. */
export interface VerifyOptions {
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

/** Yields what is wrong, in the order of the image. Rejects with the store's error where it cannot be asked. */
export async function* verifyImage(
  store: ObjectStore,
  image: string,
  digest: Digest,
  options: VerifyOptions = {},
): AsyncGenerator<BlobProblem> {
  const { signal, progress } = checkSettings(workSettings, options, "read");
  const manifest = await readManifest(store, image, digest);
  const { size, chunkSize } = manifest;
  const coder = new BlobCoder();
  const pages = new Blobs(store, { memory: 1 << 20 });
  const good = new Set<Digest>();
  const check = async (blob: Digest, offset?: number, length?: number): Promise<BlobProblem | undefined> => {
    signal?.throwIfAborted();
    if (good.has(blob)) return undefined;
    try {
      const body = await store.get(blobKey(blob), { most: MAX_BLOB + BLOB_HEAD, signal });
      if ((await coder.decode(body, blob)) === undefined) return { kind: "damaged", blob, offset, length };
      good.add(blob);
      return undefined;
    } catch (error) {
      if ((error as { code?: string }).code === "ENOENT") return { kind: "missing", blob, offset, length };
      throw error;
    }
  };
  const total = chunkCount(size, chunkSize);
  try {
    if (manifest.hotList !== undefined) {
      const problem = await check(manifest.hotList);
      if (problem !== undefined) yield problem;
    }
    for (const [index, page] of manifest.pages.entries()) {
      const first = index * PAGE_CHUNKS;
      const chunks = Math.min(PAGE_CHUNKS, total - first);
      const offset = first * chunkSize;
      const problem =
        page === undefined
          ? undefined
          : await check(page, offset, Math.min(chunks * chunkSize, size - offset));
      if (problem !== undefined) yield problem;
      if (page === undefined || problem !== undefined) continue;
      const table = await pages.load(page, (table) => Buffer.from(table));
      for (let chunk = 0; chunk < chunks; chunk += 16) {
        const found: (BlobProblem | undefined)[] = [];
        const checkOne = async (_: unknown, n: number): Promise<void> => {
          const blob = digestAt(table, chunk + n);
          const at = (first + chunk + n) * chunkSize;
          found[n] = blob === undefined ? undefined : await check(blob, at, Math.min(chunkSize, size - at));
        };
        // All of them, even if one fails: they use what is closed next.
        await join(Array.from({ length: Math.min(16, chunks - chunk) }, checkOne));
        for (const one of found) if (one !== undefined) yield one;
        progress?.({ done: first + Math.min(chunks, chunk + 16), total });
      }
    }
  } finally {
    await pages.close();
    await coder.close();
  }
}
