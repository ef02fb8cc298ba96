/**
 * What the superblock says of a running device. One change after the other; a change counts when both copies are stable.
 *
 * Invariants:
 *
 * - where a change failed, or is under way, either state may be found after a crash. So the epochs in the table, which
 *   writes are marked in, are always all of those that either state has;
 * - a copy is written only while the other one is whole: one whose writing failed is the first to be written next.
 */
import { type BlockDevice, Turnstile } from "@dmkit/block-io";
import type { EpochTable } from "../core/epochs.ts";
import type { TrackedRules } from "../core/rules.ts";
import type { EpochRecord, Superblock } from "../format/superblock.ts";
import { writeSuperblocks } from "./superblocks.ts";

/** What can be changed. */
export type RecordChange = Partial<Pick<Superblock, "clean" | "witness">> & {
  /** Default: those of the table. */
  readonly epochs?: readonly EpochRecord[];
};

export class SuperblockRecord {
  readonly #bitmap: BlockDevice;
  readonly #table: EpochTable;
  readonly #rules: TrackedRules;
  readonly #turns = new Turnstile();
  // The copy that may not be whole comes first.
  #order: readonly number[];
  #generation: number;
  #nextNumber: number;
  readonly #base: Superblock;

  /** @param superblock as it is on the bitmap device; @param order of its copies, see `writeOrder`. */
  constructor(
    bitmap: BlockDevice,
    { superblock, order }: { readonly superblock: Superblock; readonly order: readonly number[] },
    table: EpochTable,
    rules: TrackedRules,
  ) {
    this.#bitmap = bitmap;
    this.#order = order;
    this.#base = superblock;
    this.#table = table;
    this.#rules = rules;
    this.#generation = superblock.generation;
    this.#nextNumber = superblock.nextNumber;
  }

  get uuid(): string {
    return this.#base.uuid;
  }

  /** A number that no epoch has had. */
  newNumber(): number {
    return this.#nextNumber++;
  }

  /** Writes what there is now, with a change. Not clean, with no witness, unless that is the change. Errors: those of the device. */
  write({ clean = false, witness, epochs }: RecordChange = {}): Promise<void> {
    return this.#turns.pass(async () => {
      this.#generation += 1;
      const superblock: Superblock = {
        ...this.#base,
        generation: this.#generation,
        nextNumber: this.#nextNumber,
        clean,
        witness,
        epochs: epochs ?? this.#table.epochs,
      };
      const flushes = this.#rules.flushesRecord;
      await writeSuperblocks(this.#bitmap, superblock, this.#order, {
        flushes,
        written: (offset) => this.#written(offset),
      });
    });
  }

  /** This copy is whole: the next one to be written is another. */
  #written(offset: number): void {
    this.#order = [...this.#order.filter((one) => one !== offset), offset];
  }
}
