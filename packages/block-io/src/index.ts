export {
  type ErrorCode,
  type ErrorDetails,
  type Operation,
  BlockIoError,
  codeOf,
  errorCodes,
  isErrorCode,
  isLossless,
  isOfPlace,
  isOutOfSpace,
  refuse,
  asking,
  isSystemError,
  toBlockIoError,
  worstOf,
} from "./contract/errors.ts";
export {
  type Ability,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type ExtentKind,
  type Limits,
  type Place,
  type StorageFacts,
  type WriteOptions,
  type WriteZeroesOptions,
  FUA,
  SECTOR,
  done,
  plainCapabilities,
  fullCapabilities,
  plainLimits,
  storageBelow,
  storageOf,
  withCapabilities,
} from "./contract/device.ts";
export {
  type Clock,
  type Environment,
  type LogLevel,
  type Logger,
  type Random,
  type Scheduler,
  type Timer,
  every,
  nextTurn,
  realEnvironment,
  silentLogger,
  sleep,
} from "./contract/environment.ts";
export { duplicateDescriptor, sendDatagram } from "./devices/native.ts";
export { fewDescriptors, moreDescriptors, mostDescriptors } from "./devices/descriptors.ts";
export { endProcess } from "./end-process.ts";
export { largeFilesFolder, openNameless } from "./nameless.ts";
export {
  STORE_WITNESS,
  makeFolders,
  makeFoldersLater,
  ofStore,
  storeAround,
  syncFolder,
  syncFolderLater,
} from "./folders.ts";
export {
  type ByteRange,
  type Claim,
  type Claimant,
  type DeviceUse,
  type Holder,
  type Use,
  Claims,
  claims,
  isWriting,
  withoutWriting,
} from "./below/claims.ts";
export { keepBelow } from "./below/kept.ts";
export { originAt } from "./devices/origin.ts";
export { Popular } from "./caching/popular.ts";
export { STREAMS, Streams } from "./caching/streams.ts";
export { type Gate, makeGate } from "./sync/gate.ts";
export {
  type Setting,
  type SettingsTable,
  checkSettings,
  setting,
  workSettings,
} from "./contract/settings.ts";
export { stackLimits } from "./contract/limits.ts";
export { GuardedDevice } from "./contract/guard.ts";
export type { RequestCounts } from "./contract/lifecycle.ts";
export {
  type Facts,
  type WatchedFact,
  type WatchedFacts,
  type WatchedName,
  joinFacts,
  storeRequests,
  watchedFacts,
} from "./contract/facts.ts";
export {
  type Health,
  type HealthState,
  failureOf,
  healthOf,
  healthStates,
  healthy,
  wholeStory,
  worstHealth,
} from "./contract/health.ts";
export type {
  Detected,
  ImageDevices,
  ImageFacts,
  ImageFormat,
  ImageMap,
  ImageProblem,
  ImageRepair,
  ImageRepairSettings,
  ImageReplay,
  ImageReplayed,
  ImageRole,
  MapKind,
  MapRange,
  MapStrip,
  OfflineWork,
  RestoreWork,
  ProblemSeverity,
  ImageView,
} from "./dm/image.ts";
export { type RangeGrant, RangeLock } from "./sync/range-lock.ts";
export { sectorsOf, zeroes } from "./bytes/zeroes.ts";
export { ByteAccess } from "./bytes/byte-access.ts";
export { given, isGiven, readGiven, readTwice, readWhatIsGiven } from "./bytes/given.ts";
export { witnessBlocks, witnessOf } from "./below/witness.ts";
export { type Found as FoundPartition, partitionsOf } from "./below/partition.ts";
export { encodeUnfinished, isUnfinished } from "./format/unfinished.ts";
export {
  type Area,
  type Contents,
  FORCE_WORD,
  type Overwriting,
  beginFormat,
  contentsOf,
  eraseSignatures,
  notBlank,
  packedIn,
  requireBlank,
  requireNoCache,
} from "./below/blank.ts";
export {
  getU16,
  getU32,
  getU64,
  getU8,
  isZero,
  setU16,
  setU32,
  setU64,
  setU8,
  tryU64,
} from "./bytes/bytes.ts";
export { type MemoryDeviceOptions, MemoryDevice } from "./devices/memory.ts";
export { MemoryOverlay, anyReadOnly } from "./devices/memory-overlay.ts";
export { FileDevice } from "./devices/file.ts";
export { SyncGate } from "./devices/sync-gate.ts";
export { type FileDeviceOptions, openFile } from "./devices/file-open.ts";
export { type Ahead, inOrder, inParallel, join } from "./sync/join.ts";
export { Signal } from "./sync/signal.ts";
export { FlushGroup } from "./sync/flush-group.ts";
export { giveBack, whyNotGivenBack } from "./caching/give-back.ts";
export { Pace } from "./caching/pace.ts";
export { SpaceWatch } from "./below/space-watch.ts";
export { Turnstile } from "./sync/turnstile.ts";
export { UUID_BYTES, isUuid, randomDigits, randomUuid, uuidBytes, uuidText } from "./bytes/uuid.ts";
export { Bitmap } from "./bytes/bitmap.ts";
export { type BitRun, SparseBitmap } from "./bytes/sparse-bitmap.ts";
export { BufferPool } from "./sync/buffer-pool.ts";
export { type Crc32c, acceleratedCrc32c, crc32c, portableCrc32c, rawCrc32c } from "./bytes/crc32c.ts";
export { latencyBucket } from "./bytes/latency.ts";
export { describeSize, formatSize, parseSize } from "./bytes/size.ts";
export {
  MAX_NAME,
  closest,
  didYouMean,
  isoTime,
  nameProblem,
  printable,
  printableJson,
  printableLines,
  shellQuote,
} from "./bytes/text.ts";
export {
  type ChoiceOption,
  type DeviceOption,
  type FlagOption,
  type IntegerOption,
  type ListOption,
  type OptionSpec,
  type OptionTable,
  type OptionValue,
  type OptionsOf,
  type SectorsOption,
  type SizeOption,
  type TextOption,
  absoluteTexts,
  defaultOf,
  describeRange,
  parseOption,
  requireOrder,
  settingOf,
  parseOptions,
  replaceReferences,
} from "./dm/options.ts";
export {
  type Controls,
  type LongWork,
  type Message,
  type MessageOptions,
  type MessageProgress,
  type Messages,
  type TunableTable,
  noControls,
  tunableNamed,
  endable,
  tunablesOf,
  unknownMessage,
} from "./dm/controls.ts";
export {
  type AnyTarget,
  type OpenContext,
  type RangeDescription,
  type Target,
  type TargetDevice,
  DIRTY_BITMAP,
  GuardedTarget,
  currentArguments,
  withoutOptions,
  splitSector,
  requireRoom,
} from "./dm/target.ts";
export { TableArguments, printNamed } from "./dm/arguments.ts";
export { type LengthRule, type NamedOptions, type StackRules, restOf } from "./dm/stack-rules.ts";
export { type Footprint, type FootprintAlgorithm, type Scale, plainFootprint } from "./dm/footprint.ts";
export type { Overlay } from "./dm/overlay.ts";
export type { KeepOptions, Kept, VersionStore, Versions } from "./dm/versions.ts";
export { TargetRegistry } from "./dm/registry.ts";
export {
  type OpenTableOptions,
  type Segment,
  parseTable,
  printTable,
  quoteTableWord,
  tableLength,
} from "./dm/table.ts";
export { LowerDevices } from "./below/lower-devices.ts";
export type { LowerOptions, UseOptions } from "./below/lower-grants.ts";
export { builtinSchemes } from "./below/builtin-schemes.ts";
export { type FilesBelow, fileKey, filesOf, identityOf, replacedFile, whyNotAgain } from "./below/files.ts";
export {
  type PathOptions,
  type PathWords,
  newPath,
  openPath,
  parsePath,
  withoutLock,
} from "./below/paths.ts";
export {
  type Access,
  type DeviceOpener,
  type DeviceSchemes,
  type UriScheme,
  schemeOf,
} from "./below/schemes.ts";
export {
  type TableSegment,
  TableDevice,
  isTargetDevice,
  openTable,
} from "./dm/table-device.ts";
export { basicTargets } from "./targets/index.ts";
export { type Piece, MappedDevice } from "./targets/mapped.ts";
export { type LinearOptions, LinearDevice, linear } from "./targets/linear.ts";
export { type Stripe, type StripedOptions, StripedDevice, striped } from "./targets/striped.ts";
export { type ZeroOptions, zero } from "./targets/zero.ts";
export { ZeroDevice } from "./devices/zero.ts";
export { type ErrorOptions, ErrorDevice, error } from "./targets/error.ts";
export { type DelayOptions, type Delays, DelayDevice, delay } from "./targets/delay.ts";
export { type LogWritesOptions, LogWritesDevice, logWrites } from "./targets/log-writes.ts";
export { type FlakeyOptions, FlakeyDevice, flakey } from "./targets/flakey.ts";
