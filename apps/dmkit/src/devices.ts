/** How the command line opens devices: paths, `mem:`, `null:`, NBD URIs, images and tables. */
import {
  type BlockDevice,
  type DeviceSchemes,
  type Environment,
  LowerDevices,
  type Use,
  openTable,
  parseTable,
} from "@dmkit/block-io";
import { openImage } from "@dmkit/image";
import { openNbd } from "@dmkit/nbd";
import { targets } from "./targets.ts";

const openUri: DeviceSchemes[string] = (reference, access, environment) =>
  openNbd(reference, { environment, readOnly: access === "read" });

/** URI schemes the app knows besides those every stack knows. */
export const schemes: DeviceSchemes = {
  nbd: openUri,
  nbds: openUri,
  "nbd+unix": openUri,
  "nbds+unix": openUri,
  image: (reference, _access, environment) =>
    openImage({ image: reference }, { name: reference, environment }),
};

/**
 * Opens a path or a URI for one caller, who owns it or relies on what is there, unless it says otherwise. Errors:
 * those of opening, EBUSY.
 */
export async function openReference(
  reference: string,
  access: "read" | "write",
  environment: Environment,
  use: Use = access === "write" ? "owns" : "reads",
): Promise<BlockDevice> {
  return LowerDevices.openOne(reference, use, schemes, environment, { access });
}

/** Opens a device-mapper table with all targets the app knows. */
export async function openTableText(
  text: string,
  environment: Environment,
  options: { readonly name?: string; readonly readOnly?: boolean } = {},
): ReturnType<typeof openTable> {
  return openTable(parseTable(text, targets), { ...options, environment, schemes });
}
