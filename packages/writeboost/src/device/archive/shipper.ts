/**
 * Ships segments to the archive, whole and in the order of their ids.
 *
 * Invariants:
 *
 * - a segment is shipped only when it is durable on the cache device: what a crash takes from here is not there either;
 * - `log.archived.last` is the last one that is in the archive; its slot, and those of all later ones, are not used again
 *   before (segment-log.ts), so what is not in RAM any more is read from the cache device;
 * - a segment that cannot be read is tried again once an interval, and in between by nobody, whoever waits for it;
 * - an archive that another one writes now ends the cache: nothing is acknowledged any more.
 */
import {
  BlockIoError,
  type Environment,
  type Health,
  type Timer,
  type WatchedFacts,
  healthy,
  toBlockIoError,
  wholeStory,
} from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import type { SegmentLog } from "../log/segment-log.ts";
import { SegmentReader, bytesOf, lengthOf } from "./segment-reader.ts";
import type { ArchivedSegment, Archiving, SegmentArchive } from "./segment-archive.ts";

// What goes together at the most: an archive takes 4 MiB at a time, metablocks included.
const MOST_BYTES = 4 * 1024 * 1024;
const MOST_SEGMENTS = 1024;
const PER_SEGMENT = 16;
const PER_BLOCK = BLOCK + 16;
// Milliseconds that closing waits for the archive.
const LAST_WAIT = 10_000;

export class Shipper {
  readonly #log: SegmentLog;
  readonly #archive: SegmentArchive;
  readonly #environment: Environment;
  readonly #device: string;
  readonly #interval: number;
  readonly #isRemote: boolean;
  /** When segments were closed that are not in the archive: by id, milliseconds since 1970. */
  readonly #closed: Map<number, number> = new Map();
  /** Somebody waits until everything is in the archive up to here. */
  #wanted = 0;
  #running: Promise<void> | undefined;
  #timer: Timer | undefined;
  #stopped = false;
  /** When whoever waits for the archive gives up. */
  #deadline: Timer | undefined;
  #givenUp = 0;
  /** When the device was told that it will be drained. */
  #drained: number = Number.NEGATIVE_INFINITY;
  /** What went to the archive since the cache was opened. */
  readonly #sent = { objects: 0, bytes: 0 };
  readonly #reader: SegmentReader;
  /** Why a segment could not be read, until it has been. */
  #unreadable: BlockIoError | undefined;
  /** It is not tried again yet. */
  #isPausing = false;

  constructor(
    log: SegmentLog,
    archive: SegmentArchive,
    { flush = "local", interval = 1000 }: Archiving,
    device: string,
    environment: Environment,
  ) {
    this.#log = log;
    this.#reader = new SegmentReader(log, MOST_BYTES);
    this.#archive = archive;
    this.#device = device;
    this.#environment = environment;
    this.#interval = interval;
    this.#isRemote = flush === "remote";
    log.archived.last = archive.shipped;
    // What a former life has closed is no older than now.
    for (let id = archive.shipped + 1; id <= log.opened; id += 1) this.#noteClosed(id);
    log.archived.onClosed = (id) => this.#noteClosed(id);
    log.archived.waitFor = (id) => this.#waitFor(id);
  }

  /** After this, it ships by itself. */
  start(): void {
    this.#stopped = false;
    this.#isPausing = false;
    this.#drained = Number.NEGATIVE_INFINITY;
    this.#arm();
    this.kick();
  }

  /** Nothing is begun any more unless somebody waits for it. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
    this.#timer = undefined;
    this.#deadline?.cancel();
    this.#deadline = undefined;
  }

  /** The device is being drained: nobody waits long for the archive, and the rest is shipped later. */
  hurry(): void {
    this.#drained = this.#environment.clock.now();
    this.#setDeadline(LAST_WAIT);
  }

