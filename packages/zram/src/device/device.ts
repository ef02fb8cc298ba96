/**
 * The running disk. Pages in RAM are read and, with an algorithm that is quick on a page, written without waiting
 * for anything: such requests are over when their method returns. What has to wait (a slow algorithm on another
 * thread, a page on the backing device) works without a lock: it remembers the page's entry, and commits only if
 * the entry is still the same; see core/page-table.ts.
 */
import {
  BlockIoError,
  type Controls,
  type Extent,
  type Facts,
  GuardedTarget,
  type Health,
  type WatchedFacts,
  done,
  join,
  toBlockIoError,
  worstHealth,
} from "@dmkit/block-io";
import type { Stream } from "@dmkit/compressor";
import { kinds } from "../core/page-table.ts";
import { MAX_COMPRESSED, PAGE } from "../core/size-classes.ts";
import { closeAll } from "./algorithms.ts";
import { expand, readBacked } from "./backed.ts";
import type { RunningDisk, ZramParts } from "./disk.ts";
import { readOnlyLimits, zramLimits } from "./limits.ts";
import { lostPage, pagesHealth } from "./lost.ts";
import { zramControls } from "./messages.ts";
import { extentsOf } from "./extents.ts";
import { unsaved, unsavedYet } from "./snapshot/unsaved.ts";
import { Policy } from "./reclaim/policy.ts";
import { type Tuned, tune, tunedValues } from "./tuning.ts";
import { memoryStatistics, zramFacts } from "./statistics.ts";

/** A running compressed RAM disk. */
export class ZramDevice extends GuardedTarget implements RunningDisk {
  readonly parts: ZramParts;
  failedReads = 0;
  failedWrites = 0;
  /** Pages whose contents were discarded. */
  notifyFree = 0;
  /** Blocks read from and written to the backing device. */
  backingReads = 0;
  backingWrites = 0;
  writeStalls = 0;
  // Whether a page is compressed so quickly that handing it to another thread would take longer.
  readonly #quick: boolean;
  streams: number;
  compressedWriteback: boolean;
  readonly policy: Policy;
  /** The newest snapshot has all of it. */
  #saved = false;
  readonly #scratch: Buffer = Buffer.alloc(PAGE);
  readonly #words = new Uint32Array(2);
  readonly #pattern: Buffer = Buffer.from(this.#words.buffer);

  constructor(parts: ZramParts) {
    super(parts.name, parts.size, parts.readOnly === true ? readOnlyLimits : zramLimits);
    this.parts = parts;
    this.streams = parts.streams;
    this.compressedWriteback = parts.compressedWriteback;
    this.policy = new Policy(this, parts.policy);
    this.#quick = parts.primary.prefersSync(PAGE);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const last = Math.floor((offset + into.length - 1) / PAGE);
    const { table } = this.parts.pages;
    table.time = this.parts.environment.clock.now();
    let waiting: Promise<void>[] | undefined;
    for (let page = Math.floor(offset / PAGE); page <= last; page += 1) {
      const from = Math.max(offset, page * PAGE);
      const piece = cut(into, from - offset, Math.min(offset + into.length, (page + 1) * PAGE) - offset);
      table.touch(page);
      if (table.kind(page) === kinds.backing) (waiting ??= []).push(this.#readBacked(page, from, piece));
      else this.#readHere(page, from % PAGE, piece);
    }
    return waiting === undefined ? done : join(waiting);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    this.#saved = false;
    const last = Math.floor((offset + from.length - 1) / PAGE);
    const { table } = this.parts.pages;
    table.time = this.parts.environment.clock.now();
    let waiting: Promise<void>[] | undefined;
    for (let page = Math.floor(offset / PAGE); page <= last; page += 1) {
      const at = Math.max(offset, page * PAGE);
      table.touch(page);
      const piece = cut(from, at - offset, Math.min(offset + from.length, (page + 1) * PAGE) - offset);
      try {
        const pending = this.#writePage(page, at % PAGE, piece);
        if (pending !== done) (waiting ??= []).push(pending);
      } catch (error) {
        if (waiting === undefined) throw error;
        // Others still use the caller's buffer: the request fails when they have done.
        waiting.push(Promise.reject(toBlockIoError(error, { device: this.name, op: "write" })));
        break;
      }
    }
    return waiting === undefined ? done : join(waiting);
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    this.notifyFree += this.#drop(offset, length);
    return done;
  }

  /** Forgets the pages that lie in a range as a whole; how many. */
  #drop(offset: number, length: number): number {
    this.#saved = false;
    const { pages } = this.parts;
    const first = Math.ceil(offset / PAGE);
    // The last page of a disk may be short.
    const end = offset + length === this.size ? pages.table.pages : Math.floor((offset + length) / PAGE);
    for (let page = first; page < end; page += 1) pages.drop(page);
    return Math.max(0, end - first);
  }

