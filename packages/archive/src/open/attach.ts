/**
 * A write cache begins to archive its log, or goes on to. The archive decides whether it may:
 *
 *      no such disk            a cache that has never been used begins one: what its disk holds is published as an image
 *      its own newest epoch    it goes on, in an epoch of its own, with the first segment that is not in the archive
 *      another one's           refused: `ESHUTDOWN` for a cache that was replaced, `EEXIST` for one that is new
 *
 * Invariant: a cache that goes on has every segment that the archive lacks, and the archive has none that it lacks.
 */
import { hostname } from "node:os";
import {
  type BlockDevice,
  type BlockIoError,
  type Environment,
  LinearDevice,
  type WatchedFacts,
  isoTime,
  refuse,
} from "@dmkit/block-io";
import { publish } from "@dmkit/image";
import { Archive, type ArchiveSettings, type Epoch } from "../device/archive.ts";
import { LogWriter, replacedBy } from "../device/log-writer.ts";
import { BEGINNING, checkpointTag, diskKey } from "../format/keys.ts";
import type { LogSegment } from "../format/log-object.ts";
import { type Token, encodeDisk } from "../format/records.ts";
import { type ObjectStore, probeConditionalCreate } from "@dmkit/object-store";
import { claim, randomToken } from "./claim.ts";
import { holdImage } from "./hold-image.ts";

/** The cache whose log is archived. */
export interface LocalLog {
  /** Its name for the archive: 32 hexadecimal digits. */
  readonly token: Token;
  /** The id of its last segment; 0 for one that has never been used. */
  readonly last: number;
  /** The id of the first segment that it still has. */
  readonly first: number;
  /** The disk behind the cache; what it holds is all there is while `last` is 0. */
  readonly backing: BlockDevice;
  /** Bytes of it that count. */
  readonly size: number;
  readonly environment: Environment;
  /** Told how much of the disk has been published, where an archive begins; bytes, and in a word what is done. */
  readonly progress?: ((done: number, of: number, what: string) => void) | undefined;
}

/** An archive that takes the segments of a cache, in the order of their ids. */
export interface AttachedArchive {
  /** For messages. */
  readonly name: string;
  /** The last segment that is in the archive, as the cache calls it. */
  readonly shipped: number;
  /** What is to be added to the id of a segment on the cache to get its id in the archive. */
  readonly offset: number;
  /** Why the store does not take anything at the moment. */
  readonly trouble: Error | undefined;
  /** See {@link LogWriter.replaced}. */
  readonly replaced: Error | undefined;
  /** See {@link LogWriter.write}. */
  write(local: number, segments: readonly LogSegment[]): Promise<void>;
  close(): Promise<void>;
  /** What its store was asked since it was attached. */
  facts(): WatchedFacts;
}

/** Attaches a cache to a disk in `store`, which is closed with it, or at once if that fails. */
export async function attachTo(
  store: ObjectStore,
  disk: string,
  local: LocalLog,
  { host = hostname(), ...settings }: ArchiveSettings & { readonly host?: string } = {},
): Promise<AttachedArchive> {
  const archive = new Archive(store, disk, settings);
  const close = async (): Promise<void> => {
    await archive.close();
    await store.close();
  };
  try {
    return await attach(archive, local, host, close);
  } catch (error) {
    await close();
    throw error;
  }
}

async function attach(
  archive: Archive,
  local: LocalLog,
  host: string,
  close: () => Promise<void>,
): Promise<AttachedArchive> {
  const { token, last, first, environment } = local;
  if ((await archive.find()) === undefined) await begin(archive, local);
  const record = await archive.record();
  if (record.size !== local.size) {
    const hint = "Give the cache the disk that it was used with, or the archive another name.";
    throw refuse(
      archive.name,
      "EINVAL",
      `the disk in the archive has ${record.size} bytes, this one ${local.size}`,
      hint,
    );
  }
  const check = async (newest: Epoch | undefined): Promise<void> => {
    if (newest?.token === token) return;
    // The first opening did not come to its end.
    if (newest === undefined && record.token === token) return;
    const wasHere = last > 0 || (await archive.hasEpochOf(token));
    throw wasHere ? replacedBy(archive.name, newest) : alreadyThere(archive.name, newest);
  };
  const { epoch, nonce, before } = await claim(archive, { token, host, environment, check });
  const { end } = before;
  const shipped = end.token === token ? end.local : 0;
  if (shipped > last || first > shipped + 1) {
    const reason =
      shipped > last
        ? `the archive has segments up to ${shipped} of this cache, which has lost those behind ${last}`
        : `the cache has gone on without its archive: segments ${shipped + 1} to ${first - 1} are in neither`;
    const hint = "Take the disk over from the archive (dmkit archive takeover), or begin another one.";
    throw refuse(archive.name, "EFORMAT", reason, hint);
  }
  const writer = new LogWriter(archive, { epoch, nonce, token, id: end.id }, environment);
  return {
    name: archive.name,
    shipped,
    offset: end.id - shipped,
    get trouble() {
      return writer.trouble;
    },
    get replaced() {
      return writer.replaced;
    },
    write: (id, segments) => writer.write(id, segments),
    async close() {
      writer.close();
      await close();
    },
    facts: () => archive.store.facts?.() ?? {},
  };
}

async function begin(archive: Archive, local: LocalLog): Promise<void> {
  const { token, last, backing, size, environment, progress } = local;
  const { store, disk } = archive;
  if (last > 0) {
    throw refuse(
      archive.name,
      "ENOENT",
      "there is no such disk in the archive, and this cache has been used before",
      "An archive begins with a new cache: write this one back (dmkit replay), then give the disk a new cache file.",
    );
  }
  await probeConditionalCreate(store, randomToken(environment));
  const source = backing.size === size ? backing : new LinearDevice(backing, 0, size, backing.name);
  const { digest } = await publish(source, store, {
    name: disk,
    tag: checkpointTag(BEGINNING),
    environment,
    progress: ({ done, total }) => progress?.(done, total, "publishing"),
  });
  const record = encodeDisk({ token, size, time: environment.clock.wallTime(), base: digest });
  // Whoever lost is told by the record of the other one.
  await store.create(diskKey(disk), record);
  await holdImage(archive, await archive.checkpoint(BEGINNING), environment);
}

function alreadyThere(device: string, newest: Epoch | undefined): BlockIoError {
  const by = newest === undefined ? "" : `, opened last by ${newest.host} at ${isoTime(newest.time)}`;
  const hint = "To go on with it here: dmkit archive takeover. For another disk, give another name.";
  return refuse(device, "EEXIST", `there is such a disk already${by}`, hint);
}
