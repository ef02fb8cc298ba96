/** Manifests and tags in a store: found, read, verified. */
import { BlockIoError, codeOf, didYouMean, refuse } from "@dmkit/block-io";
import { type ObjectStore, getVerified } from "@dmkit/object-store";
import { digestOf } from "../device/blob-coder.ts";
import { DIGEST, type Digest } from "../format/digest.ts";
import { MAX_MANIFEST, type Manifest, decodeManifest } from "../format/manifest.ts";
import {
  IMAGES,
  type TagRecord,
  decodeTag,
  manifestKey,
  manifestOfKey,
  requireName,
  tagKey,
  tagOfKey,
  tagPrefix,
} from "../format/layout.ts";
import type { ImageReference } from "./reference.ts";

const TAG_BYTES = 4096;

/**
 * Whether it is the object that cannot be read, and not the store: it is gone, damaged, larger than any, or of a version
 * that is not known.
 */
export function isUnreadable(error: unknown): boolean {
  return ["ENOENT", "EIO", "EOVERFLOW", "EFORMAT"].includes(codeOf(error) ?? "");
}

/** What a tag says now; version 0 where it does not exist. */
export interface CurrentTag {
  readonly version: number;
  readonly record: TagRecord | undefined;
}

/** The version of a tag that is in force; 0 where it does not exist. Does not read what it says. */
export async function tagVersion(store: ObjectStore, image: string, tag: string): Promise<number> {
  let version = 0;
  for await (const { key } of store.list(tagPrefix(image, tag))) version = tagOfKey(key)?.version ?? version;
  return version;
}

/** What a version of a tag says. `EIO` for one that is damaged. */
export function readTagVersion(
  store: ObjectStore,
  image: string,
  tag: string,
  version: number,
): Promise<TagRecord> {
  return getVerified(store, tagKey(image, tag, version), decodeTag, { most: TAG_BYTES });
}

/** The version of a tag that is in force. */
export async function readTag(store: ObjectStore, image: string, tag: string): Promise<CurrentTag> {
  const version = await tagVersion(store, image, tag);
  if (version === 0) return { version, record: undefined };
  return { version, record: await readTagVersion(store, image, tag, version) };
}

/** The digest a reference means; `ENOENT` with the tags there are. */
export async function resolveReference(store: ObjectStore, reference: ImageReference): Promise<Digest> {
  const { name, tag, digest } = reference;
  if (digest !== undefined) return digest;
  const { record } = await readTag(store, name, tag);
  if (record !== undefined) return record.digest;
  throw await noSuchTag(store, name, tag);
}

/** The error for a tag, or an image, there is not: it says what there is. */
export async function noSuchTag(store: ObjectStore, name: string, tag: string): Promise<BlockIoError> {
  const tags = new Set<string>();
  for await (const { key } of store.list(tagPrefix(name))) tags.add(tagOfKey(key)?.tag ?? "");
  const details = { code: "ENOENT", device: store.name, op: "open" } as const;
  if (tags.size > 0) {
    const hint = `${didYouMean(tag, tags)}Its tags: ${[...tags].slice(0, 20).join(", ")}.`;
    return new BlockIoError(`${name} has no tag ${tag}`, { ...details, hint });
  }
  for await (const { key } of store.list(`${IMAGES}${requireName("image", name)}/`)) {
    if (manifestOfKey(key) === undefined) continue;
    return new BlockIoError(`${name} has no tag ${tag}, and no other`, {
      ...details,
      hint: `Its versions are there: dmkit image ls lists them, and dmkit image tag ${name}@DIGEST ${tag}, with the store before it, gives one the tag.`,
    });
  }
  return new BlockIoError(`there is no image ${name}`, {
    ...details,
    hint: "Publish it first, or correct the name; dmkit image ls lists what is in a store.",
  });
}

/** The manifest that has a digest. `ENOENT` where there is none, `EFORMAT` for one of a newer version, `EIO` for a damaged one. */
export async function readManifest(store: ObjectStore, image: string, digest: Digest): Promise<Manifest> {
  const decode = (body: Buffer): Manifest | undefined => {
    const end = body.length - DIGEST;
    if (
      end < 0 ||
      body.subarray(end).toString("hex") !== digest ||
      digestOf(body.subarray(0, end)) !== digest
    ) {
      return undefined;
    }
    const manifest = decodeManifest(body);
    if (typeof manifest === "object") return manifest;
    throw refuse(
      store.name,
      "EFORMAT",
      manifest === "version"
        ? "this version of dmkit cannot read the image"
        : "the manifest contradicts itself",
      manifest === "version" ? "Update dmkit." : "Publish the image again with a released version of dmkit.",
    );
  };
  try {
    return await getVerified(store, manifestKey(image, digest), decode, { most: MAX_MANIFEST });
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
    throw new BlockIoError(`${image} has no version ${digest}`, {
      code: "ENOENT",
      device: store.name,
      op: "open",
      cause: error,
      hint: "dmkit image ls lists the versions there are; one that is lost comes back by publishing its source again.",
    });
  }
}
