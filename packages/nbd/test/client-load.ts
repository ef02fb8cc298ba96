/** Random requests of several workers at once, each answer checked by the oracle. */
import { type BlockDevice, BlockIoError } from "@dmkit/block-io";
import type { SeededRandom } from "@dmkit/block-io/testing";
import type { Oracle } from "./client-oracle.ts";

const SECTOR = 512;

export class Load {
  readonly #device: BlockDevice;
  readonly #oracle: Oracle;
  readonly #random: SeededRandom;
  readonly #tolerated: readonly string[];
  /** Requests begun so far. */
  operations = 0;

  /** @param tolerated codes of errors that do not end the load. */
  constructor(device: BlockDevice, oracle: Oracle, random: SeededRandom, tolerated: readonly string[] = []) {
    this.#device = device;
    this.#oracle = oracle;
    this.#random = random;
    this.#tolerated = tolerated;
  }

  async run(operations: number, workers: number): Promise<void> {
    const worker = async (): Promise<void> => {
      while (this.operations < operations) {
        this.operations += 1;
        await this.#step().catch((error: unknown) => {
          if (!(error instanceof BlockIoError && this.#tolerated.includes(error.code))) throw error;
        });
      }
    };
    await Promise.all(Array.from({ length: workers }, worker));
  }

  async flush(): Promise<void> {
    const submitted = this.#oracle.now();
    await this.#device.flush();
    this.#oracle.flushed(submitted);
  }

  async #step(): Promise<void> {
    const random = this.#random;
    const { size } = this.#device;
    // Clustered, so that requests overlap.
    const offset = random.below(size / SECTOR / 4) * 4 * SECTOR + random.below(3) * SECTOR;
    const length = Math.min(size - offset, (1 + random.below(6)) * SECTOR);
    const kind = random.below(10);
    if (kind < 4) await this.#write(offset, length, kind === 0);
    else if (kind < 5) await this.#zero(offset, length);
    else if (kind < 6) await this.flush();
    else await this.#read(offset, length);
  }

  async #write(offset: number, length: number, fua: boolean): Promise<void> {
    const { data, acknowledged } = this.#oracle.submit(offset, length, false);
    await this.#device.write(offset, data, { fua });
    acknowledged(fua);
    data.fill(0xdd);
  }

  async #zero(offset: number, length: number): Promise<void> {
    const { acknowledged } = this.#oracle.submit(offset, length, true);
    await this.#device.writeZeroes(offset, length);
    acknowledged();
  }

  async #read(offset: number, length: number): Promise<void> {
    const submitted = this.#oracle.now();
    const into = Buffer.alloc(length, 0xee);
    await this.#device.read(offset, into);
    this.#oracle.check(offset, into, submitted);
  }
}
