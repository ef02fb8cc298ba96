/** Images in an object store as versions of a device, for backups: published, found and read by the words of a command line. */
import { resolve } from "node:path";
import { type VersionStore, refuse } from "@dmkit/block-io";
import { type ObjectStore, isS3Uri, openStore } from "@dmkit/object-store";
import type { Digest } from "../format/digest.ts";
import { readTag } from "../open/manifests.ts";
import { openImage } from "../open/open-image.ts";
import {
  type ImageReference,
  parseImageReference,
  parseTagReference,
  printImageReference,
} from "../open/reference.ts";
import { publish } from "./publish.ts";

/** See {@link VersionStore}: the references are those of images, with a digest or a tag. */
export const imageVersions: VersionStore = {
  async find(text, environment) {
    const reference = parseImageReference(text);
    const { name, tag, digest } = reference;
    const print = (found: Digest): string => `image:${printImageReference(reference, found)}`;
    if (digest !== undefined) return print(digest);
    return withStore(await openStore(reference.store, { environment }), async (store) => {
      const { record } = await readTag(store, name, tag);
      return record && print(record.digest);
    });
  },

  async noteOf(text, environment) {
    const { name, tag, digest, store } = parseImageReference(text);
    if (digest !== undefined) return undefined;
    return withStore(
      await openStore(store, { environment }),
      async (opened) => (await readTag(opened, name, tag)).record?.note,
    );
  },

  // Every chunk is read once: keeping it on this node would only push out what others need.
  open: (reference, environment) =>
    openImage(
      { image: reference.replace(/^image:/, ""), cache: "none", hot: false },
      { name: reference, environment },
    ),

  async keep(source, text, { environment, replaces, since, note, check, signal, progress }) {
    const reference = parseTagReference(text);
    const { name, tag } = reference;
    const [parent, replaced] = [since?.version, replaces].map((version) =>
      version === undefined || version === null ? undefined : digestIn(reference, version),
    );
    const print = (digest: Digest): string => `image:${printImageReference(reference, digest)}`;
    return withStore(await openStore(reference.store, { environment }), async (store) => {
      const { digest, read, deduplicated, uploaded, tagged } = await publish(source, store, {
        name,
        tag,
        parent,
        replaces: replaces === null ? null : replaced,
        changed: since && inTime(since.changed),
        note,
        check: check && ((found) => check(print(found))),
        environment,
        signal,
        progress: ({ done }) => progress?.(done),
      });
      if (tagged) return { version: print(digest), read, known: deduplicated, uploaded };
      throw refuse(
        store.name,
        "EBUSY",
        `somebody else has moved the tag ${tag} of ${name} meanwhile: ${name}@${digest} is there, without a tag`,
        `If it is to have the tag all the same: dmkit image tag, with this version and ${tag}.`,
      );
    });
  },
};

/** The digest of a version of the same image. Throws `EINVAL` for one of another. */
function digestIn(image: ImageReference, version: string): Digest | undefined {
  const { store, name, digest } = parseImageReference(version);
  const place = (one: string): string => (isS3Uri(one) ? one : resolve(one));
  if (place(store) === place(image.store) && name === image.name) return digest;
  throw refuse(
    version,
    "EINVAL",
    `is no version of ${image.store}/${image.name}: only those of the same image have its chunks`,
    "Give a version of the same image in the same store, or back up all of it.",
  );
}

async function withStore<T>(store: ObjectStore, work: (store: ObjectStore) => Promise<T>): Promise<T> {
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}

async function* inTime<T>(all: Iterable<T>): AsyncGenerator<T> {
  yield* all;
}
