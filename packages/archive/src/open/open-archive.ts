/** Opens archives: to read a disk as of a moment, and to go on with it. */
import {
  type Environment,
  type SettingsTable,
  realEnvironment,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import { openImage, printImageReference } from "@dmkit/image";
import { type ObjectStore, openStore } from "@dmkit/object-store";
import { Archive } from "../device/archive.ts";
import { type History, type When, historyOf } from "../device/history.ts";
import { fetchLog } from "../device/log-file.ts";
import type { ReplayOptions } from "../device/replay.ts";
import { ArchiveView } from "../device/view.ts";
import { type AttachedArchive, type LocalLog, attachTo } from "./attach.ts";
import {
  type ArchiveReference,
  parseArchiveReference,
  parseDiskReference,
  pinnedReference,
} from "./reference.ts";

/** How an archive is used. */
export interface WithArchiveOptions {
  readonly environment?: Environment | undefined;
  /** Ends all that is under way at the store, with `ESHUTDOWN`. */
  readonly signal?: AbortSignal | undefined;
}

const withSettings: SettingsTable<WithArchiveOptions> = {
  environment: setting.environment,
  signal: setting.signal,
};

/** Runs `work` with the archive that a reference names. */
export async function withArchive<T>(
  { store: location, disk }: Pick<ArchiveReference, "store" | "disk">,
  work: (archive: Archive) => Promise<T>,
  options: WithArchiveOptions = {},
): Promise<T> {
  const { environment = realEnvironment, signal } = checkSettings(withSettings, options);
  const store = await openStore(location, { environment, mustExist: true });
  const archive = new Archive(store, disk);
  try {
    return await endedBy(signal, store, () => work(archive));
  } finally {
    await archive.close();
    await store.close();
  }
}

/**
 * Opens a disk as of a moment, read-only. Errors: `EPARSE`, those of the store; `ENOENT` for a disk there is not, or a
 * moment that was collected; `EINVAL` for one there is not; `EIO` for a log that is damaged; `ENOSPC` where there is no
 * room to fetch the log to.
 */
export async function openArchive(
  text: string,
  environment: Environment = realEnvironment,
  name: string = text,
  fetching: ReplayOptions = {},
): Promise<ArchiveView> {
  checkSettings(workSettings, fetching);
  const { store: location, disk, when } = parseArchiveReference(text);
  const store = await openStore(location, { environment, mustExist: true });
  const archive = new Archive(store, disk);
  const release = async (): Promise<void> => {
    await archive.close();
    await store.close();
  };
  try {
    await archive.record();
    const history = await historyOf(archive, when);
    return await viewOf(archive, location, history, { when, name, environment, release, fetching });
  } catch (error) {
    await release();
    throw error;
  }
}

/** How a view is opened. */
export interface ViewOptions {
  readonly when: When;
  readonly name: string;
  readonly environment: Environment;
  /** How fetching the log is ended, and tells how far it is. */
  readonly fetching?: ReplayOptions | undefined;
  /** Called when it is closed. */
  readonly release: () => Promise<void>;
}

/** A view of a history, over the image of its checkpoint in the store at `location`. */
export async function viewOf(
  archive: Archive,
  location: string,
  history: History,
  { when, name, environment, release, fetching = {} }: ViewOptions,
): Promise<ArchiveView> {
  const base = await openImage({ image: baseReference(location, archive.disk, history) }, { environment });
  try {
    const log = await fetchLog(archive, history, when, environment, fetching);
    const closeAll = async (): Promise<void> => {
      await log.file.close();
      await base.close();
      await release();
    };
    const pinned = pinnedReference(location, archive.disk, log.id);
    return new ArchiveView(name, { archive, base, history, log, pinned, release: closeAll });
  } catch (error) {
    await base.close();
    throw error;
  }
}

/** The image that the log lies over, as `image` targets take it, without the scheme's name. */
export function baseReference(location: string, disk: string, { checkpoint }: History): string {
  const reference = { store: location, name: disk, tag: "", tagSaid: false, digest: undefined };
  return printImageReference(reference, checkpoint.digest);
}

/** What `attachArchive` does. */
export async function attachDisk(
  location: string,
  local: LocalLog,
  signal?: AbortSignal,
): Promise<AttachedArchive> {
  const { store: place, disk } = parseDiskReference(location);
  const store = await openStore(place, { environment: local.environment });
  return await endedBy(signal, store, () => attachTo(store, disk, local));
}

/** While `work` runs the signal closes the store, which ends all that is under way there. */
async function endedBy<T>(
  signal: AbortSignal | undefined,
  store: ObjectStore,
  work: () => Promise<T>,
): Promise<T> {
  const end = (): void => void store.close();
  signal?.addEventListener("abort", end);
  try {
    return await work();
  } finally {
    signal?.removeEventListener("abort", end);
  }
}
