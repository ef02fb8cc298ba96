/** Devices that do what a test tells them to. */
import {
  type BlockDevice,
  BlockIoError,
  type Capabilities,
  type Extent,
  GuardedDevice,
  type Limits,
  MemoryDevice,
  type WriteOptions,
  type WriteZeroesOptions,
  done,
  fullCapabilities,
  plainLimits,
  withCapabilities,
} from "@dmkit/block-io";

/** Passes everything on to a memory device, after an optional gate, and writes down what it was asked. */
export class ProbeDevice implements BlockDevice {
  readonly name = "probe";
  readonly size: number;
  readonly limits: Limits;
  readonly inner: MemoryDevice;
  readonly calls: { op: string; offset: number; length: number; options?: object | undefined }[] = [];
  /** Every call of an operation waits for what this returns. */
  gate: (op: string, offset: number) => Promise<void> | undefined = () => undefined;

  constructor(
    size: number,
    { blockSize = 512, ...capabilities }: Partial<Capabilities> & { blockSize?: 512 | 4096 } = {},
  ) {
    this.inner = new MemoryDevice(size, { logicalBlockSize: blockSize });
    this.size = size;
    this.limits = withCapabilities(this.inner.limits, capabilities);
  }

  /** Makes calls of `op` wait until the returned function is called. */
  hold(op: string): () => void {
    let release!: () => void;
    const held = new Promise<void>((resolve) => (release = resolve));
    this.gate = (asked) => (asked === op ? held : undefined);
    return release;
  }

  /** Makes calls of `op` fail. */
  fail(
    op: string,
    error: BlockIoError = new BlockIoError("told to fail", { code: "EIO", device: "probe" }),
  ): void {
    this.gate = (asked) => (asked === op ? Promise.reject(error) : undefined);
  }

  count(op: string): number {
    return this.calls.filter((call) => call.op === op).length;
  }

  async read(offset: number, into: Buffer): Promise<void> {
    this.calls.push({ op: "read", offset, length: into.length });
    await this.gate("read", offset);
    await this.inner.read(offset, into);
  }

  async write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    this.calls.push({ op: "write", offset, length: from.length, options });
    await this.gate("write", offset);
    await this.inner.write(offset, from, options);
  }

  async flush(): Promise<void> {
    this.calls.push({ op: "flush", offset: 0, length: 0 });
    await this.gate("flush", 0);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.calls.push({ op: "discard", offset, length });
    await this.gate("discard", offset);
    await this.inner.discard(offset, length);
  }

  async writeZeroes(offset: number, length: number, options?: WriteZeroesOptions): Promise<void> {
    this.calls.push({ op: "writeZeroes", offset, length, options });
    await this.gate("writeZeroes", offset);
    await this.inner.writeZeroes(offset, length, options);
  }

  async *extents(offset: number, length: number): AsyncIterable<Extent> {
    this.calls.push({ op: "extents", offset, length });
    await this.gate("extents", offset);
    yield* this.inner.extents(offset, length);
  }

  suspend(): Promise<void> {
    return this.inner.suspend();
  }

  resume(): Promise<void> {
    return this.inner.resume();
  }

  close(): Promise<void> {
    return this.inner.close();
  }
}

/** As large as it is said to be, in a map of the blocks that were written; writes down what it was asked. */
export class VastDevice extends GuardedDevice {
  readonly calls: string[] = [];
  readonly #blocks = new Map<number, Buffer>();

  constructor(size: number, capabilities: Partial<Capabilities> = {}) {
    super("vast", size, { ...plainLimits, capabilities: { ...fullCapabilities, ...capabilities } });
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    for (let at = 0; at < into.length; at += 512) {
      const block = this.#blocks.get(offset + at);
      if (block === undefined) into.fill(0, at, at + 512);
      else block.copy(into, at);
    }
    return done;
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    for (let at = 0; at < from.length; at += 512) {
      this.#blocks.set(offset + at, Buffer.from(from.subarray(at, at + 512)));
    }
    return done;
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    this.calls.push(`discard ${offset} ${length}`);
    this.#forget(offset, length);
    return done;
  }

  protected override async doWriteZeroes(offset: number, length: number): Promise<void> {
    this.calls.push(`zero ${offset} ${length}`);
    await this.gate();
    this.#forget(offset, length);
  }

  /** Zeroing waits for what this returns. */
  gate: () => Promise<void> | undefined = () => undefined;

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    this.calls.push(`extents ${offset} ${length}`);
    let at = offset;
    const written = [...this.#blocks.keys()].toSorted((a, b) => a - b);
    for (const block of written.filter((start) => start >= offset && start < offset + length)) {
      if (block > at) yield { offset: at, length: block - at, kind: "hole" };
      yield { offset: block, length: 512, kind: "data" };
      at = block + 512;
    }
    if (at < offset + length) yield { offset: at, length: offset + length - at, kind: "hole" };
  }

  #forget(offset: number, length: number): void {
    for (const block of this.#blocks.keys()) {
      if (block >= offset && block < offset + length) this.#blocks.delete(block);
    }
  }
}
