/**
 * A library of the system, which the optional package koffi calls. Whoever declares functions of one sees to it that they
 * are told of no more bytes than a buffer has: nothing else stands between them and the memory of the process.
 */
import { createRequire } from "node:module";
import { notLoaded } from "../backend.ts";
import { CompressorError, failed, isOfSystem } from "../errors.ts";

type Koffi = Pick<typeof import("koffi"), "load">;
/** A library as koffi has loaded it. */
export type Loaded = ReturnType<Koffi["load"]>;

/** A function of a library that works on bytes; its result is a length, or an error that is no length. */
export interface Call<Args extends unknown[]> {
  (...args: Args): number;
  async(...args: [...Args, (error: Error | null, result: number) => void]): void;
}

/** Calls of a library on other threads at a time; koffi refuses more than 256 in the process, whoever makes them. */
export const CALLS = 32;

/** What calls on other threads work on: koffi keeps the addresses of buffers only. */
const inUse: Set<unknown[]> = new Set();

/** Calls a function on another thread; {@link CALLS} at a time, which is for the caller to see to. */
export function elsewhere<Args extends unknown[]>(
  backend: string,
  call: Call<Args>,
  args: Args,
): Promise<number> {
  return new Promise((resolve, reject) => {
    call.async(...args, (error, result) => {
      inUse.delete(args);
      if (error === null) resolve(result);
      else reject(failed(backend, error));
    });
    inUse.add(args);
  });
}

/** What to load, and what for. */
interface Wanted<Functions> {
  /** Name of the backend. */
  readonly backend: string;
  /** As the system finds it: `libzstd.so.1`. */
  readonly file: string;
  /** Its packages, for people. */
  readonly packages: string;
  /** Declares what is called; throws if it is too old. */
  readonly declare: (loaded: Loaded) => Functions;
}

export class SystemLibrary<Functions> {
  readonly #wanted: Wanted<Functions>;
  #functions: Functions | undefined;
  /** For good: what passes, a lack of memory or descriptors, is tried again with the next compressor. */
  #problem: CompressorError | undefined;

  constructor(wanted: Wanted<Functions>) {
    this.#wanted = wanted;
  }

  /** Rejects with `ENOTSUP` where it is missing. */
  async load(): Promise<void> {
    if (this.#problem !== undefined) throw this.#problem;
    if (this.#functions !== undefined) return;
    const { backend, file, packages, declare } = this.#wanted;
    try {
      this.#functions = declare((await koffi()).load(file));
    } catch (cause) {
      const isOver = isOfSystem(cause);
      const error = new CompressorError(`the library ${file} does not load`, {
        code: "ENOTSUP",
        backend,
        cause,
        hint: isOver
          ? "Memory or descriptors were wanting; it is tried again with the next compressor"
          : `Install it (${packages}), and the package koffi (npm install koffi)`,
      });
      if (!isOver) this.#problem = error;
      throw error;
    }
  }

  /** Throws `EINVAL` before it was loaded. */
  get functions(): Functions {
    if (this.#functions === undefined) throw notLoaded(this.#wanted.backend);
    return this.#functions;
  }
}

/** Throws unless the library is of that version or a later one; numbers as it counts them. */
export function requireVersion(version: unknown, oldest: number): void {
  if (!(Number(version) >= oldest))
    throw new Error(`its version is ${String(version)}, and ${oldest} the oldest that is used`);
}

/** An import that has failed fails ever after; what is required is looked for again. */
async function koffi(): Promise<Koffi> {
  try {
    return (await import("koffi")).default;
  } catch (error) {
    if (!isOfSystem(error)) throw error;
    return createRequire(import.meta.url)("koffi") as Koffi;
  }
}
