/** Where an undo file lives: a file of the operating system, or in tests something that loses power. */
import { type FileHandle, open } from "node:fs/promises";
import { dirname } from "node:path";
import { BlockIoError, codeOf, refuse, toBlockIoError } from "@dmkit/block-io";

export interface UndoStorage {
  /** Bytes. */
  size(): Promise<number>;
  /** Bytes read: fewer than asked for at the end. */
  read(offset: number, into: Buffer): Promise<number>;
  write(offset: number, from: Buffer): Promise<void>;
  truncate(size: number): Promise<void>;
  /** Makes stable all that was written before this call. */
  sync(): Promise<void>;
  close(): Promise<void>;
}

/** A new file, its name on stable storage. Throws `EEXIST`, and what the system says. */
export async function createUndoFile(path: string): Promise<UndoStorage> {
  let handle: FileHandle;
  try {
    handle = await open(path, "wx+", 0o600);
  } catch (error) {
    const code = codeOf(error);
    throw new BlockIoError(code === "EEXIST" ? "exists already" : (error as Error).message, {
      code,
      device: path,
      op: "open",
      cause: error,
      hint:
        code === "EEXIST"
          ? "Give --undo the name of a new file: an older one may still be needed, to be undone after the new one."
          : "Give a file in a folder that is there and may be written to, on a file system that is not the one being repaired.",
    });
  }
  try {
    const folder = await open(dirname(path), "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (error) {
    await handle.close();
    throw toBlockIoError(error, { device: dirname(path), op: "open" });
  }
  return new FileStorage(path, handle);
}

const NAMED_BY_UNDO = "Give the file that was named by --undo.";

/** An undo file that is there. Throws `ENOENT`, `EACCES` … */
export async function openUndoFile(path: string): Promise<UndoStorage> {
  try {
    const handle = await open(path, "r+");
    const stat = await handle.stat();
    if (stat.isFile()) return new FileStorage(path, handle);
    await handle.close();
    throw refuse(path, "EINVAL", "is not a file", NAMED_BY_UNDO);
  } catch (error) {
    if (error instanceof BlockIoError) throw error;
    const directory = (error as { code?: unknown }).code === "EISDIR";
    const code = directory ? "EINVAL" : codeOf(error);
    const reason = directory ? "is a directory, not an undo file" : "the undo file cannot be opened";
    throw new BlockIoError(reason, {
      code,
      device: path,
      op: "open",
      cause: error,
      hint: code === "EACCES" ? "It must be writable: what was undone is noted in it." : NAMED_BY_UNDO,
    });
  }
}

class FileStorage implements UndoStorage {
  readonly #path: string;
  readonly #handle: FileHandle;

  constructor(path: string, handle: FileHandle) {
    this.#path = path;
    this.#handle = handle;
  }

  async size(): Promise<number> {
    return (await this.#handle.stat()).size;
  }

  async read(offset: number, into: Buffer): Promise<number> {
    let done = 0;
    while (done < into.length) {
      const { bytesRead } = await this.#try(() =>
        this.#handle.read(into, done, into.length - done, offset + done),
      );
      if (bytesRead === 0) break;
      done += bytesRead;
    }
    return done;
  }

  async write(offset: number, from: Buffer): Promise<void> {
    let done = 0;
    while (done < from.length) {
      const { bytesWritten } = await this.#try(() =>
        this.#handle.write(from, done, from.length - done, offset + done),
      );
      done += bytesWritten;
    }
  }

  truncate(size: number): Promise<void> {
    return this.#try(() => this.#handle.truncate(size));
  }

  sync(): Promise<void> {
    return this.#try(() => this.#handle.sync());
  }

  close(): Promise<void> {
    return this.#handle.close();
  }

  async #try<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      const code = codeOf(error);
      throw new BlockIoError(`the undo file: ${(error as Error).message}`, {
        code,
        device: this.#path,
        cause: error,
        hint:
          code === "ENOSPC"
            ? "Nothing was overwritten that is not saved. Give --undo a file with more room."
            : undefined,
      });
    }
  }
}
