/**
 * Plain blobs by digest: from memory, the node's cache, or the store, in this order.
 *
 * Invariants: what is given out was verified against its digest when it came into memory; a blob is fetched once however
 * many wait for it; a blob in the node's cache that fails is removed and fetched, one from the store is fetched once more.
 */
import { BlockIoError, codeOf } from "@dmkit/block-io";
import type { GetOptions, ObjectStore } from "@dmkit/object-store";
import type { ChunkMemory } from "../core/chunk-memory.ts";
import { BLOB_HEAD, MAX_BLOB } from "../format/blob.ts";
import type { Digest } from "../format/digest.ts";
import { blobKey } from "../format/layout.ts";
import { BlobCoder } from "./blob-coder.ts";
import type { NodeCache } from "./node-cache.ts";

/** Counted since the device was opened. */
export interface BlobCounters {
  memoryHits: number;
  cacheHits: number;
  fetches: number;
  /** Bytes of bodies that were fetched. */
  fetchedBytes: number;
  /** Bodies that failed their check, wherever they came from. */
  damaged: number;
}

export class Blobs {
  readonly counters: BlobCounters = { memoryHits: 0, cacheHits: 0, fetches: 0, fetchedBytes: 0, damaged: 0 };
  readonly store: ObjectStore;
  readonly #memory: ChunkMemory;
  readonly #cache: NodeCache | undefined;
  readonly #coder: BlobCoder = new BlobCoder();
  readonly #loading = new Map<Digest, Promise<Buffer>>();
  readonly #ending = new AbortController();

  constructor(store: ObjectStore, memory: ChunkMemory, cache: NodeCache | undefined) {
    this.store = store;
    this.#memory = memory;
    this.#cache = cache;
  }

  /** The blob if it is in memory. */
  peek(digest: Digest): Buffer | undefined {
    const blob = this.#memory.get(digest);
    if (blob !== undefined) this.counters.memoryHits += 1;
    return blob;
  }

  /** The plain bytes; shared, so they must not be changed. `EIO` for a blob that is damaged in the store. */
  load(digest: Digest): Promise<Buffer> {
    const underWay = this.#loading.get(digest);
    if (underWay !== undefined) return underWay;
    const loading = this.#load(digest).finally(() => this.#loading.delete(digest));
    this.#loading.set(digest, loading);
    return loading;
  }

  /** Waits for what is under way, which ends early. The store stays open: whoever opened it closes it. */
  async close(): Promise<void> {
    this.#ending.abort();
    await Promise.allSettled(this.#loading.values());
    await this.#coder.close();
  }

  async #load(digest: Digest): Promise<Buffer> {
    const plain = (await this.#fromCache(digest)) ?? (await this.#fromStore(digest));
    this.#memory.put(digest, plain);
    return plain;
  }

  async #fromCache(digest: Digest): Promise<Buffer | undefined> {
    const body = await this.#cache?.get(digest);
    if (body === undefined) return undefined;
    const plain = await this.#coder.decode(body, digest);
    if (plain === undefined) {
      this.counters.damaged += 1;
      await this.#cache?.remove(digest);
    } else this.counters.cacheHits += 1;
    return plain;
  }

  async #fromStore(digest: Digest): Promise<Buffer> {
    const options = { most: MAX_BLOB + BLOB_HEAD, signal: this.#ending.signal };
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const body = await this.#get(digest, options);
      this.counters.fetches += 1;
      this.counters.fetchedBytes += body.length;
      const plain = await this.#coder.decode(body, digest);
      if (plain !== undefined) {
        await this.#cache?.put(digest, body);
        return plain;
      }
      this.counters.damaged += 1;
    }
    throw new BlockIoError(`the blob ${digest} is damaged in the store`, {
      code: "EIO",
      device: this.store.name,
      op: "read",
      hint: "Publish the image again from its source with dmkit publish --verify: blobs that are damaged are replaced.",
    });
  }

  async #get(digest: Digest, options: GetOptions): Promise<Buffer> {
    try {
      return await this.store.get(blobKey(digest), options);
    } catch (error) {
      if (codeOf(error) !== "ENOENT") throw error;
      throw new BlockIoError(`the blob ${digest} is not in the store`, {
        code: "ENOENT",
        device: this.store.name,
        op: "read",
        cause: error,
        hint: "Publish the image again from its source: what is missing is uploaded.",
      });
    }
  }
}
