/** Error codes of dmkit and error numbers of the wire. */
import type { ErrorCode } from "@dmkit/block-io";
import { ERRNO } from "./constants.ts";

const toWire: Readonly<Partial<Record<ErrorCode, number>>> = {
  ENOSPC: ERRNO.ENOSPC,
  EINVAL: ERRNO.EINVAL,
  EROFS: ERRNO.EPERM,
  EPERM: ERRNO.EPERM,
  EACCES: ERRNO.EPERM,
  ENOMEM: ERRNO.ENOMEM,
  ENOTSUP: ERRNO.ENOTSUP,
  EOVERFLOW: ERRNO.EOVERFLOW,
  ESHUTDOWN: ERRNO.ESHUTDOWN,
};

const fromWire: ReadonlyMap<number, ErrorCode> = new Map([
  [ERRNO.EPERM, "EPERM"],
  [ERRNO.EIO, "EIO"],
  [ERRNO.ENOMEM, "ENOMEM"],
  [ERRNO.EINVAL, "EINVAL"],
  [ERRNO.ENOSPC, "ENOSPC"],
  [ERRNO.EOVERFLOW, "EOVERFLOW"],
  [ERRNO.ENOTSUP, "ENOTSUP"],
  [ERRNO.ESHUTDOWN, "ESHUTDOWN"],
]);

/** The number to send for a code: `EIO` for all that have none of their own. */
export function errnoOf(code: ErrorCode): number {
  return toWire[code] ?? ERRNO.EIO;
}

/** The code for a number received, which is not 0: `EINVAL` for unknown ones, as the protocol asks. */
export function codeOfErrno(errno: number): ErrorCode {
  return fromWire.get(errno) ?? "EINVAL";
}
