/**
 * The running device, format 1: everything is updated in place, as the original did.
 *
 * What this format cannot keep is listed in FORMAT.md: a crash in the middle of an update can lose the extent, with
 * up to 31 neighbours that were stable. What the program, not the format, got wrong is right here: errors of
 * metadata writes fail the request, a flush covers the metadata, data is stable before the metadata that a flush
 * writes, and nothing read from the disk is believed unchecked.
 *
 * Invariant: whoever changes an extent holds its blocks exclusively, whoever reads it holds them shared.
 */
import {
  type Extent,
  FlushGroup,
  type Facts,
  GuardedTarget,
  type Health,
  type RangeGrant,
  RangeLock,
  join,
  SECTOR,
  healthy,
  withCapabilities,
  worstHealth,
} from "@dmkit/block-io";
import { type StoredExtent, TAIL } from "../../core/extent-map.ts";
import { isRaw } from "../../core/plan.ts";
import { type Run, runsOf } from "../../core/runs.ts";
import { type Subject, compressionControls, countStored, counterFacts, statusLine } from "../counters.ts";
import { BLOCK, MAX_EXTENT } from "../../format/geometry-v1.ts";
import { compressionLimits } from "../limits.ts";
import { Discards } from "./discards.ts";
import { damagedExtent, loadExtent, placeOf } from "./extents.ts";
import { LateFlush } from "./late-flush.ts";
import type { DeviceV1Parts } from "./parts.ts";
import { MetadataV1 } from "./metadata.ts";

/** A run of blocks that becomes an extent; without contents if its payload stays where it is. */
interface Piece extends Run {
  readonly contents: Buffer | undefined;
}

export class CompressionDeviceV1 extends GuardedTarget {
  readonly #parts: DeviceV1Parts;
  readonly subject: Subject;
  readonly #lock = new RangeLock();
  readonly #metadata: MetadataV1;
  readonly #discards: Discards;
  readonly #flushes: FlushGroup;
  readonly #late: LateFlush;

  constructor(parts: DeviceV1Parts) {
    super(parts.name, parts.size, withCapabilities(compressionLimits, { readOnly: parts.readOnly }));
    this.#parts = parts;
    this.subject = { ...parts, format: "v1" };
    const { lower, map, metaBlocks, discardHoles } = parts;
    this.#metadata = new MetadataV1(parts);
    this.#discards = new Discards(lower, map, (1 + metaBlocks) * BLOCK, discardHoles);
    this.#flushes = new FlushGroup(() => this.#flushAll());
    const flush = async (): Promise<void> => {
      if (this.failure === undefined) await this.#flushes.flush();
    };
    this.#late = new LateFlush({ flush, failed: (error) => this.fail(error) }, parts);
  }

