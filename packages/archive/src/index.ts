export { archive, attachArchive } from "./target.ts";
export { type ArchiveOptions, archiveOptions } from "./options.ts";
export {
  Archive,
  type ArchiveSettings,
  type Epoch,
  type LogObject,
  type Sealing,
  type Walk,
} from "./device/archive.ts";
export { type History, type When, historyOf, segmentsOf, type HistoricSegment } from "./device/history.ts";
export { LogWriter, type WriterStart } from "./device/log-writer.ts";
export { type ReplayOptions, replayOnto } from "./device/replay.ts";
export { ArchiveView, type ViewParts } from "./device/view.ts";
export { type Position } from "./format/keys.ts";
export { MAX_CONTENTS, type LogHead, type LogSegment, contentsSize } from "./format/log-object.ts";
export type { Checkpoint, DiskRecord, EpochRecord, LogEnd, Moment, Token } from "./format/records.ts";
export { type AttachedArchive, type LocalLog, attachTo } from "./open/attach.ts";
export { type Claim, type Claimant, claim, randomToken } from "./open/claim.ts";
export { baseReference, openArchive, withArchive } from "./open/open-archive.ts";
export {
  type ArchiveReference,
  absoluteArchiveReference,
  atMoment,
  parseArchiveReference,
  parseDiskReference,
  parseWhen,
} from "./open/reference.ts";
export { type CheckpointOptions, createCheckpoint, makeCheckpoint } from "./offline/checkpoint.ts";
export { type CollectLogOptions, type CollectedLog, collectArchive } from "./offline/collect.ts";
export { type ArchiveInfo, archiveInfo, keepMoment, listDisks, releaseMoment } from "./offline/list.ts";
