/** How the command line opens devices: paths, `mem:`, `null:`, NBD URIs, RBD images, URIs of targets, and tables. */
import { Socket } from "node:net";
import {
  type BlockDevice,
  type DeviceSchemes,
  type Environment,
  LowerDevices,
  type TargetRegistry,
  type UriScheme,
  type Use,
  identityOf,
  openTable,
  parseTable,
  refuse,
  schemeOf,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { resolveNbdUri } from "@dmkit/nbd";
import { rbd } from "./rbd/device.ts";
import { targets as allTargets } from "./targets.ts";

const nbd: UriScheme = {
  async open(reference, access, environment) {
    const { openNbd } = await import("./nbd-client.ts");
    return openNbd(reference, { environment, readOnly: access === "read" });
  },
  absolute: resolveNbdUri,
};

// Those for vsock are refused by who opens them.
const nbdSchemes = {
  nbd,
  nbds: nbd,
  "nbd+unix": nbd,
  "nbds+unix": nbd,
  "nbd+vsock": nbd,
  "nbds+vsock": nbd,
};

/** URI schemes the app knows besides those every stack knows. */
export function uriSchemes(targets: TargetRegistry = allTargets): Readonly<Record<string, UriScheme>> {
  return { ...nbdSchemes, rbd, ...targets.schemes };
}

/** What opens them. */
export function openersOf(targets: TargetRegistry = allTargets): DeviceSchemes {
  return Object.fromEntries(Object.entries(uriSchemes(targets)).map(([name, { open }]) => [name, open]));
}

/** A URI whose paths are absolute, a relative one beginning in `folder`. Throws `EPARSE`. */
export function absoluteUri(uri: string, folder: string, targets?: TargetRegistry): string {
  const schemes = uriSchemes(targets);
  const scheme = schemeOf(uri);
  if (scheme === undefined || !Object.hasOwn(schemes, scheme)) return uri;
  return schemes[scheme]?.absolute(uri, folder) ?? uri;
}

/** The openers of the schemes of all targets the app knows. */
export const schemes: DeviceSchemes = openersOf();

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
  if (isOutput(reference)) {
    const reason = "is where standard output goes: what is read would be written over";
    throw refuse(reference, "EINVAL", reason, "Send the output somewhere else.");
  }
  return LowerDevices.openOne(reference, use, schemes, environment, { access });
}

/** Whether a command that reads something means a device of a running server: `dm:NAME`. */
export function isRunning(reference: string): boolean {
  return schemeOf(reference) === "dm";
}

/**
 * Runs `work` with what a reference names, opened for reading, and closes it; `dm:NAME` is a device of a running server, as
 * it is at this moment. @param onto what is written to meanwhile. Errors: those of {@link openReference}, those of the server.
 */
export async function withReading<T>(
  reference: string,
  environment: Environment,
  work: (device: BlockDevice) => Promise<T>,
  onto?: string,
): Promise<T> {
  if (isRunning(reference)) {
    // Whoever reads a file needs none of it.
    const { withMoment } = await import("./moment/open-moment.ts");
    return withMoment(reference, environment, ({ device }) => work(device), { onto });
  }
  const device = await openReference(reference, "read", environment);
  try {
    return await work(device);
  } finally {
    await device.close();
  }
}

/** Whether standard output is this very file. */
function isOutput(reference: string): boolean {
  // What a pipe is nobody asks: see ui/output.ts.
  if (process.stdout instanceof Socket || schemeOf(reference) !== undefined) return false;
  return identityOf(reference) === identityOf("/dev/stdout");
}

/** Opens a device-mapper table with all targets the app knows. */
export async function openTableText(
  text: string,
  environment: Environment,
  options: { readonly name?: string; readonly readOnly?: boolean } = {},
): ReturnType<typeof openTable> {
  checkSettings({ name: setting.anyText, readOnly: setting.flag }, options);
  return openTable(parseTable(text, allTargets), { ...options, environment, schemes });
}
