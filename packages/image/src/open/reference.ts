/**
 * References to images.
 *
 *     [image:]STORE/NAME[@DIGEST|:TAG][?PARAMETERS OF THE BUCKET]
 *
 * STORE is `s3://BUCKET[/PREFIX]` or a folder, which has no parameters: a `?` is part of its name. Without digest and tag
 * the tag `latest` is meant.
 */
import { resolve } from "node:path";
import { type BlockIoError, refuse, checkSettings, setting } from "@dmkit/block-io";
import { isS3Uri, splitParameters } from "@dmkit/object-store";
import { type Digest, isDigest } from "../format/digest.ts";
import { DEFAULT_TAG, isName } from "../format/layout.ts";

/** An image, or a version of one, in a store. */
export interface ImageReference {
  /** As `openStore` takes it. */
  readonly store: string;
  readonly name: string;
  readonly tag: string;
  /** Whether the tag was said, and is not only the one that is meant where none is. */
  readonly tagSaid: boolean;
  /** Pins the image: the tag then means nothing. */
  readonly digest: Digest | undefined;
}

/** Throws `EPARSE` for what is no reference. */
export function parseImageReference(text: string): ImageReference {
  const [path, query] = splitParameters(text.replace(/^image:/, ""));
  const slash = path.lastIndexOf("/");
  const last = path.slice(slash + 1);
  const [, name = "", mark, version = ""] = /^([^@:]*)(?:([@:])(.*))?$/.exec(last) ?? [];
  const store = path.slice(0, slash);
  if (/^s3:/i.test(path) && !/^s3:\/\/[^/]/i.test(path)) {
    throw malformed(
      text,
      "names no bucket",
      "Write s3://BUCKET/NAME, with two slashes; ./s3:... for a folder.",
    );
  }
  if (slash < 0 || /^s3:\/?$/i.test(store)) {
    throw malformed(
      text,
      "names no image in a store",
      "Write STORE/NAME, e.g. s3://bucket/golden or /images/golden.",
    );
  }
  if (!isName(name)) {
    throw malformed(
      text,
      `names an image ${JSON.stringify(name)}`,
      "Names have a-z, 0-9 and, between these, . _ -",
    );
  }
  if (mark === "@" && !isDigest(version)) {
    throw malformed(
      text,
      "has no digest behind the @",
      "A digest has 64 hexadecimal digits; dmkit image ls shows them.",
    );
  }
  if (mark === ":" && !isName(version)) {
    throw malformed(text, "has no tag behind the colon", "Tags have a-z, 0-9 and, between these, . _ -");
  }
  return {
    store: (store === "" ? "/" : store) + query,
    name,
    tag: mark === ":" ? version : DEFAULT_TAG,
    tagSaid: mark === ":",
    digest: mark === "@" ? version : undefined,
  };
}

/**
 * A reference where a tag is meant, to be moved or taken away: a digest cannot be. Throws `EPARSE` for one, and, where the
 * tag has to be said, for a reference without.
 */
export function parseTagReference(
  text: string,
  options: { readonly mustBeSaid?: boolean } = {},
): ImageReference {
  const { mustBeSaid = false } = checkSettings({ mustBeSaid: setting.flag }, options, "parse");
  const reference = parseImageReference(text);
  if (reference.digest !== undefined) {
    throw malformed(text, "names a version where a tag is meant", "Write STORE/NAME:TAG.");
  }
  if (mustBeSaid && !reference.tagSaid) {
    throw malformed(text, "names no tag", `Write STORE/NAME:TAG, e.g. ${text}:${DEFAULT_TAG}.`);
  }
  return reference;
}

/** The text that means this version of an image. */
export function printImageReference({ store, name }: ImageReference, digest: Digest): string {
  const [folder, parameters] = splitParameters(store);
  return `${folder.replace(/\/$/, "")}/${name}@${digest}${parameters}`;
}

/** The reference with the path of a folder, or of the certificates of a bucket, made absolute: a relative one begins in `folder`. Throws `EPARSE`. */
export function absoluteImageReference(text: string, folder: string): string {
  const { store } = parseImageReference(text);
  const path = text.replace(/^image:/, "");
  if (!isS3Uri(store)) return `image:${resolve(folder, path)}`;
  // The certificates to trust are a file.
  const absolute = path.replace(/(?<=[?&]ca=)[^&]+/, (file) =>
    encodeURI(resolve(folder, decodeURIComponent(file.replaceAll("+", " ")))).replaceAll(
      /[+&#?]/g,
      encodeURIComponent,
    ),
  );
  return `image:${absolute}`;
}

function malformed(text: string, reason: string, hint: string): BlockIoError {
  return refuse(undefined, "EPARSE", `${JSON.stringify(text)} ${reason}`, hint, "parse");
}
