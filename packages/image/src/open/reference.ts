/**
 * References to images.
 *
 *     [image:]STORE/NAME[@DIGEST|:TAG][?PARAMETERS OF THE STORE]
 *
 * STORE is `s3://BUCKET[/PREFIX]` or a folder. Without digest and tag the tag `latest` is meant.
 */
import { resolve } from "node:path";
import { BlockIoError } from "@dmkit/block-io";
import { isS3Uri } from "@dmkit/object-store";
import { type Digest, isDigest } from "../format/digest.ts";
import { DEFAULT_TAG, isName } from "../format/layout.ts";

/** An image, or a version of one, in a store. */
export interface ImageReference {
  /** As `openStore` takes it. */
  readonly store: string;
  readonly name: string;
  readonly tag: string;
  /** Pins the image: the tag then means nothing. */
  readonly digest: Digest | undefined;
}

/** Throws `EPARSE` for what is no reference. */
export function parseImageReference(text: string): ImageReference {
  const [, path = "", query = ""] = /^(?:image:)?([^?]*)(\?.*)?$/.exec(text) ?? [];
  const slash = path.lastIndexOf("/");
  const last = path.slice(slash + 1);
  const [, name = "", mark, version = ""] = /^([^@:]*)(?:([@:])(.*))?$/.exec(last) ?? [];
  const store = path.slice(0, slash);
  if (/^s3:/i.test(path) && !/^s3:\/\/[^/]/i.test(path)) {
    throw refuse(text, "names no bucket", "Write s3://BUCKET/NAME, with two slashes; ./s3:... for a folder.");
  }
  if (slash < 0 || /^s3:\/?$/i.test(store)) {
    throw refuse(
      text,
      "names no image in a store",
      "Write STORE/NAME, e.g. s3://bucket/golden or /images/golden.",
    );
  }
  if (!isName(name)) {
    throw refuse(
      text,
      `names an image ${JSON.stringify(name)}`,
      "Names have a-z, 0-9 and, between these, . _ -",
    );
  }
  if (mark === "@" && !isDigest(version)) {
    throw refuse(
      text,
      "has no digest behind the @",
      "A digest has 64 hexadecimal digits; dmkit image ls shows them.",
    );
  }
  if (mark === ":" && !isName(version)) {
    throw refuse(text, "has no tag behind the colon", "Tags have a-z, 0-9 and, between these, . _ -");
  }
  return {
    store: (store === "" ? "/" : store) + query,
    name,
    tag: mark === ":" ? version : DEFAULT_TAG,
    digest: mark === "@" ? version : undefined,
  };
}

/** The reference with the path of a folder made absolute: a relative one begins in `folder`. Throws `EPARSE`. */
export function absoluteImageReference(text: string, folder: string): string {
  const { store } = parseImageReference(text);
  const path = text.replace(/^image:/, "");
  return `image:${isS3Uri(store) ? path : resolve(folder, path)}`;
}

function refuse(text: string, reason: string, hint: string): BlockIoError {
  return new BlockIoError(`${JSON.stringify(text)} ${reason}`, { code: "EPARSE", op: "parse", hint });
}
