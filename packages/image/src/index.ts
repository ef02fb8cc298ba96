export { type ImageOptions, imageOptions } from "./options.ts";
export { image } from "./target.ts";
export {
  type ImageSettings,
  type OpenImageContext,
  defaultCacheFolder,
  openImage,
} from "./open/open-image.ts";
export {
  type ImageReference,
  absoluteImageReference,
  parseImageReference,
  parseTagReference,
  printImageReference,
} from "./open/reference.ts";
export { type CurrentTag, noSuchTag, readManifest, readTag, resolveReference } from "./open/manifests.ts";
export { ImageDevice, type ImageParts } from "./device/device.ts";
export { BlobCoder, digestOf } from "./device/blob-coder.ts";
export { BLOB_HEAD, type BlobCodec, blobCodecs } from "./format/blob.ts";
export { type Digest, isDigest } from "./format/digest.ts";
export { DEFAULT_TAG, type TagRecord, isName } from "./format/layout.ts";
export { DEFAULT_CHUNK, MAX_CHUNK, MIN_CHUNK, type Manifest } from "./format/manifest.ts";
export type { PublishOptions, PublishProgress, Published } from "./offline/publish-options.ts";
export { publish } from "./offline/publish.ts";
export {
  type CollectOptions,
  type Collected,
  type Unreadable,
  collect,
  removeTag,
} from "./offline/collect.ts";
export { type BlobProblem, type VerifyOptions, verifyImage } from "./offline/verify.ts";
export { type ImageVersion, listImages, moveTag } from "./offline/tags.ts";
export { imageVersions } from "./offline/versions.ts";
