/** What would be lost if a device were formatted. */
import type { BlockDevice, ImageFormat } from "@dmkit/block-io";
import { candidates } from "./detect.ts";
import { SIGNATURE_AREA, findSignature } from "./format/signatures.ts";

/** One of our formats, or something everybody knows; undefined: nothing that can be recognised. */
export async function whatIsOn(
  device: BlockDevice,
  formats: readonly ImageFormat[],
): Promise<string | undefined> {
  const [own] = await candidates(device, formats);
  return own?.text ?? foreignOn(device);
}

/** A file system, partition table or the like. */
export async function foreignOn(device: BlockDevice): Promise<string | undefined> {
  const start = Buffer.alloc(Math.min(SIGNATURE_AREA, device.size));
  await device.read(0, start);
  return findSignature(start);
}
