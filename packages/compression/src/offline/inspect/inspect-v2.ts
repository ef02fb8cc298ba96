/**
 * What can be verified of format 2, which is everything, and what can be put right:
 *
 * - a copy of the superblock, from the other one; both, if one flipped bit explains each and the metadata agrees;
 * - metadata that is known all the same (`mend.ts`);
 * - records of the journal that are not in place: they are brought there;
 * - a payload that the journal still has.
 */
import { type BlockDevice, type OfflineWork, SECTOR, readGiven } from "@dmkit/block-io";
import { LOST, type StoredExtent } from "../../core/extent-map.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { GROUP, isSound } from "../../format/layout-v2.ts";
import { decodeGroup } from "../../format/metadata-v2.ts";
import { type SuperblockV2, mendSuperblockV2 } from "../../format/superblock-v2.ts";
import { wholeBlocks } from "../../device/v2/applier.ts";
import {
  readCopies,
  newestOf,
  readSuperblockCopies,
  unknownAlgorithm,
  writeCopy,
} from "../../device/v2/superblocks.ts";
import { type Finding, OVERWRITE, type Report, blocksAt, inspectExtents } from "./findings.ts";
import { inspectJournal } from "./inspect-journal.ts";
import { type ImageV2, ROLE, foreign, openImageV2, placeOf, recall } from "../image.ts";
import { groupProblem, mendMetadata } from "./mend.ts";

export async function* inspectV2(
  device: BlockDevice,
  work: OfflineWork,
  report: Report,
): AsyncIterable<Finding> {
  const { superblock, findings } = await inspectSuperblocks(device);
  yield* findings;
  if (superblock === undefined) return;
  let mended: readonly Finding[] = [];
  const image = await openImageV2(device, superblock, true, true, async (loaded) => {
    mended = await mendMetadata(loaded);
  });
  try {
    const { map, algorithm, store } = image;
    Object.assign(report, { format: "v2", algorithm, dataBlocks: map.blocks });
    yield* mended;
    for (const group of store.unreadable) yield* unreadableGroup(image, group);
    yield* inspectJournal(image);
    const isKnown = (block: number): boolean => store.unreadable.has(Math.floor(block / GROUP));
    yield* inspectExtents(image, work, report, isKnown, (extent) => rewrite(image, extent));
  } finally {
    await image.codec.close();
  }
}

interface Superblocks {
  /** Undefined if nothing more can be said. */
  readonly superblock: SuperblockV2 | undefined;
  readonly findings: readonly Finding[];
}

async function inspectSuperblocks(device: BlockDevice): Promise<Superblocks> {
  if (device.size < 2 * BLOCK) throw foreign(device);
  const copies = await readSuperblockCopies(device);
  if (copies.every(({ kind }) => kind === "absent")) throw foreign(device);
  const useless = (text: string, advice: string): Superblocks => ({
    superblock: undefined,
    findings: [
      {
        problem: { kind: "superblock", severity: "error", role: ROLE, location: "superblock", text, advice },
      },
    ],
  });
  if (copies.some(({ kind }) => kind === "version"))
    return useless("a later program made this device", "Use that one.");
  let superblock = newestOf(copies);
  const guessed = superblock === undefined;
  superblock ??= await provedSuperblock(device);
  if (superblock === undefined)
    return useless(
      "both copies are damaged, or cannot be read",
      "Restore the first two blocks from a backup.",
    );
  if (!isSound(superblock.layout)) return useless("the layout makes no sense", "Restore a backup.");
  // Before anything is repaired: the other copy may say something else.
  const unknown = unknownAlgorithm(superblock);
  if (unknown !== undefined) return useless(unknown.reason, unknown.hint);
  const need = superblock.layout.totalBlocks * BLOCK;
  if (device.size < need) {
    return useless(
      `the device has ${device.size} bytes, ${need} are needed`,
      "It was cut short: make it as long as it was.",
    );
  }
  const best = superblock;
  const findings = copies.flatMap((copy, index): Finding[] => {
    const stale = copy.kind === "sound" && copy.superblock.generation < best.generation;
    if (copy.kind === "sound" && !stale) return [];
    return [copyFinding(best, index, stale ? "old" : copy.kind, guessed)];
  });
  return { superblock, findings };
}

function copyFinding(superblock: SuperblockV2, copy: number, what: string, guessed: boolean): Finding {
  return {
    problem: {
      kind: "superblock-copy",
      severity: guessed ? "error" : what === "old" ? "info" : "warning",
      role: ROLE,
      location: `copy ${copy} of the superblock`,
      offset: copy * BLOCK,
      length: SECTOR,
      text: what === "old" ? "it is older than the other one: a close was interrupted" : `it is ${what}`,
      repair: guessed ? "put one flipped bit right: the metadata proves it" : "write the other one here",
    },
    fix: (device) => writeCopy(device, superblock, copy),
  };
}

/** Both copies are damaged: one of them may be explained by a single flipped bit, if metadata has its checksum. */
async function provedSuperblock(device: BlockDevice): Promise<SuperblockV2 | undefined> {
  for (const copy of await readCopies(device)) {
    const mended = copy && mendSuperblockV2(copy);
    if (mended === undefined || !isSound(mended.layout)) continue;
    const { metaStart, totalBlocks } = mended.layout;
    if (totalBlocks * BLOCK > device.size) continue;
    const block = await readGiven(device, metaStart * BLOCK, BLOCK);
    if (block === undefined) continue;
    const [states, sums] = [new Uint8Array(GROUP), new Uint32Array(GROUP)];
    if (decodeGroup(block, mended.uuid, 0, states, sums) !== undefined) return mended;
  }
  return undefined;
}

/** What the journal does not say of such a group is gone. */
function* unreadableGroup(image: ImageV2, group: number): Iterable<Finding> {
  const { map, sealed } = image;
  const what = sealed.has(group) ? "cannot be read" : "is damaged";
  const end = Math.min((group + 1) * GROUP, map.blocks);
  for (let block = group * GROUP; block < end; ) {
    const first = block;
    while (block < end && map.states[block] === LOST) block += 1;
    if (block > first) {
      yield {
        gone: { first, blocks: block - first },
        problem: {
          ...groupProblem(image, group),
          text: `it ${what}, and says nothing of ${blocksAt(first, block - first)}`,
          advice: OVERWRITE,
        },
      };
    }
    while (block < end && map.states[block] !== LOST) block += 1;
  }
}

/** Writes a damaged payload again, if the journal has it. */
async function rewrite(image: ImageV2, extent: StoredExtent): Promise<Finding["fix"]> {
  const payload = await recall(image, extent, Buffer.allocUnsafe(extent.blocks * BLOCK));
  const place = placeOf(image, extent.head);
  return payload && ((device) => device.write(place, wholeBlocks(device, payload)));
}
