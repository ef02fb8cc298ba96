/**
 * A disk as of a moment, read-only: the image of a checkpoint, and over it what the log has of it up to then. All of that
 * log is fetched when it opens (log-file.ts). Sectors that the log has nothing of are those of the image.
 */
import {
  type BlockDevice,
  type Extent,
  type Facts,
  GuardedTarget,
  type WatchedFacts,
  done,
  join,
  joinFacts,
  plainCapabilities,
  plainLimits,
} from "@dmkit/block-io";
import type { Archive } from "./archive.ts";
import type { History } from "./history.ts";
import type { LogFile } from "./log-file.ts";

/** What a view is made of. */
export interface ViewParts {
  readonly archive: Archive;
  readonly base: BlockDevice;
  readonly history: History;
  readonly log: LogFile;
  /** `archive:STORE/DISK@ID`. */
  readonly pinned: string;
  /** Lets go of all of it. */
  readonly release: () => Promise<void>;
}

/** A disk as of a moment. */
export class ArchiveView extends GuardedTarget {
  readonly #parts: ViewParts;

  constructor(name: string, parts: ViewParts) {
    super(name, parts.base.size, {
      ...plainLimits,
      optimalTransfer: parts.base.limits.optimalTransfer,
      capabilities: { ...plainCapabilities, readOnly: true, extents: true },
    });
    this.#parts = parts;
  }

  /** A disk that is in use goes on: this is what the view shows of it. */
  get pinned(): string {
    return this.#parts.pinned;
  }

  /** Of the last segment in it. */
  get id(): number {
    return this.#parts.log.id;
  }

  override status(): string {
    return Object.entries(this.doFacts()).flat().join(" ");
  }

  protected override doFacts(): Facts {
    const { history, log } = this.#parts;
    const { checkpoint, objects } = history;
    return {
      id: log.id,
      checkpoint_id: checkpoint.id,
      log_objects: objects.length,
      log_blocks: log.index.size,
    };
  }

  protected override watched(): WatchedFacts {
    const { archive, base } = this.#parts;
    return joinFacts([archive.store.facts?.() ?? {}, base.facts?.() ?? {}]);
  }

  /** What differs from the image of the checkpoint: bytes, in order. */
  async *changed(): AsyncGenerator<{ readonly offset: number; readonly length: number }> {
    yield* this.#parts.log.index.ranges(0, this.size);
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    const { log, base } = this.#parts;
    const ranges = [...log.index.ranges(offset, offset + into.length)];
    const logged = ranges.reduce((sum, { length }) => sum + length, 0);
    if (logged < into.length) await base.read(offset, into);
    await join(
      ranges.map(({ offset: at, length }) =>
        log.file.read(at, into.subarray(at - offset, at - offset + length)),
      ),
    );
  }

  protected override doWrite(): Promise<void> {
    throw new Error("unreachable: the device is read-only");
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const { log, base } = this.#parts;
    for await (const extent of base.extents(offset, length)) {
      if (extent.kind === "data") {
        yield extent;
        continue;
      }
      const end = extent.offset + extent.length;
      let at = extent.offset;
      for (const range of log.index.ranges(at, end)) {
        if (range.offset > at) yield { offset: at, length: range.offset - at, kind: extent.kind };
        yield { ...range, kind: "data" };
        at = range.offset + range.length;
      }
      if (at < end) yield { offset: at, length: end - at, kind: extent.kind };
    }
  }

  protected override doClose(): Promise<void> {
    return this.#parts.release();
  }
}
