/**
 * What may be read, sector by sector, while writes and reads run at the same time and servers come and go.
 *
 * Every write has a number, which fills its sectors. `w -> x`: w was acknowledged before x was submitted.
 *
 * - A read may not return v if some w with v -> w was acknowledged before the read was submitted.
 * - Once a value was seen to be replaced by another (two reads, one after the other), it may not come back.
 * - On stable storage may be: any write that does not precede one that was forced, or acknowledged before a
 *   successful flush was submitted.
 */
import { expect } from "vitest";

interface Write {
  readonly submitted: number;
  acknowledged: number;
  /** Forced, or acknowledged before a flush that succeeded. */
  stable: boolean;
}

interface Sighting {
  readonly value: number;
  readonly submitted: number;
  readonly finished: number;
}

const SECTOR = 512;

export class Oracle {
  readonly #sectors: Map<number, Write>[];
  readonly #sightings: Sighting[][];
  // Values that were replaced, and when that was known.
  readonly #gone: Map<number, number>[];
  #time = 0;
  #writes = 0;

  constructor(size: number) {
    const count = size / SECTOR;
    this.#sectors = Array.from(
      { length: count },
      () => new Map([[0, { submitted: 0, acknowledged: 0, stable: true }]]),
    );
    this.#sightings = Array.from({ length: count }, () => []);
    this.#gone = Array.from({ length: count }, () => new Map());
  }

  now(): number {
    this.#time += 1;
    return this.#time;
  }

  /** A write of a new number is submitted. Zeroes count as a write of number 0. */
  submit(
    offset: number,
    length: number,
    zeroes: boolean,
  ): { data: Buffer; acknowledged: (stable?: boolean) => void } {
    const submitted = this.now();
    this.#writes += 1;
    // A sector zeroed twice has two writes of the same value: the later one stands for both.
    const number = zeroes ? 0 : this.#writes;
    const data = Buffer.alloc(length);
    for (let at = 0; at < length; at += 4) data.writeUInt32LE(number, at);
    const writes: Write[] = [];
    for (let sector = offset / SECTOR; sector < (offset + length) / SECTOR; sector += 1) {
      const write = { submitted, acknowledged: Number.POSITIVE_INFINITY, stable: false };
      (this.#sectors.at(sector) as Map<number, Write>).set(number, write);
      this.#gone[sector]?.delete(number);
      writes.push(write);
    }
    return {
      data,
      acknowledged: (stable = false) => {
        const now = this.now();
        for (const write of writes) {
          write.acknowledged = now;
          write.stable ||= stable;
        }
      },
    };
  }

  /** Checks what a read returned. @param submitted from {@link now}, before the read. */
  check(offset: number, data: Buffer, submitted: number): void {
    const finished = this.now();
    for (let at = 0; at < data.length; at += SECTOR) {
      const sector = (offset + at) / SECTOR;
      const value = uniform(data.subarray(at, at + SECTOR), `sector ${sector}`);
      const writes = this.#sectors.at(sector) as Map<number, Write>;
      const found = writes.get(value);
      if (found === undefined) expect.fail(`sector ${sector} holds ${value}, which was never written there`);
      for (const [number, write] of writes) {
        if (found.acknowledged < write.submitted && write.acknowledged < submitted) {
          expect.fail(`sector ${sector} holds ${value}, although ${number} was acknowledged after it`);
        }
      }
      this.#see(sector, { value, submitted, finished });
    }
  }

  #see(sector: number, sighting: Sighting): void {
    const gone = this.#gone.at(sector) as Map<number, number>;
    const since = gone.get(sighting.value);
    if (sighting.value !== 0 && since !== undefined && since < sighting.submitted) {
      expect.fail(`sector ${sector} holds ${sighting.value} again`);
    }
    const sightings = this.#sightings.at(sector) as Sighting[];
    for (const earlier of sightings) {
      if (
        earlier.value !== sighting.value &&
        earlier.finished < sighting.submitted &&
        !gone.has(earlier.value)
      ) {
        gone.set(earlier.value, sighting.finished);
      }
    }
    sightings.push(sighting);
    if (sightings.length > 8) sightings.shift();
  }

  /** A flush that was submitted at `submitted` succeeded. */
  flushed(submitted: number): void {
    for (const writes of this.#sectors) {
      for (const write of writes.values()) if (write.acknowledged < submitted) write.stable = true;
    }
  }

  /** Checks what is on stable storage. */
  checkStable(image: Buffer): void {
    for (const [sector, writes] of this.#sectors.entries()) {
      const value = uniform(
        image.subarray(sector * SECTOR, (sector + 1) * SECTOR),
        `stable sector ${sector}`,
      );
      const found = writes.get(value);
      if (found === undefined)
        expect.fail(`stable sector ${sector} holds ${value}, which was never written there`);
      for (const [number, write] of writes) {
        if (write.stable && found.acknowledged < write.submitted) {
          expect.fail(`stable sector ${sector} holds ${value}, although ${number} was flushed after it`);
        }
      }
    }
  }
}

function uniform(sector: Buffer, what: string): number {
  const value = sector.readUInt32LE(0);
  for (let at = 4; at < sector.length; at += 4) {
    if (sector.readUInt32LE(at) !== value)
      expect.fail(`${what} is a mixture of ${value} and ${sector.readUInt32LE(at)}`);
  }
  return value;
}
