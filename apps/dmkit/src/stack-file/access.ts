/** Who may use an export, or a place to listen: the part of a plan that a stack file writes, prints and compares as one. */
import type { AccessOptions } from "@dmkit/nbd";

/** Without what is left out. */
export function accessOf({ allow, identities, writers, hidden }: AccessOptions): AccessOptions {
  return {
    ...(allow === undefined ? {} : { allow }),
    ...(identities === undefined ? {} : { identities }),
    ...(writers === undefined ? {} : { writers }),
    ...(hidden === true ? { hidden } : {}),
  };
}
