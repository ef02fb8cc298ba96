/**
 * Reads the slots of a cache device: all heads, then the contents of those whose checksums matter. Large devices
 * have 200,000 slots of 127 metablocks: what is done for each of these is kept to a minimum.
 */
import {
  type BlockDevice,
  type Environment,
  done,
  inParallel,
  isOfPlace,
  nextTurn,
  isGiven,
} from "@dmkit/block-io";
import { BlockMap } from "../core/block-map.ts";
import { readHead, readSegment } from "../device/log/read-slot.ts";
import type { Rules } from "../core/rules.ts";
import type { Dialect } from "../format/checksum.ts";
import { BLOCK, type Geometry, slotStart } from "../format/geometry.ts";
import {
  type MetadataProblem,
  checkHeader,
  decodeSegmentHeader,
  dialectOf,
  isWhole,
  segmentSize,
} from "../format/segment.ts";

/** What is known of a slot that is not simply intact or unused. */
export interface SlotProblem {
  readonly slot: number;
  readonly id: number;
  readonly problem: MetadataProblem | "checksum" | "unreadable";
}

export interface ScanWork {
  /** Called now and then with the slots read so far. */
  readonly progress: ((slots: number, of: number) => void) | undefined;
  readonly signal: AbortSignal | undefined;
  /** Whether {@link SlotScanner.verifyRest} follows. */
  readonly thorough: boolean;
  /** Bytes of the largest backing device that the map has to do with, at least that which bounds the blocks. */
  readonly mapped: number;
  readonly environment: Environment;
  readonly rules: Rules;
}

/** Slots whose heads fit in one read. */
const CHUNK = 1024 * 1024;
/** Heads after which the event loop gets a turn. */
const TURN = 1024;

export class SlotScanner {
  readonly ids: Float64Array;
  readonly valid: Uint8Array;
  readonly map: BlockMap;
  readonly problems: SlotProblem[] = [];
  /** By slot: ids that cannot be where they are, of heads that could be right otherwise; they do not count. */
  readonly misplaced: Map<number, number> = new Map();
  /** Slots of which the device does not give the head, or not all of the data, as far as that was wanted. */
  readonly unreadable: Set<number> = new Set();
  /** Segments whose whole contents were read and checksummed. */
  checksummed = 0;
  #sinceTurn = 0;
  readonly #cache: BlockDevice;
  readonly #backingSize: number;
  readonly #geometry: Geometry;
  readonly #work: ScanWork;
  /** By slot: whether its checksum was compared. */
  readonly #compared: Uint8Array;

  /** @param backingSize bytes: blocks behind them cannot be right. */
  constructor(cache: BlockDevice, backingSize: number, geometry: Geometry, work: ScanWork) {
    const { slots, blocks } = geometry;
    this.ids = new Float64Array(slots);
    this.valid = new Uint8Array(slots);
    this.map = new BlockMap(slots, blocks, Math.ceil(Math.max(backingSize, work.mapped) / BLOCK));
    this.#cache = cache;
    this.#backingSize = backingSize;
    this.#geometry = geometry;
    this.#work = work;
    this.#compared = new Uint8Array(slots);
  }

