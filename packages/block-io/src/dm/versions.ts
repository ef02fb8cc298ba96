/** Where whole devices are kept in versions that never change, an object store say: what backups go to beside devices. */
import type { BlockDevice } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";

/** What a new version is made of, and how. */
export interface KeepOptions {
  readonly environment: Environment;
  /**
   * What the name must mean until the new version takes its place, as `find` told; null: nothing. Anything, unless given.
   * Errors where it means something else: `EBUSY`.
   */
  readonly replaces?: string | null | undefined;
  /** The version before, as `find` told, and the ranges in bytes, in order, that can differ from it: no others are read. */
  readonly since?:
    | {
        readonly version: string;
        readonly changed: Iterable<{ readonly offset: number; readonly length: number }>;
      }
    | undefined;
  /** To be found with the name, see `noteOf`. One line. */
  readonly note?: string | undefined;
  /** Called when all is there and stable, before the name means it. What it throws ends the work, and the name stays. */
  readonly check?: ((version: string) => Promise<void>) | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Told of the bytes of the source that are done, unchanged ones included. */
  readonly progress?: ((done: number) => void) | undefined;
}

/** What has become of a device that was kept. Bytes. */
export interface Kept {
  /** A reference that always means this version. */
  readonly version: string;
  /** Of the source. */
  readonly read: number;
  /** Of what was read, what was there already. */
  readonly known: number;
  /** As they were sent. */
  readonly uploaded: number;
}

/** A place for versions of devices. */
export interface VersionStore {
  /**
   * A reference that always means the version that this one means now; undefined: the name means nothing yet. Errors:
   * `EPARSE`, those of the store.
   */
  find(reference: string, environment: Environment): Promise<string | undefined>;
  /** What was noted by who made a name mean what it means now. Undefined: nothing, or not by a name. Errors: as those of `find`. */
  noteOf(reference: string, environment: Environment): Promise<string | undefined>;
  /** A version to be read once, all of it or some: nothing of it is kept on this machine. Errors: `ENOENT`, those of the store. */
  open(reference: string, environment: Environment): Promise<BlockDevice>;
  /**
   * Keeps a device, which must not change meanwhile, as a new version, and makes the name mean it. Run again, it goes on
   * with what is there. Errors: `EPARSE`, `EINVAL` for a version before that cannot be one, `EBUSY`, those of source and store.
   */
  keep(source: BlockDevice, reference: string, options: KeepOptions): Promise<Kept>;
}

/** How a target says that it has such a place. */
export interface Versions {
  /** Whether a reference means something there. */
  takes(reference: string): boolean;
  readonly load: () => Promise<VersionStore>;
}
