/**
 * Which store a folder holds: 16 hexadecimal digits and a line feed in a file of its own, made with the first object.
 *
 * Invariant: once it is known, whoever asks is told when the folder holds another store, or none. What is mounted can go
 * away, and below it is an empty folder, which would take everything and deny what was there. Stores of older versions
 * have no such file until something is written to them; of these nothing is known.
 */
import { link, readFile, unlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { BlockIoError, type Random, STORE_WITNESS, codeOf, syncFolderLater } from "@dmkit/block-io";

export class StoreWitness {
  readonly #folder: string;
  readonly #random: Random;
  #known: string | undefined;

  constructor(folder: string, random: Random) {
    this.#folder = folder;
    this.#random = random;
  }

  get isKnown(): boolean {
    return this.#known !== undefined;
  }

  /** Rejects with `ENOTCONN` unless this is the store that it was before. */
  async require(): Promise<void> {
    const found = await this.#read().catch(absent(undefined));
    this.#known ??= found;
    if (found === this.#known) return;
    throw new BlockIoError("the store is gone: its folder does not hold what it held", {
      code: "ENOTCONN",
      device: this.#folder,
      hint: `Mount it again, or put back its file ${STORE_WITNESS}; dmkit goes on by itself.`,
    });
  }

  /** Names the store, unless somebody else just did. The folder must be there. */
  async make(): Promise<void> {
    const random = Math.floor(this.#random.next() * 2 ** 48).toString(16);
    const temporary = join(this.#folder, `.${random.padStart(12, "0")}`);
    const name = `${random.padStart(16, "0")}\n`;
    await writeFile(temporary, name, { flag: "wx", flush: true });
    try {
      await link(temporary, join(this.#folder, STORE_WITNESS));
    } catch (error) {
      if (codeOf(error) !== "EEXIST") throw error;
    } finally {
      await unlink(temporary);
    }
    await syncFolderLater(this.#folder);
    this.#known = await this.#read();
  }

  #read(): Promise<string> {
    return readFile(join(this.#folder, STORE_WITNESS), "latin1");
  }
}

/** Handles a rejection: the value where there is no such file. */
export function absent<T>(value: T): (error: unknown) => T {
  return (error) => {
    if (codeOf(error) === "ENOENT") return value;
    throw error;
  };
}
