/**
 * Publishing: a device becomes an image.
 *
 *     1  chunks        read, hashed; those the store lacks are uploaded. Holes and zeroes cost nothing. Those that cannot
 *                      differ from the parent are not read, but looked for, and read where the store has lost them
 *     2  pages, hot list     the same
 *     3  manifest      created: a collection that begins from here on sees that all its blobs are in use
 *     4  collections   that began before are waited for
 *     5  blobs older than half the grace time that nobody was known to use were uploaded again in step 1; now they are
 *                      looked for once more, and so is the parent, whose blobs were relied on
 *     6  tag           its next version is created; whoever moved it meanwhile is not overruled
 *
 * It can be interrupted anywhere and run again: what was uploaded is found in step 1. Before step 3 nothing refers to it,
 * and a collection takes it away after the grace time.
 *
 * Invariants: every blob the manifest refers to was found in the store or uploaded by this publication, also those of the
 * parent, so publishing again brings back what was lost. With `verify` each that was found was also read and compared
 * with its name, and replaced if it was damaged: a key names its contents, so what is put there is what belongs there.
 */
import {
  type BlockDevice,
  type Environment,
  BlockIoError,
  codeOf,
  inParallel,
  isZero,
  realEnvironment,
  refuse,
} from "@dmkit/block-io";
import { type ObjectStore, probeConditionalCreate } from "@dmkit/object-store";
import { BlobCoder, digestOf } from "../device/blob-coder.ts";
import { BLOB_HEAD, MAX_BLOB } from "../format/blob.ts";
import { DIGEST, type Digest, digestAt, putDigest } from "../format/digest.ts";
import { BLOBS, blobKey, blobOfKey, encodeTag, manifestKey, tagKey } from "../format/layout.ts";
import {
  DEFAULT_CHUNK,
  MAX_HOT,
  MAX_MANIFEST,
  MAX_PAGES,
  type Manifest,
  PAGE_CHUNKS,
  chunkCount,
  encodeHotList,
  encodeManifest,
  isChunkSize,
  pageCount,
} from "../format/manifest.ts";
import { isUnreadable, readManifest, readTagVersion, tagVersion } from "../open/manifests.ts";
import { Blobs } from "../device/blobs.ts";
import { ChunkMemory } from "../core/chunk-memory.ts";
import { Changes } from "./changes.ts";
import { GRACE, waitForCollections } from "./collect.ts";
import { type PublishOptions, type Published, checkOptions, checkSource } from "./publish-options.ts";

/**
 * Publishes `source`, which must not change meanwhile. Errors: those of source and store; `EINVAL` for options, and a
 * source of a size, that cannot be, before anything is read or written; `ENOTSUP`.
 */
export async function publish(
  source: BlockDevice,
  store: ObjectStore,
  options: PublishOptions,
): Promise<Published> {
  checkOptions(options);
  checkSource(source);
  return await new Publication(source, store, options).run();
}

// Blobs are listed once, a thousand with a request, instead of being asked for one by one, unless the store has more
// than this, or than this for each chunk: then it holds mostly those of others, and a list of them takes longer.
const LISTED = 20_000;
const LISTED_PER_CHUNK = 100;
const MOST_LISTED = 1_000_000;