  protected override async doWriteZeroes(offset: number, length: number): Promise<void> {
    const head = Math.min(length, (PAGE - (offset % PAGE)) % PAGE);
    const tail = offset + length === this.size ? 0 : (length - head) % PAGE;
    const zeroes = Buffer.alloc(PAGE);
    if (head > 0) await this.doWrite(offset, zeroes.subarray(0, head));
    this.#drop(offset + head, length - head);
    if (tail > 0) await this.doWrite(offset + length - tail, zeroes.subarray(0, tail));
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    yield* extentsOf(this.parts.pages.table, offset, length);
  }

  protected override async doClose(): Promise<void> {
    const { pages, algorithms } = this.parts;
    await this.policy.stop();
    try {
      await this.#save(true);
    } catch (error) {
      throw unsaved(error, this.name);
    } finally {
      pages.dropAll();
      await closeAll(algorithms);
    }
  }

  async secure(): Promise<void> {
    try {
      await this.#save(false);
    } catch (error) {
      throw unsavedYet(error, this.name);
    }
  }

  /** @param mayLose pages that cannot be read are passed over: there is no later time to try. */
  async #save(mayLose: boolean): Promise<void> {
    const { snapshots } = this.parts;
    if (snapshots === undefined || this.#saved || this.limits.capabilities.readOnly) return;
    await snapshots.save(this, mayLose);
    this.#saved = true;
  }

  override health(): Health {
    return worstHealth([super.health(), pagesHealth(this.parts), this.spaceHealth()]);
  }

  override status(): string {
    return Object.entries(this.doFacts()).flat().join(" ");
  }

  protected override doFacts(): Facts {
    return zramFacts(this);
  }

  protected override watched(): WatchedFacts {
    const { orig_data_size: data = 0, compr_data_size: stored = 0 } = memoryStatistics(this);
    return { data_bytes: data, stored_bytes: stored };
  }

  protected override get controls(): Controls<RunningDisk> {
    return zramControls;
  }

  protected override tunableValues(): Readonly<Record<string, unknown>> {
    return { ...tunedValues(this) };
  }

  protected override doTune(changes: Partial<Tuned>): Promise<void> {
    return tune(this, changes);
  }

  protected override doSuspend(): Promise<void> {
    return this.policy.stop();
  }

  protected override async doResume(): Promise<void> {
    this.begin();
  }

  /** What it does by itself begins. */
  begin(): void {
    if (!this.limits.capabilities.readOnly) this.policy.start();
  }

  /** Requests that are not aligned, or not inside the disk. */
  get invalidIo(): number {
    return this.invalidRequests;
  }

  /** Forgets everything. Requests wait meanwhile; a device that is suspended stays so. */
  reset(): Promise<void> {
    return this.inTurn(async (quiet) => {
      await quiet();
      this.#saved = false;
      this.parts.pages.dropAll();
    });
  }

