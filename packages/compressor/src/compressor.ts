/**
 * A compressor: one backend and a pool of streams. This is the guard: everything is checked here once, and
 * backends get arguments that are right.
 */
import { availableParallelism } from "node:os";
import { type Backend, validateBackend } from "./backend.ts";
import { type Clock, realClock } from "./clock.ts";
import { tryDictionary, withDictionary } from "./dictionary.ts";
import { CompressorError, failed } from "./errors.ts";
import { integerOption, requireKnown } from "./options.ts";
import { Pool } from "./pool.ts";
import { findBackend, load } from "./registry.ts";
import { type Slot, Stream, type StreamHome } from "./stream.ts";
import { ThreadTeam, canRunOnThreads } from "./threads/team.ts";

const MAX_STREAMS = 1024;
const MAX_THREADS = 64;
const MAX_INPUT = 16 * 1024 * 1024;
const MAX_OUTPUT = 1024 * 1024 * 1024;
/** Two pages: what a page-sized input gets at the very least. */
const MIN_OUTPUT_BUFFER = 8192;

/** How a compressor is made. */
export interface CompressorOptions {
  /** The most streams at a time, 1 … 1024; default: {@link defaultStreams}. */
  readonly maxStreams?: number | undefined;
  /** The longest input, in bytes, 1 … 16777216; default 131072. A stream's output buffer is sized by it. */
  readonly maxInput?: number | undefined;
  /** Compression level, within the backend's range; default: the backend's own. */
  readonly level?: number | undefined;
  /** Milliseconds after which unused streams begin to be given up, 0 … 86400000; 0 = never; default 10000. */
  readonly idleTime?: number | undefined;
  /**
   * Worker threads, 0 … 64, for a backend whose library has none; default: as many as streams, but no more than
   * the machine runs in parallel. None are started if `maxInput` is so short that they would never be used.
   */
  readonly threads?: number | undefined;
  /**
   * A dictionary, 8 … 1048576 bytes: what inputs are likely to have in common; a trained one, or any such bytes. What is
   * compressed with it only a compressor with the same bytes decompresses; another one may give wrong bytes. Deflate uses the
   * last 32 KiB of it, lz4 the last 64 KiB. Everything is done on the calling thread.
   */
  readonly dictionary?: Uint8Array | undefined;
  /** Where timers come from; default: real ones that do not keep the process alive. */
  readonly clock?: Clock | undefined;
}

const names: readonly (keyof CompressorOptions)[] = [
  "maxStreams",
  "maxInput",
  "level",
  "idleTime",
  "threads",
  "dictionary",
  "clock",
];

/** As many streams as the machine runs threads in parallel. */
export function defaultStreams(): number {
  return Math.min(availableParallelism(), MAX_STREAMS);
}

/** What a compressor is doing at the moment. */
export interface CompressorStatus {
  readonly backend: string;
  readonly level: number;
  /** Streams there are, of these idle, and callers in line for one. */
  readonly streams: number;
  readonly idle: number;
  readonly waiting: number;
  readonly maxStreams: number;
  /** How often a further stream could not be created. */
  readonly failures: number;
  /** Worker threads alive; 0 where the backend's library has its own. */
  readonly threads: number;
}

/**
 * Creates a compressor: finds and loads the backend, starts its threads, creates the first stream. All that may
 * wait or do I/O is done here, before the compressor is used.
 *
 * @param backend a known name, or a backend itself.
 * @throws CompressorError `ENOENT` (unknown name, listing the known ones), `ENOTSUP` (its package is missing),
 *   `EINVAL` (an option is out of range; the dictionary is none), `ENOMEM` (not even one stream could be created), `ENOTSUP`
 *   also where the backend has no dictionaries.
 */
export async function createCompressor(
  backend: string | Backend,
  options: CompressorOptions = {},
): Promise<Compressor> {
  const plain = typeof backend === "string" ? findBackend(backend) : backend;
  validateBackend(plain);
  requireKnown(plain.name, names, options);
  const { dictionary, clock } = options;
  if (clock !== undefined && typeof (clock as Partial<Clock> | null)?.after !== "function")
    throw new CompressorError("the clock is none", { code: "EINVAL", backend: plain.name });
  const chosen = dictionary === undefined ? plain : withDictionary(plain, dictionary);
  const settings = resolveOptions(chosen, options);
  await load(chosen);
  if (dictionary !== undefined) tryDictionary(chosen, settings.level);
  const team = await startTeam(chosen, settings);
  try {
    // A backend may find a better way when it is loaded again; contexts go on with the one they were made by.
    const isPlain = Object.getPrototypeOf(chosen) === Object.prototype;
    return new Compressor(isPlain ? { ...chosen } : chosen, settings, team);
  } catch (cause) {
    await team?.close();
    throw new CompressorError("not even one stream could be created", {
      code: "ENOMEM",
      backend: chosen.name,
      cause,
    });
  }
}

