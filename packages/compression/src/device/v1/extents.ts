/** Reading an extent of format 1. */
import { BlockIoError, readTwice } from "@dmkit/block-io";
import type { StoredExtent } from "../../core/extent-map.ts";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";
import type { DeviceV1Parts } from "./parts.ts";

/** Byte on the device below where a block begins. */
export function placeOf({ metaBlocks }: Pick<DeviceV1Parts, "metaBlocks">, block: number): number {
  return (1 + metaBlocks + block) * BLOCK;
}

/**
 * The contents; undefined if the extent is damaged, or not given: believed when it was seen twice, and the device below
 * gives something else. Other errors: those of the device below.
 */
export async function loadExtent(parts: DeviceV1Parts, extent: StoredExtent): Promise<Buffer | undefined> {
  const { lower, codec } = parts;
  if (extent.bad) return undefined;
  const contents = Buffer.alloc(extent.blocks * BLOCK);
  if (extent.sectors === 0) return contents;
  const unit = lower.limits.logicalBlockSize;
  const length = payloadBytes(extent.sectors);
  const payload = Buffer.allocUnsafe(Math.ceil(length / unit) * unit);
  const place = placeOf(parts, extent.head);
  if ((await readTwice(lower, place, payload)).size > 0) {
    await lower.read(0, Buffer.alloc(unit));
    return undefined;
  }
  return (await codec.decode(payload.subarray(0, length), contents)) === undefined ? contents : undefined;
}

/** Counts damage, says where it is, and makes the error to report. */
export function damagedExtent(parts: DeviceV1Parts, { head, blocks, sectors }: StoredExtent): BlockIoError {
  const { counters, environment, lower } = parts;
  counters.damaged += 1;
  const place = placeOf(parts, head);
  environment.logger.log("error", "damaged extent", { block: head, blocks, sectors, place });
  return new BlockIoError(`the extent at block ${head} is damaged, or cannot be read`, {
    code: "EIO",
    device: lower.name,
    op: "read",
    offset: head * BLOCK,
    length: blocks * BLOCK,
    hint: "Restore it from a backup, or overwrite the blocks.",
  });
}
