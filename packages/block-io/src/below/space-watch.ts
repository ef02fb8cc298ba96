/**
 * Whether the devices that something lives on could be filled to their ends: a file with holes may be larger than
 * what its file system has left. Tells in the log when that becomes so, once, and has the figure for the status.
 */
import { type BlockDevice, storageBelow } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";

/** Notices when storage below a device could not be filled to its end. */
export class SpaceWatch {
  readonly #name: string;
  readonly #devices: readonly BlockDevice[];
  readonly #environment: Environment;
  /** Bytes that are missing if all of the devices is used; 0 also where nothing is known. */
  missing = 0;

  /** @param name for the log: whose devices they are. */
  constructor(name: string, devices: readonly BlockDevice[], environment: Environment) {
    this.#name = name;
    this.#devices = devices;
    this.#environment = environment;
  }

  /** Looks again. Never rejects. */
  async look(): Promise<void> {
    const needs = new Map<string, { free: number; unallocated: number }>();
    for (const { id, free, unallocated } of await storageBelow(this.#devices)) {
      if (free === undefined || unallocated === undefined) continue;
      const known = needs.get(id) ?? { free, unallocated: 0 };
      needs.set(id, { free: Math.min(free, known.free), unallocated: known.unallocated + unallocated });
    }
    let missing = 0;
    for (const { free, unallocated } of needs.values()) missing += Math.max(0, unallocated - free);
    const isNews = missing > 0 && this.missing === 0;
    this.missing = missing;
    if (!isNews) return;
    this.#environment.logger.log(
      "warn",
      "the file system below has less space left than this can come to need",
      {
        device: this.#name,
        files: this.#devices.map(({ name }) => name).join(", "),
        missing,
        hint: "Make room, or reserve the storage of the files, e.g. with: fallocate -l SIZE FILE",
      },
    );
  }
}
