/**
 * Brings a record's changes into place: payloads to their extents, then the metadata of their groups. Used when a
 * record was committed, and again, with the same result, when it is replayed.
 */
import { SECTOR, type BlockDevice, inParallel, isGiven, isOfPlace } from "@dmkit/block-io";
import { BLOCK, payloadBytes } from "../../format/geometry-v1.ts";
import { type Change, changeKinds } from "../../format/journal-v2.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { encodeGroup } from "../../format/metadata-v2.ts";
import type { Store } from "./store.ts";

// Lower writes in flight at a time.
export const PARALLEL: number = 16;
const SECTORS_IN_BLOCK = BLOCK / SECTOR;

export class Applier {
  readonly #store: Store;

  constructor(store: Store) {
    this.#store = store;
  }

  /** Says to readers that the groups of these changes are about to be overwritten. */
  #announce(groups: ReadonlySet<number>): void {
    const { versions, parts } = this.#store;
    if (!parts.rules.announces) return;
    for (const group of groups) versions[group] = ((versions[group] as number) + 1) >>> 0;
    this.#store.moving = groups;
  }

  /** @param payloads of the changes that have one, one after the other; unchanged until this resolves. */
  async apply(number: number, changes: readonly Change[], payloads: Buffer): Promise<void> {
    const groups = new Set(changes.map(({ first }) => Math.floor(first / GROUP)));
    this.#announce(groups);
    this.#store.moved = changes;
    const held = new Map<Change, Buffer>();
    await this.#written("payloads", this.#writePayloads(changes, payloads, held));
    this.updateMap(changes);
    for (const [{ first, blocks }, contents] of held) this.#store.hold(first, blocks, contents);
    this.#store.moved = [];
    const stuck = this.#store.parts.rules.fails("metadata") ? new Map<number, unknown>() : undefined;
    this.#store.sealed.tell(changes);
    const written = this.#store.sealed.writable(groups);
    await this.#written("metadata", writeMetadata(this.#store, number, written, stuck));
    if (stuck !== undefined) this.#store.holdGroups(written, stuck);
    this.#store.sealed.settle(written);
    this.#store.moving = new Set();
  }

  /** What readers find from now on. */
  updateMap(changes: readonly Change[]): void {
    const { map, sums } = this.#store;
    for (const { kind, first, blocks, sectors, sum } of changes) {
      sums.fill(0, first, first + blocks);
      this.#store.letGo(first, blocks);
      if (kind === changeKinds.drop) map.drop(first, blocks);
      else if (kind === changeKinds.lost) map.lose(first, blocks);
      else {
        map.setExtent(first, blocks, sectors);
        sums[first] = sum;
      }
    }
  }

  async #written(what: "payloads" | "metadata", writing: Promise<void>): Promise<void> {
    try {
      await writing;
    } catch (error) {
      if (this.#store.parts.rules.fails(what)) throw error;
    }
  }

  /** @param held gets the contents of what its place does not take. */
  async #writePayloads(
    changes: readonly Change[],
    payloads: Buffer,
    held: Map<Change, Buffer>,
  ): Promise<void> {
    const { lower, codec, rules } = this.#store.parts;
    const work: { change: Change; payload: Buffer }[] = [];
    let at = 0;
    for (const change of changes) {
      if (change.kind !== changeKinds.payload) continue;
      const length = payloadBytes(change.sectors);
      work.push({ change, payload: payloads.subarray(at, at + length) });
      at += length;
    }
    let count = 0;
    await inParallel(work, PARALLEL, async ({ change, payload }) => {
      const writing = (): Promise<void> =>
        lower.write(this.#store.placeOf(change.first), wholeBlocks(lower, payload));
      try {
        // Believed when it was seen twice.
        if (!rules.fails("payloads")) await writing();
        else if (!(await isGiven(writing()))) await writing();
      } catch (error) {
        const contents = Buffer.alloc(change.blocks * BLOCK);
        count += change.blocks;
        if (!isOfPlace(error) || !rules.fails("payloads") || count > this.#store.mostHeld) throw error;
        if ((await codec.decode(payload, contents)) !== undefined) throw error;
        held.set(change, contents);
      }
    });
  }
}

/**
 * Neighbouring groups lie in one block of the device below, and are written together.
 * @param stuck gets the groups whose place takes no write, seen twice, and why. Without it that is an error.
 */
export async function writeMetadata(
  { parts, map, sums }: Pick<Store, "parts" | "map" | "sums">,
  number: number,
  groups: ReadonlySet<number>,
  stuck?: Map<number, unknown>,
): Promise<void> {
  const { lower, superblock, counters } = parts;
  const whole = lower.limits.logicalBlockSize === BLOCK;
  const runs: { first: number; count: number }[] = [];
  for (const group of [...groups].sort((a, b) => a - b)) {
    const first = whole ? group - (group % SECTORS_IN_BLOCK) : group;
    const count = whole ? SECTORS_IN_BLOCK : 1;
    const last = runs.at(-1);
    if (last === undefined || first > last.first + last.count || last.count >= 256)
      runs.push({ first, count });
    else last.count = Math.max(last.count, first + count - last.first);
  }
  const { metaStart } = superblock.layout;
  const write = async (first: number, count: number): Promise<void> => {
    const bytes = Buffer.alloc(count * SECTOR);
    for (let index = 0; index < count; index += 1) {
      encodeGroup(bytes, index * SECTOR, superblock.uuid, first + index, number, map.states, sums);
    }
    counters.metadata += bytes.length;
    await lower.write(metaStart * BLOCK + first * SECTOR, bytes);
  };
  await inParallel(runs, PARALLEL, async ({ first, count }) => {
    if (stuck === undefined) return write(first, count);
    if (await isGiven(write(first, count))) return;
    const unit = whole ? SECTORS_IN_BLOCK : 1;
    for (let at = first; at < first + count; at += unit) {
      await write(at, unit).catch((error: unknown) => {
        if (!isOfPlace(error)) throw error;
        for (let group = at; group < at + unit; group += 1) stuck.set(group, error);
      });
    }
  });
}

/** The same bytes, filled up with zeroes to what the device below writes as a whole. */
export function wholeBlocks(lower: BlockDevice, bytes: Buffer): Buffer {
  const unit = lower.limits.logicalBlockSize;
  if (bytes.length % unit === 0) return bytes;
  const filled = Buffer.alloc(Math.ceil(bytes.length / unit) * unit);
  bytes.copy(filled);
  return filled;
}
