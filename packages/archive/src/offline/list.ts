/** What is in a store, and what is known of one disk. */
import { refuse } from "@dmkit/block-io";
import type { ObjectStore } from "@dmkit/object-store";
import { Archive, type Epoch, type LogPlace } from "../device/archive.ts";
import { type When, historyOf, segmentsOf } from "../device/history.ts";
import { DISKS, diskOfKey, keepKey } from "../format/keys.ts";
import { type Checkpoint, type DiskRecord, type Moment, encodeMoment } from "../format/records.ts";
import { momentsOf } from "./collect.ts";

/** What is known of a disk. */
export interface ArchiveInfo extends DiskRecord {
  readonly epoch: Epoch | undefined;
  /** The last segment. */
  readonly last: Moment;
  /** Those that can be begun at, oldest first. */
  readonly checkpoints: readonly Checkpoint[];
  /** Log objects behind the newest of them, and their bytes. */
  readonly objects: number;
  readonly bytes: number;
  readonly kept: ReadonlyMap<string, Moment>;
}

/** The disks in a store, by name. */
export async function listDisks(store: ObjectStore): Promise<string[]> {
  const disks: string[] = [];
  for await (const { key } of store.list(DISKS)) {
    const disk = diskOfKey(key);
    if (disk !== undefined) disks.push(disk);
  }
  return disks;
}

/** `ENOENT` for a disk there is not; `EIO` for one whose log has lost something. */
export async function archiveInfo(archive: Archive): Promise<ArchiveInfo> {
  const record = await archive.record();
  const epoch = await archive.newestEpoch();
  const { objects, end: last } = await archive.walk(epoch?.number ?? 0);
  const positions = await archive.checkpoints();
  const checkpoints = await Promise.all(positions.map((position) => archive.checkpoint(position)));
  const bytes = objects.reduce((sum, { size }) => sum + size, 0);
  const kept = await momentsOf(archive);
  return { ...record, epoch, last, checkpoints, objects: objects.length, bytes, kept };
}

/** Gives a moment a name that keeps it from collections. `EEXIST` for a name that is taken; the errors of looking at it. */
export async function keepMoment(archive: Archive, name: string, when: When): Promise<Moment> {
  const history = await historyOf(archive, when);
  let last: Moment = history.checkpoint;
  for await (const { id, time, object } of segmentsOf(archive, history, when)) {
    const { epoch, n } = history.objects[object] as LogPlace;
    last = { id, time, position: { epoch, n } };
  }
  if (await archive.store.create(keepKey(archive.disk, name), encodeMoment(last))) return last;
  const hint = "Give another name, or take that one away: dmkit archive unkeep.";
  throw refuse(archive.name, "EEXIST", `${name} is kept already`, hint);
}

/** Whether there was a moment of that name. */
export async function releaseMoment(archive: Archive, name: string): Promise<boolean> {
  const key = keepKey(archive.disk, name);
  if ((await archive.store.head(key)) === undefined) return false;
  await archive.store.remove(key);
  return true;
}
