/** The backends there are: a static list, and what users register. */
import { type Backend, type Levels, validateBackend } from "./backend.ts";
import { deflate } from "./backends/deflate.ts";
import { lz4 } from "./backends/lz4.ts";
import { lzo } from "./backends/lzo.ts";
import { none } from "./backends/none.ts";
import { zstd } from "./backends/zstd.ts";
import { CompressorError } from "./errors.ts";

/** The backend to use where nobody chose one. */
export const DEFAULT_BACKEND = "lz4";

const backends: Map<string, Backend> = new Map(
  ([lz4, lzo, deflate, zstd, none] as readonly Backend[]).map((backend) => [backend.name, backend]),
);

/** What {@link describeBackends} says of a backend. */
export interface BackendDescription {
  readonly name: string;
  readonly description: string;
  readonly id: number | undefined;
  readonly levels: Levels | undefined;
  /** Whether it can work here and now. */
  readonly available: boolean;
  /** Why it cannot. */
  readonly problem: CompressorError | undefined;
}

/**
 * Makes a backend of your own known by its name, for the whole process and for good.
 *
 * @throws CompressorError `EINVAL` if its declaration is broken, `EEXIST` if its name or id is taken.
 */
export function registerBackend(backend: Backend): void {
  validateBackend(backend);
  for (const known of backends.values()) {
    if (known.name === backend.name || (backend.id !== undefined && known.id === backend.id)) {
      throw new CompressorError(`a backend "${known.name}" with that name or id is known already`, {
        code: "EEXIST",
        backend: backend.name,
      });
    }
  }
  backends.set(backend.name, backend);
}

/** Names of all known backends, our own first, whether or not they can work here. */
export function listBackends(): string[] {
  return [...backends.keys()];
}

/** Names of those that know dictionaries. */
export function namesWithDictionary(): string[] {
  return [...backends.values()].filter((one) => one.withDictionary !== undefined).map(({ name }) => name);
}

/** All known backends; loads each to find out whether it can work here. */
export function describeBackends(): Promise<BackendDescription[]> {
  return Promise.all([...backends.values()].map(describe));
}

async function describe(backend: Backend): Promise<BackendDescription> {
  const { name, description, id, levels } = backend;
  const problem = await load(backend).then(
    () => undefined,
    (error: CompressorError) => error,
  );
  return { name, description, id, levels, available: problem === undefined, problem };
}

/**
 * The backend of a name, or of the number an on-disk format names it by. It is not loaded yet.
 *
 * @throws CompressorError `ENOENT`, listing what is known.
 */
export function findBackend(nameOrId: string | number): Backend {
  for (const backend of backends.values()) {
    if (backend.name === nameOrId || (typeof nameOrId === "number" && backend.id === nameOrId))
      return backend;
  }
  const known = [...backends.values()].map(({ name, id }) =>
    id === undefined || typeof nameOrId === "string" ? name : `${name} (id ${id})`,
  );
  throw new CompressorError(`there is no compression backend ${JSON.stringify(nameOrId)}`, {
    code: "ENOENT",
    hint: `Choose one of: ${known.join(", ")}`,
  });
}

/** Loads a backend; whatever goes wrong comes as a {@link CompressorError}. */
export async function load(backend: Backend): Promise<void> {
  try {
    await backend.load?.();
  } catch (cause) {
    if (cause instanceof CompressorError) throw cause;
    throw new CompressorError("the backend does not load", { code: "ENOTSUP", backend: backend.name, cause });
  }
}
