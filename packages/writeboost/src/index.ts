export { type Dialect, dialects } from "./format/checksum.ts";
export { type Identity } from "./format/identity.ts";
export { type OpenOptions, openEmbedded, openWriteboost } from "./open.ts";
export { type DropProgress, WriteboostDevice } from "./device.ts";
export { type Devices } from "./recovery.ts";
export { type FormatOptions, formatCache } from "./format-cache.ts";
export {
  type TunableName,
  type Tunables,
  type WriteboostOptions,
  defaultTunables,
  friendlyTunables,
  options,
} from "./options.ts";
export { type Status, parseStatus, printStatus } from "./status.ts";
export { writeboost } from "./target.ts";
export { type CheckOptions, type CheckSummary, type Problem, type ProblemKind, check } from "./check.ts";
export { type ReplayOptions, replay } from "./replay.ts";
export { type DumpedBlock, type DumpedSegment, dump, segmentMap } from "./dump.ts";
export { type ViewOptions, type ViewRange, openAt, viewRange } from "./view.ts";
export { type ScanOptions } from "./scan.ts";
export { type Image } from "./examine.ts";
export { type RepairSummary, repair } from "./repair.ts";
export { writeboostImages } from "./images.ts";
export { type DumpedSlot, type ImageDump, dumpImage } from "./image-dump.ts";
export { restore } from "./restore.ts";
