/**
 * A backup as a new version in a place that keeps versions of devices: all of a device, or what has changed with the rest
 * taken from the version before.
 *
 * Invariants:
 *
 * - the name means the new version only when all of it is there, and compared where that is asked for;
 * - a name that means something is not given another meaning unless that was asked for, and by nobody else meanwhile;
 * - what is not known to have changed is taken from before only if samples of it are what the source has.
 */
import {
  type Bitmap,
  type BlockDevice,
  type Environment,
  type Kept,
  type VersionStore,
  refuse,
} from "@dmkit/block-io";
import { PIECE, requireBefore, verify } from "./backup.ts";
import { type Since, epochsIn, noteWith, requireSince } from "./origin.ts";

export interface KeepRequest {
  readonly store: VersionStore;
  readonly to: string;
  readonly environment: Environment;
  /** The pieces that have changed since the version before; undefined: all of it is read. */
  readonly changed: Bitmap | undefined;
  /** What had begun by the moment of the source, to be noted with the version: ids of names. */
  readonly epochs?: readonly string[];
  /** The name that the changes are since, and its id. */
  readonly since?: Pick<Since, "name" | "id">;
  /** Told where nothing shows that the version before is not older than that. */
  readonly unshown?: (version: string) => void;
  /** The version before; what `to` means unless given. */
  readonly from: string | undefined;
  /** The name may mean something else already. */
  readonly force: boolean;
  readonly verify: boolean;
  readonly signal: AbortSignal;
  /** Told of bytes of the source: that are done, and then that are compared. */
  readonly progress: (done: number) => void;
  readonly comparing: (done: number) => void;
}

/** Errors: `EEXIST`, `ENOENT`, `EINVAL`, what {@link verify} says, those of source and store. */
export async function backUpVersion(source: BlockDevice, request: KeepRequest): Promise<Kept> {
  const { store, to, environment, changed, from, force, signal, progress, comparing } = request;
  const anything = force && changed === undefined;
  const now = anything ? undefined : await store.find(to, environment);
  if (now !== undefined && (changed === undefined || from !== undefined))
    throw refuse(
      to,
      "EEXIST",
      "is a version already",
      changed === undefined
        ? "Nothing was written. Give another name, or --force to give this one another meaning."
        : "Nothing was written. Leave --from out to go on from it, or give another name.",
    );
  const before = changed && (await versionBefore(source, request, now));
  return store.keep(source, to, {
    environment,
    replaces: anything ? undefined : (now ?? null),
    since: changed && before !== undefined ? { version: before, changed: rangesOf(changed) } : undefined,
    note: noteWith(request.epochs ?? []),
    signal,
    progress,
    check: request.verify
      ? (version) =>
          reading(store, version, environment, (copy) =>
            verify(source, copy, { signal, progress: comparing }),
          )
      : undefined,
  });
}

/** Runs `work` with a version of a device open. */
export async function reading<T>(
  store: VersionStore,
  version: string,
  environment: Environment,
  work: (device: BlockDevice) => Promise<T>,
): Promise<T> {
  const device = await store.open(version, environment);
  try {
    return await work(device);
  } finally {
    await device.close();
  }
}

/** What the changes are since, which has to be what the source was then. */
async function versionBefore(
  source: BlockDevice,
  { store, to, from, environment, changed, since, unshown }: KeepRequest,
  now: string | undefined,
): Promise<string> {
  const version = from === undefined ? now : await store.find(from, environment);
  if (version === undefined)
    throw refuse(
      from ?? to,
      "ENOENT",
      "is no version yet: there is nothing that the changes are since",
      "Give the backup before with --from, or back up all of it, without --since.",
    );
  const backup = from ?? to;
  const note = await store.noteOf(backup, environment);
  if (since !== undefined && !requireSince({ backup, ...since }, epochsIn(note))) unshown?.(backup);
  await reading(store, version, environment, async (before) => {
    if (before.size !== source.size)
      throw refuse(
        from ?? to,
        "EINVAL",
        `has ${before.size} bytes, the device ${source.size}`,
        "Back up all of it, without --since.",
      );
    await requireBefore(source, before, changed as Bitmap, 0);
  });
  return version;
}

function* rangesOf(pieces: Bitmap): Generator<{ readonly offset: number; readonly length: number }> {
  for (let at = pieces.find(true, 0); at < pieces.length; ) {
    const end = pieces.find(false, at, pieces.length);
    yield { offset: at * PIECE, length: (end - at) * PIECE };
    at = pieces.find(true, end);
  }
}
