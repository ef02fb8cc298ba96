/**
 * A disk as of a moment, read-only: the image of a checkpoint, and over it what the log has of it up to then.
 *
 * The index is made once, from all log objects in between; their data is fetched again when it is read, and the objects
 * that were read last stay in memory. Sectors that the log has nothing of are those of the image.
 */
import {
  type BlockDevice,
  type Extent,
  type Facts,
  GuardedTarget,
  SECTOR,
  type WatchedFacts,
  joinFacts,
  codeOf,
  done,
  plainCapabilities,
  plainLimits,
  refuse,
} from "@dmkit/block-io";
import { LogIndex } from "../core/log-index.ts";
import type { Position } from "../format/keys.ts";
import { BLOCK, type LogSegment } from "../format/log-object.ts";
import type { Archive } from "./archive.ts";
import { type History, type When, segmentsOf } from "./history.ts";

// Log objects in memory, of 4 MiB at most.
const OBJECTS = 16;

/** What a view is made of. */
export interface ViewParts {
  readonly archive: Archive;
  readonly base: BlockDevice;
  readonly history: History;
  readonly index: LogIndex;
  /** Lets go of all of it. */
  readonly release: () => Promise<void>;
}

/** The index of a history up to a moment, and the id it ends with. */
export async function indexOf(
  archive: Archive,
  history: History,
  when: When,
): Promise<{ readonly index: LogIndex; readonly id: number }> {
  const index = new LogIndex();
  let { id } = history.checkpoint;
  for await (const segment of segmentsOf(archive, history, when)) {
    ({ id } = segment);
    for (const [block, sector] of segment.sectors.entries())
      index.add(sector / 8, segment.bits[block] as number, {
        object: segment.object,
        segment: segment.index,
        block,
      });
  }
  return { index, id };
}

/** A disk as of a moment. */
export class ArchiveView extends GuardedTarget {
  /** Of the last segment in it. */
  readonly id: number;
  readonly #parts: ViewParts;
  readonly #objects = new Map<number, Promise<readonly LogSegment[]>>();

  constructor(name: string, id: number, parts: ViewParts) {
    super(name, parts.base.size, {
      ...plainLimits,
      optimalTransfer: parts.base.limits.optimalTransfer,
      capabilities: { ...plainCapabilities, readOnly: true, extents: true },
    });
    this.id = id;
    this.#parts = parts;
  }

  override status(): string {
    return Object.entries(this.doFacts()).flat().join(" ");
  }

  protected override doFacts(): Facts {
    const { history, index } = this.#parts;
    const { checkpoint, objects } = history;
    return {
      id: this.id,
      checkpoint_id: checkpoint.id,
      log_objects: objects.length,
      log_blocks: index.blocks.length,
    };
  }

  protected override watched(): WatchedFacts {
    const { archive, base } = this.#parts;
    return joinFacts([archive.store.facts?.() ?? {}, base.facts?.() ?? {}]);
  }

  /** What differs from the image of the checkpoint: bytes, in order. */
  async *changed(): AsyncGenerator<{ readonly offset: number; readonly length: number }> {
    for (const block of this.#parts.index.blocks) {
      const offset = block * BLOCK;
      yield { offset, length: Math.min(BLOCK, this.size - offset) };
    }
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    const { index, base } = this.#parts;
    const end = offset + into.length;
    const first = Math.floor(offset / BLOCK);
    const last = Math.ceil(end / BLOCK);
    let isWhole = true;
    for (let block = first; block < last && isWhole; block += 1) {
      const bits = index.find(block).reduce((sum, copy) => sum | copy.bits, 0);
      isWhole = (sectorsWithin(block, offset, end) & ~bits) === 0;
    }
    if (!isWhole) await base.read(offset, into);
    for (let at = index.firstFrom(first); at < index.blocks.length; at += 1) {
      const block = index.blocks[at] as number;
      if (block >= last) break;
      await this.#copyBlock(block, offset, into);
    }
  }

  async #copyBlock(block: number, offset: number, into: Buffer): Promise<void> {
    const wanted = sectorsWithin(block, offset, offset + into.length);
    for (const { bits, object, segment, block: number } of this.#parts.index.find(block)) {
      if ((bits & wanted) === 0) continue;
      const data = ((await this.#object(object))[segment] as LogSegment).data.subarray(
        number * BLOCK,
        (number + 1) * BLOCK,
      );
      for (let sector = 0; sector < 8; sector += 1) {
        if ((bits & wanted & (1 << sector)) === 0) continue;
        data.copy(into, block * BLOCK + sector * SECTOR - offset, sector * SECTOR, (sector + 1) * SECTOR);
      }
    }
  }

  #object(number: number): Promise<readonly LogSegment[]> {
    const known = this.#objects.get(number);
    if (known !== undefined) {
      // A Map keeps the order of insertion: what is used is inserted again.
      this.#objects.delete(number);
      this.#objects.set(number, known);
      return known;
    }
    const loading = this.#load(number);
    this.#objects.set(number, loading);
    loading.catch(() => this.#objects.delete(number));
    const [oldest] = this.#objects.keys();
    if (this.#objects.size > OBJECTS && oldest !== undefined) this.#objects.delete(oldest);
    return loading;
  }

  async #load(number: number): Promise<readonly LogSegment[]> {
    const { archive, history } = this.#parts;
    try {
      return (await archive.object(history.objects[number] as Position)).contents;
    } catch (error) {
      if (codeOf(error) !== "ENOENT") throw error;
      const reason = "a part of the log that this view needs was collected";
      throw refuse(
        this.name,
        "EIO",
        reason,
        "Open the view again; dmkit archive keep saves a moment.",
        "read",
      );
    }
  }

  protected override doWrite(): Promise<void> {
    throw new Error("unreachable: the device is read-only");
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const { index, base } = this.#parts;
    for await (const extent of base.extents(offset, length)) {
      if (extent.kind === "data") {
        yield extent;
        continue;
      }
      const end = extent.offset + extent.length;
      let at = extent.offset;
      for (
        let next = index.firstFrom(Math.floor(at / BLOCK));
        at < end && next < index.blocks.length;
        next += 1
      ) {
        const start = Math.max(at, (index.blocks[next] as number) * BLOCK);
        const stop = Math.min(end, (Math.floor(start / BLOCK) + 1) * BLOCK);
        if (start >= end) break;
        if (start > at) yield { offset: at, length: start - at, kind: extent.kind };
        yield { offset: start, length: stop - start, kind: "data" };
        at = stop;
      }
      if (at < end) yield { offset: at, length: end - at, kind: extent.kind };
    }
  }

  protected override doClose(): Promise<void> {
    return this.#parts.release();
  }
}

/** The sectors of a block, by bit, that a range of bytes has. */
function sectorsWithin(block: number, offset: number, end: number): number {
  const start = block * BLOCK;
  const from = Math.max(0, (offset - start) / SECTOR);
  const to = Math.min(8, (end - start) / SECTOR);
  return (0xff >> (8 - (to - from))) << from;
}
