/**
 * What can be verified of format 1. It has no checksums: rot in raw payloads and in lengths is not found. What can
 * be put right without touching any data is the superblock's count that the original got wrong, and bits behind the
 * last entry.
 */
import { type BlockDevice, BlockIoError, type OfflineWork, isZero, readGiven } from "@dmkit/block-io";
import { packBlock } from "../../format/entries-v1.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { type SuperblockV1, decodeSuperblockV1, encodeSuperblockV1 } from "../../format/superblock-v1.ts";
import { algorithmOf, matchGeometry } from "../../open/v1/load.ts";
import { GIVE_UP, type Finding, type Report, blocksAt, inspectExtents } from "./findings.ts";
import { type ImageV1, ROLE, openImageV1, readStart } from "../image.ts";

export async function* inspectV1(
  device: BlockDevice,
  work: OfflineWork,
  report: Report,
): AsyncIterable<Finding> {
  const superblock = decodeSuperblockV1(await readStart(device));
  const refused = refusal(device, superblock);
  if (refused !== undefined) {
    yield refused;
    return;
  }
  const image = await openImageV1(device, superblock);
  try {
    const { map, algorithm } = image;
    Object.assign(report, { format: "v1", algorithm, dataBlocks: map.blocks });
    if (image.wrapped) yield wrappedFinding(image);
    if (image.rest > 0) yield restFinding(image);
    yield* sealedFindings(image);
    yield* paddingFinding(device, image);
    yield* inspectExtents(
      image,
      work,
      report,
      (block) => image.sealed?.has(block) === true,
      () => Promise.resolve(undefined),
    );
  } finally {
    await image.codec.close();
  }
}

/** What is wrong with a superblock that nobody opens. */
function refusal(device: BlockDevice, superblock: SuperblockV1): Finding | undefined {
  try {
    matchGeometry(device, superblock);
    algorithmOf(device, superblock);
    return undefined;
  } catch (error) {
    if (!(error instanceof BlockIoError)) throw error;
    return {
      problem: {
        kind: "superblock",
        severity: "error",
        role: ROLE,
        location: "superblock",
        offset: 0,
        length: BLOCK,
        text: error.reason,
        advice: error.hint,
      },
    };
  }
}

function wrappedFinding({ superblock, map }: ImageV1): Finding {
  const fixed = encodeSuperblockV1({ ...superblock, dataBlocks: map.blocks });
  return {
    problem: {
      kind: "superblock-wrapped",
      severity: "warning",
      role: ROLE,
      location: "superblock",
      offset: 0,
      length: BLOCK,
      text: `it counts ${superblock.dataBlocks} data blocks instead of ${map.blocks}: a mistake of the original, the device can only be read`,
      repair: `set the count to ${map.blocks}`,
    },
    fix: (device) => device.write(0, fixed),
  };
}

/** Format 1 has no checksum of its counts: one that is too small looks the same as a device that was made larger. */
function restFinding({ map, rest }: ImageV1): Finding {
  return {
    problem: {
      kind: "superblock-rest",
      severity: "info",
      role: ROLE,
      location: "superblock",
      offset: 0,
      length: BLOCK,
      text: `it counts ${map.blocks} data blocks, and ${rest} blocks of the device are behind them: it was made larger`,
      advice:
        "They are not used. If nobody made the device larger, the count is damaged: restore the first block from a backup.",
    },
  };
}

/** Blocks whose entries the device does not give. */
function* sealedFindings({ sealed, dataOffset }: ImageV1): Iterable<Finding> {
  for (const gone of sealed?.runs ?? []) {
    yield {
      gone,
      problem: {
        kind: "metadata",
        severity: "error",
        role: ROLE,
        location: `metadata of ${blocksAt(gone.first, gone.blocks)}`,
        offset: dataOffset + gone.first * BLOCK,
        length: gone.blocks * BLOCK,
        text: "it cannot be read, and nothing is known of what these blocks hold",
        advice: GIVE_UP,
      },
    };
  }
}

/** Bits behind the last entry belong to nothing: they can be zeroed. */
async function* paddingFinding(device: BlockDevice, { map, metaBlocks }: ImageV1): AsyncIterable<Finding> {
  const page = metaBlocks - 1;
  const offset = (1 + page) * BLOCK;
  const stored = await readGiven(device, offset, BLOCK);
  if (stored === undefined) return;
  const packed = Buffer.alloc(BLOCK);
  packBlock(map.states, page, packed);
  if (stored.equals(packed)) return;
  const first = stored.findIndex((byte, at) => byte !== packed[at]);
  if (!isZero(packed, first + 1)) return;
  yield {
    problem: {
      kind: "metadata-padding",
      severity: "info",
      role: ROLE,
      location: `metadata block ${page}`,
      offset: offset + first,
      length: BLOCK - first,
      text: "there are bits behind the last entry",
      repair: "zero them",
    },
    fix: (target) => target.write(offset, packed),
  };
}
