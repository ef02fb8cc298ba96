/**
 * Publishing: a device becomes an image.
 *
 *     1  chunks        read, hashed; those the store lacks are uploaded. Holes and zeroes cost nothing
 *     2  pages, hot list     the same
 *     3  manifest      created: a collection that begins from here on sees that all its blobs are in use
 *     4  collections   that began before are waited for
 *     5  blobs older than half the grace time that nobody was known to use were uploaded again in step 1; now they are
 *                      looked for once more, and so is the parent, whose blobs were relied on
 *     6  tag           its next version is created; whoever moved it meanwhile is not overruled
 *
 * It can be interrupted anywhere and run again: what was uploaded is found in step 1. Before step 3 nothing refers to it,
 * and a collection takes it away after the grace time.
 */
import { type BlockDevice, BlockIoError, type Environment, isZero, realEnvironment } from "@dmkit/block-io";
import { type ObjectStore, probeConditionalCreate } from "@dmkit/object-store";
import { BlobCoder, digestOf } from "../device/blob-coder.ts";
import type { BlobCodec } from "../format/blob.ts";
import { DIGEST, type Digest, digestAt, putDigest } from "../format/digest.ts";
import { BLOBS, blobKey, blobOfKey, encodeTag, manifestKey, tagKey } from "../format/layout.ts";
import {
  DEFAULT_CHUNK,
  MAX_HOT,
  MAX_PAGES,
  type Manifest,
  PAGE_CHUNKS,
  chunkCount,
  encodeHotList,
  encodeManifest,
  isChunkSize,
  pageCount,
} from "../format/manifest.ts";
import { readManifest, readTag } from "../open/manifests.ts";
import { Blobs } from "../device/blobs.ts";
import { ChunkMemory } from "../core/chunk-memory.ts";
import { GRACE, waitForCollections } from "./collect.ts";

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

export interface PublishOptions {
  readonly name: string;
  readonly tag: string;
  /** Bytes; the parent's unless given, 512 KiB without one. */
  readonly chunkSize?: number | undefined;
  /** zstd unless given. */
  readonly codec?: BlobCodec | undefined;
  /** A manifest of the same name whose chunks need not be looked for; what the tag says now unless given. */
  readonly parent?: Digest | undefined;
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
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: PublishProgress) => void) | undefined;
}

/** What was published. */
export interface Published extends PublishProgress {
  readonly digest: Digest;
  readonly blobs: number;
  /** Whether the tag says it now; false: somebody else moved the tag since this publication began. */
  readonly tagged: boolean;
}

/** Publishes `source`, which must not change meanwhile. Errors: those of source and store; `EINVAL`, `ENOTSUP`. */
export function publish(
  source: BlockDevice,
  store: ObjectStore,
  options: PublishOptions,
): Promise<Published> {
  return new Publication(source, store, options).run();
}

// Fewer blobs than this are listed once instead of being asked for one by one.
const LISTED = 20_000;

class Publication {
  readonly #source: BlockDevice;
  readonly #store: ObjectStore;
  readonly #options: PublishOptions;
  readonly #environment: Environment;
  readonly #coder = new BlobCoder();
  readonly #token: string;
  readonly #sums = { done: 0, read: 0, deduplicated: 0, uploaded: 0 };
  /** In use by the parent, or found or uploaded by this publication. */
  readonly #present = new Map<Digest, Promise<void>>();
  /** Uploaded again because of their age. */
  readonly #refreshed = new Map<Digest, Buffer>();
  /** When each blob of the store was written; undefined where there are too many to list. */
  #listed: Map<Digest, number> | undefined;
  #blobs = 0;

