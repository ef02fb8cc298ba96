/** A device that measures for how much of the time requests are in flight; otherwise it is the one below. */
import {
  type BlockDevice,
  type Clock,
  type Extent,
  type Limits,
  type WriteOptions,
  type WriteZeroesOptions,
  done,
} from "@dmkit/block-io";

export class BusyMeter implements BlockDevice {
  readonly name: string;
  readonly size: number;
  readonly limits: Limits;
  readonly #device: BlockDevice;
  readonly #clock: Clock;
  #inFlight = 0;
  #busySince = 0;
  #busy = 0;
  #measuredSince: number;

  constructor(device: BlockDevice, clock: Clock) {
    this.name = device.name;
    this.size = device.size;
    this.limits = device.limits;
    this.#device = device;
    this.#clock = clock;
    this.#measuredSince = clock.now();
  }

  /** Percent of the time since the last call during which something was in flight; 0 … 100. */
  utilisation(): number {
    const now = this.#clock.now();
    if (this.#inFlight > 0) {
      this.#busy += now - this.#busySince;
      this.#busySince = now;
    }
    const elapsed = now - this.#measuredSince;
    const percent = elapsed > 0 ? Math.min(100, (100 * this.#busy) / elapsed) : 0;
    this.#busy = 0;
    this.#measuredSince = now;
    return percent;
  }

  read(offset: number, into: Buffer): Promise<void> {
    return this.#timed(this.#device.read(offset, into));
  }

  write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    return this.#timed(this.#device.write(offset, from, options));
  }

  flush(): Promise<void> {
    return this.#timed(this.#device.flush());
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#timed(this.#device.discard(offset, length));
  }

  writeZeroes(offset: number, length: number, options?: WriteZeroesOptions): Promise<void> {
    return this.#timed(this.#device.writeZeroes(offset, length, options));
  }

  extents(offset: number, length: number): AsyncIterable<Extent> {
    return this.#device.extents(offset, length);
  }

  suspend(): Promise<void> {
    return this.#device.suspend();
  }

  resume(): Promise<void> {
    return this.#device.resume();
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  #timed(request: Promise<void>): Promise<void> {
    if (request === done) return done;
    if (this.#inFlight === 0) this.#busySince = this.#clock.now();
    this.#inFlight += 1;
    return request.finally(this.#over);
  }

  readonly #over = (): void => {
    this.#inFlight -= 1;
    if (this.#inFlight === 0) this.#busy += this.#clock.now() - this.#busySince;
  };
}
