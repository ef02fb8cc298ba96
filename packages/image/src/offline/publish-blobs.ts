/**
 * The blobs of one publication: those its manifest will refer to, each looked for once and uploaded where the store lacks
 * it; steps 1, 2 and 5 of publish.ts.
 *
 * Invariant: what {@link PublishedBlobs.put} resolved for, and {@link PublishedBlobs.rely} said true of, is in the store,
 * and with `verify` is what its name says.
 */
import { BlockIoError, type Environment, codeOf, inParallel } from "@dmkit/block-io";
import type { ObjectStore } from "@dmkit/object-store";
import { BlobCoder, digestOf } from "../device/blob-coder.ts";
import { BLOB_HEAD, MAX_BLOB } from "../format/blob.ts";
import type { Digest } from "../format/digest.ts";
import { BLOBS, blobKey, blobOfKey } from "../format/layout.ts";
import { GRACE } from "./collect.ts";
import type { PublishOptions } from "./publish-options.ts";

// Blobs are listed once, a thousand with a request, instead of being asked for one by one, unless the store has more
// than this, or than this for each chunk: then it holds mostly those of others, and a list of them takes longer.
const LISTED = 20_000;
const LISTED_PER_CHUNK = 100;
const MOST_LISTED = 1_000_000;

export class PublishedBlobs {
  /** Bytes that the store had already and of bodies that were uploaded; blobs uploaded, and those of the parent's among them. */
  readonly counts = { deduplicated: 0, uploaded: 0, blobs: 0, repaired: 0 };
  readonly #store: ObjectStore;
  readonly #options: PublishOptions;
  readonly #environment: Environment;
  readonly #coder = new BlobCoder();
  /** Found or uploaded by this publication. */
  readonly #present = new Map<Digest, Promise<void>>();
  /** In use by the parent's manifest: no collection takes them, however old they are. They can be lost all the same. */
  readonly #inUse = new Set<Digest>();
  /** In the store, and not what their name says. */
  readonly #damaged = new Set<Digest>();
  /** Uploaded again because of their age, and where to get them once more: all of an image may be old. */
  readonly #refreshed = new Map<Digest, () => Promise<Buffer>>();
  /** When each blob of the store was written; undefined where there are too many to list. */
  #listed: Map<Digest, number> | undefined;
  /** Milliseconds that the clock of the store is ahead of ours. */
  #ahead = 0;

  constructor(store: ObjectStore, options: PublishOptions, environment: Environment) {
    this.#store = store;
    this.#options = options;
    this.#environment = environment;
  }

  /** @param now by the clock of the store, which tells how old its objects are; undefined: not known. */
  setTime(now: number | undefined): void {
    this.#ahead = (now ?? this.#environment.clock.wallTime()) - this.#environment.clock.wallTime();
  }

  /** Finds out what is there, if that is quicker than asking for the blobs of so many chunks one by one. */
  async list(chunks: number): Promise<void> {
    const most = Math.min(MOST_LISTED, Math.max(LISTED, chunks * LISTED_PER_CHUNK));
    const listed = new Map<Digest, number>();
    for await (const { key, modified } of this.#store.list(BLOBS, "", { signal: this.#options.signal })) {
      const digest = blobOfKey(key);
      if (digest !== undefined) listed.set(digest, modified);
      if (listed.size > most) return;
    }
    this.#listed = listed;
  }

  /** The parent's manifest refers to it. */
  use(digest: Digest): void {
    this.#inUse.add(digest);
  }

  /** It was read and is not what its name says: it may be listed all the same, and must be uploaded again. */
  markDamaged(digest: Digest): void {
    this.#damaged.add(digest);
  }

  /**
   * Sees to it that the store has these bytes; each blob once, whoever asks.
   * @param again gives them once more; without it they are kept.
   */
  async put(plain: Buffer, again = (): Promise<Buffer> => Promise.resolve(plain)): Promise<Digest> {
    const digest = digestOf(plain);
    const known = this.#present.get(digest);
    if (known === undefined) {
      const uploading = this.#upload(digest, plain, again);
      this.#present.set(digest, uploading);
      await uploading;
    } else {
      await known;
      this.counts.deduplicated += plain.length;
    }
    return digest;
  }

  /** Whether a blob that the parent refers to is there, and whole as far as that is asked for. */
  async rely(digest: Digest): Promise<boolean> {
    this.#inUse.add(digest);
    const known = this.#present.get(digest);
    if (known !== undefined) await known;
    else {
      if ((await this.#writtenAt(digest)) === undefined || this.#damaged.has(digest)) return false;
      this.#present.set(digest, Promise.resolve());
    }
    return true;
  }

  /** Blobs that a collection may have taken since they were uploaded again are uploaded once more. */
  async lookAgain(): Promise<void> {
    const { signal } = this.#options;
    await this.parallel(this.#refreshed, async ([digest, again]) => {
      if ((await this.#store.head(blobKey(digest), { signal })) !== undefined) return;
      const plain = await again();
      if (digestOf(plain) !== digest) throw changed();
      await this.#send(digest, plain);
    });
  }

  /** As many at a time as the options say. */
  parallel<T>(items: Iterable<T>, work: (item: T) => Promise<void>): Promise<void> {
    const { parallel = 8, signal } = this.#options;
    return inParallel(items, parallel, (item) => {
      signal?.throwIfAborted();
      return work(item);
    });
  }

  close(): Promise<void> {
    return this.#coder.close();
  }

  async #upload(digest: Digest, plain: Buffer, again: () => Promise<Buffer>): Promise<void> {
    const written = await this.#writtenAt(digest);
    const whole = written !== undefined && !this.#damaged.has(digest);
    const age = this.#environment.clock.wallTime() + this.#ahead - (written ?? 0);
    const inUse = this.#inUse.has(digest);
    if (whole && (inUse || age < GRACE / 2)) {
      this.counts.deduplicated += plain.length;
      return;
    }
    await this.#send(digest, plain);
    if (!whole && (inUse || written !== undefined)) this.counts.repaired += 1;
    if (written !== undefined) this.#refreshed.set(digest, again);
  }

  async #send(digest: Digest, plain: Buffer): Promise<void> {
    const { signal, codec = "zstd" } = this.#options;
    const body = await this.#coder.encode(plain, codec);
    await this.#store.put(blobKey(digest), body, { signal });
    this.counts.uploaded += body.length;
    this.counts.blobs += 1;
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
}

function changed(): BlockIoError {
  return new BlockIoError("the source changed while it was published", {
    code: "EBUSY",
    op: "read",
    hint: "Publish what nobody writes to, such as a frozen layer or a snapshot; what was uploaded is found again.",
  });
}
