/**
 * What dmkit asks of an object store, and no more.
 *
 * 1. {@link ObjectStore.create} is the one primitive that safety stands on: of all writers that create a key,
 *    at most one is told `true`, whatever was sent twice, landed late or lost its answer on the way.
 * 2. {@link ObjectStore.put} is for keys that name their content (a hash): whoever writes such a key writes the
 *    same bytes, so it may be repeated.
 * 3. What was created or put and not removed is found by {@link ObjectStore.get} and listed by
 *    {@link ObjectStore.list} from the moment the call resolved (S3 has promised this since 2020).
 * 4. Bodies are whole or absent: no reader sees half an object.
 *
 * Nothing here promises that the bytes read are those written: a store, a proxy or a cable can flip a bit.
 * Readers verify what they read; see {@link getVerified}.
 */

import type { WatchedFacts } from "@dmkit/block-io";

/** One object in a listing. */
export interface ObjectEntry {
  readonly key: string;
  /** Bytes of the body. */
  readonly size: number;
  /** Milliseconds since 1970-01-01 UTC by the clock of the store, when the object was written. */
  readonly modified: number;
}

/** A part of an object: `length` bytes from `offset`. A range that reaches past the end gives what there is. */
export interface ObjectRange {
  /** 0 … 2^53 - 1 bytes. */
  readonly offset: number;
  /** 1 … 2^53 - 1 bytes. */
  readonly length: number;
}

/** Where a reader's memory for bodies comes from. */
export interface BodyMemory {
  /** So many bytes, with anything in them. */
  take(length: number): Buffer;
  /** Takes them back when nobody looks at them any more. */
  give(bytes: Buffer): void;
}

/** How an object is read. */
export interface GetOptions {
  /** The whole object unless given. */
  readonly range?: ObjectRange | undefined;
  /** Bodies above this many bytes are refused with `EOVERFLOW` before they are read. 64 MiB unless given. */
  readonly most?: number | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Asked for memory where the store can put the body there; other bodies come in memory of their own. */
  readonly memory?: BodyMemory | undefined;
}

/** What every request to a store takes. */
export interface StoreOptions {
  readonly signal?: AbortSignal | undefined;
}

/**
 * An object store. Every method rejects with a `BlockIoError`: `ENOENT` where there is no such object or bucket,
 * `EACCES` where the store refuses us, `ETIMEDOUT` or `ENOTCONN` where it cannot be reached in the time allowed,
 * `ENOSPC` where it is full, `ESHUTDOWN` when it was closed or `signal` aborted, `EIO` otherwise.
 */
export interface ObjectStore {
  /** Where it is, as in messages: `s3://bucket/prefix`, or a path. */
  readonly name: string;

  /** The body of an object. `ENOENT` where there is none. */
  get(key: string, options?: GetOptions): Promise<Buffer>;

  /** Size and age of an object without its body; undefined where there is none. */
  head(key: string, options?: StoreOptions): Promise<ObjectEntry | undefined>;

  /**
   * Creates an object unless there is one. True: the object has exactly this body, by this call. False: there
   * was one already, by another writer. After an attempt whose outcome is unknown the object is read back and
   * compared, so where two writers may create one key, their bodies differ (each carries its writer's token).
   * The body is looked at until the promise settles, and not after that: its memory can be used again.
   */
  create(key: string, body: Uint8Array, options?: StoreOptions): Promise<boolean>;

  /** Writes an object whose key names its content; replaces what is there. The body as with {@link create}. */
  put(key: string, body: Uint8Array, options?: StoreOptions): Promise<void>;

  /** Every object whose key begins with `prefix` and comes behind `after`, in the byte order of the keys. */
  list(prefix: string, after?: string, options?: StoreOptions): AsyncIterable<ObjectEntry>;

  /** Removes an object; content if there is none. */
  remove(key: string, options?: StoreOptions): Promise<void>;

  /** Ends what is under way with `ESHUTDOWN`. Idempotent. */
  close(): Promise<void>;

  /** What it has been asked, and how that went, since it was opened. Left out: it does not count. */
  facts?(): WatchedFacts;
}
