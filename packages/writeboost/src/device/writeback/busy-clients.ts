/**
 * Whether clients write or flush so much that writing back should leave the devices to them: where the devices share a
 * disk, a flush of the backing device delays many barriers by milliseconds. It waits for them only until half of the
 * ring is dirty, and for some looks in a row; then there is a batch.
 */
import type { SegmentLog } from "../log/segment-log.ts";

// Bytes of segments written, or barriers asked for, between two looks from which on clients are busy.
const BUSY = 16 * 1024 * 1024;
const BUSY_BARRIERS = 50;
// Looks in a row at which it waits for busy clients at most.
const MOST_YIELDS = 10;

export class BusyClients {
  readonly #log: SegmentLog;
  /** How many barriers clients have asked for, ever. */
  readonly #barriers: () => number;
  /** At the last look: the newest segment, the barriers, and whether clients had been busy until then. */
  #opened: number;
  #asked = 0;
  #wereBusy = false;
  /** How often it has waited for them since the last batch. */
  #yields = 0;

  constructor(log: SegmentLog, barriers: () => number) {
    this.#log = log;
    this.#opened = log.opened;
    this.#barriers = barriers;
  }

  /** Writing back should wait. */
  get comeFirst(): boolean {
    const { opened, lastWriteback, geometry } = this.#log;
    if (this.#yields >= MOST_YIELDS) return false;
    return (this.#wereBusy || this.#areBusy) && opened - lastWriteback < geometry.slots / 2;
  }

  get #areBusy(): boolean {
    if (this.#barriers() - this.#asked > BUSY_BARRIERS) return true;
    return (this.#log.opened - this.#opened) * this.#log.geometry.slotSize > BUSY;
  }

  /** To be called at regular intervals while something waits to be written back. */
  look(): void {
    this.#wereBusy = this.#areBusy;
    this.#yields = this.#wereBusy ? this.#yields + 1 : 0;
    this.#opened = this.#log.opened;
    this.#asked = this.#barriers();
  }

  /** There was a batch. */
  waited(): void {
    this.#yields = 0;
  }
}
