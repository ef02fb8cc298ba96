export { assocCache } from "./target.ts";
export { type CacheOptions, cacheOptions } from "./options.ts";
export { AssocCacheDevice } from "./device.ts";
export { type Geometry } from "./format/geometry.ts";
export { type Policy } from "./format/superblock.ts";
