/**
 * The disk's contents on a device: written at close, read at open.
 *
 * Invariants:
 *
 * - the device holds two copies, and one is written only while the other is the newest complete one: a crash at any
 *   time leaves that, so the disk is as at the last close that came to its end;
 * - a snapshot that is not complete, or has rotted, is never taken for one: if it should be the newest, opening is
 *   refused, and the older one is not taken in its place without a word; nor is an empty disk, unless the device says
 *   that it never had a complete one;
 * - a page that its device does not give may be given later, and saving twice writes over it: the disk is read-only then,
 *   unless such pages were given up;
 * - what could be open when it was written can be opened again with the same table: pages go back to the backing
 *   device and stay compressed as they were, and `mem_limit` keeps no page out that is in the snapshot.
 */
import { type BlockDevice, isZero, readWhatIsGiven, requireBlank, refuse } from "@dmkit/block-io";
import { PAGE } from "../../core/size-classes.ts";
import type { Algorithms, Form } from "../algorithms.ts";
import type { RunningDisk } from "../disk.ts";
import {
  type SnapshotHeader,
  decodeHeader,
  encodeHeader,
  looksLikeHeader,
  states,
  versionOf,
} from "../../format/snapshot.ts";
import { readPages } from "./load.ts";
import { readingPriority } from "./forms.ts";
import { damaged, mismatch, snapshotRoom } from "./place.ts";
import { writePages } from "./save.ts";

const NO_ALGORITHM: Form = { name: "", dictionary: undefined };

/** Where snapshots are kept, and which copy is the newest. */
export class Snapshots {
  #device: BlockDevice;
  /** Opens it anew. */
  readonly #reopen: () => Promise<BlockDevice>;
  /** The last attempt to save failed, maybe for good as far as the open device is concerned: a file that was not flushed. */
  #isInDoubt = false;
  /** Bytes of a copy: the second one begins there. */
  readonly #room: number;
  /** Which copy is written next, and as what. */
  #next = 0;
  #generation = 1;
  /** The first copy is of a version that older programs would still take for the newest. */
  #outdated = false;
  /** What is there is to be written over. */
  #foreign = false;
  /** What was found and is not loaded yet; `isOlder`: one that was begun later was not completed. */
  #newest: { readonly header: SnapshotHeader; readonly isOlder: boolean } | undefined;
  /** The first one that was ever begun here was not completed. */
  #isFirst = false;

