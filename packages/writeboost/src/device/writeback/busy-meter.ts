/**
 * A device that knows how busy it is; otherwise it is the one below.
 *
 * Where the system keeps account of the storage below, that is the figure: it counts everybody's requests, also
 * those of other programs. Elsewhere it is the share of the time in which requests of ours were in flight, those
 * included that were carried out at once.
 */
import {
  type BlockDevice,
  type Clock,
  type Extent,
  type Limits,
  type StorageFacts,
  type WriteOptions,
  type WriteZeroesOptions,
  done,
  storageOf,
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
  /** By piece of storage: its account when it was last looked at. */
  readonly #accounts: Map<string, { readonly busy: number; readonly at: number }> = new Map();

  constructor(device: BlockDevice, clock: Clock) {
    this.name = device.name;
    this.size = device.size;
    this.limits = device.limits;
    this.#device = device;
    this.#clock = clock;
    this.#measuredSince = clock.now();
  }

  /** Percent of the time since the last call during which the busiest storage below was busy; 0 … 100. */
  async utilisation(): Promise<number> {
    const own = this.#own();
    const pieces = await storageOf(this.#device);
    const at = this.#clock.now();
    const known: number[] = [];
    for (const { id, busy } of pieces) {
      if (busy === undefined) continue;
      const before = this.#accounts.get(id);
      this.#accounts.set(id, { busy, at });
      if (before === undefined || at <= before.at) continue;
      known.push(Math.min(100, Math.max(0, (100 * (busy - before.busy)) / (at - before.at))));
    }
    return known.length === pieces.length ? Math.max(...known) : Math.max(own, ...known);
  }

  /** The same, of our requests alone. */
  #own(): number {
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
    const began = this.#clock.now();
    return this.#timed(this.#device.read(offset, into), began);
  }

  write(offset: number, from: Buffer, options?: WriteOptions): Promise<void> {
    const began = this.#clock.now();
    return this.#timed(this.#device.write(offset, from, options), began);
  }

  flush(): Promise<void> {
    const began = this.#clock.now();
    return this.#timed(this.#device.flush(), began);
  }

  discard(offset: number, length: number): Promise<void> {
    const began = this.#clock.now();
    return this.#timed(this.#device.discard(offset, length), began);
  }

  writeZeroes(offset: number, length: number, options?: WriteZeroesOptions): Promise<void> {
    const began = this.#clock.now();
    return this.#timed(this.#device.writeZeroes(offset, length, options), began);
  }

  extents(offset: number, length: number): AsyncIterable<Extent> {
    return this.#device.extents(offset, length);
  }

  storage(): Promise<readonly StorageFacts[]> {
    return storageOf(this.#device);
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

  /** @param began when the request was made; one that is over already kept everybody waiting since then. */
  #timed(request: Promise<void>, began: number): Promise<void> {
    if (request === done) {
      if (this.#inFlight === 0) this.#busy += this.#clock.now() - began;
      return done;
    }
    if (this.#inFlight === 0) this.#busySince = began;
    this.#inFlight += 1;
    return request.finally(this.#over);
  }

  readonly #over = (): void => {
    this.#inFlight -= 1;
    if (this.#inFlight === 0) this.#busy += this.#clock.now() - this.#busySince;
  };
}
