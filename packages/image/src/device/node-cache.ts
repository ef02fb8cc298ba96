/**
 * Blobs on the disk of this machine, shared by all images and processes.
 *
 *     <folder>/<first two digits>/<digest>       a blob as in the store
 *     <folder>/<first two digits>/.<random>      a blob on its way
 *
 * A blob gets its name when it is whole, by rename(2). Nothing is synced: who reads a blob verifies it, so after a crash
 * or an edit by hand the worst is that it is fetched again. Blobs that were not used for the longest time go when all of
 * them have more than `limit` bytes; the time of the last use is the file's modification time, to within an hour.
 *
 * A blob is looked up and read in this thread while the page cache answers: what is handed over to another thread a blob
 * costs as much again (docs/design/performance.md, object stores).
 */
import { closeSync, openSync, readSync, statSync, utimesSync } from "node:fs";
import { type FileHandle, open, readdir, rename, stat, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Environment, SyncGate, codeOf, makeFoldersLater } from "@dmkit/block-io";
import type { BodyMemory } from "@dmkit/object-store";
import { BLOB_HEAD, MAX_BLOB } from "../format/blob.ts";
import { type Digest, isDigest } from "../format/digest.ts";
import { newMemory } from "./blob-coder.ts";

const HOUR = 3_600_000;
// After this part of the limit was added, the folder is looked through again.
const SLACK = 16;

export class NodeCache {
  readonly #folder: string;
  readonly #limit: number;
  readonly #environment: Environment;
  /** Since the folder was last looked through. */
  #added: number;
  #trimming: Promise<void> | undefined;
  #told = false;
  readonly #reads: SyncGate;

  /** @param limit bytes of blobs, at least 16 MiB. */
  constructor(folder: string, limit: number, environment: Environment) {
    this.#folder = folder;
    this.#limit = limit;
    this.#environment = environment;
    this.#added = limit;
    this.#reads = new SyncGate(environment.clock);
  }

  /** The body of a blob, not verified; undefined where there is none. It may be in what `memory` gives. */
  async get(digest: Digest, memory: BodyMemory = newMemory): Promise<Buffer | undefined> {
    const path = this.#path(digest);
    try {
      if (this.#reads.enter()) return this.#readNow(path, memory);
      return await this.#readLater(path, memory);
    } catch (error) {
      if (codeOf(error) !== "ENOENT") this.#tell(error);
      return undefined;
    }
  }

  /** Keeps a blob; a disk that is full or read-only costs nothing but the next fetch. */
  async put(digest: Digest, body: Buffer): Promise<void> {
    const path = this.#path(digest);
    const random = Math.floor(this.#environment.random.next() * 2 ** 48).toString(16);
    const temporary = join(dirname(path), `.${random.padStart(12, "0")}`);
    try {
      const file = await this.#create(temporary);
      try {
        await file.writeFile(body);
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      this.#added += body.length;
    } catch (error) {
      await unlink(temporary).catch(() => {});
      this.#tell(error);
    }
    if (this.#added > this.#limit / SLACK) await this.#trim();
  }

  /** As {@link get}, where the disk has to be waited for. */
  async #readLater(path: string, memory: BodyMemory): Promise<Buffer | undefined> {
    const file = await open(path, "r");
    try {
      const { size, mtimeMs } = await file.stat();
      if (size > MAX_BLOB + BLOB_HEAD) return undefined;
      const now = this.#environment.clock.wallTime();
      if (Math.abs(now - mtimeMs) > HOUR) await file.utimes(now / 1000, now / 1000);
      const body = memory.take(size);
      const { bytesRead } = await file.read(body, 0, size, 0);
      return body.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  }

  /** As {@link get}, at once; the gate was entered. */
  #readNow(path: string, memory: BodyMemory): Buffer | undefined {
    let bytes = 0;
    try {
      const found = statSync(path, { throwIfNoEntry: false });
      if (found === undefined || found.size > MAX_BLOB + BLOB_HEAD) return undefined;
      const now = this.#environment.clock.wallTime();
      if (Math.abs(now - found.mtimeMs) > HOUR) utimesSync(path, now / 1000, now / 1000);
      const fd = openSync(path, "r");
      try {
        const body = memory.take(found.size);
        bytes = readSync(fd, body, 0, body.length, 0);
        // What is short fails its check.
        return body.subarray(0, bytes);
      } finally {
        closeSync(fd);
      }
    } finally {
      this.#reads.leave(bytes);
    }
  }

  // The folder is nearly always there.
  async #create(path: string): Promise<FileHandle> {
    try {
      return await open(path, "wx", 0o600);
    } catch (error) {
      if (codeOf(error) !== "ENOENT") throw error;
      await makeFoldersLater(dirname(path), 0o700);
      return open(path, "wx", 0o600);
    }
  }

  /** Forgets a blob that turned out to be damaged. */
  async remove(digest: Digest): Promise<void> {
    await unlink(this.#path(digest)).catch((error: unknown) => {
      if (codeOf(error) !== "ENOENT") this.#tell(error);
    });
  }

  #trim(): Promise<void> {
    this.#trimming ??= this.#trimNow()
      .catch((error: unknown) => this.#tell(error))
      .finally(() => (this.#trimming = undefined));
    return this.#trimming;
  }

  // What was kept meanwhile may not have been seen; those who have kept it wait, so it comes to an end.
  async #trimNow(): Promise<void> {
    do await this.#removeOldest();
    while (this.#added > this.#limit / SLACK);
  }

  async #removeOldest(): Promise<void> {
    this.#added = 0;
    const files: { readonly path: string; readonly size: number; readonly used: number }[] = [];
    let bytes = 0;
    const yesterday = this.#environment.clock.wallTime() - 24 * HOUR;
    for (const part of await readdir(this.#folder)) {
      if (!/^[0-9a-f]{2}$/.test(part)) continue;
      for (const name of await readdir(join(this.#folder, part))) {
        const path = join(this.#folder, part, name);
        // Another process may have removed it.
        const found = await stat(path).catch(() => undefined);
        if (found === undefined) continue;
        if (isDigest(name)) {
          files.push({ path, size: found.size, used: found.mtimeMs });
          bytes += found.size;
        } else if (/^\.[0-9a-f]{12}$/.test(name) && found.mtimeMs < yesterday) {
          // A crash left it.
          await unlink(path).catch(() => {});
        }
      }
    }
    const goal = this.#limit - this.#limit / SLACK;
    if (bytes <= this.#limit) return;
    for (const { path, size } of files.toSorted((a, b) => a.used - b.used)) {
      if (bytes <= goal) return;
      await unlink(path).catch(() => {});
      bytes -= size;
    }
  }

  #path(digest: Digest): string {
    return join(this.#folder, digest.slice(0, 2), digest);
  }

  #tell(cause: unknown): void {
    if (this.#told) return;
    this.#told = true;
    const reason = cause instanceof Error ? cause.message : String(cause);
    this.#environment.logger.log(
      "warn",
      "the cache on this node does not work; blobs are fetched each time",
      {
        folder: this.#folder,
        reason,
      },
    );
  }
}
