export {
  type ErrorCode,
  type ErrorDetails,
  type Operation,
  BlockIoError,
  codeOf,
  errorCodes,
  isErrorCode,
  toBlockIoError,
} from "./errors.ts";
export {
  type Ability,
  type BlockDevice,
  type Capabilities,
  type Extent,
  type ExtentKind,
  type Limits,
  type WriteOptions,
  type WriteZeroesOptions,
  SECTOR,
  done,
  plainCapabilities,
  plainLimits,
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
export { GuardedDevice, sectorsOf, zeroes } from "./guard.ts";
export { type RangeGrant, RangeLock } from "./range-lock.ts";
export { ByteAccess } from "./byte-access.ts";
export { getU16, getU32, getU64, getU8, isZero, setU16, setU32, setU64, setU8, tryU64 } from "./bytes.ts";
export { type MemoryDeviceOptions, MemoryDevice } from "./devices/memory.ts";
export { type FileDeviceOptions, FileDevice, openFile } from "./devices/file.ts";
export { FlushGroup } from "./flush-group.ts";
