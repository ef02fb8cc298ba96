/**
 * What a workload has written, sector by sector, and what may be read of it after a crash and damage.
 *
 * A sector's content names the write and the sector it belongs to, so that whatever is read can be told apart: the
 * newest that was flushed (or something later), something older, or bytes that were never written there.
 */
import { SeededRandom } from "@dmkit/block-io/testing";

export const SECTOR = 512;

const ZEROES = Buffer.alloc(SECTOR);

/** `newer`: not flushed, so it may be there or not. */
export type Verdict = "flushed" | "newer" | "older" | "garbage";

export class Oracle {
  /** By sector: numbers of the writes, oldest first; 0 is what was there before. */
  readonly #versions: number[][];
  readonly #flushed: number[];
  readonly #noise: Set<number> = new Set();
  #writes = 0;
  readonly #contents: Map<number, Buffer> = new Map();

  /** @param sectors of the device. */
  constructor(sectors: number) {
    this.#versions = Array.from({ length: sectors }, () => [0]);
    this.#flushed = Array.from({ length: sectors }, () => 0);
  }

  get sectors(): number {
    return this.#versions.length;
  }

  /** Notes a write; its data. @param noise bytes that no algorithm makes smaller, instead of text. */
  write(sector: number, count: number, noise = false): Buffer {
    this.#writes += 1;
    if (noise) this.#noise.add(this.#writes);
    const data = Buffer.alloc(count * SECTOR);
    for (let index = 0; index < count; index += 1) {
      this.#versions[sector + index]?.push(this.#writes);
      this.#content(this.#writes, sector + index).copy(data, index * SECTOR);
    }
    return data;
  }

  /** Notes zeroes, as a write. */
  writeZeroes(sector: number, count: number): void {
    for (let at = sector; at < sector + count; at += 1) this.#versions[at]?.push(0);
  }

  /** Notes that a flush has succeeded. */
  flush(): void {
    for (const [sector, versions] of this.#versions.entries()) this.#flushed[sector] = versions.length - 1;
  }

  judge(sector: number, bytes: Buffer): Verdict {
    const versions = this.#versions[sector] as number[];
    const flushed = this.#flushed[sector] as number;
    const is = (index: number): boolean => this.#content(versions[index] as number, sector).equals(bytes);
    if (is(flushed)) return "flushed";
    for (let index = versions.length - 1; index >= 0; index -= 1)
      if (is(index)) return index > flushed ? "newer" : "older";
    return "garbage";
  }

  /** What was flushed last, for all sectors. */
  stable(): Buffer {
    return Buffer.concat(
      this.#versions.map((versions, sector) =>
        this.#content(versions[this.#flushed[sector] as number] as number, sector),
      ),
    );
  }

  #content(write: number, sector: number): Buffer {
    const key = write * this.sectors + sector;
    let content = write === 0 ? ZEROES : this.#contents.get(key);
    if (content === undefined) {
      content = this.#noise.has(write)
        ? new SeededRandom(key).fill(Buffer.alloc(SECTOR))
        : Buffer.alloc(SECTOR, `write ${write}, sector ${sector}. `);
      this.#contents.set(key, content);
    }
    return content;
  }
}
