/**
 * Acknowledging requests; and writing through, where the backing device must have what is acknowledged.
 *
 *      not in the log    to the backing device alone, parts of blocks too (bypass.ts): a flush makes it durable there
 *      in the log        to the log, durably; from there to the backing device, as anything that is written back; then
 *                        the backing device is flushed
 *
 * Invariants:
 *
 * - what is acknowledged while it is on is not in the log alone;
 * - the log is never behind the backing device: a block of which it has a copy, or a crash could bring one back, reaches
 *   the backing device from the log only. So no copy in it is older than what a crash leaves there;
 * - the identity record says that nothing in the log counts (identity.ts: `through`) only while the backing device has all that
 *   is acknowledged: nothing else is before the record, durably, says so no more.
 */
import { FlushGroup, done } from "@dmkit/block-io";
import { BLOCK } from "../../format/geometry.ts";
import type { Parts } from "../parts.ts";
import type { DropCaches } from "../writeback/drop-caches.ts";
import type { Writeback } from "../writeback/writeback.ts";
import type { Barriers } from "./barriers.ts";

/** Notes, durably, whether nothing in the log counts. */
export type Mark = (through: boolean) => Promise<void>;

export class WriteThrough {
  readonly #parts: Parts;
  readonly #barriers: Barriers;
  /** One for all requests that wait: each costs a segment. */
  readonly #group: FlushGroup;
  readonly #mark: Mark | undefined;
  #isOn = false;
  #isComplete = false;
  /** The record may say that nothing in the log counts. */
  #isMarked = false;
  /** It does, durably. */
  #isNoted = false;
  #marking: Promise<void> = done;

  /** @param name of the device, for errors. @param mark undefined where there is no record for it. */
  constructor(
    parts: Parts,
    writeback: Writeback,
    drops: DropCaches,
    barriers: Barriers,
    { name, mark }: { readonly name: string; readonly mark: Mark | undefined },
  ) {
    this.#mark = mark;
    this.#parts = parts;
    this.#barriers = barriers;
    this.#group = new FlushGroup(() => drops.run(writeback, name, {}));
  }

  set isOn(isOn: boolean) {
    if (isOn === this.#isOn) return;
    this.#isOn = isOn;
    this.#isComplete = false;
    this.look(false);
  }

  /** To be called when it may do so: hands what is dirty to those who write back; the open segment is, too. */
  begin(): void {
    if (this.#isOn && !this.#isComplete) this.#parts.log.close();
    this.#note();
  }

  /** Whether the backing device has all that was acknowledged, and will have: the cache can be taken away at any time. */
  get isComplete(): boolean {
    return this.#isComplete && (this.#isNoted || this.#mark === undefined);
  }

  /** Something may have been written back. @param mayWrite the record, too. */
  look(mayWrite: boolean): void {
    if (this.#isOn && this.#parts.log.map.dirtyBlocks === 0) this.#isComplete = true;
    if (mayWrite) this.#note();
  }

  /** Resolves when nothing is written to the record any more. */
  settled(): Promise<void> {
    return this.#marking.catch(() => {});
  }

  #note(): void {
    if (!this.#isOn || !this.#isComplete || this.#mark === undefined || this.#isMarked) return;
    this.#isMarked = true;
    // Without it a cache that is put back is believed, as all are: nothing is lost by that alone.
    this.#inTurn(async (mark) => {
      if (!this.#isOn || !this.#isComplete) return;
      await mark(true);
      this.#isNoted = true;
    }).catch(() => {});
  }

  /** Whether the record may say that nothing in the log counts, although something does, or is about to. */
  get #isWrong(): boolean {
    return this.#isMarked && !(this.#isOn && this.#isComplete);
  }

  #inTurn(work: (mark: Mark) => Promise<void>): Promise<void> {
    const mark = this.#mark as Mark;
    this.#marking = this.#marking.catch(() => {}).then(() => work(mark));
    return this.#marking;
  }

  #unmark(): Promise<void> {
    return this.#inTurn(async (mark) => {
      if (!this.#isWrong) return;
      this.#isNoted = false;
      await mark(false);
      this.#isMarked = false;
      this.#isComplete = false;
      // It may be complete by now.
      this.look(true);
    });
  }

  /** The answer to a request for these bytes, which has been made. */
  acknowledge(request: Promise<void>, offset: number, length: number): Promise<void> {
    if (request !== done || this.#isWrong) return this.#later(request, offset, length);
    this.#barriers.changed();
    return this.#isOn ? this.#settle(offset, length) : done;
  }

  async #later(request: Promise<void>, offset: number, length: number): Promise<void> {
    await request;
    this.#barriers.changed();
    if (this.#isOn) await this.#settle(offset, length);
    if (this.#isWrong) await this.#unmark();
  }

  /** Throws why something of it could not be written to the backing device. */
  async #settle(offset: number, length: number): Promise<void> {
    const { rules } = this.#parts.log;
    if (rules.mayAcknowledge(this.#isDirty(offset, length))) return;
    try {
      await this.#group.flush();
    } catch (error) {
      // It may be the trouble of others.
      if (!this.#isDirty(offset, length)) return;
      this.#isComplete = false;
      if (this.#isWrong) await this.#unmark().catch(() => {});
      throw error;
    }
  }

  #isDirty(offset: number, length: number): boolean {
    const { map } = this.#parts.log;
    const end = Math.ceil((offset + length) / BLOCK);
    for (
      let block = map.firstFrom(Math.floor(offset / BLOCK), end);
      block < end;
      block = map.firstFrom(block + 1, end)
    )
      if (map.dirty[map.find(block)] !== 0) return true;
    return false;
  }
}
