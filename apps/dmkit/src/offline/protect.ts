/** What would be lost if a device were formatted. */
import { type BlockDevice, BlockIoError, type ImageDevices, type ImageFormat } from "@dmkit/block-io";
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

/**
 * Throws `EEXIST` if one of the devices that are to be overwritten holds something that can be recognised.
 * @param welcome a format that may be there.
 */
export async function refuseContents(
  devices: ImageDevices,
  roles: Iterable<string>,
  formats: readonly ImageFormat[],
  welcome?: ImageFormat,
): Promise<void> {
  for (const role of roles) {
    const device = devices[role];
    if (device === undefined || (await welcome?.detect(device)) !== undefined) continue;
    const contents = await whatIsOn(device, formats);
    if (contents === undefined) continue;
    throw new BlockIoError(`holds something already: ${contents}`, {
      code: "EEXIST",
      device: device.name,
      hint: "Nothing was written. If it is not needed any more, add --force.",
    });
  }
}
