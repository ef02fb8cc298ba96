export {
  type ErrorCode,
  type ErrorDetails,
  type Operation,
  BlockIoError,
  codeOf,
  errorCodes,
  isErrorCode,
  isOutOfSpace,
  toBlockIoError,
  worstOf,
} from "./errors.ts";
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
  SECTOR,
  done,
  plainCapabilities,
  plainLimits,
  storageOf,
  withCapabilities,
} from "./device.ts";
export {
  type Clock,
  type Environment,
  type LogLevel,
  type Logger,
  type Random,
  type Scheduler,
  type Timer,
  realEnvironment,
  silentLogger,
  sleep,
} from "./environment.ts";
export { endProcess } from "./end-process.ts";
export {
  type ByteRange,
  type Claim,
  type Claimant,
  type Holder,
  type Use,
  Claims,
  claims,
} from "./claims.ts";
export { STREAMS, Streams } from "./streams.ts";
export { type Gate, makeGate } from "./gate.ts";
export { GuardedDevice, sectorsOf, zeroes } from "./guard.ts";
export {
  type Health,
  type HealthState,
  healthOf,
  healthStates,
  healthy,
  wholeStory,
  worstHealth,
} from "./health.ts";
export type {
  Detected,
  ImageDevices,
  ImageFacts,
  ImageFormat,
  ImageMap,
  ImageProblem,
  ImageRepair,
  ImageRepairSettings,
  ImageRole,
  MapKind,
  MapRange,
  MapStrip,
  OfflineWork,
  ProblemSeverity,
} from "./image-format.ts";
export { type RangeGrant, RangeLock } from "./range-lock.ts";
export { ByteAccess } from "./byte-access.ts";
export { witnessBlocks, witnessOf } from "./witness.ts";
export {
  type Area,
  type Contents,
  FORCE_WORD,
  type Overwriting,
  beginFormat,
  contentsOf,
  eraseSignatures,
  notBlank,
  requireBlank,
  requireNoCache,
} from "./blank.ts";
export { getU16, getU32, getU64, getU8, isZero, setU16, setU32, setU64, setU8, tryU64 } from "./bytes.ts";
export { type MemoryDeviceOptions, MemoryDevice } from "./devices/memory.ts";
export { MemoryOverlay, anyReadOnly } from "./devices/memory-overlay.ts";
export { FileDevice } from "./devices/file.ts";
export { type FileDeviceOptions, openFile } from "./devices/file-open.ts";
export { FlushGroup } from "./flush-group.ts";
export { SpaceWatch } from "./space-watch.ts";
export { Turnstile } from "./turnstile.ts";
export { Bitmap } from "./bitmap.ts";
export { BufferPool } from "./buffer-pool.ts";
export { type Crc32c, acceleratedCrc32c, crc32c, portableCrc32c, rawCrc32c } from "./crc32c.ts";
export { latencyBucket } from "./latency.ts";
export { describeSize, formatSize, parseSize } from "./size.ts";
export { printable, printableJson, printableLines, shellQuote } from "./text.ts";
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
  describeRange,
  parseOption,
  parseOptions,
} from "./options.ts";
export {
  type Controls,
  type Facts,
  type Message,
  type MessageOptions,
  type MessageProgress,
  type Messages,
  type TunableTable,
  noControls,
  tunableNamed,
  tunablesOf,
  unknownMessage,
} from "./controls.ts";
export {
  type AnyTarget,
  type OpenContext,
  type RangeDescription,
  type Target,
  type TargetDevice,
  GuardedTarget,
  TableArguments,
  currentArguments,
  printNamed,
  splitSector,
  requireRoom,
} from "./target.ts";
export { TargetRegistry } from "./registry.ts";
export { type Segment, parseTable, printTable, quoteTableWord, tableLength } from "./table.ts";
export {
  type Access,
  type DeviceOpener,
  type DeviceSchemes,
  type DeviceUse,
  type LowerOptions,
  type UseOptions,
  LowerDevices,
  builtinSchemes,
  identityOf,
  schemeOf,
} from "./lower-devices.ts";
export {
  type OpenTableOptions,
  type TableSegment,
  TableDevice,
  isTargetDevice,
  openTable,
} from "./stack.ts";
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
