/**
 * The image of a checkpoint is held by its tag, or a collection of images takes it. Of two who make the same checkpoint, or
 * begin the same disk, at a time the one may create the record and the other move the tag, and their images can differ. So
 * whoever has tried looks what the record says, and sees to it that the tag says it too.
 */
import type { Environment } from "@dmkit/block-io";
import { moveTag, readTag } from "@dmkit/image";
import type { Archive } from "../device/archive.ts";
import { checkpointTag } from "../format/keys.ts";
import type { Checkpoint } from "../format/records.ts";

/** Errors: those of the store; `ENOENT` where the image is lost. */
export async function holdImage(
  { store, disk }: Archive,
  { position, digest }: Checkpoint,
  environment: Environment,
): Promise<void> {
  const tag = checkpointTag(position);
  const { record } = await readTag(store, disk, tag);
  if (record?.digest !== digest) await moveTag(store, disk, tag, digest, environment);
}
