/**
 * What could be discarded on the device below a device of format 1, once the metadata that says so is stable.
 * Advice only: what does not fit in here is not discarded, and nothing is wrong if a discard fails.
 */
import type { BlockDevice } from "@dmkit/block-io";
import type { ExtentMap } from "../../core/extent-map.ts";
import type { Run } from "../../core/runs.ts";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";

const MAX_RUNS = 4096;

export class Discards {
  readonly #lower: BlockDevice;
  readonly #map: ExtentMap;
  readonly #dataOffset: number;
  readonly #holes: boolean;
  readonly #wanted: boolean;
  #runs: Run[] = [];

  /** @param holes discard what lies behind payloads, too. */
  constructor(lower: BlockDevice, map: ExtentMap, dataOffset: number, holes: boolean) {
    this.#lower = lower;
    this.#map = map;
    this.#dataOffset = dataOffset;
    this.#holes = holes;
    this.#wanted = lower.limits.capabilities.discard !== "none";
  }

  /** Something was stored or dropped here. */
  add(first: number, blocks: number): void {
    if (!this.#wanted || this.#runs.length >= MAX_RUNS) return;
    if (!this.#holes && !this.#hasHole(first, blocks)) return;
    const last = this.#runs.at(-1);
    if (last !== undefined && last.first + last.blocks === first) {
      this.#runs[this.#runs.length - 1] = { first: last.first, blocks: last.blocks + blocks };
    } else this.#runs.push({ first, blocks });
  }

  /** What has come together so far. */
  take(): readonly Run[] {
    const runs = this.#runs;
    if (runs.length > 0) this.#runs = [];
    return runs;
  }

  /** To be called while nobody can change these blocks, and the metadata on the disk says what the map does. */
  async carryOut({ first, blocks }: Run): Promise<void> {
    const end = first + blocks;
    for (let block = first; block < end; ) {
      if (this.#map.isHole(block)) {
        const start = block;
        while (block < end && this.#map.isHole(block)) block += 1;
        await this.#discard(start * BLOCK, block * BLOCK);
        continue;
      }
      const extent = this.#map.find(block);
      const next = extent.head + extent.blocks;
      if (this.#holes && !extent.bad) {
        await this.#discard(extent.head * BLOCK + payloadBytes(extent.sectors), next * BLOCK);
      }
      block = Math.max(block + 1, next);
    }
  }

  #hasHole(first: number, blocks: number): boolean {
    for (let block = first; block < first + blocks; block += 1) if (this.#map.isHole(block)) return true;
    return false;
  }

  async #discard(from: number, to: number): Promise<void> {
    const { logicalBlockSize, discardGranularity } = this.#lower.limits;
    const unit = Math.max(logicalBlockSize, discardGranularity);
    const start = Math.ceil((this.#dataOffset + from) / unit) * unit;
    const end = Math.floor((this.#dataOffset + to) / unit) * unit;
    if (end > start) await this.#lower.discard(start, end - start).catch(() => {});
  }
}