  /** Header and metablocks of every slot, in large reads where slots are small. */
  async readHeads(): Promise<void> {
    const { slots, slotSize } = this.#geometry;
    const together = slotSize <= 32 * 1024 ? Math.floor(CHUNK / slotSize) : 1;
    let next = 0;
    let read = 0;
    const lane = async (): Promise<void> => {
      const buffer = Buffer.allocUnsafeSlow((together - 1) * slotSize + BLOCK);
      while (next < slots) {
        const first = next;
        const count = Math.min(together, slots - first);
        next += count;
        const giving = this.#turn(count);
        if (giving !== done) await giving;
        const heads = buffer.subarray(0, (count - 1) * slotSize + BLOCK);
        const reading = this.#cache.read(slotStart(this.#geometry, first), heads);
        // Most are there already, and a trip through the microtask queue costs more than a head.
        if (reading !== done)
          await reading.catch((error: unknown) => this.#readOneByOne(first, heads, error));
        for (let index = 0; index < count; index += 1) {
          if (this.unreadable.has(first + index)) continue;
          this.#load(first + index, heads.subarray(index * slotSize, index * slotSize + BLOCK));
        }
        read += count;
        if (read % TURN < together || read === slots) this.#report(read, 0, 0);
      }
    };
    await inParallel(Array.from({ length: Math.min(64, slots) }), 64, async () => {
      await lane().catch((error: unknown) => {
        next = slots;
        throw error;
      });
    });
  }

  /** What can be read of heads that could not be read together. Throws what is no matter of the place. */
  async #readOneByOne(first: number, heads: Buffer, error: unknown): Promise<void> {
    const { slotSize } = this.#geometry;
    if (!isOfPlace(error)) throw error;
    for (let at = 0; at < heads.length; at += slotSize) {
      const slot = first + at / slotSize;
      const start = slotStart(this.#geometry, slot);
      if (await isGiven(readHead(this.#cache, start, heads.subarray(at, at + BLOCK)))) continue;
      this.unreadable.add(slot);
      this.problems.push({ slot, id: Number.NaN, problem: "unreadable" });
    }
  }

  #load(slot: number, head: Buffer): void {
    const { slots, blocks } = this.#geometry;
    const { id, length } = decodeSegmentHeader(head);
    let problem = checkHeader(head, { slot, slots, blocks });
    // dirty_bits 0 is accepted in any dialect: 1.0.1 wrote it too, with the same meaning.
    if (problem === undefined && !this.map.load(slot, head, length, this.#backingSize)) problem = "sector";
    if (problem !== undefined) {
      if (problem !== "unused") this.problems.push({ slot, id, problem });
      if (problem === "id" && id > 0 && length <= blocks) this.misplaced.set(slot, id);
      // A slot that claims an id it could have must be invalidated, or it might be believed one day.
      if (problem === "length" || problem === "sector") this.ids[slot] = id;
      return;
    }
    this.ids[slot] = id;
    this.valid[slot] = 1;
  }

  /** Whether any head holds anything. */
  get isUsed(): boolean {
    return this.problems.length > 0 || this.valid.includes(1);
  }

  /** The dialect of the newest segment that is whole, if any is. */
  async detect(): Promise<Dialect | undefined> {
    const candidates = [...this.ids.keys()]
      .filter((slot) => this.valid[slot] === 1)
      .sort((a, b) => (this.ids[b] as number) - (this.ids[a] as number));
    const buffer = Buffer.allocUnsafeSlow(this.#geometry.slotSize);
    for (const slot of candidates) {
      await this.#turn(16);
      const segment = await this.#read(slot, buffer);
      const dialect = segment && dialectOf(segment);
      if (dialect !== undefined) return dialect;
    }
    return undefined;
  }

  /** Whether the segment of which `head` is in a slot is whole, wherever its id says that it should be. */
  async isWholeAt(slot: number): Promise<boolean> {
    const start = slotStart(this.#geometry, slot);
    const buffer = Buffer.allocUnsafeSlow(this.#geometry.slotSize);
    const head = buffer.subarray(0, BLOCK);
    await readHead(this.#cache, start, head);
    const segment = buffer.subarray(0, segmentSize(decodeSegmentHeader(head).length));
    if (!(await isGiven(readSegment(this.#cache, start, segment)))) return false;
    return isWhole(segment);
  }

  /**
   * Checksums whatever is above `covered` or may have been torn by the next use of its slot. Up to `closed` nothing is
   * torn: there a head is enough, and data that cannot be read is missed where it is wanted.
   */
  async verify(covered: number, closed: number): Promise<void> {
    const { slots, tail } = this.#geometry;
    const { rules } = this.#work;
    const highest = this.ids.reduce((max, id) => Math.max(max, id), 0);
    const doubtful = this.#validSlots((slot) =>
      rules.needsChecksum(this.ids[slot] as number, highest, covered, slots, tail),
    );
    for (const slot of await this.#compare(doubtful)) {
      if (this.unreadable.has(slot) && (this.ids[slot] as number) <= closed) {
        this.#compared[slot] = 0;
        continue;
      }
      this.valid[slot] = 0;
      const problem = this.unreadable.has(slot) ? "unreadable" : "checksum";
      this.problems.push({ slot, id: this.ids[slot] as number, problem });
    }
    this.problems.sort((a, b) => a.slot - b.slot);
  }

  /** Checksums all the others. Returns the slots in which it is wrong; they stay valid. */
  async verifyRest(): Promise<number[]> {
    const rest = this.#validSlots((slot) => this.#compared[slot] === 0);
    const wrong = await this.#compare(rest, (done) => this.#report(this.ids.length, done, rest.length));
    this.#report(this.ids.length, 1, 1);
    return wrong;
  }

  #validSlots(wanted: (slot: number) => boolean): number[] {
    const slots: number[] = [];
    for (let slot = 0; slot < this.valid.length; slot += 1)
      if (this.valid[slot] === 1 && wanted(slot)) slots.push(slot);
    return slots;
  }

  /** Returns the slots, in order, whose checksums are wrong, or not known because the segment cannot be read. */
  async #compare(slots: readonly number[], report: (done: number) => void = () => {}): Promise<number[]> {
    const wrong: number[] = [];
    // One for each of those that read at the same time.
    const idle: Buffer[] = [];
    let count = 0;
    await inParallel(slots, 4, async (slot) => {
      await this.#turn(16);
      this.#compared[slot] = 1;
      const buffer = idle.pop() ?? Buffer.allocUnsafeSlow(this.#geometry.slotSize);
      const segment = await this.#read(slot, buffer);
      if (segment === undefined) this.unreadable.add(slot);
      if (segment === undefined || !isWhole(segment)) wrong.push(slot);
      idle.push(buffer);
      count += 1;
      if (count % 64 === 0 || count === slots.length) report(count);
    });
    this.checksummed += slots.length;
    return wrong.sort((a, b) => a - b);
  }

  /** Everybody else gets a turn now and then, and whoever wants to end this is heard. */
  #turn(weight: number): Promise<void> {
    const { signal, environment } = this.#work;
    signal?.throwIfAborted();
    this.#sinceTurn += weight;
    if (this.#sinceTurn < TURN) return done;
    this.#sinceTurn = 0;
    return nextTurn(environment.scheduler);
  }

  /** Where all is checksummed, that is nearly all of the work. */
  #report(heads: number, compared: number, toCompare: number): void {
    const { progress, thorough } = this.#work;
    const slots = this.ids.length;
    if (!thorough) progress?.(heads, slots);
    else
      progress?.(heads + (toCompare === 0 ? 0 : Math.round((16 * slots * compared) / toCompare)), 17 * slots);
  }

  /** Undefined where the device does not give all of the segment. */
  async #read(slot: number, buffer: Buffer): Promise<Buffer | undefined> {
    const segment = buffer.subarray(0, segmentSize(this.map.lengths[slot] as number));
    const reading = readSegment(this.#cache, slotStart(this.#geometry, slot), segment);
    return (await isGiven(reading)) ? segment : undefined;
  }
}
