/**
 * Extents whose places do not hold them, while the journal still does: what they hold is answered from there, and their places
 * are written anew.
 *
 * Invariants:
 *
 * - what is found has the checksum that the metadata has of the extent, so it is what the extent holds, and nothing older;
 * - what was found is kept in memory until its place has it, or it is something else. So a record that is written over the only
 *   copy takes nothing away; and {@link heal} makes places stable before one is, so nor does a crash;
 * - places are written while nothing else is being brought into place.
 */
import { isGiven, isOfPlace } from "@dmkit/block-io";
import type { StoredExtent } from "../../core/extent-map.ts";
import { BLOCK } from "../../format/geometry-v1.ts";
import { GROUP } from "../../format/layout-v2.ts";
import { payloadSum } from "../../format/metadata-v2.ts";
import { wholeBlocks } from "./applier.ts";
import type { Journal } from "./journal/journal.ts";
import { withoutLoss } from "../no-space.ts";
import type { Store } from "./store.ts";

interface Recalled {
  readonly extent: StoredExtent;
  readonly sum: number;
  readonly payload: Buffer;
}

/** What is done with an extent whose place takes no write. */
export type Refused = (extent: StoredExtent, contents: Buffer, error: unknown) => void;

export class Recall {
  readonly #store: Store;
  readonly #journal: Journal;
  readonly #heals: boolean;
  readonly #found: Map<number, Recalled> = new Map();
  /** Places were written anew, and are not known to be stable. */
  #isUnstable = false;

  /** @param heals places are written anew: not where nothing is ever written below. */
  constructor(store: Store, journal: Journal, heals: boolean) {
    this.#store = store;
    this.#journal = journal;
    this.#heals = heals;
  }

  /** Whether there are places to be written anew. */
  get owes(): boolean {
    return this.#heals && this.#found.size > 0;
  }

  /** The contents of an extent as the map has it now; undefined if the journal does not have them either. */
  async contents(extent: StoredExtent): Promise<Buffer | undefined> {
    if (extent.bad || extent.sectors === 0) return undefined;
    const sum = this.#store.sums[extent.head] as number;
    const payload = await this.#payload(extent, sum);
    if (payload === undefined) return undefined;
    const into = Buffer.alloc(extent.blocks * BLOCK);
    if ((await this.#store.parts.codec.decode(payload, into)) !== undefined) return undefined;
    // It may have become something else meanwhile, which was not asked for.
    if (this.#isCurrent({ extent, sum })) this.#remember({ extent, sum, payload });
    return into;
  }

  async #payload(extent: StoredExtent, sum: number): Promise<Buffer | undefined> {
    const { head, sectors } = extent;
    const known = this.#found.get(head);
    if (known !== undefined && known.sum === sum && known.extent.sectors === sectors) return known.payload;
    for (const payload of this.#journal.copiesOf(extent)) {
      const bytes = await payload();
      if (bytes !== undefined && payloadSum(this.#store.parts.superblock.uuid, head, bytes) === sum)
        return bytes;
    }
    return undefined;
  }

  #remember(recalled: Recalled): void {
    const { head, blocks } = recalled.extent;
    if (this.#found.has(head)) return;
    const { logger, counters } = this.#store.parts;
    counters.recalled += 1;
    const place = this.#store.placeOf(head);
    logger.log("warn", "the place of an extent does not have it: the journal has", {
      block: head,
      blocks,
      place,
    });
    this.#found.set(head, recalled);
  }

  #isCurrent({ extent, sum }: Pick<Recalled, "extent" | "sum">): boolean {
    const now = this.#store.map.find(extent.head);
    return (
      this.#store.sums[extent.head] === sum &&
      now.head === extent.head &&
      now.blocks === extent.blocks &&
      now.sectors === extent.sectors
    );
  }

  /**
   * Writes the places of what was found, before the journal is written to: stable, if anything was written since it last was.
   * To be called when nothing else is being brought into place.
   * @param refused what to do about those whose places take no write. Without it, they wait for the next time.
   */
  async heal(refused?: Refused): Promise<void> {
    if (!this.#heals) return;
    const { lower, rules } = this.#store.parts;
    try {
      for (const recalled of this.#found.values()) await this.#healOne(recalled, refused);
      if (this.#isUnstable && rules.heals.includes("flush")) await lower.flush();
      this.#isUnstable = false;
    } catch (error) {
      throw withoutLoss(error);
    }
  }

  async #healOne(recalled: Recalled, refused: Refused | undefined): Promise<void> {
    const { lower, rules, codec } = this.#store.parts;
    const { extent, payload } = recalled;
    const { head, blocks } = extent;
    if (this.#isCurrent(recalled) && rules.heals.includes("write")) {
      const { versions } = this.#store;
      const group = Math.floor(head / GROUP);
      versions[group] = ((versions[group] as number) + 1) >>> 0;
      const writing = (): Promise<void> =>
        lower.write(this.#store.placeOf(head), wholeBlocks(lower, payload));
      try {
        // Believed when it was seen twice.
        if (!(await isGiven(writing()))) await writing();
        this.#isUnstable = true;
      } catch (error) {
        if (!isOfPlace(error)) throw error;
        if (refused === undefined) return;
        const contents = Buffer.alloc(blocks * BLOCK);
        await codec.decode(payload, contents);
        refused(extent, contents, error);
      }
    }
    this.#found.delete(head);
  }
}
