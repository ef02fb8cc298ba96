/**
 * What would be lost if a device were formatted. What is blank is decided by block-io, as for tables and stack files;
 * the formats add what they say of their own images, and recognise some that have no magic.
 */
import { isDeepStrictEqual } from "node:util";
import {
  type BlockDevice,
  BlockIoError,
  type Detected,
  type ImageDevices,
  type ImageFormat,
  type OfflineWork,
  contentsOf,
  isOfPlace,
  notBlank,
  refuse,
  requireNoCache,
} from "@dmkit/block-io";
import { candidates } from "./detect.ts";
import type { DumpFile } from "./dump.ts";

const HOW = { word: "--force", code: "EEXIST" } as const;

/** A file system, partition table or the like; undefined: nothing that is known. */
export async function foreignOn(device: BlockDevice): Promise<string | undefined> {
  const contents = device.size === 0 ? undefined : await contentsOf(device);
  return contents?.known === true ? contents.text : undefined;
}

export interface Protection {
  /** A format that may be there. */
  readonly welcome?: ImageFormat | undefined;
  /** Data of a kind that nobody knows may be there: only metadata is written, and the data are its. Default false. */
  readonly keepsData?: boolean;
}

/** Throws `EEXIST` if one of the devices that are to be overwritten is not blank. */
export async function refuseContents(
  devices: ImageDevices,
  roles: Iterable<string>,
  formats: readonly ImageFormat[],
  { welcome, keepsData = false }: Protection = {},
): Promise<void> {
  for (const role of roles) {
    const device = devices[role];
    if (device === undefined || (await welcome?.detect(device)) !== undefined) continue;
    const [own] = await candidates(device, formats);
    const found = await contentsOf(device);
    const contents =
      own === undefined
        ? found
        : { text: own.text, known: true, certain: true, cache: false, offset: found?.offset ?? 0 };
    if (contents === undefined || (keepsData && !contents.known)) continue;
    throw notBlank(device, contents, HOW);
  }
}

/**
 * Throws `EEXIST` if a device holds an image of the format that is not the one that would be there then, or cannot be
 * told from another. One that has lost its identity is taken: restoring is for images that are damaged.
 * @param after what would be on the devices, by role.
 */
export async function refuseOtherImages(
  devices: ImageDevices,
  after: ReadonlyMap<string, Detected | undefined>,
  format: ImageFormat,
): Promise<void> {
  for (const [role, wanted] of after) {
    const device = devices[role];
    const found = device && (await format.detect(device));
    if (found === undefined || found.identity === "") continue;
    if (found.identity !== undefined && found.identity === wanted?.identity) continue;
    throw refuse(
      device?.name,
      HOW.code,
      found.identity === undefined
        ? `holds a ${found.text}, and such images have nothing that tells whether the dump is of this one`
        : `holds another image than the dump is of: ${found.text}`,
      `Nothing was written. If the dump is to replace what this image says of itself, give ${HOW.word}.`,
    );
  }
}

/**
 * Throws `EEXIST` if there are metadata on the devices that can be read, and are not what the dump says. The data belong to
 * them: what was written since would be lost with them, and what lay elsewhere then would be taken for what lies there now.
 */
export async function refuseUsed(
  { format, dump }: DumpFile,
  devices: ImageDevices,
  work: OfflineWork,
): Promise<void> {
  const now = await format.dump?.(devices, { ...work, progress: undefined }).catch((error: unknown) => {
    // Damaged, not given by the device, or none at all: that is what a restore is for.
    if (isOfPlace(error) || (error instanceof BlockIoError && error.code === "EFORMAT")) return undefined;
    throw error;
  });
  if (now === undefined || isDeepStrictEqual(JSON.parse(JSON.stringify(now)), dump)) return;
  throw refuse(
    devices[format.roles[0]?.name ?? ""]?.name,
    HOW.code,
    "has other metadata than the dump: it was used since, or is damaged in part",
    `What was written since would be lost, or read as what it is not. Nothing was written. dmkit fsck says what is damaged. If the dump is to replace what is there, give ${HOW.word}, and --undo FILE to be able to go back.`,
  );
}

/** Throws `EEXIST` if a device that is to be cached is a cache itself. */
export async function refuseCaches(devices: ImageDevices, { roles }: ImageFormat): Promise<void> {
  for (const { name, cached } of roles) {
    const device = devices[name];
    if (cached === true && device !== undefined) await requireNoCache(device, { ...HOW, force: false });
  }
}
