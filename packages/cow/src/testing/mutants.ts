/** The faults of the original, and others that this design could have, put back in. */
import { type BlockDevice, LinearDevice, SECTOR, done } from "@dmkit/block-io";
import { breaking, onDisks } from "@dmkit/block-io/testing";
import { PAGE_BYTES } from "../core/owner-map.ts";
import { type Identity, decodeIdentity, encodeIdentity } from "../format/identity.ts";
import { freezeTarget, mergeTarget } from "./live-targets.ts";
import type { CowTarget } from "./sim-stacks.ts";
import { snapshotTarget } from "./snapshot-target.ts";
import { commitTarget, rebaseTarget, squashTarget, stackTarget } from "./sim-targets.ts";

/** A disk whose flushes do nothing. */
class Unflushed extends LinearDevice {
  protected override doFlush(): Promise<void> {
    return done;
  }
}

/** A bitmap device whose identity keeps its samples for good. */
class Sampled extends LinearDevice {
  #samples: Identity["samples"];

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    await super.doRead(offset, into);
    this.#see(into);
  }

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const found = decodeIdentity(from);
    if (found.kind !== "layer" || found.identity.samples !== undefined || this.#samples === undefined)
      return super.doWrite(offset, from, fua);
    const kept = Buffer.from(from);
    encodeIdentity({ ...found.identity, samples: this.#samples }).copy(kept);
    return super.doWrite(offset, kept, fua);
  }

  #see(block: Buffer): void {
    const found = block.length >= SECTOR ? decodeIdentity(block) : undefined;
    if (found?.kind === "layer") this.#samples = found.identity.samples ?? this.#samples;
  }
}

/** A bitmap device that says of an identity it is written when it is about to be, and flushes it later. */
class Late extends LinearDevice {
  #isLate = false;

  protected override doWrite(offset: number, from: Buffer, fua: boolean): Promise<void> {
    const writing = super.doWrite(offset, from, fua);
    if (decodeIdentity(from).kind !== "layer") return writing;
    this.#isLate = true;
    void writing.catch(() => {});
    return done;
  }

  protected override doFlush(): Promise<void> {
    if (!this.#isLate) return super.doFlush();
    this.#isLate = false;
    void super.doFlush().catch(() => {});
    return done;
  }
}

const isData = ({ name }: BlockDevice): boolean => name.startsWith("data") || name === "base";
const isMap = ({ name }: BlockDevice): boolean => name.startsWith("map");

/** The target on disks some of which are of another class. */
const on = (
  target: CowTarget,
  name: string,
  which: (disk: BlockDevice) => boolean,
  Wrong: typeof LinearDevice,
): CowTarget =>
  onDisks(target, name, (disk) => (which(disk) ? new Wrong(disk, 0, disk.size, disk.name) : disk));

export const mutants: readonly CowTarget[] = [
  breaking(stackTarget, "bit-before-data", { awaitsData: false }),
  breaking(stackTarget, "first-sector-only", {
    mark: (map, sector, count) => map.owner(sector) !== map.top && map.markWritten(sector, count),
  }),
  breaking(stackTarget, "wrong-chunk-start", {
    placeOf: (sector, first) => (sector > first ? sector - 1 : sector),
  }),
  breaking(stackTarget, "aliased-bitmap", {
    image: (map, page, into, at) => {
      const bytes = new Uint8Array(PAGE_BYTES);
      map.image(page, bytes, 0);
      for (const [index, byte] of bytes.entries())
        into[at + (index % 64)] = (into[at + (index % 64)] ?? 0) | byte;
    },
  }),
  breaking(stackTarget, "bitmap-before-data-flush", { commit: ["snapshot", "bits", "flush", "data"] }),
  breaking(stackTarget, "bitmap-never-flushed", { commit: ["snapshot", "data", "bits"] }),
  breaking(stackTarget, "snapshot-after-data-flush", { commit: ["data", "snapshot", "bits", "flush"] }),
  breaking(stackTarget, "forgets-lossless-failure", { staysDirty: false }),
  breaking(stackTarget, "fua-trusts-live-bits", {
    isStable: (map, sector, count) =>
      map.owner(sector) === map.top && map.runEnd(sector, sector + count) === sector + count,
  }),
  breaking(freezeTarget, "bits-lost-at-freeze", {
    push: (map) => {
      map.push();
      map.markWritten(0, Math.min(8, map.sectors));
    },
  }),
  breaking(stackTarget, "samples-written-over", { covers: () => false }),
  on(stackTarget, "samples-released-too-late", isMap, Late),
  on(commitTarget, "samples-kept", isMap, Sampled),
  on(commitTarget, "data-not-flushed", isData, Unflushed),
  on(commitTarget, "bits-not-flushed", isMap, Unflushed),
  breaking(mergeTarget, "linked-before-copied", { merge: ["link", "down"] }),
  on(mergeTarget, "data-not-flushed", isData, Unflushed),
  on(mergeTarget, "bits-not-flushed", isMap, Unflushed),
  breaking(snapshotTarget, "deleted-downwards", { remove: ["down", "link"] }),
  breaking(snapshotTarget, "linked-before-copied", { remove: ["link", "up"] }),
  breaking(snapshotTarget, "copied-over-clients", { excludes: false }),
  on(snapshotTarget, "data-not-flushed", isData, Unflushed),
  on(freezeTarget, "name-not-stable", isMap, Late),
  on(squashTarget, "data-not-flushed", isData, Unflushed),
  on(rebaseTarget, "bits-not-flushed", isMap, Unflushed),
];