  #setDeadline(milliseconds: number): void {
    this.#deadline ??= this.#environment.clock.after(milliseconds, () => {
      this.#deadline = undefined;
      this.#givenUp += 1;
      this.#log.changed.notify();
    });
  }

  /**
   * Part of a barrier: where flushes wait for the archive, everything that was accepted before is in it.
   * @param closed what that is, if it is closed and durable; else it will be.
   */
  async barrier(closed: number | undefined): Promise<void> {
    if (this.#isRemote) await this.#shipUpTo(closed ?? (await this.#makeDurable()));
  }

  /** Ships what there is, for a while; then closes the archive. */
  async close(): Promise<void> {
    try {
      if (this.#log.dead === undefined) {
        this.#isPausing = false;
        this.hurry();
        await this.#shipUpTo(await this.#makeDurable());
      }
    } catch (error) {
      this.#environment.logger.log(
        "warn",
        "not all of the log is in the archive; the rest follows when it is opened again",
        {
          device: this.#device,
          bytes: this.unshippedBytes,
          error: wholeStory(toBlockIoError(error, {})),
        },
      );
    } finally {
      this.stop();
      await this.#archive.close();
      await this.#running;
    }
  }

  /** Something has become durable. */
  kick(): void {
    const { durable, opened, geometry, dead } = this.#log;
    const shipped = this.#shipped;
    if (this.#running !== undefined || this.#isPausing || dead !== undefined || shipped >= durable) return;
    const isMuch =
      opened - shipped > geometry.slots / 2 ||
      bytesOf(this.#log, shipped + 1, durable, MOST_BYTES) >= MOST_BYTES;
    if (shipped >= this.#wanted && (this.#stopped || !isMuch)) return;
    this.#running = this.#ship(durable).finally(() => {
      this.#running = undefined;
      this.kick();
    });
  }

  get #shipped(): number {
    return this.#log.archived.last;
  }

  /** Bytes of segments, the open one included, that are not in the archive. */
  get unshippedBytes(): number {
    return bytesOf(this.#log, this.#shipped + 1, this.#log.opened);
  }

  /** What a status tells. */
  facts(): Readonly<Record<"archived_id" | "unshipped_bytes" | "unshipped_seconds", number>> {
    const since = this.#closed.get(this.#shipped + 1);
    const age = since === undefined ? 0 : Math.max(0, this.#environment.clock.wallTime() - since);
    return {
      archived_id: this.#shipped + this.#archive.offset,
      unshipped_bytes: this.unshippedBytes,
      unshipped_seconds: Math.round(age / 1000),
    };
  }

  /** Besides those. */
  watched(): WatchedFacts {
    return {
      ...this.#archive.facts?.(),
      archived_objects: this.#sent.objects,
      archived_bytes: this.#sent.bytes,
      taken_over: this.#log.dead?.code === "ESHUTDOWN" ? 1 : 0,
    };
  }

  health(): Health {
    const trouble = this.#unreadable ?? this.#archive.trouble;
    if (trouble === undefined) return healthy;
    const { unshipped_bytes: bytes, unshipped_seconds: seconds } = this.facts();
    const isFull = !this.#log.canOpen() && this.#shipped < this.#log.neededWriteback;
    return {
      state: "degraded",
      why: `the archive takes nothing, ${bytes} bytes and ${seconds} s are on this machine only${isFull ? ", and writes wait since the log is full" : ""}: ${wholeStory(trouble)}`,
      help:
        this.#unreadable === undefined
          ? "Make the store reachable: it goes on by itself then."
          : "It is tried again by itself. If it stays so: write back what can be (drop_caches), close the device, open it with archive none, and begin a new archive with a new cache.",
    };
  }

  /** What was accepted, on the cache device; the last segment of it. */
  async #makeDurable(): Promise<number> {
    this.#log.close();
    const id = this.#log.newestClosed;
    await this.#log.makeDurable(id);
    return id;
  }

  async #shipUpTo(id: number): Promise<void> {
    const log = this.#log;
    const givenUp = this.#givenUp;
    this.#beginWaiting(id);
    while (this.#shipped < id) {
      log.check();
      if (this.#givenUp !== givenUp) throw this.#lateError();
      if (this.#unreadable !== undefined && this.#isPausing) throw this.#lateError();
      await log.changed.wait();
    }
  }

  /** Of a writer, who needs the slot of segment `id`: until anything has changed. */
  async #waitFor(id: number): Promise<void> {
    const givenUp = this.#givenUp;
    this.#beginWaiting(id);
    await this.#log.changed.wait();
    if (this.#givenUp === givenUp) return;
    throw new BlockIoError("the log is full, and has to be in the archive before anything else is written", {
      code: "ETIMEDOUT",
      device: this.#device,
      op: "write",
      cause: this.#unreadable ?? this.#archive.trouble,
      hint: this.health().help,
    });
  }

  #beginWaiting(id: number): void {
    // Draining comes before the last requests are over, and is not told when it is.
    if (this.#environment.clock.now() - this.#drained < 3 * LAST_WAIT) this.#setDeadline(LAST_WAIT / 5);
    this.#want(id);
  }

  #want(id: number): void {
    this.#wanted = Math.max(this.#wanted, id);
    this.kick();
  }

  #noteClosed(id: number): void {
    this.#closed.set(id, this.#environment.clock.wallTime());
  }

  #arm(): void {
    this.#timer ??= this.#environment.clock.after(this.#interval, () => {
      this.#timer = undefined;
      void this.#tick().finally(() => {
        if (!this.#stopped) this.#arm();
      });
    });
  }

  /** What was acknowledged is to be on its way. */
  async #tick(): Promise<void> {
    const { dead, opened } = this.#log;
    this.#isPausing = false;
    if (this.#archive.replaced !== undefined && dead === undefined)
      this.#failed(toBlockIoError(this.#archive.replaced, {}));
    if (dead !== undefined || this.#shipped >= opened) {
      if (this.#running === undefined) this.#reader.rest();
      return;
    }
    try {
      this.#want(await this.#makeDurable());
    } catch {
      // It is the cache device that does not take it; whoever asks for that is told.
    }
  }

  /** Ships what is durable, up to `last`. */
  async #ship(last: number): Promise<void> {
    const log = this.#log;
    try {
      while (this.#shipped < last && log.dead === undefined) {
        const first = this.#shipped + 1;
        const segments: ArchivedSegment[] = [];
        this.#reader.begin();
        for (let id = first, bytes = 0; id <= last && segments.length < MOST_SEGMENTS; id += 1) {
          bytes += PER_SEGMENT + PER_BLOCK * lengthOf(log, id);
          if (bytes > MOST_BYTES) break;
          const time = this.#closed.get(id) ?? this.#environment.clock.wallTime();
          const segment = await this.#reader.read(id, time).catch((error: unknown) => {
            // Those before it need not wait for it.
            if (segments.length === 0) throw error;
          });
          if (segment === undefined) break;
          segments.push(segment);
        }
        this.#unreadable = undefined;
        await this.#archive.write(first, segments);
        log.archived.last = first + segments.length - 1;
        this.#sent.objects += 1;
        this.#sent.bytes += bytesOf(log, first, this.#shipped);
        log.changed.notify();
        for (let id = first; id <= this.#shipped; id += 1) this.#closed.delete(id);
      }
    } catch (error) {
      this.#failed(toBlockIoError(error, { device: this.#device }));
    }
    log.changed.notify();
  }

  #failed(error: BlockIoError): void {
    // Closed by ourselves, or replaced while at rest: whoever waits is told.
    if (this.#stopped || error.code !== "ESHUTDOWN") {
      this.#unreadable = error;
      this.#isPausing = true;
      return;
    }
    this.#environment.logger.log("error", "the disk was taken over; this cache has stopped", {
      device: this.#device,
      error: error.message,
    });
    this.#log.end(error);
  }

  #lateError(): BlockIoError {
    const { trouble, name } = this.#archive;
    const unread = this.#unreadable;
    return new BlockIoError("not everything is in the archive yet; all of it is on the cache device", {
      code: unread === undefined ? "ETIMEDOUT" : "EIO",
      device: name,
      op: "flush",
      cause: unread ?? trouble,
      lossless: true,
      hint:
        (unread && this.health().help) ??
        "The rest follows when the device is opened again and the store can be reached.",
    });
  }
}
