/**
 * A named device as the table of another device has it: closing it gives it back, and suspending it suspends
 * nobody else's requests. Its size and limits are those of the moment it was opened.
 */
import {
  type BlockDevice,
  BlockIoError,
  type Extent,
  type Health,
  type Limits,
  type Operation,
  type Place,
  type StorageFacts,
  type WriteOptions,
  type WriteZeroesOptions,
  done,
  storageOf,
  healthOf,
  withCapabilities,
} from "@dmkit/block-io";

export class BorrowedDevice<Owner> implements BlockDevice {
  readonly owner: Owner;
  /** What the owner's table calls it, without `dm:`. */
  readonly reference: string;
  readonly size: number;
  readonly limits: Limits;
  readonly #device: BlockDevice;
  readonly #returned: (device: BorrowedDevice<Owner>) => void;
  #closed = false;

  constructor(
    device: BlockDevice,
    owner: Owner,
    reference: string,
    access: "read" | "write",
    returned: (device: BorrowedDevice<Owner>) => void,
  ) {
    this.#device = device;
    this.owner = owner;
    this.reference = reference;
    this.size = device.size;
    this.limits = access === "read" ? withCapabilities(device.limits, { readOnly: true }) : device.limits;
    this.#returned = returned;
  }

  get name(): string {
    return `dm:${this.#device.name}`;
  }

  places(offset: number, length: number): readonly Place[] {
    return [{ on: this.#device, offset, length }];
  }

  read(offset: number, into: Buffer): Promise<void> {
    return this.#closed ? this.#refused("read") : this.#device.read(offset, into);
  }

  write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    return this.#refusesWrites ? this.#refused("write") : this.#device.write(offset, from, options);
  }

  async storage(): Promise<readonly StorageFacts[]> {
    return this.#closed ? [] : storageOf(this.#device);
  }

  flush(): Promise<void> {
    if (this.limits.capabilities.readOnly) return done;
    return this.#closed ? this.#refused("flush") : this.#device.flush();
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#refusesWrites ? this.#refused("discard") : this.#device.discard(offset, length);
  }

  writeZeroes(offset: number, length: number, options?: WriteZeroesOptions): Promise<void> {
    return this.#refusesWrites
      ? this.#refused("writeZeroes")
      : this.#device.writeZeroes(offset, length, options);
  }

  async *extents(offset: number, length: number): AsyncIterable<Extent> {
    if (this.#closed) await this.#refused("extents");
    yield* this.#device.extents(offset, length);
  }

  /** Its owner has stopped sending by now; others may go on. */
  suspend(): Promise<void> {
    return this.flush();
  }

  resume(): Promise<void> {
    return done;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    try {
      await this.flush();
    } finally {
      this.#closed = true;
      this.#returned(this);
    }
  }

  health(): Health {
    const health = healthOf(this.#device);
    return health.why === undefined ? health : { ...health, why: `${this.name}: ${health.why}` };
  }

  get #refusesWrites(): boolean {
    return this.#closed || this.limits.capabilities.readOnly;
  }

  #refused(op: Operation): Promise<never> {
    const [reason, code] = this.#closed
      ? (["the device is closed", "ESHUTDOWN"] as const)
      : (["the device is read-only", "EROFS"] as const);
    return Promise.reject(new BlockIoError(reason, { code, device: this.name, op }));
  }
}
