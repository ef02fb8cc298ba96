export { assocCache } from "./target.ts";
export { type CacheOptions, cacheOptions } from "./options.ts";
export { AssocCacheDevice } from "./device.ts";
export { type Geometry } from "./format/geometry.ts";
export { type Policy } from "./format/superblock.ts";
export { type Problem, type Repair, type Severity, type Summary, check } from "./check.ts";
export { type RepairReport, repair } from "./repair.ts";
export { type Dump, type DumpedEntry, dump, restore } from "./dump.ts";
export { type WriteDirtyOptions, writeDirty } from "./write-dirty.ts";