/** {@link CompressorOptions}, checked and complete. */
interface Settings {
  readonly maxStreams: number;
  readonly maxInput: number;
  readonly level: number;
  readonly idleTime: number;
  readonly threads: number;
  /** Whether the threads are as many as the streams, rather than a number of their own. */
  readonly threadsFollow: boolean;
  readonly clock: Clock;
  /** Bytes of a stream's output buffer. */
  readonly outputLength: number;
}

function resolveOptions(backend: Backend, options: CompressorOptions): Settings {
  const { name, levels } = backend;
  const integer = (option: keyof CompressorOptions, min: number, max: number, fallback: number): number =>
    integerOption(name, option, options[option] as number | undefined, min, max, fallback);

  const maxStreams = integer("maxStreams", 1, MAX_STREAMS, defaultStreams());
  const maxInput = integer("maxInput", 1, MAX_INPUT, 131072);
  return {
    maxStreams,
    maxInput,
    level: integer("level", levels?.min ?? 0, levels?.max ?? 0, levels?.default ?? 0),
    idleTime: integer("idleTime", 0, 86_400_000, 10_000),
    threads: integer("threads", 0, MAX_THREADS, threadsFor(maxStreams)),
    threadsFollow: options.threads === undefined,
    clock: options.clock ?? realClock,
    outputLength: Math.max(MIN_OUTPUT_BUFFER, backend.bound(maxInput)),
  };
}

/** Worker threads for so many streams: no more than the machine runs in parallel. */
function threadsFor(maxStreams: number): number {
  return Math.min(maxStreams, availableParallelism(), MAX_THREADS);
}

async function startTeam(backend: Backend, settings: Settings): Promise<ThreadTeam | undefined> {
  const { level, threads, maxInput, outputLength } = settings;
  const entry = backend.worker;
  const useful = maxInput > Math.min(backend.syncCompress, backend.syncDecompress);
  if (entry === undefined || threads === 0 || !useful || !canRunOnThreads(entry)) return undefined;
  const capacity = Math.max(maxInput, outputLength);
  return await ThreadTeam.start({ backend: backend.name, entry, settings: { level }, threads, capacity });
}

/** Made by {@link createCompressor}. */
export class Compressor {
  readonly #backend: Backend;
  readonly #settings: Settings;
  readonly #team: ThreadTeam | undefined;
  readonly #pool: Pool<Slot>;
  readonly #home: StreamHome;
  #closing: Promise<void> | undefined;

