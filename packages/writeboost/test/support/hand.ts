/**
 * Disks driven by hand: for scenarios that need one exact order of requests and one exact crash.
 * Where random runs find faults nobody thought of, these show that a fault somebody did think of is not there.
 */
import { type BlockDevice, BlockIoError, type ErrorCode, GuardedDevice, plainLimits } from "@dmkit/block-io";

export type HandOp = "read" | "write" | "flush" | "discard";

export interface HandRequest {
  readonly op: HandOp;
  readonly offset: number;
  readonly length: number;
}

type Judge = (request: HandRequest) => boolean;

interface Pending extends HandRequest {
  readonly data: Buffer;
  complete: boolean;
}

/** Which sectors of a write that no flush covers survive a crash; `sector` counts from the start of the write. */
export type Lands = (write: HandRequest, sector: number) => boolean;

export const nothing: Lands = () => false;
export const everything: Lands = () => true;

/** A disk with a volatile cache. Requests are carried out at once unless they are held or refused. */
export class HandDisk extends GuardedDevice {
  readonly stable: Buffer;
  readonly visible: Buffer;
  /** Everything it was asked for, in that order. */
  readonly log: HandRequest[] = [];
  /** Requests that wait for {@link release}. */
  hold: Judge = () => false;
  /** Requests that fail, and change nothing. */
  refuse: Judge = () => false;
  /** With which code they fail. */
  code: ErrorCode = "EIO";
  /** Whether they say that nothing is lost. */
  lossless = false;
  #pending: Pending[] = [];
  #held: (() => void)[] = [];

  constructor(name: string, content: number | Buffer) {
    const bytes = typeof content === "number" ? Buffer.alloc(content) : Buffer.from(content);
    super(name, bytes.length, {
      ...plainLimits,
      capabilities: {
        ...plainLimits.capabilities,
        discard: "native",
        discardZeroes: true,
        writeZeroes: "native",
      },
    });
    this.stable = bytes;
    this.visible = Buffer.from(bytes);
  }

  protected override get failsForGood(): boolean {
    return false;
  }

  get held(): number {
    return this.#held.length;
  }

  asked(op: HandOp): number {
    return this.log.filter((request) => request.op === op).length;
  }

  /** Carries out what is held, in the order given; by default as it was asked for. */
  release(order: readonly number[] = this.#held.map((_, index) => index)): void {
    const held = this.#held;
    this.#held = [];
    for (const index of order) held[index]?.();
  }

  /** The power fails: the disk as it is found afterwards. This one answers nothing any more. */
  crash(lands: Lands = nothing): HandDisk {
    for (const write of this.#pending) {
      for (let at = 0; at < write.length; at += 512) {
        if (lands(write, at / 512)) write.data.copy(this.stable, write.offset + at, at, at + 512);
      }
    }
    this.#pending = [];
    this.#held = [];
    this.hold = () => true;
    return new HandDisk(this.name, this.stable);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const seen = Buffer.from(this.visible.subarray(offset, offset + into.length));
    return this.#request({ op: "read", offset, length: into.length }, () => void seen.copy(into));
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    return this.#change("write", offset, Buffer.from(from), fua);
  }

  protected override doWriteZeroes(offset: number, length: number): Promise<void> {
    return this.#change("write", offset, Buffer.alloc(length), false);
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#change("discard", offset, Buffer.alloc(length), false);
  }

  protected override doFlush(): Promise<void> {
    const covered = this.#pending.filter(({ complete }) => complete);
    return this.#request({ op: "flush", offset: 0, length: 0 }, () => {
      for (const write of covered) this.#settle(write);
    });
  }

  #change(op: HandOp, offset: number, data: Buffer, fua: boolean): Promise<void> {
    const write: Pending = { op, offset, length: data.length, data, complete: false };
    this.#pending.push(write);
    return this.#request(write, () => {
      data.copy(this.visible, offset);
      write.complete = true;
      if (fua) this.#settle(write);
    });
  }

  #settle(write: Pending): void {
    const at = this.#pending.indexOf(write);
    if (at < 0) return;
    write.data.copy(this.stable, write.offset);
    this.#pending.splice(at, 1);
  }

  #request(request: HandRequest, carryOut: () => void): Promise<void> {
    this.log.push(request);
    const refused = this.refuse(request);
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        if (!refused) {
          carryOut();
          resolve();
          return;
        }
        this.#pending = this.#pending.filter((write) => write !== request);
        const { code, name: device, lossless } = this;
        reject(new BlockIoError("refused by hand", { code, device, op: request.op, lossless }));
      };
      if (this.hold(request)) this.#held.push(finish);
      else finish();
    });
  }
}

/** The device with some of its methods replaced: what they get wrong, whoever uses it gets wrong. */
export function altered(device: BlockDevice, changes: Partial<BlockDevice>): BlockDevice {
  return new Proxy(device, {
    get(target, key) {
      const changed: unknown = Reflect.get(changes, key);
      if (changed !== undefined) return changed;
      const value: unknown = Reflect.get(target, key, target);
      return typeof value === "function" ? (value as () => unknown).bind(target) : value;
    },
  });
}
