/** Devices that do what a test tells them to. */
import {
  type BlockDevice,
  BlockIoError,
  type Capabilities,
  type Extent,
  type Limits,
  MemoryDevice,
  type WriteOptions,
  type WriteZeroesOptions,
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
