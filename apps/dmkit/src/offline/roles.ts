/** Devices of an image whose format is known beforehand: what stands in the command line, in the order of roles. */
import {
  type BlockDevice,
  type Environment,
  type ImageDevices,
  type ImageFormat,
  didYouMean,
} from "@dmkit/block-io";
import { openReference } from "../devices.ts";
import { type ImageWords, refuseTwice, requireRoles } from "./image.ts";
import { usage } from "../ui/usage.ts";

/** Which reference has which role. Throws `EPARSE`. */
export function assignRoles(
  format: ImageFormat,
  { devices, roles: named, type }: ImageWords,
): Readonly<Record<string, string>> {
  if (type !== undefined && type !== format.name) {
    throw usage(`this is ${format.name}, not ${type}`, "Leave --type out.");
  }
  refuseTwice([...devices, ...Object.values(named)]);
  const references: Record<string, string> = { ...named };
  const names = format.roles.map(({ name }) => name);
  const stranger = Object.keys(named).find((name) => !names.includes(name));
  if (stranger !== undefined) {
    throw usage(
      `${format.name} has no device "${stranger}"`,
      `${didYouMean(stranger, names)}It has: ${names.join(", ")}.`,
    );
  }
  for (const reference of devices) {
    const free = names.find((name) => references[name] === undefined);
    if (free === undefined) {
      throw usage(
        `${reference}: ${format.name} has no use for another device`,
        `It has: ${names.join(", ")}.`,
      );
    }
    references[free] = reference;
  }
  requireRoles(format, references, format.name);
  return references;
}

/** Runs `work` with the devices open; closes them. */
export async function withRoles<T>(
  references: Readonly<Record<string, string>>,
  writes: (role: string) => boolean,
  environment: Environment,
  work: (devices: ImageDevices) => Promise<T>,
): Promise<T> {
  const devices: Record<string, BlockDevice> = {};
  try {
    for (const [role, reference] of Object.entries(references)) {
      devices[role] = await openReference(reference, writes(role) ? "write" : "read", environment);
    }
    return await work(devices);
  } finally {
    for (const device of Object.values(devices)) await device.close();
  }
}
