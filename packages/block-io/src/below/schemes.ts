/** URI schemes: who opens the references that begin with one. */
import type { BlockDevice } from "../contract/device.ts";
import type { Environment } from "../contract/environment.ts";

/** What a device is opened for. */
export type Access = "read" | "write";

/** Opens what stands behind a reference. */
export type DeviceOpener = (
  reference: string,
  access: Access,
  environment: Environment,
) => Promise<BlockDevice>;

/** A URI scheme: what opens its references, and makes the paths in them absolute; `EPARSE` for what is none of them. */
export interface UriScheme {
  readonly open: DeviceOpener;
  readonly absolute: (reference: string, folder: string) => string;
  /** The reference as of a moment, in its own words, where what it names keeps what was before. */
  readonly at?: (reference: string, moment: string) => string;
}

/** Openers by URI scheme (`mem`, `null`, `nbd`, `nbd+unix`, …). */
export type DeviceSchemes = Readonly<Record<string, DeviceOpener>>;

/** The scheme of a URI, or undefined for a path. One-letter schemes do not exist: `c:` would be a path. */
export function schemeOf(reference: string): string | undefined {
  return /^([a-z][a-z0-9+.-]+):/i.exec(reference)?.[1]?.toLowerCase();
}
