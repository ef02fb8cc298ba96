/**
 * A block device in RAM, sparse: chunks of 64 KiB come into being with their first write and go away when
 * they are discarded or zeroed whole. Contents are lost at close.
 */
import { type SettingsTable, checkSettings, setting } from "../contract/settings.ts";
import {
  type Extent,
  type WriteZeroesOptions,
  done,
  fullCapabilities,
  plainLimits,
} from "../contract/device.ts";
import { GuardedDevice } from "../contract/guard.ts";

const CHUNK = 64 * 1024;

/** What a device in memory is like. */
export interface MemoryDeviceOptions {
  readonly name?: string;
  readonly logicalBlockSize?: 512 | 4096;
}

const memorySettings: SettingsTable<MemoryDeviceOptions> = {
  name: setting.anyText,
  logicalBlockSize: setting.choice(512, 4096),
};

/** A device in memory, zero at first and gone when it is closed. */
export class MemoryDevice extends GuardedDevice {
  // A hole where nothing was written. An array with holes would turn into a slow dictionary.
  readonly #chunks: (Buffer | undefined)[];

  /** @param size bytes; a multiple of the logical block size (512 unless told otherwise). */
  constructor(size: number, options: MemoryDeviceOptions = {}) {
    const { name = "memory", logicalBlockSize = 512 } = checkSettings(memorySettings, options);
    super(name, size, {
      ...plainLimits,
      logicalBlockSize,
      discardGranularity: logicalBlockSize,
      capabilities: fullCapabilities,
    });
    this.#chunks = Array.from({ length: Math.ceil(size / CHUNK) }, () => undefined);
  }

  /** Bytes of RAM that hold data. */
  get allocated(): number {
    return this.#chunks.reduce((sum, chunk) => sum + (chunk?.length ?? 0), 0);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    for (let at = 0; at < into.length; ) {
      const within = (offset + at) % CHUNK;
      const count = Math.min(CHUNK - within, into.length - at);
      const chunk = this.#chunks[Math.floor((offset + at) / CHUNK)];
      if (chunk === undefined) into.fill(0, at, at + count);
      else chunk.copy(into, at, within, within + count);
      at += count;
    }
    return done;
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    for (let at = 0; at < from.length; ) {
      const within = (offset + at) % CHUNK;
      const count = Math.min(CHUNK - within, from.length - at);
      const index = Math.floor((offset + at) / CHUNK);
      const chunk = (this.#chunks[index] ??= Buffer.alloc(CHUNK));
      from.copy(chunk, within, at, at + count);
      at += count;
    }
    return done;
  }

  protected override doFlush(): Promise<void> {
    return done;
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    this.#zero(offset, length);
    return done;
  }

  protected override doWriteZeroes(
    offset: number,
    length: number,
    _options: WriteZeroesOptions,
  ): Promise<void> {
    this.#zero(offset, length);
    return done;
  }

  protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
    const end = offset + length;
    for (let at = offset; at < end; ) {
      const start = at;
      const present = this.#chunks[Math.floor(at / CHUNK)] !== undefined;
      do {
        at = Math.min(end, (Math.floor(at / CHUNK) + 1) * CHUNK);
      } while (at < end && (this.#chunks[Math.floor(at / CHUNK)] !== undefined) === present);
      yield { offset: start, length: at - start, kind: present ? "data" : "hole" };
    }
  }

  protected override doClose(): Promise<void> {
    this.#chunks.length = 0;
    return done;
  }

  #zero(offset: number, length: number): void {
    for (let at = offset; at < offset + length; ) {
      const within = at % CHUNK;
      const count = Math.min(CHUNK - within, offset + length - at);
      const index = Math.floor(at / CHUNK);
      if (count === CHUNK) this.#chunks[index] = undefined;
      else this.#chunks[index]?.fill(0, within, within + count);
      at += count;
    }
  }
}
