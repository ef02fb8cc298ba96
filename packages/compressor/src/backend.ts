/**
 * What a compression backend is.
 *
 * A backend is stateless but for what {@link Backend.load} brings in: working memory lives in contexts, and a
 * context is used by one compression at a time. The callers in compressor.ts have checked every argument, so a
 * backend need not: `src` and `dst` are byte arrays that do not overlap, `level` lies in the backend's range.
 */
import { CompressorError } from "./errors.ts";

/** The compression levels a backend knows; higher is smaller and slower. */
export interface Levels {
  readonly min: number;
  readonly max: number;
  readonly default: number;
}

/** What a context is made for. */
export interface ContextSettings {
  /** Within the backend's {@link Backend.levels}; 0 where it has none. */
  readonly level: number;
}

/** Where a worker thread finds a backend: an exported name of a module. */
export interface WorkerEntry {
  /** URL of an ES module, usually `import.meta.url`. */
  readonly module: string;
  readonly exportName: string;
}

/** An algorithm: what it is called, whether it works here, and how a stream of it is made. */
export interface Backend<Context = unknown> {
  /** Lower-case letters, digits and dashes, at most 32: as it appears in tables, options and superblocks. */
  readonly name: string;
  /** One line for people. */
  readonly description: string;
  /** The number, 0 … 255, by which on-disk formats name the algorithm; only where such a format exists. */
  readonly id?: number;
  readonly levels?: Levels;
  /**
   * The longest input, in bytes, that is better compressed (decompressed) at once than handed to another
   * thread. Measured: see bench/boundary.mjs.
   */
  readonly syncCompress: number;
  readonly syncDecompress: number;
  /**
   * Given: inputs above those limits run on worker threads, which import the backend from here. For a backend
   * whose library has no threads of its own.
   */
  readonly worker?: WorkerEntry;

  /**
   * Brings in what the backend needs, once, before anything else is called. Throws {@link CompressorError}
   * `ENOTSUP` with a hint if it is missing.
   */
  load?(): Promise<void>;
  /** Allocates private working memory. Must neither wait nor do I/O; may throw. */
  createContext(settings: ContextSettings): Context;
  /** Gives the working memory back. Must not throw. */
  destroyContext(context: Context): void;
  /** The most bytes that `length` bytes can compress to. */
  bound(length: number): number;
  /** Compresses all of `src`; returns the bytes written to `dst`, or -1 if they do not fit. */
  compress(src: Uint8Array, dst: Uint8Array, context: Context): number;
  /**
   * Decompresses hostile bytes; returns the bytes written to `dst`. Throws `EFORMAT` if `src` is anything but
   * one whole, well-formed stream, or yields more than `dst` holds.
   */
  decompress(src: Uint8Array, dst: Uint8Array): number;
  /**
   * Where less has to be decoded for a part: fills `dst` with what the content, `length` bytes at most, has from byte `from`
   * on. As {@link decompress}, but for what is wrong behind that part. Undefined: not for such a length.
   */
  decompressPart?(src: Uint8Array, dst: Uint8Array, from: number, length: number): number | undefined;
  /** As {@link compress}, on a thread of the backend's library. */
  compressAsync?(src: Uint8Array, dst: Uint8Array, context: Context): Promise<number>;
  /** As {@link decompress}, on a thread of the backend's library. */
  decompressAsync?(src: Uint8Array, dst: Uint8Array): Promise<number>;
  /**
   * The same algorithm with a dictionary: bytes that inputs are likely to have in common, which are never changed. What
   * is compressed with it can be decompressed with it only; with another one the result is wrong, or `EFORMAT`.
   * For backends that can; see {@link atOnce}.
   */
  withDictionary?(dictionary: Uint8Array): Backend<Context>;
}

/** A backend as `plain` is, but for how it works: always on the thread that calls. For dictionaries. */
export function atOnce<Context>(
  plain: Backend<Context>,
  work: Pick<Backend<Context>, "compress" | "decompress"> & Pick<Backend<Context>, "load">,
): Backend<Context> {
  const { name, description, levels } = plain;
  return {
    name,
    description: `${description}; with a dictionary`,
    ...(levels && { levels }),
    syncCompress: Number.POSITIVE_INFINITY,
    syncDecompress: Number.POSITIVE_INFINITY,
    createContext: (settings) => plain.createContext(settings),
    destroyContext: (context) => plain.destroyContext(context),
    bound: (length) => plain.bound(length),
    ...work,
  };
}

/** Throws `EINVAL` if a backend breaks its declaration; for backends that are not ours. */
export function validateBackend(backend: Backend): void {
  const { name, id, levels } = backend;
  const complain = (what: string): never => {
    throw new CompressorError(what, { code: "EINVAL", backend: name });
  };
  if (typeof name !== "string" || !/^[a-z][a-z0-9-]{0,31}$/.test(name)) {
    complain("a backend's name is 1 … 32 lower-case letters, digits and dashes, a letter first");
  }
  if (id !== undefined && (!Number.isInteger(id) || id < 0 || id > 255)) complain("id is not in 0 … 255");
  for (const limit of ["syncCompress", "syncDecompress"] as const) {
    if (!(backend[limit] >= 0)) complain(`${limit} is not a number of bytes`);
  }
  for (const method of ["createContext", "destroyContext", "bound", "compress", "decompress"] as const) {
    if (typeof backend[method] !== "function") complain(`${method} is not a function`);
  }
  if (levels !== undefined) {
    const values = [levels.min, levels.default, levels.max];
    const ordered = levels.min <= levels.default && levels.default <= levels.max;
    if (!ordered || !values.every(Number.isInteger))
      complain("levels are not integers min <= default <= max");
  }
}

/** The error for a package that is missing or does not load. */
export function missingPackage(backend: string, name: string, cause: unknown): CompressorError {
  return new CompressorError(`the package "${name}" is missing or does not load`, {
    code: "ENOTSUP",
    backend,
    cause,
    hint:
      `Install it (npm install ${name}) without leaving out optional dependencies, or choose a backend ` +
      `that needs no package: lzo, deflate, none`,
  });
}

/** The error for a backend used before it was loaded. */
export function notLoaded(backend: string): CompressorError {
  return new CompressorError("the backend was used before it was loaded", {
    code: "EINVAL",
    backend,
    hint: "Use it through createCompressor(), or await its load() first",
  });
}

/** `bytes` as a Buffer over the same memory, for libraries that insist on one. */
export function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Moves a library's own output buffer into `dst`; -1 if it does not fit. */
export function deliver(output: Uint8Array, dst: Uint8Array): number {
  if (output.length > dst.length) return -1;
  dst.set(output);
  return output.length;
}
