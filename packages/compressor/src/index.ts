export type { Backend, ContextSettings, Levels, WorkerEntry } from "./backend.ts";
export type { Clock, Timer } from "./clock.ts";
export {
  Compressor,
  type CompressorOptions,
  type CompressorStatus,
  createCompressor,
  defaultStreams,
} from "./compressor.ts";
export {
  CompressorError,
  type CompressorErrorCode,
  type CompressorErrorDetails,
  compressorErrorCodes,
} from "./errors.ts";
export {
  type BackendDescription,
  DEFAULT_BACKEND,
  describeBackends,
  findBackend,
  listBackends,
  registerBackend,
} from "./registry.ts";
export { Stream } from "./stream.ts";