class Publication {
  readonly #source: BlockDevice;
  readonly #store: ObjectStore;
  readonly #options: PublishOptions;
  readonly #environment: Environment;
  readonly #coder = new BlobCoder();
  readonly #token: string;
  readonly #sums = { done: 0, read: 0, deduplicated: 0, uploaded: 0 };
  /** Found or uploaded by this publication. */
  readonly #present = new Map<Digest, Promise<void>>();
  /** In use by the parent's manifest: no collection takes them, however old they are. They can be lost all the same. */
  readonly #inUse = new Set<Digest>();
  /** In the store, and not what their name says. */
  readonly #damaged = new Set<Digest>();
  /** Uploaded again because of their age. */
  readonly #refreshed = new Map<Digest, Buffer>();
  /** When each blob of the store was written; undefined where there are too many to list. */
  #listed: Map<Digest, number> | undefined;
  #blobs = 0;
  #repaired = 0;

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
      const version = await tagVersion(this.#store, name, tag);
      const old = await this.#parent(version);
      const parent = old?.digest;
      const chunkSize = this.#options.chunkSize ?? old?.chunkSize ?? DEFAULT_CHUNK;
      this.#check(chunkSize, old);
      const usable = old?.chunkSize === chunkSize && old.size === this.#source.size ? old : undefined;
      const listed = chunkCount(this.#source.size, chunkSize) * LISTED_PER_CHUNK;
      this.#listed = await this.#list(Math.min(MOST_LISTED, Math.max(LISTED, listed)));
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
        tagKey(name, tag, version + 1),
        encodeTag({ digest, time: this.#environment.clock.wallTime(), token: this.#token }),
        { signal },
      );
      const counted = { blobs: this.#blobs, repaired: this.#repaired };
      return { ...this.#sums, total: this.#source.size, digest, ...counted, tagged };
    } finally {
      await this.#coder.close();
    }
  }

  // The one that was named must be there. Without the one the tag says there is more to upload, and that is all.
  async #parent(version: number): Promise<(Manifest & { readonly digest: Digest }) | undefined> {
    const { name, tag, parent } = this.#options;
    if (parent !== undefined) return { ...(await readManifest(this.#store, name, parent)), digest: parent };
    try {
      const record = version === 0 ? undefined : await readTagVersion(this.#store, name, tag, version);
      if (record === undefined) return undefined;
      return { ...(await readManifest(this.#store, name, record.digest)), digest: record.digest };
    } catch (error) {
      if (isUnreadable(error)) return undefined;
      throw error;
    }
  }

  #check(chunkSize: number, old: Manifest | undefined): void {
    const complain = (reason: string, hint: string): never => {
      throw refuse(this.#source.name, "EINVAL", reason, hint, "read");
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
        const before = oldPage === undefined ? undefined : await this.#parentsPage(parents, oldPage);
        const table = Buffer.alloc(chunks * DIGEST);
        if (before !== undefined) this.#useAll(before);
        const wanted: number[] = [];
        const kept: number[] = [];
        for (let index = 0; index < chunks; index += 1) {
          const chunk = first + index;
          const length = Math.min(chunkSize, size - chunk * chunkSize);
          const same = this.#options.changed !== undefined && !(await changes.touch(chunk));
          if (same && before !== undefined && digestAt(before, index) !== undefined) kept.push(index);
          // Where the parent's page is lost nothing is known of what it said: it is read.
          else if (same && (before !== undefined || oldPage === undefined)) this.#advance(length);
          else if (await holes.touch(chunk)) wanted.push(index);
          else this.#advance(length);
        }
        const read = async (index: number): Promise<void> => {
          const offset = (first + index) * chunkSize;
          putDigest(table, index, await this.#chunk(offset, Math.min(chunkSize, size - offset)));
        };
        await this.#parallel(kept, async (index) => {
          const digest = digestAt(before as Buffer, index) as Digest;
          // What the store has lost is read again; if that is something else by now, it is what is published.
          if (!(await this.#rely(digest))) return read(index);
          putDigest(table, index, digest);
          this.#advance(Math.min(chunkSize, size - (first + index) * chunkSize));
        });
        await this.#parallel(wanted, read);
        pages.push(isZero(table) ? undefined : await this.#blob(table));
      }
    } finally {
      await changes.end();
      await holes.end();
      await parents.close();
    }
    return pages;
  }

  // Undefined if it is lost: what it said is then found out by reading the source.
  async #parentsPage(parents: Blobs, page: Digest): Promise<Buffer | undefined> {
    this.#inUse.add(page);
    try {
      return await parents.load(page);
    } catch (error) {
      if (!isLost(error)) throw error;
      // It may be listed all the same, and must be uploaded again.
      if (codeOf(error) === "EIO") this.#damaged.add(page);
      return undefined;
    }
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
    const written = await this.#writtenAt(digest);
    const whole = written !== undefined && !this.#damaged.has(digest);
    const age = this.#environment.clock.wallTime() - (written ?? 0);
    const inUse = this.#inUse.has(digest);
    if (whole && (inUse || age < GRACE / 2)) {
      this.#sums.deduplicated += plain.length;
      return;
    }
    const body = await this.#coder.encode(plain, codec);
    await this.#store.put(blobKey(digest), body, { signal });
    this.#sums.uploaded += body.length;
    this.#blobs += 1;
    if (!whole && (inUse || written !== undefined)) this.#repaired += 1;
    // Kept for step 5: they are few, since most of what is old is in use by the parent.
    if (written !== undefined) this.#refreshed.set(digest, body);
  }

  /**
   * When the blob in the store was written; undefined where there is none. One that `verify` reads and that is not what
   * its name says is noted as damaged.
   */
  async #writtenAt(digest: Digest): Promise<number | undefined> {
    const { signal, verify = false } = this.#options;
    const key = blobKey(digest);
    const written =
      this.#listed === undefined
        ? (await this.#store.head(key, { signal }))?.modified
        : this.#listed.get(digest);
    if (written === undefined || !verify || this.#damaged.has(digest)) return written;
    try {
      const body = await this.#store.get(key, { most: MAX_BLOB + BLOB_HEAD, signal });
      if ((await this.#coder.decode(body, digest)) === undefined) this.#damaged.add(digest);
      return written;
    } catch (error) {
      if (codeOf(error) === "ENOENT") return undefined;
      // Larger than any blob is.
      if (codeOf(error) !== "EOVERFLOW") throw error;
      this.#damaged.add(digest);
      return written;
    }
  }

  /** Whether a blob that the parent refers to is there, and whole as far as that is asked for. */
  async #rely(digest: Digest): Promise<boolean> {
    this.#inUse.add(digest);
    const known = this.#present.get(digest);
    if (known !== undefined) await known;
    else {
      if ((await this.#writtenAt(digest)) === undefined || this.#damaged.has(digest)) return false;
      this.#present.set(digest, Promise.resolve());
    }
    return true;
  }

  async #hotList(
    chunkSize: number,
    old: Manifest | undefined,
  ): Promise<Pick<Manifest, "hotList" | "hotCount">> {
    const { hotList } = this.#options;
    if (hotList === undefined) {
      // Of another chunk size it would mean other places.
      const same = old?.chunkSize === chunkSize;
      // One that is lost cannot be made again, and only saves time.
      if (same && old.hotList !== undefined && (await this.#rely(old.hotList)))
        return { hotList: old.hotList, hotCount: old.hotCount };
      return { hotList: undefined, hotCount: 0 };
    }
    const chunks = [...new Set(hotList)].slice(0, MAX_HOT);
    if (chunks.length === 0) return { hotList: undefined, hotCount: 0 };
    return { hotList: await this.#blob(encodeHotList(chunks)), hotCount: chunks.length };
  }

  async #createManifest(manifest: Manifest): Promise<Digest> {
    const head = encodeManifest(manifest);
    const digest = digestOf(head);
    const body = Buffer.concat([head, Buffer.from(digest, "hex")]);
    const { name, signal } = this.#options;
    const key = manifestKey(name, digest);
    if (await this.#store.create(key, body, { signal })) return digest;
    // Equal bytes under this name are this manifest, whoever created it; others are one that was damaged.
    const there = await this.#store.get(key, { most: MAX_MANIFEST, signal }).catch((error: unknown) => {
      if (codeOf(error) === "EOVERFLOW" || codeOf(error) === "ENOENT") return undefined;
      throw error;
    });
    if (there?.equals(body) !== true) await this.#store.put(key, body, { signal });
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
    await this.#parallel(this.#refreshed, async ([digest, body]) => {
      if ((await this.#store.head(blobKey(digest), { signal })) !== undefined) return;
      await this.#store.put(blobKey(digest), body, { signal });
    });
  }

  async #list(most: number): Promise<Map<Digest, number> | undefined> {
    const listed = new Map<Digest, number>();
    for await (const { key, modified } of this.#store.list(BLOBS, "", { signal: this.#options.signal })) {
      const digest = blobOfKey(key);
      if (digest !== undefined) listed.set(digest, modified);
      if (listed.size > most) return undefined;
    }
    return listed;
  }

  #useAll(table: Buffer): void {
    for (let index = 0; index < table.length / DIGEST; index += 1) {
      const digest = digestAt(table, index);
      if (digest !== undefined) this.#inUse.add(digest);
    }
  }

  #parallel<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
    const { parallel = 8, signal } = this.#options;
    return inParallel(items, parallel, (item) => {
      signal?.throwIfAborted();
      return work(item);
    });
  }

  #advance(length: number): void {
    this.#sums.done += length;
    this.#options.progress?.({ ...this.#sums, total: this.#source.size });
  }
}

// Gone, or twice not what it should be: publishing can bring it back.
function isLost(error: unknown): boolean {
  return codeOf(error) === "ENOENT" || codeOf(error) === "EIO";
}

async function* dataOf(source: BlockDevice): AsyncGenerator<{ offset: number; length: number }> {
  for await (const { offset, length, kind } of source.extents(0, source.size)) {
    if (kind === "data") yield { offset, length };
  }
}
