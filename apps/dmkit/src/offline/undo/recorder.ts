/**
 * Writes records to an undo file, in order, many with one fsync.
 *
 * Invariants:
 *
 * - `save` resolves only when its records, and all before them, are on stable storage;
 * - a batch is begun only when the one before it is stable: what is torn at the end of a file is of one batch,
 *   none of which anybody was told was saved;
 * - after a failure nothing is accepted any more: then nothing is overwritten any more either.
 */
import { type UndoRecord, encodeRecord } from "../format/undo-file.ts";
import type { UndoStorage } from "./storage.ts";

/** What is to be saved; number and durability are the recorder's business. */
export type NewRecord = Omit<UndoRecord, "number" | "durable"> & {
  /** Of `data` and `after`. */
  readonly payload?: Buffer | undefined;
};

interface Waiting {
  readonly records: readonly NewRecord[];
  readonly resolve: () => void;
  readonly reject: (error: unknown) => void;
}

const NOTHING = Buffer.alloc(0);

export class UndoRecorder {
  /** The `data` and `zeroes` records that are stable, in the order they stand in the file. */
  readonly saved: NewRecord[] = [];
  readonly #storage: UndoStorage;
  readonly #uuid: Buffer;
  #end: number;
  #number: number;
  #waiting: Waiting[] = [];
  #running = false;
  #failure: unknown;

  /** @param end where the next record goes: all before it is stable. @param number that of the next record. */
  constructor(storage: UndoStorage, uuid: Buffer, end: number, number: number) {
    this.#storage = storage;
    this.#uuid = uuid;
    this.#end = end;
    this.#number = number;
  }

  /** Resolves when the records are stable. Errors: those of the storage, for this and every later call. */
  save(records: readonly NewRecord[]): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#waiting.push({ records, resolve, reject });
      if (!this.#running) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#running = true;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.splice(0);
      try {
        if (this.#failure !== undefined) throw this.#failure;
        await this.#write(batch.flatMap(({ records }) => records));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        this.#failure ??= error;
        for (const { reject } of batch) reject(error);
      }
    }
    this.#running = false;
  }

  async #write(records: readonly NewRecord[]): Promise<void> {
    const durable = this.#end;
    for (const { payload = NOTHING, ...record } of records) {
      const bytes = encodeRecord(this.#uuid, { ...record, number: this.#number, durable }, payload);
      await this.#storage.write(this.#end, bytes);
      this.#end += bytes.length;
      this.#number += 1;
    }
    await this.#storage.sync();
    for (const { payload: _, ...record } of records) {
      if (record.kind === "data" || record.kind === "zeroes") this.saved.push(record);
    }
  }
}
