/**
 * Publishing: a device becomes an image.
 *
 *     1  chunks        read, hashed; those the store lacks are uploaded. Holes and zeroes cost nothing. Those that cannot
 *                      differ from the parent are not read, but looked for, and read where the store has lost them
 *     2  pages, hot list     the same
 *     3  manifest      created: a collection that begins from here on sees that all its blobs are in use
 *     4  collections   that began before are waited for
 *     5  blobs older than half the grace time that nobody was known to use were uploaded again in step 1, and a manifest
 *                      that was there already in step 3; now they are looked for once more, and so is the parent, whose
 *                      blobs were relied on
 *        who wants to look at all of it before the tag says it does so then
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
  isZero,
  randomUuid,
  realEnvironment,
  refuse,
} from "@dmkit/block-io";
import { type ObjectStore, probeConditionalCreate } from "@dmkit/object-store";
import { digestOf } from "../device/blob-coder.ts";
import { DIGEST, type Digest, digestAt, digestsOf, putDigest } from "../format/digest.ts";
import { encodeTag, manifestKey, tagKey } from "../format/layout.ts";
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
import { isUnreadable, readManifest, readTagVersion, tagVersion } from "../open/manifests.ts";
import { Blobs } from "../device/blobs.ts";
import { Changes } from "./changes.ts";
import { waitForCollections } from "./collect.ts";
import { PublishedBlobs } from "./publish-blobs.ts";
import { tagMoved } from "./tags.ts";
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

class Publication {
  readonly #source: BlockDevice;
  readonly #store: ObjectStore;
  readonly #options: PublishOptions;
  readonly #environment: Environment;
  readonly #blobs: PublishedBlobs;
  readonly #token: string;
  /** Bytes of the source that are done, and that were read. */
  readonly #sums = { done: 0, read: 0 };

  constructor(source: BlockDevice, store: ObjectStore, options: PublishOptions) {
    this.#source = source;
    this.#store = store;
    this.#options = options;
    this.#environment = options.environment ?? realEnvironment;
    this.#blobs = new PublishedBlobs(store, options, this.#environment);
    this.#token = randomUuid(this.#environment.random);
  }

  async run(): Promise<Published> {
    const { name, tag, signal, replaces, note } = this.#options;
    try {
      this.#blobs.setTime(await probeConditionalCreate(this.#store, this.#token));
      const version = await tagVersion(this.#store, name, tag);
      const old = await this.#parent(version);
      const parent = old?.digest;
      const chunkSize = this.#options.chunkSize ?? old?.chunkSize ?? DEFAULT_CHUNK;
      this.#check(chunkSize, old);
      const usable = old?.chunkSize === chunkSize && old.size === this.#source.size ? old : undefined;
      await this.#blobs.list(chunkCount(this.#source.size, chunkSize));
      const pages = await this.#pages(chunkSize, usable);
      const manifest: Manifest = {
        size: this.#source.size,
        chunkSize,
        parent,
        pages,
        ...(await this.#hotList(chunkSize, old)),
      };
      const { digest, key, body } = this.#encoded(manifest);
      // One that is there already may be old, and about to be collected: now it is young.
      if (!(await this.#store.create(key, body, { signal }))) await this.#store.put(key, body, { signal });
      await waitForCollections(this.#store, this.#environment, signal);
      if ((await this.#store.head(key, { signal })) === undefined)
        await this.#store.put(key, body, { signal });
      await this.#lookAgain(parent);
      await this.#options.check?.(digest);
      const tagged = await this.#store.create(
        tagKey(name, tag, version + 1),
        encodeTag({ digest, time: this.#environment.clock.wallTime(), token: this.#token, note }),
        { signal },
      );
      if (!tagged && replaces !== undefined) throw tagMoved(this.#store, name, tag);
      return { ...this.#sums, ...this.#blobs.counts, total: this.#source.size, digest, tagged };
    } finally {
      await this.#blobs.close();
    }
  }

  // The one that was named must be there. Without the one the tag says there is more to upload, and that is all.
  async #parent(version: number): Promise<(Manifest & { readonly digest: Digest }) | undefined> {
    const { name, tag, parent, replaces } = this.#options;
    const read = async (): Promise<Digest | undefined> => {
      if (replaces === null && version > 0) throw tagMoved(this.#store, name, tag);
      const record = version === 0 ? undefined : await readTagVersion(this.#store, name, tag, version);
      if (typeof replaces === "string" && record?.digest !== replaces) throw tagMoved(this.#store, name, tag);
      return record?.digest;
    };
    if (parent !== undefined) {
      if (replaces !== undefined) await read();
      return { ...(await readManifest(this.#store, name, parent)), digest: parent };
    }
    try {
      const found = await read();
      if (found === undefined) return undefined;
      return { ...(await readManifest(this.#store, name, found)), digest: found };
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
    const parents = new Blobs(this.#store, { memory: 8 << 20 });
    const changes = new Changes(this.#options.changed, chunkSize);
    const holes = new Changes(dataOf(this.#source), chunkSize);
    try {
      const count = chunkCount(size, chunkSize);
      for (let first = 0; first < count; first += PAGE_CHUNKS) {
        const chunks = Math.min(PAGE_CHUNKS, count - first);
        const oldPage = old?.pages[first / PAGE_CHUNKS];
        const before = oldPage === undefined ? undefined : await this.#parentsPage(parents, oldPage);
        const table = Buffer.alloc(chunks * DIGEST);
        if (before !== undefined) for (const digest of digestsOf(before)) this.#blobs.use(digest);
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
        await this.#blobs.parallel(kept, async (index) => {
          const digest = digestAt(before as Buffer, index) as Digest;
          // What the store has lost is read again; if that is something else by now, it is what is published.
          if (!(await this.#blobs.rely(digest))) return read(index);
          putDigest(table, index, digest);
          this.#advance(Math.min(chunkSize, size - (first + index) * chunkSize));
        });
        await this.#blobs.parallel(wanted, read);
        pages.push(isZero(table) ? undefined : await this.#blobs.put(table));
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
    this.#blobs.use(page);
    try {
      return await parents.load(page, (table) => Buffer.from(table));
    } catch (error) {
      if (!isLost(error)) throw error;
      if (codeOf(error) === "EIO") this.#blobs.markDamaged(page);
      return undefined;
    }
  }

  async #chunk(offset: number, length: number): Promise<Digest | undefined> {
    const read = async (): Promise<Buffer> => {
      const plain = Buffer.allocUnsafeSlow(length);
      await this.#source.read(offset, plain);
      this.#sums.read += length;
      return plain;
    };
    const plain = await read();
    const digest = isZero(plain) ? undefined : await this.#blobs.put(plain, read);
    this.#advance(length);
    return digest;
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
      if (same && old.hotList !== undefined && (await this.#blobs.rely(old.hotList)))
        return { hotList: old.hotList, hotCount: old.hotCount };
      return { hotList: undefined, hotCount: 0 };
    }
    const chunks = [...new Set(hotList)].slice(0, MAX_HOT);
    if (chunks.length === 0) return { hotList: undefined, hotCount: 0 };
    return { hotList: await this.#blobs.put(encodeHotList(chunks)), hotCount: chunks.length };
  }

  #encoded(manifest: Manifest): { readonly digest: Digest; readonly key: string; readonly body: Buffer } {
    const head = encodeManifest(manifest);
    const digest = digestOf(head);
    const body = Buffer.concat([head, Buffer.from(digest, "hex")]);
    return { digest, key: manifestKey(this.#options.name, digest), body };
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
    await this.#blobs.lookAgain();
  }

  #advance(length: number): void {
    this.#sums.done += length;
    const { deduplicated, uploaded } = this.#blobs.counts;
    this.#options.progress?.({ ...this.#sums, deduplicated, uploaded, total: this.#source.size });
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
