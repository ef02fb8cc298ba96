/**
 * Whether a device carries a cache. Version 2 has a magic at both ends. Version 1 has none, so everything has to
 * fit, and there must be enough of it that chance, or other people's tables of small numbers, does not do it:
 *
 * - the geometry: three powers of two in 16 bytes that fit each other and the device; the policy 0 or 1;
 * - the checksum of the table;
 * - every entry: the start of a block, in the one set it may be in, no block twice;
 * - at least 16 frames, and at least one entry; an empty cache only if it has the mark that dmkit gives it.
 */
import { type BlockDevice, BlockIoError, type Detected, SECTOR, describeSize } from "@dmkit/block-io";
import { FrameTable } from "../core/frame-table.ts";
import type { Geometry } from "../format/geometry.ts";
import { hasMarkV1 } from "../format/v1.ts";
import { type Stored, findMetadata, loadV1 } from "../open/load.ts";
import { readSuperblocks } from "../device/metadata/superblocks.ts";

const LEAST_FRAMES = 16;

/** Undefined if it is no cache. Errors: those of the device. */
export async function detect(device: BlockDevice): Promise<Detected | undefined> {
  if (device.size < 2 * device.limits.logicalBlockSize) return undefined;
  const { first, second } = await readSuperblocks(device);
  const stored = await metadataOf(device);
  const ours = first.ours || second.ours;
  if (stored === undefined) {
    return ours ? found("magic", "cache with damaged superblocks", "") : undefined;
  }
  if (stored.version === 2) {
    const { geometry, policy, clean, uuid } = stored.superblock;
    return found(
      "magic",
      `${shape(geometry)}, ${policy}, ${clean ? "closed cleanly" : "not closed cleanly"}`,
      uuid,
    );
  }
  if (!(await isPlausible(device, stored)))
    return ours ? found("magic", "cache with damaged superblocks", "") : undefined;
  return found("plausible", `${shape(stored.configuration.geometry)}, historical metadata`);
}

function found(certainty: Detected["certainty"], text: string, identity?: string): Detected {
  return { certainty, role: "cache", text, identity };
}

function shape({ frames, blockSectors }: Geometry): string {
  return `cache of ${frames} blocks of ${describeSize(blockSectors * SECTOR)}`;
}

async function metadataOf(device: BlockDevice): Promise<Stored | undefined> {
  try {
    return await findMetadata(device);
  } catch (error) {
    if (error instanceof BlockIoError && error.code === "EFORMAT") return undefined;
    throw error;
  }
}

async function isPlausible(
  device: BlockDevice,
  { configuration, table }: Stored & { version: 1 },
): Promise<boolean> {
  const { geometry } = configuration;
  if (geometry.frames < LEAST_FRAMES) return false;
  const frames = new FrameTable(geometry);
  try {
    loadV1(frames, table, device, Number.MAX_SAFE_INTEGER);
  } catch {
    return false;
  }
  if (frames.bound > 0) return true;
  const sector = Buffer.alloc(SECTOR);
  await device.read(device.size - SECTOR, sector);
  return hasMarkV1(sector);
}
