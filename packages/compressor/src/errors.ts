/**
 * The one error class of this package and the list of its codes. Codes are stable: programs and tests compare
 * codes, never texts.
 */

/** Every code a {@link CompressorError} can carry, with its meaning. */
export const compressorErrorCodes = {
  EFORMAT: "the compressed bytes are malformed, or yield more than the buffer for them holds",
  EINVAL: "an argument or option is out of its range",
  ENOENT: "no backend of that name or number is known",
  EEXIST: "a backend of that name or number is known already",
  ENOTSUP:
    "the backend cannot work here: a package it needs is missing or does not load; or it has no dictionaries",
  EOVERFLOW: "the input is longer than the compressor was made for",
  EBUSY: "the stream is still compressing",
  ESHUTDOWN: "the compressor is closed, or the stream was released",
  ENOMEM: "the backend could not get its working memory",
  EIO: "the backend failed in a way that is not the input's fault",
} as const;

/** A stable error code; the keys of {@link compressorErrorCodes}. */
export type CompressorErrorCode = keyof typeof compressorErrorCodes;

/** Everything about an error but its text. */
export interface CompressorErrorDetails {
  readonly code: CompressorErrorCode;
  /** Name of the backend, where one is concerned. */
  readonly backend?: string | undefined;
  /** Byte offset in the compressed input at which the fault was noticed, where that is known. */
  readonly offset?: number | undefined;
  readonly cause?: unknown;
  /** What the reader can do about it: one sentence, imperative. */
  readonly hint?: string | undefined;
}

/** The only class thrown by this package. */
export class CompressorError extends Error {
  override readonly name: string = "CompressorError";
  readonly code: CompressorErrorCode;
  readonly backend: string | undefined;
  readonly offset: number | undefined;
  readonly hint: string | undefined;
  /** What went wrong, and in which backend and where; without code and hint, for who shows these beside it. */
  readonly reason: string;

  /** @param reason what went wrong, without the place: the place is taken from the details. */
  constructor(reason: string, details: CompressorErrorDetails) {
    super(describe(reason, details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.backend = details.backend;
    this.offset = details.offset;
    this.hint = details.hint;
    this.reason = located(reason, details);
  }
}

/**
 * The error for compressed bytes that are not what they should be, unless what a library threw for them says nothing of the
 * bytes: that memory or something else was wanting, which passes and is no damage.
 */
export function corrupt(backend: string, reason: string, offset?: number, cause?: unknown): CompressorError {
  if (isOfSystem(cause)) return failed(backend, cause);
  return new CompressorError(reason, { code: "EFORMAT", backend, offset, cause });
}

/** The error for a backend that failed where nothing says that the input is at fault. */
export function failed(backend: string, cause: unknown): CompressorError {
  const isMemory = isOfSystem(cause);
  return new CompressorError(isMemory ? "there is no memory to work with" : "the backend failed", {
    code: isMemory ? "ENOMEM" : "EIO",
    backend,
    cause,
  });
}

const SYSTEM_CODES: readonly unknown[] = [
  "ENOMEM",
  "EAGAIN",
  "EMFILE",
  "ENFILE",
  "Z_MEM_ERROR",
  "ZSTD_error_memory_allocation",
  "ERR_ZLIB_INITIALIZATION_FAILED",
  "ERR_MEMORY_ALLOCATION_FAILED",
];
/** What has no code says so: dlopen, V8, koffi. */
const SYSTEM_WORDS =
  /out of memory|allocation failed|cannot allocate memory|failed to allocate|too many open files|temporarily unavailable|too many asynchronous calls/i;

/** Whether an error is of what the system has to give at a time, memory and descriptors: trying again later may help. */
export function isOfSystem(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const { code } = error as NodeJS.ErrnoException;
  return SYSTEM_CODES.includes(code) || SYSTEM_WORDS.test(error.message) || isOfSystem(error.cause);
}

function located(reason: string, { backend, offset }: CompressorErrorDetails): string {
  const where = backend === undefined ? "" : `${backend}: `;
  const at = offset === undefined ? "" : ` at byte ${offset}`;
  return `${where}${reason}${at}`;
}

function describe(reason: string, details: CompressorErrorDetails): string {
  const { code, hint } = details;
  return `${located(reason, details)} (${code})${hint === undefined ? "" : `. ${hint}`}`;
}
