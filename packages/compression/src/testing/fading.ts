/**
 * A disk of which some sectors of data fade, of those that the journal of format 2 still has: they are not given until they are
 * written. A write that is not stable when the power fails has mended nothing.
 */
import { type BlockDevice, BlockIoError, GuardedDevice, type Random, SECTOR } from "@dmkit/block-io";
import { isRaw } from "../core/plan.ts";
import { BLOCK, payloadBytes } from "../format/geometry-v1.ts";
import {
  type Change,
  type DecodedRecord,
  announcedLength,
  changeKinds,
  decodeRecord,
} from "../format/journal-v2.ts";
import { newestOf, readSuperblockCopies } from "../device/v2/superblocks.ts";

export class Fading extends GuardedDevice {
  readonly #disk: BlockDevice;
  readonly #bad: Set<number>;
  readonly #mended: Set<number> = new Set();

  /** @param bad the sectors that are not given; outlives the power. */
  constructor(disk: BlockDevice, bad: Set<number>) {
    super(disk.name, disk.size, disk.limits);
    this.#disk = disk;
    this.#bad = bad;
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    for (const sector of this.#bad)
      if (!this.#mended.has(sector) && sector * SECTOR >= offset && sector * SECTOR < offset + into.length)
        throw new BlockIoError(`sector ${sector} is bad`, { code: "EIO", device: this.name, op: "read" });
    await this.#disk.read(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await this.#disk.write(offset, from);
    for (const sector of this.#bad)
      if (sector * SECTOR >= offset && sector * SECTOR < offset + from.length) this.#mended.add(sector);
  }

  protected override async doFlush(): Promise<void> {
    const written = [...this.#mended];
    await this.#disk.flush();
    for (const sector of written) {
      this.#bad.delete(sector);
      this.#mended.delete(sector);
    }
  }

  protected override doDiscard(offset: number, length: number): Promise<void> {
    return this.#disk.discard(offset, length);
  }

  /** Some sectors of payloads that the journal has are bad from now on. To be called when nothing is being written. */
  async fade(random: Random): Promise<void> {
    const superblock = newestOf(await readSuperblockCopies(this.#disk));
    if (superblock === undefined) return;
    const { journalStart, journalBlocks, dataStart } = superblock.layout;
    const slot = Buffer.alloc((journalBlocks / 2) * BLOCK);
    const records: DecodedRecord[] = [];
    for (const number of [0, 1]) {
      await this.#disk.read(journalStart * BLOCK + number * slot.length, slot);
      const length = announcedLength(slot, superblock.uuid, slot.length);
      const record = length && decodeRecord(Buffer.from(slot.subarray(0, length)), superblock.uuid);
      if (record) records.push(record);
    }
    for (const { first, sectors } of inJournal(records.sort((a, b) => a.number - b.number))) {
      if (random.next() < 0.2) continue;
      const sector = Math.floor((random.next() * payloadBytes(sectors)) / SECTOR);
      this.#bad.add(((dataStart + first) * BLOCK) / SECTOR + sector);
    }
  }
}

/** The extents that are as the records say, and whose payload one of the records has. */
function inJournal(records: readonly DecodedRecord[]): Change[] {
  const newest = records.at(-1)?.changes ?? [];
  const before = records.length > 1 ? (records[0] as DecodedRecord).changes : [];
  const isPayload = ({ kind }: Change): boolean => kind === changeKinds.payload;
  const meets = (one: Change, other: Change): boolean =>
    one.first < other.first + other.blocks && other.first < one.first + one.blocks;
  const has = (whole: Change, part: Change): boolean =>
    whole.first <= part.first && part.first + part.blocks <= whole.first + whole.blocks;
  return [
    ...newest.filter(isPayload),
    ...before.filter((old) => isPayload(old) && !newest.some((change) => meets(old, change))),
    // Stored as they were, and described anew.
    ...newest.filter(
      (change) =>
        change.kind === changeKinds.inPlace &&
        isRaw(change) &&
        before.some((old) => isPayload(old) && isRaw(old) && has(old, change)),
    ),
  ];
}
