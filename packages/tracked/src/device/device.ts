/**
 * The running device: requests go on to the device below, and what they change is marked before.
 *
 *      read    handed on
 *      write   chunks that are marked in all epochs, on stable storage: handed on at once. Others: marked in memory,
 *              pages written and flushed together with those of others who wait, then handed on
 *      flush   handed on: bits are on stable storage before the write they stand for
 *
 * Invariants:
 *
 * - a write, discard or write of zeroes is handed on only when the bits of its chunks are on stable storage in all epochs;
 * - an epoch begins while no request is under way, when all that was answered is stable: what comes back after a crash,
 *   or lands later, is marked in it;
 * - an epoch is in memory, and marked in, as long as either copy of the superblock may have it.
 */
import {
  type BlockIoError,
  type Controls,
  type Extent,
  FUA,
  type Facts,
  GuardedTarget,
  type Health,
  type RangeDescription,
  type StorageFacts,
  type WriteZeroesOptions,
  done,
  nameProblem,
  refuse,
  storageBelow,
  toBlockIoError,
  witnessOf,
  worstHealth,
} from "@dmkit/block-io";
import type { Epoch } from "../core/epochs.ts";
import { dirtyBitmap } from "./dirty-bitmap.ts";
import { bitmapHealth, epochList, lossHealth, statusLine, trackedFacts } from "./facts.ts";
import { type ControlledTracking, trackedControls } from "./messages.ts";
import { unmarked } from "./page-writer.ts";
import { writeSlot } from "./pages.ts";
import type { TrackedParts, Tuning } from "./parts.ts";

/** A device whose changes are tracked. */
export class TrackedDevice extends GuardedTarget implements ControlledTracking {
  readonly #parts: TrackedParts;
  readonly #chunk: number;
  #tuning: Tuning;

  constructor(parts: TrackedParts) {
    super(parts.name, parts.table.geometry.size, parts.limits);
    this.#parts = parts;
    this.#chunk = parts.table.geometry.chunk;
    this.#tuning = parts.tuning;
  }

  /** As they are now, by slot. */
  get epochs(): readonly Epoch[] {
    return this.#parts.table.epochs;
  }

  override health(): Health {
    const { losses, table, writer } = this.#parts;
    return worstHealth([super.health(), bitmapHealth(writer.failure), lossHealth(losses, table)]);
  }