  /** @internal */
  constructor(backend: Backend, settings: Settings, team: ThreadTeam | undefined) {
    this.#backend = backend;
    this.#settings = settings;
    this.#team = team;
    const { level, outputLength, maxStreams, maxInput, idleTime, clock } = settings;
    this.#pool = new Pool<Slot>({
      create: () => {
        const output = Buffer.allocUnsafeSlow(outputLength);
        return { context: backend.createContext({ level }), output };
      },
      destroy: ({ context }) => backend.destroyContext(context),
      max: maxStreams,
      idleTime,
      clock,
    });
    this.#home = { backend, team, maxInput, giveBack: (slot) => this.#pool.release(slot) };
  }

  /** Name of the backend. */
  get name(): string {
    return this.#backend.name;
  }

  /** The longest input, in bytes. */
  get maxInput(): number {
    return this.#settings.maxInput;
  }

  /** The most bytes that `length` bytes can compress to. */
  bound(length: number): number {
    return this.#backend.bound(length);
  }

  /**
   * Takes a stream, waiting in line for it if need be. Whoever gets it is its only user, and the only user of
   * its output buffer, until {@link Stream.release}. Rejects with `ESHUTDOWN` if the compressor is closed.
   */
  async acquire(): Promise<Stream> {
    return new Stream(await this.#pool.acquire(), this.#home);
  }

  /** Takes a stream if that is possible at once, without overtaking anybody who waits. */
  tryAcquire(): Stream | undefined {
    const slot = this.#pool.tryAcquire();
    return slot === undefined ? undefined : new Stream(slot, this.#home);
  }

  /** Whether an input of this many bytes is better compressed with {@link Stream.compressSync}. */
  prefersSync(length: number): boolean {
    return length <= this.#backend.syncCompress;
  }

  /**
   * Decompresses at once; needs no stream.
   *
   * @param src exactly one compressed stream; may be hostile.
   * @param dst the most that is wanted; must not overlap `src`. Undefined contents after an error.
   * @returns the number of bytes written to `dst`, from its start: compare it with what you expect.
   * @throws CompressorError `EFORMAT` if `src` is malformed or yields more than `dst` holds.
   */
  decompressSync(src: Uint8Array, dst: Uint8Array): number {
    return this.#decompressed(src, dst, (backend) => backend.decompress(src, dst)) as number;
  }

  /**
   * Fills `dst` with what the content, `length` bytes at most, has from byte `from` on, at once, and without all the rest.
   * As {@link decompressSync}, but for what is wrong behind that part. Undefined where the backend cannot.
   */
  decompressPartSync(src: Uint8Array, dst: Uint8Array, from: number, length: number): number | undefined {
    return this.#decompressed(src, dst, (backend) => backend.decompressPart?.(src, dst, from, length));
  }

  /**
   * As {@link decompressSync}, on another thread where the input is long enough for that to pay. `src` and
   * `dst` are ours until the promise settles.
   */
  async decompress(src: Uint8Array, dst: Uint8Array): Promise<number> {
    if (dst.length <= this.#backend.syncDecompress) return this.decompressSync(src, dst);
    this.#checkDecompress(src, dst);
    try {
      if (this.#backend.decompressAsync !== undefined) {
        return this.#checkLength(await this.#backend.decompressAsync(src, dst), dst);
      }
      const team = this.#team;
      if (team !== undefined && src.length <= team.capacity && dst.length <= team.capacity) {
        const length = await team.run("decompress", src, dst);
        if (length !== undefined) return this.#checkLength(length, dst);
      }
    } catch (error) {
      throw this.#asError(error);
    }
    return this.decompressSync(src, dst);
  }

  status(): CompressorStatus {
    const { total, idle, waiting, failures } = this.#pool.status();
    return {
      backend: this.name,
      level: this.#settings.level,
      streams: total,
      idle,
      waiting,
      maxStreams: this.#pool.max,
      failures,
      threads: this.#team?.size ?? 0,
    };
  }

  /**
   * Changes how many streams there may be, 1 … 1024, at once; surplus ones go when they are released. Worker threads
   * follow, unless their number was given: resolves when they are there. Errors: `EINVAL`; `ENOTSUP` (a thread did
   * not start, and there are as many as before).
   */
  async setMaxStreams(maxStreams: number): Promise<void> {
    const streams = integerOption(this.name, "maxStreams", maxStreams, 1, MAX_STREAMS, 1);
    this.#pool.resize(streams);
    if (this.#settings.threadsFollow) await this.#team?.resize(threadsFor(streams));
  }

  /**
   * Refuses whoever waits for a stream (`ESHUTDOWN`), waits until all streams are released, then gives up
   * memory and threads. Idempotent. Decompression goes on working, on the calling thread.
   */
  close(): Promise<void> {
    this.#closing ??= this.#pool.close().then(() => this.#team?.close());
    return this.#closing;
  }

  #decompressed(
    src: Uint8Array,
    dst: Uint8Array,
    work: (backend: Backend) => number | undefined,
  ): number | undefined {
    this.#checkDecompress(src, dst);
    try {
      const length = work(this.#backend);
      return length === undefined ? undefined : this.#checkLength(length, dst);
    } catch (error) {
      throw this.#asError(error);
    }
  }

  #checkDecompress(src: Uint8Array, dst: Uint8Array): void {
    if (dst.length > MAX_OUTPUT || src.length > MAX_OUTPUT) {
      throw new CompressorError(`decompressing ${src.length} into ${dst.length} bytes is too much at once`, {
        code: "EOVERFLOW",
        backend: this.name,
        hint: `Stay within ${MAX_OUTPUT} bytes`,
      });
    }
  }

  /** A backend that is not ours may return anything. */
  #checkLength(length: number, dst: Uint8Array): number {
    if (Number.isInteger(length) && length >= 0 && length <= dst.length) return length;
    throw new CompressorError(`the backend returned ${length} as a length`, {
      code: "EIO",
      backend: this.name,
    });
  }

  /** Damage is what a backend says is damage: what else it throws says nothing of the data. */
  #asError(error: unknown): CompressorError {
    return error instanceof CompressorError ? error : failed(this.name, error);
  }
}
