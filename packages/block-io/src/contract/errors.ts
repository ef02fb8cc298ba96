/**
 * The one error class of dmkit and the one list of its codes.
 *
 * An error says what happened, where, and (in `hint`) what to do about it. Codes are stable: programs and
 * tests compare codes, never texts.
 */

/** Every code an error of dmkit can carry, with its meaning. The first group may come from any I/O. */
export const errorCodes = {
  EIO: "the device, or a device below it, failed to carry out the request",
  ENOSPC: "the request reaches past the end of the device, or no space is left to store it",
  EINVAL: "the request is not valid for this device (alignment, range, flags)",
  EROFS: "the device is read-only",
  EPERM: "the operation is not permitted",
  ENOMEM: "not enough memory, or too few open files, to carry out the request",
  ENOTSUP: "the device cannot do this, or cannot do it fast when only fast was asked for",
  EOVERFLOW: "the request is larger than this device or connection accepts",
  ESHUTDOWN: "the device is closed or is being shut down",
  ETIMEDOUT: "no answer within the time allowed",
  ENOTCONN: "the connection to the device is lost",
  EBUSY: "somebody else is using the device",
  ENOENT: "there is no such file, device, export or target",
  EACCES: "access was denied by the operating system",
  EEXIST: "it exists already",
  EADDRINUSE: "the address or socket is in use",
  EPARSE: "a text (table, size, option, URI) is not well-formed",
  EFORMAT: "the bytes on a device are not what they should be",
  EPROTO: "the peer broke the protocol",
} as const;

/** A stable error code; the keys of {@link errorCodes}. */
export type ErrorCode = keyof typeof errorCodes;

/** What was being done when the error occurred. */
export type Operation =
  | "open"
  | "read"
  | "write"
  | "flush"
  | "discard"
  | "writeZeroes"
  | "extents"
  | "suspend"
  | "resume"
  | "close"
  | "message"
  | "parse"
  | "connect"
  | "listen";

/** Everything about an error but its text. Offsets and lengths are bytes. */
export interface ErrorDetails {
  readonly code: ErrorCode;
  readonly device?: string | undefined;
  readonly op?: Operation | undefined;
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
  readonly cause?: unknown;
  /**
   * Of a flush that failed: nothing that it was to make stable is lost. The device still holds all of it and goes
   * on, and the next flush that succeeds covers it. Only the device that holds it may say so, and never after an
   * fsync failed. Default false.
   */
  readonly lossless?: boolean | undefined;
  /** What the reader can do about it: one sentence, imperative. */
  readonly hint?: string | undefined;
}

/** The only class thrown by devices, parsers, servers and clients of dmkit. */
export class BlockIoError extends Error {
  override readonly name: string = "BlockIoError";
  readonly code: ErrorCode;
  /** What went wrong, without place and code: for errors that are told again with another place. */
  readonly reason: string;
  readonly device: string | undefined;
  readonly op: Operation | undefined;
  /** Byte offset of the request, where there is one. */
  readonly offset: number | undefined;
  /** Byte length of the request, where there is one. */
  readonly length: number | undefined;
  /** Of a flush: see {@link ErrorDetails.lossless}. */
  readonly lossless: boolean;
  readonly hint: string | undefined;

