/** Manifests and tags in a store: found, read, verified. */
import { BlockIoError } from "@dmkit/block-io";
import { type ObjectStore, getVerified } from "@dmkit/object-store";
import { digestOf } from "../device/blob-coder.ts";
import { DIGEST, type Digest } from "../format/digest.ts";
import { MAX_MANIFEST, type Manifest, decodeManifest } from "../format/manifest.ts";
import { type TagRecord, decodeTag, manifestKey, tagKey, tagOfKey, tagPrefix } from "../format/layout.ts";
import type { ImageReference } from "./reference.ts";

const TAG_BYTES = 4096;

/** What a tag says now; version 0 where it does not exist. */
export interface CurrentTag {
  readonly version: number;
  readonly record: TagRecord | undefined;
}

/** The version of a tag that is in force. */
export async function readTag(store: ObjectStore, image: string, tag: string): Promise<CurrentTag> {
  let version = 0;
  for await (const { key } of store.list(tagPrefix(image, tag))) version = tagOfKey(key)?.version ?? version;
  if (version === 0) return { version, record: undefined };
  const key = tagKey(image, tag, version);
  return { version, record: await getVerified(store, key, decodeTag, { most: TAG_BYTES }) };
}

/** The digest a reference means; `ENOENT` with the tags there are. */
export async function resolveReference(store: ObjectStore, reference: ImageReference): Promise<Digest> {
  const { name, tag, digest } = reference;
  if (digest !== undefined) return digest;
  const { record } = await readTag(store, name, tag);
  if (record !== undefined) return record.digest;
  const tags = new Set<string>();
  for await (const { key } of store.list(tagPrefix(name))) tags.add(tagOfKey(key)?.tag ?? "");
  throw new BlockIoError(tags.size === 0 ? `there is no image ${name}` : `${name} has no tag ${tag}`, {
    code: "ENOENT",
    device: store.name,
    op: "open",
    hint:
      tags.size === 0
        ? "Publish it first, or correct the name; dmkit image ls lists what is in a store."
        : `Its tags: ${[...tags].slice(0, 20).join(", ")}.`,
  });
}

/** The manifest that has a digest. `EFORMAT` for one of a newer version, `EIO` for a damaged one. */
export function readManifest(store: ObjectStore, image: string, digest: Digest): Promise<Manifest> {
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
    throw new BlockIoError(
      manifest === "version"
        ? "this version of dmkit cannot read the image"
        : "the manifest contradicts itself",
      {
        code: "EFORMAT",
        device: store.name,
        op: "open",
        hint:
          manifest === "version"
            ? "Update dmkit."
            : "Publish the image again with a released version of dmkit.",
      },
    );
  };
  return getVerified(store, manifestKey(image, digest), decode, { most: MAX_MANIFEST });
}
