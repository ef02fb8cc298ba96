export { check } from "./offline/check.ts";
export { type Report, newReport } from "./offline/inspect/findings.ts";
export {
  type RecompressOptions,
  type Recompressed,
  recompress,
  recompressOptions,
} from "./offline/recompress.ts";
export { repair } from "./offline/repair.ts";
export { compressionImages } from "./image.ts";
export { openCompression } from "./open/open.ts";
export type { OpenSettings } from "./open/opening.ts";
export { type CompressionOptions, compressionOptions } from "./options.ts";
export { compression } from "./target.ts";
