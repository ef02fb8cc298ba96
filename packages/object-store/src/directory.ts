/**
 * A folder as an object store, on a local or a network file system.
 *
 *     <folder>/a/b/c            the object a/b/c
 *     <folder>/a/b/.<random>    a body on its way; never read, never listed
 *     <folder>/.dmkit-store     which store this is: 16 hexadecimal digits, made with the first object
 *
 * A body is written beside its place and synced, then gets its name: by link(2), which fails where the name is taken
 * (create), or by rename(2), which replaces (put); then the folder is synced. So an object is whole or absent, also
 * after a crash, and link(2) is the condition. Files that begin with a dot and are a day old are left by a crash:
 * whoever creates an object in that folder removes them. A folder goes with its last object, so whoever creates one
 * may find the folder gone that was just made, and makes it again.
 *
 * Nothing is said to be written, to be absent, or to be all there is, without the store being there: store-witness.ts.
 */
import { constants } from "node:fs";
import { type FileHandle, link, open, readdir, rename, rmdir, stat, unlink } from "node:fs/promises";
import { dirname, join, resolve, sep } from "node:path";
import {
  BlockIoError,
  type Environment,
  type Operation,
  codeOf,
  makeFoldersLater,
  realEnvironment,
  syncFolderLater,
  toBlockIoError,
} from "@dmkit/block-io";
import type { ObjectEntry, ObjectRange } from "./store.ts";
import { StoreWitness, absent } from "./store-witness.ts";
import {
  type Attempt,
  type Created,
  type ListPage,
  type ObjectTransport,
  failed,
  succeeded,
  tooLarge,
} from "./transport.ts";

// Each page is a walk of its own, in which every folder it comes by is read and sorted: few large ones.
const PAGE = 16_384;
const DAY = 24 * 3600 * 1000;
// Each time somebody else would have to remove the last object of a folder at just that moment.
const FOLDER_ATTEMPTS = 100;

/** A folder as an object store. */
export class DirectoryTransport implements ObjectTransport {
  readonly name: string;
  readonly #folder: string;
  readonly #environment: Environment;
  readonly #swept: Set<string> = new Set();
  readonly #witness: StoreWitness;
  #looked = false;

  /** @param folder the folder; it is made, with those above it, when the first object is created. */
  constructor(folder: string, environment: Environment = realEnvironment) {
    this.#folder = resolve(folder);
    this.name = this.#folder;
    this.#environment = environment;
    this.#witness = new StoreWitness(this.#folder, environment.random);
  }

  get(key: string, range: ObjectRange | undefined, most: number): Promise<Attempt<Buffer>> {
    return this.#try("read", key, async () => {
      const file = await open(join(this.#folder, key), constants.O_RDONLY);
      try {
        const { size } = await file.stat();
        const offset = Math.min(range?.offset ?? 0, size);
        const length = Math.min(range?.length ?? size, size - offset);
        if (length > most) throw tooLarge(this.name, key, length, most);
        return await readAll(file, offset, length);
      } finally {
        await file.close();
      }
    });
  }

  head(key: string): Promise<Attempt<ObjectEntry | undefined>> {
    return this.#try("read", key, async () => {
      const found = await stat(join(this.#folder, key)).catch(absent(undefined));
      if (found === undefined) await this.#witness.require();
      return found === undefined ? undefined : { key, size: found.size, modified: found.mtimeMs };
    });
  }

