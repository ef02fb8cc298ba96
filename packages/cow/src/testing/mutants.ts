/** The faults of the original, and others that this design could have, put back in. */
import { type BlockDevice, LinearDevice, SECTOR, done } from "@dmkit/block-io";
import { mutant, onDisks, replaced } from "@dmkit/block-io/testing";
import { type BitmapImage, BitmapWriter } from "../device/bitmap-writer.ts";
import { OwnerMap } from "../core/owner-map.ts";
import { CowDevice } from "../device/device.ts";
import { type Identity, decodeIdentity, encodeIdentity } from "../format/identity.ts";
import { TopRecord } from "../device/top-record.ts";
import {
  type CowTarget,
  commitTarget,
  freezeTarget,
  rebaseTarget,
  squashTarget,
  stackTarget,
} from "./sim-targets.ts";

/** The members of a bitmap writer its subclasses see. */
interface WriterParts {
  readonly map: OwnerMap;
  readonly bitmap: BlockDevice;
  readonly data: BlockDevice;
  snapshot(pages: readonly number[]): BitmapImage[];
  writeImages(images: readonly BitmapImage[]): Promise<void>;
}

type Commit = (this: WriterParts) => Promise<void>;

const commitsBy = (commit: Commit) => (): (() => void) =>
  replaced<Commit>(BitmapWriter.prototype, "commit", () => commit);

/** A disk whose flushes do nothing. */
class Unflushed extends LinearDevice {
  protected override doFlush(): Promise<void> {
    return done;
  }
}

/** A bitmap device whose identity keeps its samples for good. */
class Sampled extends LinearDevice {
  #samples: Identity["samples"];

  constructor(disk: BlockDevice) {
    super(disk, 0, disk.size, disk.name);
  }

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

const unflushed = (target: CowTarget, name: string, which: (disk: BlockDevice) => boolean): CowTarget =>
  onDisks(target, name, (disk) => (which(disk) ? new Unflushed(disk, 0, disk.size, disk.name) : disk));

const isData = ({ name }: BlockDevice): boolean => name.startsWith("data") || name === "base";
const isMap = ({ name }: BlockDevice): boolean => name.startsWith("map");

export const mutants: readonly CowTarget[] = [
  mutant(stackTarget, "bit-before-data", () =>
    replaced<
      (
        this: { landed(at: number, count: number): void },
        offset: number,
        from: Buffer,
        fua: boolean,
      ) => Promise<void>
    >(
      CowDevice.prototype,
      "doWrite",
      (original) =>
        function (offset, from, fua) {
          const { map } = this as unknown as { map: OwnerMap };
          if (map.isKnown(offset / SECTOR, from.length / SECTOR))
            this.landed(offset / SECTOR, from.length / SECTOR);
          return original.call(this, offset, from, fua);
        },
    ),
  ),
  mutant(stackTarget, "first-sector-only", () =>
    replaced<(this: OwnerMap, sector: number, count: number) => boolean>(
      OwnerMap.prototype,
      "markWritten",
      (original) =>
        function (sector, count) {
          return this.owner(sector) === this.top ? false : original.call(this, sector, count);
        },
    ),
  ),
  mutant(stackTarget, "wrong-chunk-start", () => {
    let last: ArrayBufferLike | undefined;
    return replaced<(this: CowDevice, owner: number, offset: number, into: Buffer) => Promise<void>>(
      CowDevice.prototype,
      "readRun",
      (original) =>
        function (owner, offset, into) {
          const later = into.buffer === last && offset >= SECTOR;
          last = into.buffer;
          return original.call(this, owner, later ? offset - SECTOR : offset, into);
        },
    );
  }),
  mutant(stackTarget, "aliased-bitmap", () =>
    replaced<(this: WriterParts, pages: readonly number[]) => BitmapImage[]>(
      BitmapWriter.prototype,
      "snapshot",
      (original) =>
        function (pages) {
          return original.call(this, pages).map(({ offset, bytes }) => {
            const aliased = Buffer.alloc(bytes.length);
            for (let byte = 0; byte < bytes.length; byte += 1) {
              const at = Math.floor(byte / 512) * 512 + (byte % 64);
              aliased[at] = (aliased[at] ?? 0) | (bytes[byte] ?? 0);
            }
            return { offset, bytes: aliased };
          });
        },
    ),
  ),
  mutant(
    stackTarget,
    "bitmap-before-data-flush",
    commitsBy(async function () {
      const pages = this.map.takeDirty();
      await this.writeImages(this.snapshot(pages));
      await this.bitmap.flush();
      await this.data.flush();
      this.map.committed(pages);
    }),
  ),
  mutant(
    stackTarget,
    "bitmap-never-flushed",
    commitsBy(async function () {
      const pages = this.map.takeDirty();
      const images = this.snapshot(pages);
      await this.data.flush();
      await this.writeImages(images);
      this.map.committed(pages);
    }),
  ),
  mutant(
    stackTarget,
    "snapshot-after-data-flush",
    commitsBy(async function () {
      const pages = this.map.takeDirty();
      await this.data.flush();
      await this.writeImages(this.snapshot(pages));
      await this.bitmap.flush();
      this.map.committed(pages);
    }),
  ),
  mutant(stackTarget, "forgets-lossless-failure", () =>
    replaced<() => void>(OwnerMap.prototype, "givenBack", () => () => {}),
  ),
  mutant(stackTarget, "fua-trusts-live-bits", () =>
    replaced<(this: OwnerMap, sector: number, count: number) => boolean>(
      OwnerMap.prototype,
      "isStable",
      () =>
        function (sector, count) {
          return this.owner(sector) === this.top && this.runEnd(sector, sector + count) === sector + count;
        },
    ),
  ),
  mutant(freezeTarget, "bits-lost-at-freeze", () =>
    replaced<(this: OwnerMap) => number>(
      OwnerMap.prototype,
      "push",
      (original) =>
        function () {
          const number = original.call(this);
          this.markWritten(0, Math.min(8, this.sectors));
          return number;
        },
    ),
  ),
  mutant(stackTarget, "samples-written-over", () =>
    replaced<() => boolean>(TopRecord.prototype, "covers", () => () => false),
  ),
  mutant(stackTarget, "samples-released-too-late", () =>
    replaced<(this: TopRecord, identity: Identity) => Promise<void>>(
      TopRecord.prototype,
      "store",
      (original) =>
        function (identity) {
          void original.call(this, identity).catch(() => {});
          return done;
        },
    ),
  ),
  onDisks(commitTarget, "samples-kept", (disk) => (isMap(disk) ? new Sampled(disk) : disk)),
  unflushed(commitTarget, "data-not-flushed", isData),
  unflushed(commitTarget, "bits-not-flushed", isMap),
  unflushed(squashTarget, "data-not-flushed", isData),
  unflushed(rebaseTarget, "bits-not-flushed", isMap),
];