  /** @param reason what went wrong, without the place: the place is taken from the details. */
  constructor(reason: string, details: ErrorDetails) {
    super(describe(reason, details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = details.code;
    this.reason = reason;
    this.device = details.device;
    this.op = details.op;
    this.offset = details.offset;
    this.length = details.length;
    this.lossless = details.lossless === true;
    this.hint = details.hint;
  }
}

/**
 * The error with which something is refused.
 * @param device whose it is, by name.
 * @param reason what is wrong.
 * @param hint what to do about it: one sentence, imperative.
 * @param op what was asked for.
 */
export function refuse(
  device: string | undefined,
  code: ErrorCode,
  reason: string,
  hint: string | undefined,
  op: Operation = "open",
): BlockIoError {
  return new BlockIoError(reason, { code, device, op, hint });
}

function describe(reason: string, { code, device, op, offset, length }: ErrorDetails): string {
  const where = [
    device,
    offset === undefined ? op : `${op ?? "I/O"} of ${length ?? 0} bytes at offset ${offset}`,
  ].filter((part) => part !== undefined);
  return `${where.length > 0 ? `${where.join(": ")}: ` : ""}${reason} (${code})`;
}

/** True for a string that is one of our codes. */
export function isErrorCode(code: unknown): code is ErrorCode {
  return typeof code === "string" && Object.hasOwn(errorCodes, code);
}

// Codes of the operating system that have another name here.
const synonyms: Readonly<Record<string, ErrorCode>> = {
  EDQUOT: "ENOSPC",
  EFBIG: "ENOSPC",
  EOPNOTSUPP: "ENOTSUP",
  ENODEV: "ENOENT",
  ENXIO: "ENOENT",
  ENOTDIR: "ENOENT",
  ETXTBSY: "EBUSY",
  EAGAIN: "EBUSY",
  EMFILE: "ENOMEM",
  ENFILE: "ENOMEM",
  ECONNREFUSED: "ENOTCONN",
  ECONNRESET: "ENOTCONN",
  EPIPE: "ENOTCONN",
};

/** The code to report for anything caught: its own if we know it, `EIO` otherwise. */
export function codeOf(error: unknown): ErrorCode {
  const code = (error as { code?: unknown } | null | undefined)?.code;
  if (isErrorCode(code)) return code;
  return (typeof code === "string" && synonyms[code]) || "EIO";
}

/** Whether what failed has lost nothing: the device has it all in memory, and the next flush covers it. */
export function isLossless(error: unknown): error is BlockIoError {
  return error instanceof BlockIoError && error.lossless;
}

/** Whether an error may be about the place that was read or written, rather than about the device. */
export function isOfPlace(error: unknown): error is BlockIoError {
  return error instanceof BlockIoError && error.code === "EIO";
}

/** Whether a request failed for want of space: it changed nothing that counts, and may succeed later. */
export function isOutOfSpace(error: unknown): error is BlockIoError {
  return error instanceof BlockIoError && error.code === "ENOSPC";
}

// What to do where nobody who asked the system for something knew better.
const systemHints: Readonly<Record<string, string>> = {
  EACCES: "Check the permissions of the file and of the folders above it.",
  EPERM: "Check who owns it, and the permissions of the folder.",
  ENOENT: "Check the path; its folder has to be there.",
  ENOTDIR: "A part of the path is a file: give another path.",
  EISDIR: "Give the path of a file.",
  EEXIST: "Give another name.",
  ELOOP: "Links lead in a circle: give another path.",
  ENAMETOOLONG: "Give a shorter path.",
  ENOSPC: "Make room, or choose another file system.",
  EDQUOT: "Make room, or choose another file system.",
  EROFS: "Choose a folder that can be written to.",
  EMFILE: "Raise the number of files a process may have open: ulimit -n, or LimitNOFILE= in its unit.",
  ENFILE: "The system has too many files open: raise fs.file-max.",
  EIO: "The storage failed: the system's log (dmesg) says where. Copy what can be read to another device.",
  E2BIG: "Give a shorter command.",
};

/** Whether the operating system has said it, by way of Node: its texts name the call and the path. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  return (
    error instanceof Error && "syscall" in error && typeof (error as { code?: unknown }).code === "string"
  );
}

/**
 * Turns anything caught into a {@link BlockIoError}. An error that is one already is returned as it is: the
 * lowest device knows best what happened. What the operating system says gets a hint, unless there is one.
 */
export function toBlockIoError(error: unknown, details: Omit<ErrorDetails, "code" | "cause">): BlockIoError {
  if (error instanceof BlockIoError) return error;
  if (isSystemError(error) && error.syscall === "uv_cwd") {
    return new BlockIoError("the folder that relative paths start from is gone", {
      ...details,
      code: "ENOENT",
      cause: error,
      hint: "Change to a folder that exists.",
    });
  }
  const reason = error instanceof Error ? error.message : String(error);
  const hint = details.hint ?? systemHint(error);
  return new BlockIoError(reason, { ...details, hint, code: codeOf(error), cause: error });
}

/** What to do about what the operating system says, where nobody knows better. */
export function systemHint(error: unknown): string | undefined {
  return isSystemError(error) ? systemHints[error.code ?? ""] : undefined;
}

/** Does what asks the operating system for something; what that says becomes a {@link BlockIoError} with its place. */
export function asking<T>(details: Omit<ErrorDetails, "code" | "cause">, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw toBlockIoError(error, details);
  }
}

/**
 * The error to report where several things were tried and some failed: the first of the worst. One that cost nothing is
 * told last, since a caller goes on after it; before it one that more space mends, since a caller tries again then.
 * Undefined if none failed.
 */
export function worstOf(
  results: readonly PromiseSettledResult<unknown>[],
): { readonly error: unknown } | undefined {
  let found: { readonly error: unknown } | undefined;
  for (const result of results) {
    if (result.status === "fulfilled") continue;
    const error: unknown = result.reason;
    if (found === undefined || severity(error) > severity(found.error)) found = { error };
  }
  return found;
}

function severity(error: unknown): number {
  if (isLossless(error)) return 0;
  return isOutOfSpace(error) ? 1 : 2;
}