  create(key: string, body: Uint8Array): Promise<Attempt<Created>> {
    return this.#try("write", key, () =>
      this.#place(key, body, async (temporary, path) => {
        try {
          await link(temporary, path);
        } catch (error) {
          if (codeOf(error) === "EEXIST") return "exists" as const;
          throw error;
        } finally {
          await unlink(temporary);
        }
        return "created" as const;
      }),
    );
  }

  put(key: string, body: Uint8Array): Promise<Attempt<void>> {
    return this.#try("write", key, () =>
      this.#place(key, body, async (temporary, path) => {
        await rename(temporary, path);
      }),
    );
  }

  list(prefix: string, after: string): Promise<Attempt<ListPage>> {
    return this.#try("read", prefix, async () => {
      const entries: ObjectEntry[] = [];
      for await (const key of this.#walk("", prefix, after)) {
        const { size, mtimeMs } = await stat(join(this.#folder, key)).catch(absent({ size: -1, mtimeMs: 0 }));
        // Removed since it was listed.
        if (size < 0) continue;
        if (entries.length === PAGE) return { entries, more: true };
        entries.push({ key, size, modified: mtimeMs });
      }
      await this.#witness.require();
      return { entries, more: false };
    });
  }

  remove(key: string): Promise<Attempt<void>> {
    return this.#try("discard", key, async () => {
      const path = join(this.#folder, key);
      await unlink(path).catch(absent(undefined));
      await this.#witness.require();
      await syncFolderLater(dirname(path)).catch(absent(undefined));
      await this.#removeEmpty(dirname(path));
    });
  }

  /** An empty folder and those above it that are empty then, but not the store itself. */
  async #removeEmpty(folder: string): Promise<void> {
    for (let empty = folder; empty.startsWith(`${this.#folder}${sep}`); empty = dirname(empty)) {
      try {
        await rmdir(empty);
      } catch {
        // It is in use, or gone; and one that stays does no harm.
        return;
      }
    }
  }

  close(): Promise<void> {
    return Promise.resolve();
  }

  // In the byte order of keys: a folder sorts as its name with the slash behind it.
  async *#walk(folder: string, prefix: string, after: string): AsyncGenerator<string> {
    const found = await readdir(join(this.#folder, folder), { withFileTypes: true }).catch(absent([]));
    const names = found
      .filter((entry) => !entry.name.startsWith("."))
      .map((entry) => `${folder}${entry.name}${entry.isDirectory() ? "/" : ""}`)
      .toSorted((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
    for (const name of names) {
      if (!name.endsWith("/")) {
        if (name.startsWith(prefix) && name > after) yield name;
        continue;
      }
      const wanted = name.startsWith(prefix) || prefix.startsWith(name);
      // Nothing in a folder whose last possible key is not behind `after` is looked at.
      if (wanted && (after < name || after.startsWith(name))) yield* this.#walk(name, prefix, after);
    }
  }

  async #place<T>(
    key: string,
    body: Uint8Array,
    settle: (temporary: string, path: string) => Promise<T>,
  ): Promise<T> {
    const path = join(this.#folder, key);
    const folder = dirname(path);
    await this.#witness.require();
    if (!this.#witness.isKnown) {
      await this.#makeFolder(this.#folder);
      await this.#witness.make();
    }
    const { file, temporary } = await this.#newFile(folder);
    try {
      await file.writeFile(body);
      await file.sync();
    } catch (error) {
      await unlink(temporary).catch(() => {});
      throw error;
    } finally {
      await file.close();
    }
    const result = await settle(temporary, path);
    // An object that is removed at once takes its folder with it.
    await syncFolderLater(folder).catch(absent(undefined));
    // It may have gone while this was written to what lies below it.
    await this.#witness.require();
    return result;
  }

  async #newFile(folder: string): Promise<{ readonly file: FileHandle; readonly temporary: string }> {
    for (let attempt = 1; ; attempt += 1) {
      try {
        await this.#makeFolder(folder);
        const random = Math.floor(this.#environment.random.next() * 2 ** 48).toString(16);
        const temporary = join(folder, `.${random.padStart(12, "0")}`);
        return { file: await open(temporary, "wx"), temporary };
      } catch (error) {
        if (codeOf(error) !== "ENOENT" || attempt === FOLDER_ATTEMPTS) throw error;
      }
    }
  }

  // The names of new folders are durable before anything in them is.
  async #makeFolder(folder: string): Promise<void> {
    const first = await makeFoldersLater(folder);
    if (first !== undefined) {
      for (let made = folder; made.length >= first.length; made = dirname(made)) {
        // A handful of folders, once.
        await syncFolderLater(dirname(made));
      }
    }
    if (!this.#swept.has(folder)) await this.#sweep(folder);
  }

  async #sweep(folder: string): Promise<void> {
    this.#swept.add(folder);
    const old = this.#environment.clock.wallTime() - DAY;
    const names = (await readdir(folder)).filter((name) => /^\.[0-9a-f]{12}$/.test(name));
    await Promise.all(
      names.map(async (name) => {
        const path = join(folder, name);
        const { mtimeMs } = await stat(path).catch(absent({ mtimeMs: Number.POSITIVE_INFINITY }));
        if (mtimeMs < old) await unlink(path).catch(absent(undefined));
      }),
    );
  }

  async #try<T>(op: Operation, key: string, work: () => Promise<T>): Promise<Attempt<T>> {
    try {
      // Which store it was is known from the first request on, whatever that is.
      if (!this.#looked) await this.#witness.require();
      this.#looked = true;
      return succeeded(await work());
    } catch (error) {
      if (codeOf(error) === "ENOENT" && op === "read" && !isFileOnTheWay(error)) {
        const gone = await this.#witness.require().then(
          () => undefined,
          (reason: unknown) => reason,
        );
        if (gone !== undefined) return this.#failed(gone, op, key);
      }
      return this.#failed(error, op, key);
    }
  }

  #failed(error: unknown, op: Operation, key: string): Attempt<never> {
    const explained = explain(error, op, this.name, key);
    // What was gone may come back, with or without what was written just before.
    if (explained.code === "ENOTCONN") return failed(explained, "unclear", "yes");
    // A file system that refuses something says so again; what a crash leaves is a body without a name.
    return failed(explained, "nothing", "no");
  }
}

function explain(error: unknown, op: Operation, device: string, key: string): BlockIoError {
  if (error instanceof BlockIoError) return error;
  if (isFileOnTheWay(error)) {
    return new BlockIoError("is no folder, or a part of its path is a file", {
      code: "ENOENT",
      device,
      op,
      cause: error,
      hint: "A store is a folder, or s3://BUCKET[/PREFIX].",
    });
  }
  if (codeOf(error) === "ENOENT" && op === "read") {
    return new BlockIoError(`there is no object ${key}`, { code: "ENOENT", device, op, cause: error });
  }
  return toBlockIoError(error, { device, op });
}

// The system's own code: for what it asks, being no folder is like being absent. mkdir says that something is there.
function isFileOnTheWay(error: unknown): boolean {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return code === "ENOTDIR" || (code === "EEXIST" && syscall === "mkdir");
}

async function readAll(file: FileHandle, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.allocUnsafe(length);
  let done = 0;
  while (done < length) {
    // One read is the rule; more follow only if it was short.
    const { bytesRead } = await file.read(into, done, length - done, offset + done);
    if (bytesRead === 0) throw new BlockIoError("the file became shorter while it was read", { code: "EIO" });
    done += bytesRead;
  }
  return into;
}