  /**
   * @param pages of the disk. @param reopen opens the device anew after a failure: all is written again then. Throws
   * `EINVAL` if two snapshots of the disk might not fit.
   */
  constructor(device: BlockDevice, pages: number, reopen: () => Promise<BlockDevice>) {
    this.#device = device;
    this.#reopen = reopen;
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

  /**
   * Finds the newest snapshot, or that there is none: on a device that is blank or, with `force`, is going to be. Writes
   * nothing. Errors: `EFORMAT` unless it is a complete snapshot, or zeroes; `EINVAL` (size, algorithm).
   */
  async find(
    disk: Pick<SnapshotHeader, "diskSize"> & { readonly algorithms: Algorithms },
    force: boolean,
  ): Promise<void> {
    const device = this.#device;
    const blocks = [await this.#blockOf(0), await this.#blockOf(1)];
    // Damaged or not: what can be said of it is said below.
    const isOurs = blocks.some((block) => looksLikeHeader(block));
    this.#foreign = !isOurs && force;
    if (this.#foreign) return;
    if (!isOurs) await requireBlank(device, { force: false });
    const copies = blocks.map((block, copy) => this.#headerIn(block, copy));
    for (const header of copies) if (header !== undefined) checkSize(device, header, disk.diskSize);
    const newest = newestOf(device, copies, this.#room);
    if (newest === undefined) {
      this.#isFirst = copies[0] !== undefined;
      return;
    }
    const header = copies[newest] as SnapshotHeader;
    // What is there without a dictionary is asked about for each page: there may be none.
    const [form] = header.algorithms as [Form];
    const isSame = form.name === disk.algorithms[0].name && form.dictionary === undefined;
    if (!isSame) readingPriority(device, [form], 0, disk.algorithms);
    const other = copies[1 - newest]?.generation ?? 0;
    this.#newest = { header, isOlder: other > header.generation };
    this.#next = 1 - newest;
    this.#generation = Math.max(header.generation, other) + 1;
    this.#outdated = newest === 0 && header.generation === 0;
  }

  /** Makes a device blank that was to be, whatever it holds. Errors: those of the device. */
  async erase(): Promise<void> {
    if (!this.#foreign) return;
    await requireBlank(this.#device, { force: true });
    for (const start of [0, this.#room]) await this.#device.writeZeroes(start, PAGE);
    await this.#device.flush();
  }

  /**
   * Writes a snapshot beside the newest; nothing else may use the disk. Errors: those of the devices; it can be tried again
   * then. @param mayLose see {@link writePages}.
   */
  async save(device: RunningDisk, mayLose: boolean): Promise<void> {
    if (this.#isInDoubt) this.#device = await this.#reopen();
    this.#isInDoubt = true;
    await this.#write(device, this.#device, mayLose);
    this.#isInDoubt = false;
  }

  async #write(device: RunningDisk, target: BlockDevice, mayLose: boolean): Promise<void> {
    const start = this.#next * this.#room;
    const { pages, algorithms } = device.parts;
    const header: SnapshotHeader = {
      state: states.unfinished,
      diskSize: device.size,
      pages: pages.stored,
      bytes: 0,
      tableSum: 0,
      algorithms: algorithms.map((one) => one ?? NO_ALGORITHM),
      isExtended: false,
      generation: this.#generation,
    };
    await target.write(start, encodeHeader(header));
    await target.flush();
    const written = await writePages(device, target, start + PAGE, mayLose);
    await target.flush();
    await target.write(start, encodeHeader({ ...header, ...written, state: states.complete }));
    await target.flush();
    // The disk may go on, and be saved again: over the other copy, whatever becomes of the next step.
    this.#next = 1 - this.#next;
    this.#generation += 1;
    if (this.#outdated && start > 0) {
      await target.write(0, encodeHeader({ ...header, generation: 0 }));
      await target.flush();
    }
    this.#outdated = false;
  }

  /**
   * Fills an empty disk from what {@link find} has found. @param limit bytes of memory beyond which pages that were on the
   * backing device, and find no room there, are refused. Returns in words which pages could not be read, if any. Errors:
   * `EFORMAT` (damage), `EIO`, `EINVAL` (other algorithms), `ENOSPC`.
   */
  async load(device: RunningDisk, limit: number): Promise<string | undefined> {
    const found = this.#newest;
    if (this.#isFirst || found?.isOlder === true) {
      const [which, result] = this.#isFirst ? ["first", "empty"] : ["last", "as the one before has it"];
      device.parts.environment.logger.log(
        "warn",
        `${device.name}: the ${which} snapshot was not completed; the disk is ${result}`,
        { device: this.#device.name },
      );
    }
    if (found === undefined) return undefined;
    const { header } = found;
    this.#newest = undefined;
    return readPages(device, this.#device, header, (1 - this.#next) * this.#room, limit);
  }

  async #blockOf(copy: number): Promise<Buffer> {
    const block = Buffer.alloc(PAGE);
    const at = copy * this.#room;
    // Only the first sector says anything.
    const missing = await readWhatIsGiven(this.#device, at, block);
    if (missing.has(0)) throw damaged(this.#device, at, "its header cannot be read", "EIO");
    return block;
  }

  /** The header of a copy; undefined if nothing was ever written there. */
  #headerIn(first: Buffer, copy: number): SnapshotHeader | undefined {
    const source = this.#device;
    const at = copy * this.#room;
    if (isZero(first)) return undefined;
    const header = decodeHeader(first);
    if (header !== undefined) return header;
    const version = versionOf(first);
    if (version !== undefined)
      throw refuse(
        source.name,
        "EFORMAT",
        `the snapshot at byte ${at} is of version ${version}, which is newer than this program`,
        "Open it with a newer dmkit.",
      );
    if (looksLikeHeader(first)) throw damaged(source, at, "its header");
    throw refuse(
      source.name,
      "EFORMAT",
      `there is something else on the device, at byte ${at}`,
      "Give a device for snapshots that begins with a block of zeroes, and has another where its second half begins.",
    );
  }
}

/** Which copy is the newest complete one; undefined on a device that never had one. Throws `EFORMAT`. */
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
  // Any other number says that there was one, whose header somebody has zeroed since; so does the second copy.
  if (first?.state === states.unfinished && first.generation === 1 && second === undefined) return undefined;
  const at = first === undefined ? room : 0;
  throw refuse(
    source.name,
    "EFORMAT",
    "the last snapshot was not completed, and the header of the one before it is gone",
    `To do without both, and begin with an empty disk, zero the ${PAGE} bytes at byte ${at}.`,
  );
}

// Before anything else: where the second copy lies depends on it.
function checkSize(source: BlockDevice, { diskSize }: SnapshotHeader, size: number): void {
  if (diskSize === size) return;
  throw mismatch(source, `the snapshot is of a disk of ${diskSize} bytes`, "Open it with that size.");
}
