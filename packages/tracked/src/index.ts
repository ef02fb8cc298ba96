export { tracked } from "./target.ts";
export { type TrackedOptions, trackedOptions } from "./options.ts";
export { TrackedDevice } from "./device/device.ts";
export { type OpenTrackedOptions, openTracked } from "./open/open.ts";
export type { Epoch } from "./core/epochs.ts";
export type { EpochRecord, Superblock } from "./format/superblock.ts";
export { type Geometry, bitmapDeviceSize } from "./format/geometry.ts";
export { trackedImages } from "./image.ts";
