export { type Dialect, dialects } from "./format/checksum.ts";
export { type Identity } from "./format/identity.ts";
export { type OpenOptions, openEmbedded, openWriteboost } from "./open/open.ts";
export type { DropProgress } from "./device/control/messages.ts";
export { WriteboostDevice } from "./device/device.ts";
export type { Devices } from "./device/recovered.ts";
export { type FormatOptions, formatCache } from "./open/making/format-cache.ts";
export {
  type TunableName,
  type Tunables,
  type WriteboostOptions,
  defaultTunables,
  friendlyTunables,
  options,
} from "./options.ts";
export { type Status, parseStatus, printStatus } from "./device/control/status.ts";
export { type OpenArchive, writeboost, writeboostWith } from "./target.ts";
export type {
  ArchivedSegment,
  Archiving,
  AttachArchive,
  LocalLog,
  SegmentArchive,
} from "./device/archive/segment-archive.ts";
export type { Problem, ProblemKind } from "./offline/examine/findings.ts";
export { type ReplayOptions, replay } from "./offline/replay.ts";
export { type ViewOptions, type ViewRange, openAt, viewRange } from "./open/view.ts";
export { type Image } from "./offline/examine/findings.ts";
export { type RepairSummary, repair } from "./offline/repair.ts";
export { writeboostImages } from "./image.ts";
export { type DumpedSlot, type ImageDump, dumpImage } from "./offline/image-dump.ts";
export { restore } from "./offline/restore.ts";
