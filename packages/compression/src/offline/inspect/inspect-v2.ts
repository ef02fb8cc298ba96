/**
 * What can be verified of format 2, which is everything, and what can be put right:
 *
 * - a copy of the superblock, from the other one; both, if one flipped bit explains each and the metadata agrees;
 * - a metadata sector in which one bit was flipped, if every payload it describes agrees; one all of whose blocks
 *   were changed by the last two records;
 * - records of the journal that are not in place: they are brought there;
 * - a payload that the journal still has.
 */
import { type BlockDevice, type OfflineWork, SECTOR, readGiven } from "@dmkit/block-io";
import { LOST, type StoredExtent } from "../../core/extent-map.ts";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";
import { changeKinds } from "../../format/journal-v2.ts";
import { GROUP, isSound } from "../../format/layout-v2.ts";
import { decodeGroup, encodeGroup, mendGroup, payloadSum } from "../../format/metadata-v2.ts";
import { type SuperblockV2, mendSuperblockV2 } from "../../format/superblock-v2.ts";
import { Applier, wholeBlocks } from "../../device/v2/applier.ts";
import { isWellFormed } from "../../open/v2/load.ts";
import {
  readCopies,
  newestOf,
  readSuperblockCopies,
  unknownAlgorithm,
  writeCopy,
} from "../../device/v2/superblocks.ts";
import { type Finding, OVERWRITE, type Report, blocksAt, inspectExtents } from "./findings.ts";
import { inspectJournal } from "./inspect-journal.ts";
import { type ImageV2, ROLE, checks, foreign, openImageV2, readPayload } from "../image.ts";

