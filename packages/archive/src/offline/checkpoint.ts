/**
 * Checkpoints: the disk after a log object becomes an image, and the log up to there is not needed any more, but for the
 * moments that are kept.
 *
 *     1  image         published over that of the checkpoint before: only chunks that the log touches are read and uploaded
 *     2  its tag       with it: so no collection of images takes it
 *     3  checkpoint    created: from here on walks begin at it
 *
 * The one who writes need not be asked, nor told: what is in the log stays as it is.
 */
import {
  type Environment,
  type SettingsTable,
  done,
  realEnvironment,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import { type PublishProgress, publish } from "@dmkit/image";
import type { Archive } from "../device/archive.ts";
import type { ReplayOptions } from "../device/replay.ts";
import { checkpointKey, checkpointTag } from "../format/keys.ts";
import { type Checkpoint, encodeCheckpoint } from "../format/records.ts";
import { holdImage } from "../open/hold-image.ts";
import { viewOf } from "../open/open-archive.ts";

/** How a checkpoint is made. */
export interface CheckpointOptions {
  readonly environment?: Environment | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: PublishProgress) => void) | undefined;
  /** Told how much of the log has been fetched, before anything is published; in log objects. */
  readonly fetched?: ReplayOptions["progress"];
}

const checkpointSettings: SettingsTable<CheckpointOptions> = { ...workSettings, fetched: setting.call };

/**
 * Makes a checkpoint of a disk, as new as its archive. The one there is, if nothing came after it.
 * @param location of the store.
 */
export async function makeCheckpoint(
  archive: Archive,
  location: string,
  options: CheckpointOptions = {},
): Promise<Checkpoint & { readonly uploaded: number }> {
  const {
    environment = realEnvironment,
    signal,
    progress,
    fetched,
  } = checkSettings(checkpointSettings, options);
  const history = await archive.walk((await archive.newestEpoch())?.number ?? 0);
  const { checkpoint: before, end } = history;
  if (history.objects.length === 0) {
    await holdImage(archive, before, environment);
    return { ...before, uploaded: 0 };
  }
  const name = `${archive.name}@${end.id}`;
  const view = await viewOf(archive, location, history, {
    when: "newest",
    name,
    environment,
    fetching: { signal, progress: fetched },
    release: () => done,
  });
  try {
    const { digest, uploaded } = await publish(view, archive.store, {
      name: archive.disk,
      tag: checkpointTag(end.position),
      parent: before.digest,
      changed: view.changed(),
      environment,
      signal,
      progress,
    });
    await createCheckpoint(archive, { ...end, digest });
    const made = await archive.checkpoint(end.position);
    await holdImage(archive, made, environment);
    return { ...made, uploaded };
  } finally {
    await view.close();
  }
}

/** The first one counts. */
export async function createCheckpoint({ store, disk }: Archive, checkpoint: Checkpoint): Promise<void> {
  await store.create(checkpointKey(disk, checkpoint.position), encodeCheckpoint(checkpoint));
}
