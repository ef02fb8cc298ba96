/**
 * The device: an image, read-only, whose chunks come when they are read.
 *
 * A read takes each chunk from memory at once where it is there; the others are loaded beside each other, and the read is
 * over when the last one is. An error of one chunk is the error of the reads that need it, and of no other.
 */
import {
  type Extent,
  type Facts,
  GuardedTarget,
  type Health,
  type Limits,
  type WatchedFacts,
  done,
  inParallel,
  plainCapabilities,
  plainLimits,
  join,
  worstHealth,
} from "@dmkit/block-io";
import { FirstReads } from "../core/first-reads.ts";
import { Readahead } from "../core/readahead.ts";
import { type Digest, digestAt } from "../format/digest.ts";
import { type Manifest, PAGE_CHUNKS, chunkCount } from "../format/manifest.ts";
import type { Blobs } from "./blobs.ts";
import { imageControls } from "./messages.ts";

/** What the device is opened with. */
export interface ImageParts {
  readonly manifest: Manifest;
  readonly digest: Digest;
  /** `image:STORE/NAME@DIGEST`. */
  readonly pinned: string;
  readonly blobs: Blobs;
  /** Chunks that are fetched ahead of a sequential read at the most. */
  readonly readahead: number;
  /** Lets go of what the device was opened with. */
  readonly release: () => Promise<void>;
}

function imageLimits(chunkSize: number): Limits {
  return {
    ...plainLimits,
    optimalTransfer: chunkSize,
    capabilities: { ...plainCapabilities, readOnly: true, extents: true },
  };
}

/** An open image: chunks are fetched when they are read, and checked against their digests. */
export class ImageDevice extends GuardedTarget {
  readonly #parts: ImageParts;
  readonly #chunkSize: number;
  readonly #readahead: Readahead;
  readonly #firstReads: FirstReads;
  #closing = false;

  constructor(name: string, parts: ImageParts) {
    const { size, chunkSize } = parts.manifest;
    super(name, size, imageLimits(chunkSize));
    this.#parts = parts;
    this.#chunkSize = chunkSize;
    const chunks = chunkCount(size, chunkSize);
    this.#readahead = new Readahead(chunkSize, chunks, parts.readahead);
    this.#firstReads = new FirstReads(chunks);
  }

  /** A tag may be moved while it is open. */
  get pinned(): string {
    return this.#parts.pinned;
  }

  /** The chunks in the order in which they were first read. */
  get firstReads(): readonly number[] {
    return this.#firstReads.order;
  }

  /** Fetches chunks that will be wanted, at most `parallel` at a time; gives up silently on what fails. */
  warm(chunks: readonly number[], parallel: number): Promise<void> {
    return inParallel(chunks, parallel, async (chunk) => {
      if (!this.#closing) await this.#load(chunk, ignore).catch(() => {});
    });
  }

  override status(): string {
    const { digest, ...figures } = this.doFacts();
    return [digest, ...Object.entries(figures).flat()].join(" ");
  }

  override health(): Health {
    return worstHealth([this.#parts.blobs.health.health, super.health()]);
  }

  protected override doFacts(): Facts {
    const { memoryHits, cacheHits, fetches, fetchedBytes, damaged } = this.#parts.blobs.counters;
    return {
      digest: this.#parts.digest,
      chunk_size: this.#chunkSize,
      memory_hits: memoryHits,
      cache_hits: cacheHits,
      fetches,
      fetched_bytes: fetchedBytes,
      damaged,
    };
  }

  protected override watched(): WatchedFacts {
    const { memoryHits, cacheHits, fetches } = this.#parts.blobs.counters;
    return {
      ...this.#parts.blobs.store.facts?.(),
      hits: memoryHits + cacheHits,
      misses: fetches,
      node_cache_hits: cacheHits,
    };
  }

  protected override get controls(): typeof imageControls {
    return imageControls;
  }

  /** Forgets which chunks were read. */
  clearFirstReads(): void {
    this.#firstReads.clear();
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const waiting: Promise<void>[] = [];
    for (let at = 0; at < into.length; ) {
      const chunk = Math.floor((offset + at) / this.#chunkSize);
      const within = (offset + at) % this.#chunkSize;
      const piece = into.subarray(at, at + Math.min(this.#chunkSize - within, into.length - at));
      this.#firstReads.note(chunk);
      const blob = this.#peek(chunk);
      if (blob === "unknown") {
        waiting.push(this.#load(chunk, (loaded) => fill(piece, loaded, within)));
      } else fill(piece, blob, within);
      at += piece.length;
    }
    const { from, to } = this.#readahead.read(offset, into.length);
    for (let chunk = from; chunk < to; chunk += 1) void this.#load(chunk, ignore).catch(() => {});
    return waiting.length === 0 ? done : join(waiting);
  }

  protected override doWrite(): Promise<void> {
    throw new Error("unreachable: the device is read-only");
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const chunk = Math.floor(at / this.#chunkSize);
      const digest = await this.#digest(chunk);
      const until = Math.min(end, (chunk + 1) * this.#chunkSize);
      yield { offset: at, length: until - at, kind: digest === undefined ? "hole" : "data" };
      at = until;
    }
  }

  protected override async doClose(): Promise<void> {
    this.#closing = true;
    await this.#parts.blobs.close();
    await this.#parts.release();
  }

  // Undefined: zeroes.
  #peek(chunk: number): Buffer | undefined | "unknown" {
    const page = this.#parts.manifest.pages[Math.floor(chunk / PAGE_CHUNKS)];
    if (page === undefined) return undefined;
    const table = this.#parts.blobs.peek(page);
    if (table === undefined) return "unknown";
    const digest = digestAt(table, chunk % PAGE_CHUNKS);
    return digest === undefined ? undefined : (this.#parts.blobs.peek(digest) ?? "unknown");
  }

  async #load(chunk: number, use: (blob: Buffer | undefined) => void): Promise<void> {
    const digest = await this.#digest(chunk);
    if (digest === undefined) return use(undefined);
    const blob = this.#parts.blobs.peek(digest);
    if (blob === undefined) await this.#parts.blobs.load(digest, use);
    else use(blob);
  }

  async #digest(chunk: number): Promise<Digest | undefined> {
    const page = this.#parts.manifest.pages[Math.floor(chunk / PAGE_CHUNKS)];
    if (page === undefined) return undefined;
    const find = (table: Buffer): Digest | undefined => digestAt(table, chunk % PAGE_CHUNKS);
    const table = this.#parts.blobs.peek(page);
    return table === undefined ? this.#parts.blobs.load(page, find) : find(table);
  }
}

const ignore = (): void => {};

// A chunk of a wrong length cannot be: manifest and pages name it by the hash of its bytes. Should a publisher have lied, what
// is missing reads as zeroes, the same each time.
function fill(piece: Buffer, blob: Buffer | undefined, within: number): void {
  const copied = blob === undefined ? 0 : blob.copy(piece, 0, within, within + piece.length);
  piece.fill(0, copied);
}