  /** Fills a page that is in RAM; throws `EIO` if its bytes are not what was stored. */
  readWhole(page: number, into: Buffer): void {
    const { pages } = this.parts;
    const { table } = pages;
    switch (table.kind(page)) {
      case kinds.same:
        this.#words[0] = table.low(page);
        this.#words[1] = table.high(page);
        into.fill(this.#pattern);
        return;
      case kinds.huge:
        pages.bytes(page).copy(into);
        return;
      case kinds.compressed:
        return expand(this, page, pages.bytes(page), table.priority(page), into);
      case kinds.lost:
        throw lostPage(this, page);
      case kinds.backing:
        throw new Error("a page on the backing device is not in RAM");
      case kinds.absent:
        into.fill(0);
    }
  }

  #readHere(page: number, at: number, into: Buffer): void {
    if (into.length === PAGE) return this.readWhole(page, into);
    this.readWhole(page, this.#scratch);
    this.#scratch.copy(into, 0, at, at + into.length);
  }

  /** A page on the backing device: its block may have been given to somebody else while it was read. */
  async #readBacked(page: number, offset: number, into: Buffer): Promise<void> {
    const { table } = this.parts.pages;
    for (;;) {
      if (table.kind(page) !== kinds.backing) return this.#readHere(page, offset % PAGE, into);
      const whole = into.length === PAGE ? into : Buffer.allocUnsafe(PAGE);
      if (!(await readBacked(this, page, table.look(page), whole))) continue;
      if (whole !== into) whole.copy(into, 0, offset % PAGE, (offset % PAGE) + into.length);
      return;
    }
  }

  #writePage(page: number, at: number, piece: Buffer): Promise<void> {
    const whole = piece.length === PAGE;
    if (whole && this.#storeSame(page, piece)) return done;
    const waits = !whole && this.parts.pages.table.kind(page) === kinds.backing;
    const stream = this.#quick && !waits ? this.parts.primary.tryAcquire() : undefined;
    if (stream === undefined) return this.#writeSlowly(page, at, piece);
    try {
      const contents = whole ? piece : this.#merged(page, at, piece);
      if (whole || !this.#storeSame(page, contents)) {
        this.#commit(page, contents, stream, stream.compressSync(contents, MAX_COMPRESSED));
      }
    } finally {
      stream.release();
    }
    return done;
  }

  #merged(page: number, at: number, piece: Buffer): Buffer {
    this.readWhole(page, this.#scratch);
    piece.copy(this.#scratch, at);
    return this.#scratch;
  }

  #commit(page: number, contents: Buffer, stream: Stream, length: number): void {
    const { pages } = this.parts;
    const fits = length >= 0 ? pages.put(page, stream.output, length, 0) : pages.put(page, contents, PAGE, 0);
    if (fits) return;
    this.failedWrites += 1;
    throw new BlockIoError(`the memory for pages is used up (${pages.slabs.usedBytes} bytes)`, {
      code: "ENOSPC",
      hint: "Raise mem_limit, discard what is not needed, or send the message compact, recompress or writeback.",
    });
  }

  /** Waits for what has to be waited for; starts again if the page has changed meanwhile. */
  async #writeSlowly(page: number, at: number, piece: Buffer): Promise<void> {
    const { primary, pages, rules } = this.parts;
    const { table } = pages;
    const whole = piece.length === PAGE;
    const contents = whole ? piece : Buffer.allocUnsafe(PAGE);
    for (;;) {
      const entry = table.look(page);
      if (!whole) {
        if (table.kind(page) !== kinds.backing) this.readWhole(page, contents);
        // Between its answer and this turn another write may have changed the page.
        else if (!(await readBacked(this, page, entry, contents)) || !rules.isStill(table, page, entry))
          continue;
        piece.copy(contents, at);
      }
      if (this.#storeSame(page, contents)) return;
      this.writeStalls += 1;
      const stream = await primary.acquire();
      try {
        const length = await stream.compress(contents, MAX_COMPRESSED);
        if (!whole && !rules.isStill(table, page, entry)) continue;
        this.#commit(page, contents, stream, length);
        return;
      } finally {
        stream.release();
      }
    }
  }

  #storeSame(page: number, contents: Buffer): boolean {
    // Every byte equals the one eight places on: one memcmp, which ends at the first difference.
    if (contents.compare(contents, 8, PAGE, 0, PAGE - 8) !== 0) return false;
    contents.copy(this.#pattern, 0, 0, 8);
    this.parts.pages.putSame(page, this.#words[0] as number, this.#words[1] as number);
    return true;
  }
}

function cut(buffer: Buffer, start: number, end: number): Buffer {
  return start === 0 && end === buffer.length ? buffer : buffer.subarray(start, end);
}