  override status(): string {
    return statusLine(this.#parts);
  }

  protected override doFacts(): Facts {
    return trackedFacts(this.#parts);
  }

  protected override get controls(): Controls<ControlledTracking> {
    return trackedControls;
  }

  protected override tunableValues(): Readonly<Record<string, unknown>> {
    return { ...this.#tuning };
  }

  protected override doTune(changes: Partial<Tuning>): void {
    this.#tuning = { ...this.#tuning, ...changes };
  }

  /** What has changed since each epoch began, as `qemu:dirty-bitmap:NAME`. */
  override get descriptions(): readonly RangeDescription[] {
    const { table, record } = this.#parts;
    return this.epochs.map((epoch) => dirtyBitmap(table, epoch, record.uuid));
  }

  storage(): Promise<readonly StorageFacts[]> {
    return storageBelow([this.#parts.data, this.#parts.bitmap]);
  }

  list(): string {
    return epochList(this.#parts.table);
  }

  /**
   * Begins an epoch, durably: what is answered before the call is not in it, what is issued after it resolves is.
   * @param meanwhile done at the moment it begins: no request is under way, and all that was answered is stable. If it
   * rejects, nothing has begun.
   * Errors: `EINVAL` (name), `EEXIST`, `ENOSPC` (no room for another epoch), those of the devices.
   */
  begin(name: string, meanwhile?: () => Promise<void>): Promise<void> {
    return this.inTurn(async (quiet) => {
      const { table, record, bitmap, rules, environment } = this.#parts;
      const problem = nameProblem(name);
      if (problem !== undefined)
        throw this.#refusal(
          "EINVAL",
          problem,
          "Give 1 … 63 bytes without spaces, commas and control characters.",
        );
      const before = table.find(name);
      if (before?.isRecorded === true)
        throw this.#refusal(
          "EEXIST",
          `there is an epoch ${name}`,
          "Give another name, or drop that one first.",
        );
      const slot = before?.slot ?? table.freeSlot();
      if (slot === undefined) {
        const reason = `there are ${table.epochs.length} epochs, and room for no more`;
        throw this.#refusal("ENOSPC", reason, "Merge two of them, or drop one.");
      }
      const number = before?.number ?? record.newNumber();
      if (before === undefined) await writeSlot(bitmap, table.geometry, slot, { uuid: record.uuid, number });
      if (rules.beginsQuietly) await quiet();
      // A device that has failed has flushed nothing: what was answered may yet be lost, and would not be marked.
      if (this.failure !== undefined) throw this.failure;
      await meanwhile?.();
      const begun = environment.clock.wallTime();
      const epoch = before ?? table.add({ slot, number, name, begun, excess: false }, false);
      await this.#recorded(
        `whether epoch ${name} has begun`,
        "Send it again: the epoch is kept until then.",
        () => (rules.recordsBegin ? record.write() : done),
      );
      epoch.isRecorded = true;
    });
  }

  /** `into` has what `from` has, durably; then `from` ends. Errors: `ENOENT`, `EINVAL`, those of the bitmap device. */
  merge(from: string, into: string): Promise<void> {
    return this.inTurn(async () => {
      const { table, rules } = this.#parts;
      const [source, target] = [this.#find(from), this.#find(into)];
      if (source === target)
        throw this.#refusal("EINVAL", `${from} cannot be merged into itself`, "Name two epochs.");
      rules.merge(table, source, target);
      for (const step of rules.mergeSteps) {
        if (step === "record") await this.#end(source);
        else await this.#parts.writer.flush();
      }
      table.remove(source);
      // What a write that was under way has of it is over before its slot is used again.
      await this.#parts.writer.flush();
    });
  }

  /** Ends an epoch, durably. Errors: `ENOENT`, those of the bitmap device. */
  drop(name: string): Promise<void> {
    return this.inTurn(async () => {
      const epoch = this.#find(name);
      await this.#end(epoch);
      this.#parts.table.remove(epoch);
      await this.#parts.writer.flush();
    });
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#parts.data.read(offset, into);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const { data } = this.#parts;
    const options = fua ? FUA : undefined;
    if (this.#covers(offset, from.length)) return data.write(offset, from, options);
    return this.#marked(offset, from.length, () => data.write(offset, from, options));
  }

  protected override doFlush(): Promise<void> {
    return this.#parts.data.flush();
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    const { data } = this.#parts;
    if (this.limits.capabilities.discard === "none") return done;
    return this.#marked(offset, length, () => data.discard(offset, length));
  }

  protected override doWriteZeroes(
    offset: number,
    length: number,
    options: WriteZeroesOptions,
  ): Promise<void> {
    return this.#marked(offset, length, () => this.#parts.data.writeZeroes(offset, length, options));
  }

  protected override doExtents(offset: number, length: number): AsyncIterable<Extent> {
    return this.#parts.data.extents(offset, length);
  }

  protected override async doClose(): Promise<void> {
    const { data, record, environment } = this.#parts;
    if (this.limits.capabilities.readOnly || this.failure !== undefined) return;
    try {
      const witness = await witnessOf(data, this.size).catch(() => undefined);
      await record.write({ clean: true, witness });
    } catch (error) {
      // As after a crash: all bits are there, and what changes the device behind it is not noticed.
      environment.logger.log("warn", "the bitmaps could not be marked as closed cleanly", {
        device: this.name,
        error: toBlockIoError(error, {}).message,
      });
    }
  }

  #covers(offset: number, length: number): boolean {
    const end = Math.floor((offset + length - 1) / this.#chunk) + 1;
    return this.#parts.table.covers(Math.floor(offset / this.#chunk), end);
  }

  /** Does what changes a range, when its bits are on stable storage. */
  async #marked(offset: number, length: number, work: () => Promise<void>): Promise<void> {
    const { table, writer, rules } = this.#parts;
    if (!rules.bitsFirst) await work();
    // Looked at again after waiting: an epoch may have lost its pages to a failure meanwhile, or another one begun.
    if (!this.#covers(offset, length)) {
      const first = Math.floor(offset / this.#chunk);
      const end = Math.floor((offset + length - 1) / this.#chunk) + 1;
      table.mark(first, end - first + table.ahead(first, end, this.#tuning.ahead));
      try {
        await writer.flush();
      } catch (error) {
        throw unmarked(this.name, offset, length, error);
      }
    }
    if (rules.bitsFirst) await work();
  }

  /** The superblock has the epoch no more. */
  #end(epoch: Epoch): Promise<void> {
    const { table, record } = this.#parts;
    const left = table.epochs.filter((one) => one !== epoch);
    return this.#recorded(
      `whether epoch ${epoch.name} has ended`,
      "Send it again: the epoch is kept until then.",
      () => record.write({ epochs: left }),
    );
  }

  async #recorded(what: string, hint: string, write: () => Promise<void>): Promise<void> {
    try {
      await write();
    } catch (error) {
      const cause = toBlockIoError(error, { device: this.name, op: "message" });
      throw refuse(this.name, cause.code, `${what} is not known: ${cause.message}`, hint, "message");
    }
  }

  #find(name: string): Epoch {
    const epoch = this.#parts.table.find(name);
    if (epoch !== undefined) return epoch;
    const names = this.epochs.map((one) => one.name);
    const hint = names.length === 0 ? "There are none." : `There are: ${names.join(", ")}.`;
    throw this.#refusal("ENOENT", `there is no epoch ${name}`, hint);
  }

  #refusal(code: "EINVAL" | "EEXIST" | "ENOENT" | "ENOSPC", reason: string, hint: string): BlockIoError {
    return refuse(this.name, code, reason, hint, "message");
  }
}
