/**
 * A device as it would be after some writes that are only remembered: the offline tools, and who opens a device that
 * cannot be written, replay the journal on it, so that they see what the next opening for writing will, and write nothing.
 */
import { type BlockDevice, GuardedDevice, done, withCapabilities } from "@dmkit/block-io";
import { BLOCK } from "../format/geometry-v1.ts";

export class Overlay extends GuardedDevice {
  readonly #lower: BlockDevice;
  /** Whole blocks, by number; the last of a device may be short. */
  readonly #written = new Map<number, Buffer>();

  constructor(lower: BlockDevice) {
    // A device that must not be written to is looked at all the same.
    super(lower.name, lower.size, withCapabilities(lower.limits, { readOnly: false }));
    this.#lower = lower;
  }

  /** What was written, as byte offsets and contents. */
  *changes(): Iterable<{ readonly offset: number; readonly bytes: Buffer }> {
    for (const [block, bytes] of this.#written) yield { offset: block * BLOCK, bytes };
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    await this.#lower.read(offset, into);
    for (const { block, start, from, to } of pieces(offset, into.length)) {
      this.#written.get(block)?.copy(into, start, from, to);
    }
  }

  protected override async doWrite(offset: number, source: Buffer): Promise<void> {
    for (const { block, start, from, to } of pieces(offset, source.length)) {
      let bytes = this.#written.get(block);
      if (bytes === undefined) {
        const old = Buffer.alloc(Math.min(BLOCK, this.size - block * BLOCK));
        await this.#lower.read(block * BLOCK, old);
        // Another write of this block may have been quicker.
        bytes = this.#written.get(block) ?? old;
        this.#written.set(block, bytes);
      }
      source.copy(bytes, from, start, start + to - from);
    }
  }

  protected override doFlush(): Promise<void> {
    return done;
  }
}

/** A range cut at the borders of blocks: byte `start` of the range is byte `from` of the block. */
function* pieces(
  offset: number,
  length: number,
): Iterable<{ readonly block: number; readonly start: number; readonly from: number; readonly to: number }> {
  for (let start = 0; start < length; ) {
    const block = Math.floor((offset + start) / BLOCK);
    const from = (offset + start) % BLOCK;
    const to = Math.min(BLOCK, from + length - start);
    yield { block, start, from, to };
    start += to - from;
  }
}
