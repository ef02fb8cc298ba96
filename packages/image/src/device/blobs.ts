/**
 * Plain blobs by digest: from memory, the node's cache, or the store, in this order.
 *
 * Invariants: what is given out was verified against its digest when it came into memory; a blob is fetched once however
 * many wait for it; a blob in the node's cache that fails is removed and fetched, one from the store is fetched once more.
 * Memory of blobs is used again, so nobody keeps plain bytes: they are looked at in the turn in which they are given.
 */
import { BlockIoError, codeOf, realEnvironment, toBlockIoError } from "@dmkit/block-io";
import type { GetOptions, ObjectStore } from "@dmkit/object-store";
import { ChunkBuffers } from "../core/chunk-buffers.ts";
import { ChunkMemory } from "../core/chunk-memory.ts";
import { BLOB_HEAD, MAX_BLOB } from "../format/blob.ts";
import type { Digest } from "../format/digest.ts";
import { blobKey } from "../format/layout.ts";
import { BlobCoder } from "./blob-coder.ts";
import { BlobHealth } from "./health.ts";
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

/** Looks at plain bytes, at once: they are used for others afterwards. */
type Use<T> = (plain: Buffer) => T;

/** Who waits for a blob. */
interface Waiting {
  readonly use: Use<void>;
  readonly fail: (error: unknown) => void;
}

// Blobs that are being kept while their readers have them already; one more, and its readers wait for its place.
const KEEPING = 8;
// Memory of blobs that is used again: of those being kept and those on their way, each with a body and its plain bytes. What
// is missing is made anew, collected, and costs a sixth of all that a cold stream does.
const BUFFERS = 4 * KEEPING;

/** What blobs are kept in, besides the store. */
export interface BlobsOptions {
  /** Bytes of plain blobs in memory. */
  readonly memory: number;
  readonly cache?: NodeCache | undefined;
  /** Bytes of the blobs whose memory is worth to be used again. */
  readonly chunkSize?: number | undefined;
}

export class Blobs {
  readonly counters: BlobCounters = { memoryHits: 0, cacheHits: 0, fetches: 0, fetchedBytes: 0, damaged: 0 };
  readonly store: ObjectStore;
  readonly health: BlobHealth = new BlobHealth();
  readonly #memory: ChunkMemory;
  readonly #cache: NodeCache | undefined;
  readonly #coder: BlobCoder = new BlobCoder();
  readonly #buffers: ChunkBuffers;
  readonly #waiting = new Map<Digest, Waiting[]>();
  readonly #loading = new Set<Promise<void>>();
  readonly #keeping = new Set<Promise<void>>();
  readonly #ending = new AbortController();

  constructor(store: ObjectStore, { memory, cache, chunkSize = 0 }: BlobsOptions) {
    this.store = store;
    this.#buffers = new ChunkBuffers(chunkSize + BLOB_HEAD, BUFFERS);
    this.#memory = new ChunkMemory(memory, (plain) => this.#buffers.give(plain));
    this.#cache = cache;
  }

  /** The blob if it is in memory, to be looked at before anything is waited for. */
  peek(digest: Digest): Buffer | undefined {
    const blob = this.#memory.get(digest);
    if (blob !== undefined) this.counters.memoryHits += 1;
    return blob;
  }

  /** What `use` makes of the plain bytes. `EIO` for a blob that is damaged in the store. */
  load<T>(digest: Digest, use: Use<T>): Promise<T> {
    return new Promise<T>((resolve, fail) => {
      const waiting: Waiting = {
        use: (plain) => {
          try {
            resolve(use(plain));
          } catch (error) {
            fail(error);
          }
        },
        fail,
      };
      const others = this.#waiting.get(digest);
      if (others !== undefined) {
        others.push(waiting);
        return;
      }
      this.#waiting.set(digest, [waiting]);
      const loading = this.#load(digest).finally(() => this.#loading.delete(loading));
      this.#loading.add(loading);
    });
  }

  /** Waits for what is under way, which ends early. The store stays open: whoever opened it closes it. */
  async close(): Promise<void> {
    this.#ending.abort();
    await Promise.all(this.#loading);
    await Promise.all(this.#keeping);
    await this.#coder.close();
  }

  // Never rejects.
  async #load(digest: Digest): Promise<void> {
    try {
      const plain = (await this.#fromCache(digest)) ?? (await this.#fromStore(digest));
      for (const { use } of this.#done(digest)) use(plain);
      this.#memory.put(digest, plain);
    } catch (error) {
      const failure = toBlockIoError(error, { device: this.store.name, op: "read" });
      this.health.failed(digest, failure, realEnvironment.clock.wallTime());
      for (const { fail } of this.#done(digest)) fail(error);
    }
  }

  #done(digest: Digest): readonly Waiting[] {
    const waiting = this.#waiting.get(digest) ?? [];
    this.#waiting.delete(digest);
    return waiting;
  }

  async #fromCache(digest: Digest): Promise<Buffer | undefined> {
    const body = await this.#cache?.get(digest, this.#buffers);
    if (body === undefined) return undefined;
    const plain = await this.#coder.decode(body, digest, this.#buffers);
    if (plain?.buffer !== body.buffer) this.#buffers.give(body);
    if (plain === undefined) {
      this.counters.damaged += 1;
      await this.#cache?.remove(digest);
    } else this.counters.cacheHits += 1;
    return plain;
  }

  async #fromStore(digest: Digest): Promise<Buffer> {
    const options = { most: MAX_BLOB + BLOB_HEAD, signal: this.#ending.signal, memory: this.#buffers };
    for (let attempt = 1; attempt <= 2; attempt += 1) {
      const body = await this.#get(digest, options);
      this.counters.fetches += 1;
      this.counters.fetchedBytes += body.length;
      const plain = await this.#coder.decode(body, digest, this.#buffers);
      if (plain !== undefined) {
        this.health.came(digest);
        await this.#keep(digest, body, plain);
        return plain;
      }
      this.#buffers.give(body);
      this.counters.damaged += 1;
    }
    throw new BlockIoError(`the blob ${digest} is damaged in the store`, {
      code: "EIO",
      device: this.store.name,
      op: "read",
      hint: "Publish the image again from its source with dmkit publish --verify: blobs that are damaged are replaced.",
    });
  }

  // A disk is waited for only where it is slower than the store.
  async #keep(digest: Digest, body: Buffer, plain: Buffer): Promise<void> {
    // Readers have it, and it may be used for another blob, before the disk has what lies in the same memory.
    const isShared = plain.buffer === body.buffer;
    if (this.#cache === undefined || isShared) {
      await this.#cache?.put(digest, body);
      if (!isShared) this.#buffers.give(body);
      return;
    }
    const keeping = this.#cache.put(digest, body).finally(() => {
      this.#keeping.delete(keeping);
      this.#buffers.give(body);
    });
    this.#keeping.add(keeping);
    if (this.#keeping.size > KEEPING) await keeping;
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
