/**
 * The modules of the bundle, which lie beside this one: read, and compiled or taken from what was compiled before
 * ([kept-code.ts]). The modules are CommonJS, because Node takes such code for no others before 22.1.
 *
 * Each is loaded once, and those of packages and of Node come from Node. Threads load the same files by Node's own loader.
 */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { cachedDataVersionTag } from "node:v8";
import { Script } from "node:vm";
import { crc32 } from "node:zlib";
import { type Kept, readKept, writeKept } from "./kept-code.ts";

interface Module {
  exports: unknown;
}

type Wrapper = (
  this: unknown,
  exports: unknown,
  require: (id: string) => unknown,
  module: Module,
  filename: string,
  dirname: string,
) => void;

const COMPILED = "compiled";

export class Modules {
  readonly #folder: string;
  readonly #file: string;
  readonly #require: (id: string) => unknown;
  readonly #loaded: Map<string, Module> = new Map();
  /** What was compiled here, since nobody had kept it. */
  #fresh: { readonly name: string; readonly of: number; readonly script: Script }[] = [];
  #kept: ReadonlyMap<string, Kept> | undefined;

  /**
   * @param folder of the modules.
   * @param command whose modules they are: what one command has compiled is of little use for another.
   * @param require for what does not lie there.
   */
  constructor(folder: string, command: string, require: (id: string) => unknown) {
    this.#folder = folder;
    // Another Node, or other flags, want other code.
    const engine = `${process.version}-${process.arch}-${cachedDataVersionTag().toString(16)}`;
    this.#file = join(folder, COMPILED, engine, command);
    this.#require = require;
  }

  /** What the module exports. */
  load(name: string): unknown {
    const known = this.#loaded.get(name);
    if (known !== undefined) return known.exports;
    const module: Module = { exports: {} };
    this.#loaded.set(name, module);
    const path = join(this.#folder, name);
    const require = (id: string): unknown =>
      id.startsWith("./") ? this.load(id.slice(2)) : this.#require(id);
    const run = this.#compile(name, path).runInThisContext() as Wrapper;
    run.call(module.exports, module.exports, require, module, path, this.#folder);
    return module.exports;
  }

  /** Keeps what was compiled since the start, or since the last time. What cannot be kept is compiled again. */
  keep(): void {
    // Also of those that were not needed this time, or were kept by others meanwhile, but not of older modules.
    const fresh = this.#fresh.splice(0);
    this.#kept = undefined;
    if (fresh.length === 0) return;
    try {
      const kept = readKept(this.#file);
      for (const name of kept.keys()) if (!existsSync(join(this.#folder, name))) kept.delete(name);
      for (const { name, of, script } of fresh) kept.set(name, { of, code: script.createCachedData() });
      writeKept(this.#folder, this.#file, kept);
    } catch {
      // A disk that is full or read-only.
    }
  }

  #compile(name: string, path: string): Script {
    const source = readFileSync(path);
    const of = crc32(source);
    this.#kept ??= readKept(this.#file);
    const kept = this.#kept.get(name);
    const script = new Script(
      // All are ASCII: half the memory.
      `(function (exports, require, module, __filename, __dirname) {${source.toString("latin1")}\n})`,
      {
        filename: path,
        cachedData: kept?.of === of ? kept.code : undefined,
      },
    );
    if (script.cachedDataRejected !== false) this.#fresh.push({ name, of, script });
    return script;
  }
}