  constructor(source: BlockDevice, store: ObjectStore, options: PublishOptions) {
    this.#source = source;
    this.#store = store;
    this.#options = options;
    this.#environment = options.environment ?? realEnvironment;
    const { random } = this.#environment;
    this.#token = Array.from({ length: 4 }, () =>
      Math.floor(random.next() * 2 ** 32)
        .toString(16)
        .padStart(8, "0"),
    ).join("");
  }

  async run(): Promise<Published> {
    const { name, tag, signal } = this.#options;
    try {
      await probeConditionalCreate(this.#store, this.#token);
      const before = await readTag(this.#store, name, tag);
      const parent = this.#options.parent ?? before.record?.digest;
      const old = parent === undefined ? undefined : await readManifest(this.#store, name, parent);
      const chunkSize = this.#options.chunkSize ?? old?.chunkSize ?? DEFAULT_CHUNK;
      this.#check(chunkSize, old);
      const usable = old?.chunkSize === chunkSize && old.size === this.#source.size ? old : undefined;
      this.#listed = await this.#list();
      const pages = await this.#pages(chunkSize, usable);
      const manifest: Manifest = {
        size: this.#source.size,
        chunkSize,
        parent,
        pages,
        ...(await this.#hotList(chunkSize, old)),
      };
      const digest = await this.#createManifest(manifest);
      await waitForCollections(this.#store, this.#environment, signal);
      await this.#lookAgain(usable === undefined ? undefined : parent);
      const tagged = await this.#store.create(
        tagKey(name, tag, before.version + 1),
        encodeTag({ digest, time: this.#environment.clock.wallTime(), token: this.#token }),
        { signal },
      );
      return { ...this.#sums, total: this.#source.size, digest, blobs: this.#blobs, tagged };
    } finally {
      await this.#coder.close();
    }
  }

  #check(chunkSize: number, old: Manifest | undefined): void {
    const complain = (reason: string, hint: string): never => {
      throw new BlockIoError(reason, { code: "EINVAL", device: this.#source.name, op: "read", hint });
    };
    if (!isChunkSize(chunkSize)) {
      complain(`${chunkSize} bytes cannot be the size of a chunk`, "Chunks are a power of two, 64K to 4M.");
    }
    if (pageCount(this.#source.size, chunkSize) > MAX_PAGES) {
      complain("the device is too large for this chunk size", "Use a larger one, 4M at the most.");
    }
    if (this.#options.changed === undefined) return;
    if (old === undefined) complain("what changed is known, but not since when", "Name the parent.");
    else if (old.size !== this.#source.size || old.chunkSize !== chunkSize) {
      complain("the parent has another size, or other chunks", "Publish all of it, without a parent.");
    }
  }

  // One page after the other; within a page many chunks at once.
  async #pages(chunkSize: number, old: Manifest | undefined): Promise<(Digest | undefined)[]> {
    const { size } = this.#source;
    const pages: (Digest | undefined)[] = [];
    const parents = new Blobs(this.#store, new ChunkMemory(8 << 20), undefined);
    const changes = new Changes(this.#options.changed, chunkSize);
    const holes = new Changes(dataOf(this.#source), chunkSize);
    try {
      const count = chunkCount(size, chunkSize);
      for (let first = 0; first < count; first += PAGE_CHUNKS) {
        const chunks = Math.min(PAGE_CHUNKS, count - first);
        const oldPage = old?.pages[first / PAGE_CHUNKS];
        const before = oldPage === undefined ? undefined : await parents.load(oldPage);
        const table = Buffer.alloc(chunks * DIGEST);
        if (before !== undefined) this.#keepAll(before);
        const wanted: number[] = [];
        for (let index = 0; index < chunks; index += 1) {
          const chunk = first + index;
          const length = Math.min(chunkSize, size - chunk * chunkSize);
          if (this.#options.changed !== undefined && !(await changes.touch(chunk))) {
            putDigest(table, index, before === undefined ? undefined : digestAt(before, index));
            this.#advance(length);
          } else if (await holes.touch(chunk)) wanted.push(index);
          else this.#advance(length);
        }
        await this.#parallel(wanted, async (index) => {
          const offset = (first + index) * chunkSize;
          const length = Math.min(chunkSize, size - offset);
          putDigest(table, index, await this.#chunk(offset, length));
        });
        if (oldPage !== undefined) this.#keep(oldPage);
        pages.push(isZero(table) ? undefined : await this.#blob(table));
      }
    } finally {
      await changes.end();
      await holes.end();
      await parents.close();
    }
    return pages;
  }

  async #chunk(offset: number, length: number): Promise<Digest | undefined> {
    const plain = Buffer.allocUnsafeSlow(length);
    await this.#source.read(offset, plain);
    this.#sums.read += length;
    const digest = isZero(plain) ? undefined : await this.#blob(plain);
    this.#advance(length);
    return digest;
  }

  // Sees to it that the store has these bytes; each blob once, whoever asks.
  async #blob(plain: Buffer): Promise<Digest> {
    const digest = digestOf(plain);
    const known = this.#present.get(digest);
    if (known === undefined) {
      const uploading = this.#upload(digest, plain);
      this.#present.set(digest, uploading);
      await uploading;
    } else {
      await known;
      this.#sums.deduplicated += plain.length;
    }
    return digest;
  }

  async #upload(digest: Digest, plain: Buffer): Promise<void> {
    const { signal, codec = "zstd" } = this.#options;
    const key = blobKey(digest);
    const written =
      this.#listed === undefined
        ? (await this.#store.head(key, { signal }))?.modified
        : this.#listed.get(digest);
    const age =
      written === undefined ? Number.POSITIVE_INFINITY : this.#environment.clock.wallTime() - written;
    if (age < GRACE / 2) {
      this.#sums.deduplicated += plain.length;
      return;
    }
    const body = await this.#coder.encode(plain, codec);
    await this.#store.put(key, body, { signal });
    this.#sums.uploaded += body.length;
    this.#blobs += 1;
    // Kept for step 5: they are few, since most of what is old is in use by the parent.
    if (written !== undefined) this.#refreshed.set(digest, body);
  }

  async #hotList(
    chunkSize: number,
    old: Manifest | undefined,
  ): Promise<Pick<Manifest, "hotList" | "hotCount">> {
    const { hotList } = this.#options;
    if (hotList === undefined) {
      // Of another chunk size it would mean other places.
      const same = old?.chunkSize === chunkSize;
      if (same && old.hotList !== undefined) this.#keep(old.hotList);
      return same ? { hotList: old.hotList, hotCount: old.hotCount } : { hotList: undefined, hotCount: 0 };
    }
    const chunks = [...new Set(hotList)].slice(0, MAX_HOT);
    if (chunks.length === 0) return { hotList: undefined, hotCount: 0 };
    return { hotList: await this.#blob(encodeHotList(chunks)), hotCount: chunks.length };
  }

  async #createManifest(manifest: Manifest): Promise<Digest> {
    const head = encodeManifest(manifest);
    const digest = digestOf(head);
    const body = Buffer.concat([head, Buffer.from(digest, "hex")]);
    // Equal bytes under this name are this manifest, whoever created it.
    await this.#store.create(manifestKey(this.#options.name, digest), body, { signal: this.#options.signal });
    return digest;
  }

  async #lookAgain(parent: Digest | undefined): Promise<void> {
    const { signal, name } = this.#options;
    if (
      parent !== undefined &&
      (await this.#store.head(manifestKey(name, parent), { signal })) === undefined
    ) {
      throw new BlockIoError(`the parent ${parent} was collected while this was published`, {
        code: "EBUSY",
        device: this.#store.name,
        hint: "Run the command again.",
      });
    }
    await this.#parallel([...this.#refreshed], async ([digest, body]) => {
      if ((await this.#store.head(blobKey(digest), { signal })) !== undefined) return;
      await this.#store.put(blobKey(digest), body, { signal });
    });
  }

  async #list(): Promise<Map<Digest, number> | undefined> {
    const listed = new Map<Digest, number>();
    for await (const { key, modified } of this.#store.list(BLOBS, "", { signal: this.#options.signal })) {
      const digest = blobOfKey(key);
      if (digest !== undefined) listed.set(digest, modified);
      if (listed.size >= LISTED) return undefined;
    }
    return listed;
  }

  // In use by the parent's manifest: no collection takes it.
  #keep(digest: Digest | undefined): void {
    if (digest !== undefined && !this.#present.has(digest)) this.#present.set(digest, Promise.resolve());
  }

  #keepAll(table: Buffer): void {
    for (let index = 0; index < table.length / DIGEST; index += 1) this.#keep(digestAt(table, index));
  }

  async #parallel<T>(items: readonly T[], work: (item: T) => Promise<void>): Promise<void> {
    let next = 0;
    const failed: { error?: unknown } = {};
    const worker = async (): Promise<void> => {
      while (next < items.length && failed.error === undefined) {
        const item = items[next] as T;
        next += 1;
        try {
          this.#options.signal?.throwIfAborted();
          await work(item);
        } catch (error) {
          failed.error ??= error;
        }
      }
    };
    await Promise.all(Array.from({ length: this.#options.parallel ?? 8 }, worker));
    if (failed.error !== undefined) throw failed.error;
  }

  #advance(length: number): void {
    this.#sums.done += length;
    this.#options.progress?.({ ...this.#sums, total: this.#source.size });
  }
}

async function* dataOf(source: BlockDevice): AsyncGenerator<{ offset: number; length: number }> {
  for await (const { offset, length, kind } of source.extents(0, source.size)) {
    if (kind === "data") yield { offset, length };
  }
}

/** Which chunks a sequence of ranges, in order, touches; asked for chunk by chunk in order. */
class Changes {
  readonly #ranges: AsyncIterator<{ readonly offset: number; readonly length: number }> | undefined;
  readonly #chunkSize: number;
  #current: { readonly offset: number; readonly length: number } | undefined;
  #ended = false;

  constructor(
    ranges: AsyncIterable<{ readonly offset: number; readonly length: number }> | undefined,
    chunkSize: number,
  ) {
    this.#ranges = ranges?.[Symbol.asyncIterator]();
    this.#chunkSize = chunkSize;
  }

  async touch(chunk: number): Promise<boolean> {
    const start = chunk * this.#chunkSize;
    while (
      !this.#ended &&
      (this.#current === undefined || this.#current.offset + this.#current.length <= start)
    ) {
      const next = await this.#ranges?.next();
      if (next === undefined || next.done === true) this.#ended = true;
      else this.#current = next.value;
    }
    return !this.#ended && this.#current !== undefined && this.#current.offset < start + this.#chunkSize;
  }

  async end(): Promise<void> {
    await this.#ranges?.return?.();
  }
}
