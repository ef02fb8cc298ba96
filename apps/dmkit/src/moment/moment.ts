/**
 * A device as it was at one moment, while its clients go on writing: what a write is about to change is kept in a file
 * first. In chunks of 64 KiB.
 *
 * Invariants:
 *
 * - a chunk is changed on the device only after what it was is in the file, and is marked as kept. So what was read from the
 *   device is what was there at the moment if the chunk is not marked when it has been read;
 * - no client is refused anything because of this: where nothing can be kept (no space, a chunk that cannot be read, another
 *   table) the moment is over, and whoever reads it is told.
 */
import {
  Bitmap,
  type BlockDevice,
  BlockIoError,
  type Extent,
  GuardedDevice,
  inParallel,
  toBlockIoError,
  withCapabilities,
} from "@dmkit/block-io";

/** Bytes that are kept together. */
export const CHUNK: number = 64 * 1024;

/** Chunks of one write that are kept at a time. */
const AT_ONCE = 8;

/** Decisions that data hangs on. A test makes them otherwise, and has to notice. */
export interface MomentRules {
  /** What was read from the device counts only if it is not kept by then. */
  readonly looksAgain: boolean;
  /** A write waits until what it changes is kept. */
  readonly waits: boolean;
}

const usual: MomentRules = { looksAgain: true, waits: true };

/** Who is told of changes before they happen, and may hold them up. */
export interface Keeper {
  /** Resolves when a range may be changed; undefined: at once. Never rejects. */
  before(offset: number, length: number): Promise<void> | undefined;
  /** Everything is another from now on. @param why in words. */
  replaced(why: string): void;
}

export class Moment extends GuardedDevice implements Keeper {
  readonly #device: BlockDevice;
  /** As large as the device. */
  readonly #file: BlockDevice;
  readonly #kept: Bitmap;
  readonly #keeping: Map<number, Promise<void>> = new Map();
  readonly #rules: MomentRules;
  #failure: BlockIoError | undefined;

  /** @param file all zeroes; closed together with this. */
  constructor(device: BlockDevice, file: BlockDevice, rules: MomentRules = usual) {
    super(device.name, file.size, withCapabilities(device.limits, { readOnly: true }));
    this.#device = device;
    this.#file = file;
    this.#kept = new Bitmap(Math.ceil(file.size / CHUNK));
    this.#rules = rules;
  }

  /** Bytes that are in the file. */
  get kept(): number {
    return this.#kept.count() * CHUNK;
  }

  before(offset: number, length: number): Promise<void> | undefined {
    if (this.#failure !== undefined || length === 0) return undefined;
    const first = Math.floor(offset / CHUNK);
    const end = Math.min(this.#kept.length, Math.ceil((offset + length) / CHUNK));
    if (first >= end || this.#kept.find(false, first, end) >= end) return undefined;
    const kept = this.#keepAll(first, end);
    return this.#rules.waits ? kept : undefined;
  }

  replaced(why: string): void {
    this.#fail("EBUSY", why);
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const first = Math.floor(offset / CHUNK);
    const end = Math.ceil((offset + into.length) / CHUNK);
    const wasKept = this.#kept.find(true, first, end) < end;
    if (this.#kept.find(false, first, end) < end) await this.#device.read(offset, into);
    if (!wasKept && !this.#rules.looksAgain) return;
    // What has been kept by now may have been changed before it was read.
    for (let chunk = this.#kept.find(true, first, end); chunk < end; ) {
      const until = this.#kept.find(false, chunk, end);
      const [from, to] = [Math.max(offset, chunk * CHUNK), Math.min(offset + into.length, until * CHUNK)];
      await this.#file.read(from, into.subarray(from - offset, to - offset));
      chunk = this.#kept.find(true, until, end);
    }
    // It may have ended meanwhile.
    if (this.#failure !== undefined) throw this.#failure;
  }

  protected override doWrite(): Promise<void> {
    throw new Error("unreachable: it is read-only");
  }

  protected override doFlush(): Promise<void> {
    return Promise.resolve();
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    for await (const extent of this.#device.extents(offset, length)) {
      if (extent.kind === "data") yield extent;
      else yield* this.#unlessKept(extent);
    }
  }

  protected override doClose(): Promise<void> {
    this.#fail("ESHUTDOWN", "it is closed");
    return this.#file.close();
  }

  /** What is a hole by now may have been data: then it was kept before. */
  *#unlessKept({ offset, length, kind }: Extent): Iterable<Extent> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const chunk = Math.floor(at / CHUNK);
      const isKept = this.#kept.get(chunk);
      const until = Math.min(end, this.#kept.find(!isKept, chunk, Math.ceil(end / CHUNK)) * CHUNK);
      yield { offset: at, length: until - at, kind: isKept ? "data" : kind };
      at = until;
    }
  }

  async #keepAll(first: number, end: number): Promise<void> {
    const missing = this.#missing(first, end);
    try {
      await inParallel(missing, AT_ONCE, (chunk) => this.#keep(chunk));
    } catch (error) {
      const { code, message, hint } = toBlockIoError(error, {});
      this.#fail(code, `what a client was about to change could not be kept: ${message}`, hint);
    }
  }

  *#missing(first: number, end: number): Iterable<number> {
    for (let chunk = this.#kept.find(false, first, end); chunk < end; ) {
      if (this.#failure !== undefined) return;
      yield chunk;
      chunk = this.#kept.find(false, chunk + 1, end);
    }
  }

  #keep(chunk: number): Promise<void> {
    const keeping =
      this.#keeping.get(chunk) ?? this.#keepOne(chunk).finally(() => this.#keeping.delete(chunk));
    this.#keeping.set(chunk, keeping);
    return keeping;
  }

  async #keepOne(chunk: number): Promise<void> {
    const offset = chunk * CHUNK;
    const bytes = Buffer.allocUnsafeSlow(Math.min(CHUNK, this.#file.size - offset));
    await this.#device.read(offset, bytes);
    await this.#file.write(offset, bytes);
    this.#kept.set(chunk);
  }

  #fail(code: BlockIoError["code"], reason: string, hint?: string): void {
    this.#failure ??= new BlockIoError(`the device as it was cannot be read any more: ${reason}`, {
      code,
      device: this.name,
      op: "read",
      hint: hint ?? "Run the command again.",
    });
  }
}