  override health(): Health {
    return worstHealth([this.#parts.sealed?.health() ?? healthy, super.health()]);
  }

  override status(): string {
    return statusLine(this.subject.counters);
  }

  protected override doFacts(): Facts {
    return counterFacts(this.subject);
  }

  protected override get controls(): typeof compressionControls {
    return compressionControls;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    const { map } = this.#parts;
    const first = offset / BLOCK;
    const end = first + into.length / BLOCK;
    const grant = await this.#acquire(first, end, false);
    try {
      for (let block = first; block < end; ) {
        const extent = map.find(block);
        const stop = Math.min(end, extent.head + extent.blocks);
        await this.#readExtent(extent, block, into.subarray((block - first) * BLOCK, (stop - first) * BLOCK));
        block = stop;
      }
    } finally {
      this.#lock.release(grant);
    }
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    const { maxExtent, sealed } = this.#parts;
    const first = offset / BLOCK;
    sealed?.refuse(first, from.length / BLOCK);
    for (let at = 0; at * BLOCK < from.length; at += maxExtent) {
      await this.#replace(first + at, from.subarray(at * BLOCK, (at + maxExtent) * BLOCK));
    }
    await this.#written(first, from.length / BLOCK);
  }

  protected override doFlush(): Promise<void> {
    return this.#parts.rules.waitsForOthers ? this.#flushes.flush() : this.#flushAll();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#zero(offset, length);
  }

  protected override doWriteZeroes(offset: number, length: number): Promise<void> {
    return this.#zero(offset, length);
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const { map } = this.#parts;
    const end = (offset + length) / BLOCK;
    for (let block = offset / BLOCK; block < end; ) {
      const start = block;
      const hole = map.isHole(block);
      do block += 1;
      while (block < end && map.isHole(block) === hole);
      yield { offset: start * BLOCK, length: (block - start) * BLOCK, kind: hole ? "hole" : "data" };
    }
  }

  protected override async doClose(): Promise<void> {
    this.#late.cancel();
    await this.#parts.codec.close();
  }

  /** Blocks `first` … `end` - 1 and the extents they belong to. */
  async #acquire(first: number, end: number, exclusive: boolean): Promise<RangeGrant> {
    const { map } = this.#parts;
    for (;;) {
      const left = map.find(first).head;
      const last = map.find(end - 1);
      const grant = await this.#lock.acquire(left, last.head + last.blocks - left, exclusive);
      // Extents may have grown while this waited.
      const now = map.find(end - 1);
      if (map.find(first).head >= grant.offset && now.head + now.blocks <= grant.end) return grant;
      this.#lock.release(grant);
    }
  }

  async #readExtent(extent: StoredExtent, from: number, into: Buffer): Promise<void> {
    if (extent.sectors === 0 && !extent.bad) {
      into.fill(0);
      return;
    }
    if (isRaw(extent) && !extent.bad) return this.#parts.lower.read(this.#placeOf(from), into);
    const contents = await loadExtent(this.#parts, extent);
    if (contents === undefined) throw damagedExtent(this.#parts, extent);
    contents.copy(into, 0, (from - extent.head) * BLOCK);
  }

  /** Puts whole blocks in the place of what was there. */
  async #replace(first: number, data: Buffer): Promise<void> {
    const { map, maxExtent } = this.#parts;
    const end = first + data.length / BLOCK;
    const grant = await this.#acquire(first, end, true);
    try {
      const left = map.find(first);
      const right = map.find(end - 1);
      const rightEnd = right.head + right.blocks;
      const lost: Run[] = [];
      let start = first;
      let contents = data;
      const rest: Piece[] = [];
      const isInside = left.head < first && right.head === left.head && rightEnd > end && left.sectors > 0;
      const whole = isInside ? await loadExtent(this.#parts, left) : undefined;
      if (whole !== undefined) {
        data.copy(whole, (first - left.head) * BLOCK);
        start = left.head;
        contents = whole;
      } else {
        await this.#remainder(left, left.head, first, rest, lost);
        await this.#remainder(right, end, rightEnd, rest, lost);
      }
      const pieces: Piece[] = runsOf(start, contents, maxExtent).map((run) => {
        const at = (run.first - start) * BLOCK;
        return { ...run, contents: contents.subarray(at, at + run.blocks * BLOCK) };
      });
      await this.#store([...rest, ...pieces], { first: start, blocks: contents.length / BLOCK }, lost);
    } finally {
      this.#lock.release(grant);
    }
  }

  /** What stays of an extent becomes an extent of its own. */
  async #remainder(
    extent: StoredExtent,
    from: number,
    to: number,
    rest: Piece[],
    lost: Run[],
  ): Promise<void> {
    if (to <= from) return;
    const run = { first: from, blocks: to - from };
    if (extent.sectors === 0 && !extent.bad) {
      // Tails without payload must not become those of what is put in front of them.
      this.#parts.map.drop(run.first, run.blocks);
      this.#metadata.touch(run.first, run.blocks);
      return;
    }
    if (isRaw(extent) && !extent.bad) {
      rest.push({ ...run, contents: undefined });
      return;
    }
    const whole = await loadExtent(this.#parts, extent);
    if (whole === undefined) lost.push(run);
    else
      rest.push({
        ...run,
        contents: whole.subarray((from - extent.head) * BLOCK, (to - extent.head) * BLOCK),
      });
  }

  /** Payloads, then the map; the metadata is written later. */
  async #store(pieces: readonly Piece[], range: Run, lost: readonly Run[]): Promise<void> {
    const { lower, codec, map, counters } = this.#parts;
    const unit = lower.limits.logicalBlockSize;
    const stored: number[] = [];
    await join(
      pieces.map(async ({ first, blocks, contents }, index) => {
        stored[index] = payloadSectors(blocks);
        if (contents === undefined) return;
        const payload = await codec.encode(contents);
        const rest = payload.length % unit;
        const filled = rest === 0 ? payload : Buffer.concat([payload, Buffer.alloc(unit - rest)]);
        await lower.write(this.#placeOf(first), filled);
        countStored(counters, contents, payload);
        stored[index] = payload.length / SECTOR;
      }),
    );
    this.#endBadChain(range.first + range.blocks);
    map.drop(range.first, range.blocks);
    for (const { first, blocks } of lost) map.lose(first, blocks);
    for (const [index, { first, blocks }] of pieces.entries()) {
      map.setExtent(first, blocks, stored[index] as number);
    }
    this.#metadata.touch(range.first, range.blocks);
    this.#discards.add(range.first, range.blocks);
    for (const { first, blocks } of [...pieces, ...lost]) {
      this.#metadata.touch(first, blocks);
      this.#discards.add(first, blocks);
    }
  }

  /** Tails without a head must not be taken for those of what is now in front of them. */
  #endBadChain(at: number): void {
    const { map } = this.#parts;
    let end = at;
    while (end < map.blocks && ((map.states[end] as number) & TAIL) !== 0 && map.find(end).bad) end += 1;
    if (end === at) return;
    map.lose(at, end - at);
    this.#metadata.touch(at, end - at);
  }

  async #zero(offset: number, length: number): Promise<void> {
    const { map, maxExtent, sealed } = this.#parts;
    const first = offset / BLOCK;
    const end = first + length / BLOCK;
    sealed?.refuse(first, length / BLOCK);
    const zeroes = Buffer.alloc(maxExtent * BLOCK);
    for (let block = first; block < end; ) {
      if (map.isHole(block)) {
        block += 1;
        continue;
      }
      const blocks = Math.min(maxExtent, end - block);
      await this.#replace(block, zeroes.subarray(0, blocks * BLOCK));
      block += blocks;
    }
    await this.#written(first, length / BLOCK);
  }

  /** Metadata follows at once, or in a while. */
  async #written(first: number, blocks: number): Promise<void> {
    if (this.#parts.interval === 0) {
      // The neighbours' remainders may have their entries in the blocks before and after.
      return this.#metadata.write(Math.max(0, first - MAX_EXTENT), blocks + 2 * MAX_EXTENT);
    }
    this.#late.arm();
  }

  /** What was dropped is discarded when it is certain that nothing on the disk describes it any more. */
  async #flushAll(): Promise<void> {
    const runs = this.#discards.take();
    await this.#metadata.flush();
    for (const { first, blocks } of runs) {
      const grant = await this.#acquire(first, first + blocks, true);
      try {
        if (this.#metadata.isStable(grant.offset, grant.end - grant.offset))
          await this.#discards.carryOut({ first, blocks });
        else this.#discards.add(first, blocks);
      } finally {
        this.#lock.release(grant);
      }
    }
  }

  #placeOf(block: number): number {
    return placeOf(this.#parts, block);
  }
}

function payloadSectors(blocks: number): number {
  return (blocks * BLOCK) / SECTOR;
}
