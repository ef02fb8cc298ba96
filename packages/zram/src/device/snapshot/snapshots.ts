/**
 * The disk's contents on a device: written at close, read at open.
 *
 * Invariants:
 *
 * - the device holds two copies, and one is written only while the other is the newest complete one: a crash at any
 *   time leaves that, so the disk is as at the last close that came to its end;
 * - a snapshot that is not complete, or has rotted, is never taken for one: if it should be the newest, opening is
 *   refused, and the older one is not taken in its place without a word;
 * - what could be open when it was written can be opened again with the same table: pages go back to the backing
 *   device and stay compressed as they were, and `mem_limit` keeps no page out that is in the snapshot.
 */
import { type BlockDevice, isZero, requireBlank, refuse } from "@dmkit/block-io";
import { PAGE } from "../../core/size-classes.ts";
import type { RunningDisk } from "../disk.ts";
import {
  type SnapshotHeader,
  decodeHeader,
  encodeHeader,
  looksLikeHeader,
  states,
} from "../../format/snapshot.ts";
import { readPages } from "./load.ts";
import { damaged, mismatch, snapshotRoom } from "./place.ts";
import { writePages } from "./save.ts";

/** Where snapshots are kept, and which copy is the newest. */
export class Snapshots {
  readonly #device: BlockDevice;
  /** Bytes of a copy: the second one begins there. */
  readonly #room: number;
  /** Which copy is written next, and as what. */
  #next = 0;
  #generation = 1;
  /** The first copy is of a version that older programs would still take for the newest. */
  #outdated = false;

  /** @param pages of the disk. Throws `EINVAL` if two snapshots of it might not fit. */
  constructor(device: BlockDevice, pages: number) {
    this.#device = device;
    this.#room = snapshotRoom(pages);
    const needed = 2 * this.#room;
    if (device.size >= needed) return;
    throw refuse(
      device.name,
      "EINVAL",
      `the device for snapshots has ${device.size} bytes and needs ${needed}`,
      `It takes two snapshots, so that a crash while one is written leaves the other. Make it larger; a file, which may be sparse: truncate -s ${needed} FILE`,
    );
  }

  /** Refuses a device that is neither blank nor has snapshots, unless `force` is given. Throws `EFORMAT`. */
  async prepare(force: boolean): Promise<void> {
    const device = this.#device;
    const starts = [0, this.#room];
    const first = Buffer.alloc(PAGE);
    for (const start of starts) {
      await device.read(start, first);
      // Damaged or not: what can be said of it is for loading to say.
      if (decodeHeader(first) !== undefined || looksLikeHeader(first)) return;
    }
    await requireBlank(device, { force });
    if (!force) return;
    for (const start of starts) await device.writeZeroes(start, PAGE);
    await device.flush();
  }

  /** Writes a snapshot beside the newest; nothing else may use the disk. Errors: those of the device. */
  async save(device: RunningDisk): Promise<void> {
    const target = this.#device;
    const start = this.#next * this.#room;
    const { pages, primary, secondary } = device.parts;
    const header: SnapshotHeader = {
      state: states.unfinished,
      diskSize: device.size,
      pages: pages.stored,
      bytes: 0,
      tableSum: 0,
      algorithm: primary.name,
      secondAlgorithm: secondary?.name ?? "",
      generation: this.#generation,
    };
    await target.write(start, encodeHeader(header));
    await target.flush();
    const written = await writePages(device, target, start + PAGE);
    await target.flush();
    await target.write(start, encodeHeader({ ...header, ...written, state: states.complete }));
    await target.flush();
    if (this.#outdated) {
      await target.write(0, encodeHeader({ ...header, generation: 0 }));
      await target.flush();
      this.#outdated = false;
    }
    // The disk may go on, and be saved again.
    this.#next = 1 - this.#next;
    this.#generation += 1;
  }

  /**
   * Fills an empty disk from the newest snapshot. @param limit bytes of memory beyond which pages that were on the
   * backing device, and find no room there, are refused. Errors: `EFORMAT` unless it is a complete snapshot, or
   * zeroes; `EINVAL` (size, algorithms), `ENOSPC`.
   */
  async load(device: RunningDisk, limit: number): Promise<void> {
    const source = this.#device;
    const copies = [await this.#headerOf(0), await this.#headerOf(1)];
    for (const header of copies) if (header !== undefined) checkSize(device, source, header);
    const newest = newestOf(source, copies, this.#room);
    if (newest === undefined) return;
    const header = copies[newest] as SnapshotHeader;
    const other = copies[1 - newest];
    if (other !== undefined && other.generation > header.generation) {
      device.parts.environment.logger.log(
        "warn",
        `${device.name}: the last snapshot was not completed; the disk is as the one before has it`,
        { device: source.name },
      );
    }
    this.#next = 1 - newest;
    this.#generation = Math.max(header.generation, other?.generation ?? 0) + 1;
    this.#outdated = newest === 0 && header.generation === 0;
    await readPages(device, source, header, newest * this.#room, limit);
  }

  /** The header of a copy; undefined if nothing was ever written there. */
  async #headerOf(copy: number): Promise<SnapshotHeader | undefined> {
    const source = this.#device;
    const at = copy * this.#room;
    const first = Buffer.alloc(PAGE);
    await source.read(at, first);
    if (isZero(first)) return undefined;
    const header = decodeHeader(first);
    if (header !== undefined) return header;
    if (looksLikeHeader(first)) throw damaged(source, at, "its header");
    throw refuse(
      source.name,
      "EFORMAT",
      `there is something else on the device, at byte ${at}`,
      "Give a device for snapshots that begins with a block of zeroes, and has another where its second half begins.",
    );
  }
}

/** Which copy is the newest complete one; undefined on a device that was never written to. Throws `EFORMAT`. */
function newestOf(
  source: BlockDevice,
  [first, second]: readonly (SnapshotHeader | undefined)[],
  room: number,
): 0 | 1 | undefined {
  if (first === undefined && second === undefined) return undefined;
  const [a, b] = [first, second].map((header) =>
    header?.state === states.complete ? header.generation : -1,
  ) as [number, number];
  if (a === b && a >= 0) throw damaged(source, room, "both copies claim to be the newest");
  if (a >= 0 || b >= 0) return a > b ? 0 : 1;
  const at = first === undefined ? room : 0;
  throw refuse(
    source.name,
    "EFORMAT",
    "the snapshot was not completed, and there is none before it",
    `To begin with an empty disk zero the ${PAGE} bytes at byte ${at}.`,
  );
}

// Before anything else: where the second copy lies depends on it.
function checkSize(device: RunningDisk, source: BlockDevice, { diskSize }: SnapshotHeader): void {
  if (diskSize === device.size) return;
  throw mismatch(source, `the snapshot is of a disk of ${diskSize} bytes`, "Open it with that size.");
}
