/** What is in a store: images, their versions and tags; and the moving of tags. */
import { BlockIoError, type Environment, randomUuid, realEnvironment } from "@dmkit/block-io";
import type { ObjectStore } from "@dmkit/object-store";
import type { Digest } from "../format/digest.ts";
import { IMAGES, TAGS, encodeTag, manifestKey, manifestOfKey, tagKey, tagOfKey } from "../format/layout.ts";
import { isUnreadable, readManifest, readTag, tagVersion } from "../open/manifests.ts";
import { GRACE, waitForCollections } from "./collect.ts";

/** A version of an image. */
export interface ImageVersion {
  readonly name: string;
  readonly digest: Digest;
  readonly tags: readonly string[];
  /** Milliseconds since 1970-01-01 UTC by the store's clock, when it was published. */
  readonly published: number;
}

/**
 * Every version of every image in a store, by name and time.
 * @param damaged is told of tags that cannot be read, which are left out; without it the first is thrown.
 */
export async function listImages(
  store: ObjectStore,
  damaged?: (tag: { readonly name: string; readonly tag: string; readonly error: unknown }) => void,
): Promise<ImageVersion[]> {
  const tags = new Map<string, string[]>();
  const known = new Set<string>();
  for await (const { key } of store.list(TAGS)) {
    const found = tagOfKey(key);
    if (found === undefined || known.has(`${found.image}/${found.tag}`)) continue;
    known.add(`${found.image}/${found.tag}`);
    const { image: name, tag } = found;
    const { record } = await readTag(store, name, tag).catch((error: unknown) => {
      if (damaged === undefined || !isUnreadable(error)) throw error;
      damaged({ name, tag, error });
      return { record: undefined };
    });
    if (record === undefined) continue;
    const version = `${found.image}/${record.digest}`;
    tags.set(version, [...(tags.get(version) ?? []), found.tag]);
  }
  const versions: ImageVersion[] = [];
  for await (const { key, modified } of store.list(IMAGES)) {
    const found = manifestOfKey(key);
    if (found === undefined) continue;
    const { image, digest } = found;
    versions.push({ name: image, digest, tags: tags.get(`${image}/${digest}`) ?? [], published: modified });
  }
  return versions.toSorted((a, b) =>
    a.name < b.name ? -1 : a.name > b.name ? 1 : a.published - b.published,
  );
}

/**
 * Makes a tag say `digest`, which must be there; waits for a collection that may be about to take it. `EBUSY` if somebody
 * else moves the tag at the same time, or the collection has taken the version: the tag says what it said then.
 */
export async function moveTag(
  store: ObjectStore,
  image: string,
  tag: string,
  digest: Digest,
  environment: Environment = realEnvironment,
): Promise<void> {
  await readManifest(store, image, digest);
  const version = await tagVersion(store, image, tag);
  const token = randomUuid(environment.random);
  const now = environment.clock.wallTime();
  const key = tagKey(image, tag, version + 1);
  if (!(await store.create(key, encodeTag({ digest, time: now, token })))) throw tagMoved(store, image, tag);
  const manifest = manifestKey(image, digest);
  const found = await store.head(manifest);
  if (found !== undefined && now - found.modified < GRACE / 2) return;
  // A collection may have read the tags before this one was there.
  await waitForCollections(store, environment, undefined);
  if (found !== undefined && (await store.head(manifest)) !== undefined) return;
  await store.remove(key);
  throw new BlockIoError(`version ${digest} of ${image} has just been collected`, {
    code: "EBUSY",
    device: store.name,
    hint: "Publish it again from its source; dmkit image ls lists the versions there are.",
  });
}

/** The error of who finds that a tag does not say any more what it said. */
export function tagMoved(store: ObjectStore, image: string, tag: string): BlockIoError {
  return new BlockIoError(`somebody else has just moved the tag ${tag} of ${image}`, {
    code: "EBUSY",
    device: store.name,
    hint: "Look what it says now with dmkit image ls, and run the command again if you still want to.",
  });
}