export async function* inspectV2(
  device: BlockDevice,
  work: OfflineWork,
  report: Report,
): AsyncIterable<Finding> {
  const { superblock, findings } = await inspectSuperblocks(device);
  yield* findings;
  if (superblock === undefined) return;
  const mended: Finding[] = [];
  const image = await openImageV2(device, superblock, true, true, async (loaded) => {
    for (const group of loaded.store.unreadable) {
      const bit = loaded.store.sealed.has(group) ? undefined : await mendBit(loaded, group);
      const finding = bit ?? (await rebuild(loaded, group));
      if (finding !== undefined) mended.push(finding);
    }
  });
  try {
    const { map, algorithm, store } = image;
    Object.assign(report, { format: "v2", algorithm, dataBlocks: map.blocks });
    yield* mended;
    for (const group of store.unreadable) yield* unreadableGroup(image, group);
    yield* inspectJournal(image);
    const payloads = journalPayloads(image);
    const isKnown = (block: number): boolean => store.unreadable.has(Math.floor(block / GROUP));
    yield* inspectExtents(image, work, report, isKnown, (extent) => rewrite(image, extent, payloads));
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

/** Puts a flipped bit of a group's metadata right, in the view and the store, if everything agrees with that. */
async function mendBit(image: ImageV2, group: number): Promise<Finding | undefined> {
  const { store, superblock, view, map } = image;
  const offset = superblock.layout.metaStart * BLOCK + group * SECTOR;
  const stored = await readSector(view, offset);
  const sector = mendGroup(stored, superblock.uuid, group);
  if (sector === undefined) return undefined;
  const first = group * GROUP;
  const record = decodeGroup(sector, superblock.uuid, group, map.states, store.sums);
  if (!(await agrees(image, group, sector, record))) {
    const blocks = Math.min(GROUP, map.blocks - first);
    map.lose(first, blocks);
    store.sums.fill(0, first, first + blocks);
    return undefined;
  }
  return mended(image, group, sector, "one bit of it has changed", "put the bit right");
}

/** A group all of whose blocks were changed by the last two records is known from them. */
async function rebuild(image: ImageV2, group: number): Promise<Finding | undefined> {
  const { store, superblock, map, records } = image;
  const newest = records.at(-1);
  // Records that came later would have changed what these say.
  if (newest === undefined || newest.number < superblock.applied) return undefined;
  // A block of the device that is not given has others, too.
  if (store.sealed.has(group) && store.parts.lower.limits.logicalBlockSize > SECTOR) return undefined;
  const first = group * GROUP;
  const known = new Set<number>();
  const changes = records.flatMap((record) =>
    record.changes.filter((change) => Math.floor(change.first / GROUP) === group),
  );
  for (const change of changes) {
    for (let block = change.first; block < change.first + change.blocks; block += 1) known.add(block);
  }
  if (known.size < Math.min(GROUP, map.blocks - first)) return undefined;
  new Applier(store).updateMap(changes);
  const sector = Buffer.alloc(SECTOR);
  encodeGroup(sector, 0, superblock.uuid, group, newest.number, map.states, store.sums);
  return mended(image, group, sector, "it is damaged", "write it again, from the journal");
}

async function mended(
  image: ImageV2,
  group: number,
  sector: Buffer,
  text: string,
  repair: string,
): Promise<Finding> {
  const { store, view, superblock } = image;
  const offset = superblock.layout.metaStart * BLOCK + group * SECTOR;
  store.unreadable.delete(group);
  store.sealed.delete(group);
  await patch(view, offset, sector);
  return {
    problem: { ...groupProblem(image, group), text, repair },
    fix: (device) => patch(device, offset, sector),
  };
}

/** Whether mended metadata is just what would have been written, and the payloads are those it describes. */
async function agrees(
  image: ImageV2,
  group: number,
  sector: Buffer,
  record: number | undefined,
): Promise<boolean> {
  const { store, superblock, map } = image;
  const first = group * GROUP;
  if (record === undefined || Number.isNaN(record) || !isWellFormed(map, first)) return false;
  const again = Buffer.alloc(SECTOR);
  encodeGroup(again, 0, superblock.uuid, group, record, map.states, store.sums);
  if (!again.equals(sector)) return false;
  const end = Math.min(first + GROUP, map.blocks);
  for (let block = first; block < end; ) {
    const extent = map.find(block);
    // What the journal is about to replace may be half replaced.
    if (extent.sectors > 0 && !extent.bad && !isPending(image, extent)) {
      const payload = await readPayload(image, extent);
      if (payload === undefined || !checks(image, extent, payload)) return false;
    }
    block = extent.head + extent.blocks;
  }
  return true;
}

function isPending({ pending }: ImageV2, { head, blocks }: StoredExtent): boolean {
  return pending.some(({ changes }) =>
    changes.some((change) => change.first < head + blocks && head < change.first + change.blocks),
  );
}

function groupProblem({ superblock, map }: ImageV2, group: number) {
  const first = group * GROUP;
  return {
    kind: "metadata",
    severity: "error",
    role: ROLE,
    location: `metadata of ${blocksAt(first, Math.min(GROUP, map.blocks - first))}`,
    offset: superblock.layout.metaStart * BLOCK + group * SECTOR,
    length: SECTOR,
  } as const;
}

/** What the journal does not say of such a group is gone. */
function* unreadableGroup(image: ImageV2, group: number): Iterable<Finding> {
  const { map, store } = image;
  const what = store.sealed.has(group) ? "cannot be read" : "is damaged";
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

type Payloads = ReadonlyMap<string, Buffer>;

/** Payloads that the journal's records have, whether in place or not. */
function journalPayloads({ superblock, records }: ImageV2): Payloads {
  const found = new Map<string, Buffer>();
  for (const { changes, payloads } of records) {
    let at = 0;
    for (const { kind, first, sectors, sum } of changes) {
      if (kind !== changeKinds.payload) continue;
      const payload = payloads.subarray(at, at + payloadBytes(sectors));
      at += payload.length;
      if (payloadSum(superblock.uuid, first, payload) === sum) found.set(key(first, sectors, sum), payload);
    }
  }
  return found;
}

function key(head: number, sectors: number, sum: number): string {
  return `${head} ${sectors} ${sum}`;
}

/** Writes a damaged payload again, if the journal has it. */
function rewrite(image: ImageV2, { head, sectors }: StoredExtent, payloads: Payloads): Finding["fix"] {
  const payload = payloads.get(key(head, sectors, image.store.sums[head] as number));
  return payload && ((device) => device.write(image.store.placeOf(head), wholeBlocks(device, payload)));
}

async function readSector(device: BlockDevice, offset: number): Promise<Buffer> {
  const { start, block } = await enclosing(device, offset, SECTOR, true);
  return block.subarray(offset - start, offset - start + SECTOR);
}

/** Writes whole sectors on a device whose blocks may be larger: what is around them stays. */
async function patch(device: BlockDevice, offset: number, bytes: Buffer): Promise<void> {
  const { start, block } = await enclosing(device, offset, bytes.length);
  bytes.copy(block, offset - start);
  await device.write(start, block);
}

async function enclosing(
  device: BlockDevice,
  offset: number,
  length: number,
  isRead = false,
): Promise<{ start: number; block: Buffer }> {
  const unit = device.limits.logicalBlockSize;
  const start = Math.floor(offset / unit) * unit;
  const block = Buffer.alloc(Math.ceil((offset + length) / unit) * unit - start);
  // What is overwritten as a whole need not be readable.
  if (isRead || block.length > length) await device.read(start, block);
  return { start, block };
}
