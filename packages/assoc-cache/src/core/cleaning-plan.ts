/**
 * Which dirty frames are written back next, and when: urgent ones (a set is full of dirty blocks) first, then
 * those that are due (too old, or all of them on request), then, above the high watermark, any, until the low
 * one is reached. Frames are taken in order, so that neighbours are written back together.
 */
import { Bitmap } from "@dmkit/block-io";
import { type FrameTable, states } from "./frame-table.ts";

export interface Watermarks {
  /** Dirty frames above which cleaning begins. */
  readonly high: number;
  /** Dirty frames at which it ends. */
  readonly low: number;
}

export class CleaningPlan {
  watermarks: Watermarks;
  readonly #frames: FrameTable;
  readonly #urgent = new Set<number>();
  readonly #aside = new Set<number>();
  #due: Bitmap | undefined;
  #dueFrom = 0;
  #hand = 0;
  #belowHigh = true;

  constructor(frames: FrameTable, watermarks: Watermarks) {
    this.#frames = frames;
    this.watermarks = watermarks;
  }

  /** The next thing needed is this frame. */
  urgent(frame: number): void {
    if (!this.#aside.has(frame)) this.#urgent.add(frame);
  }

  /** These could not be cleaned: they are not handed out before {@link retry}. */
  setAside(frames: readonly number[]): void {
    for (const frame of frames) this.#aside.add(frame);
  }

  retry(): void {
    this.#aside.clear();
  }

  /** Dirty frames that were set aside. */
  get aside(): number {
    return [...this.#aside].filter((frame) => this.#frames.isDirty(frame)).length;
  }

  /** Everything that is dirty now is due, whatever was set aside. */
  allDue(): void {
    this.retry();
    this.markDue(this.snapshot());
  }

  /** Frames that are dirty now, for {@link markDue} at a later time. */
  snapshot(): Bitmap {
    const { length, bytes } = this.#frames.dirtyFrames;
    return new Bitmap(length, bytes.slice());
  }

  /** These frames are due, as far as they are still dirty. */
  markDue(frames: Bitmap): void {
    const due = this.#due;
    if (due !== undefined) {
      for (let at = 0; at < due.bytes.length; at += 1) {
        frames.bytes[at] = (frames.bytes[at] as number) | (due.bytes[at] as number);
      }
    }
    this.#due = frames;
    this.#dueFrom = 0;
  }

  /** Whether anything is still due. */
  get hasDue(): boolean {
    return this.#due !== undefined;
  }

  /** Whether anything is urgent. */
  get hasUrgent(): boolean {
    return this.#urgent.size > 0;
  }

  /** Whether certain frames are to be cleaned, each of which is handed out once. */
  get asked(): boolean {
    return this.hasUrgent || this.hasDue;
  }

  /** Whether there is anything to do now. */
  get wanted(): boolean {
    return this.asked || this.#frames.dirty - this.#aside.size > this.watermarks.high;
  }

  /** Nobody wants all of it clean any more; what is urgent stays so. */
  noneDue(): void {
    this.#due = undefined;
  }

  /** Gives up what is urgent or due; for when writing back fails. */
  forget(): void {
    this.#urgent.clear();
    this.#due = undefined;
  }

  /**
   * Up to `most` frames; some may have become clean. None: there is nothing to do.
   * @param underWay frames that are `written` and will be clean soon.
   */
  next(most: number, underWay: number = 0): { readonly frames: number[]; readonly urgent: boolean } {
    if (this.#urgent.size > 0) return { frames: this.#takeUrgent(most), urgent: true };
    const due = this.#takeDue(most);
    if (due.length > 0) return { frames: due, urgent: false };
    return { frames: this.#takeAny(most, underWay), urgent: false };
  }

  #takeUrgent(most: number): number[] {
    const frames: number[] = [];
    for (const frame of this.#urgent) {
      if (frames.length === most) break;
      this.#urgent.delete(frame);
      frames.push(frame);
    }
    return frames;
  }

  #takeDue(most: number): number[] {
    const due = this.#due;
    const frames: number[] = [];
    if (due === undefined) return frames;
    while (frames.length < most) {
      const frame = due.find(true, this.#dueFrom);
      this.#dueFrom = frame + 1;
      if (frame >= due.length) {
        this.#due = undefined;
        break;
      }
      due.clear(frame);
      if (this.#frames.isDirty(frame) && !this.#aside.has(frame)) frames.push(frame);
    }
    return frames;
  }

  #takeAny(most: number, underWay: number): number[] {
    const { dirtyFrames } = this.#frames;
    const dirty = this.#frames.dirty - underWay - this.#aside.size;
    const { high, low } = this.watermarks;
    if (dirty > high) this.#belowHigh = false;
    else if (dirty <= low) this.#belowHigh = true;
    const frames: number[] = [];
    if (this.#belowHigh) return frames;
    const count = Math.min(most, dirty - low);
    for (let wrapped = false; frames.length < count; ) {
      const frame = dirtyFrames.find(true, this.#hand);
      this.#hand = frame + 1;
      if (frame < dirtyFrames.length) {
        if (this.#frames.stateOf(frame) === states.dirty && !this.#aside.has(frame)) frames.push(frame);
      } else if (wrapped) break;
      else {
        wrapped = true;
        this.#hand = 0;
      }
    }
    return frames;
  }
}
