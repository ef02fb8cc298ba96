/** The faults of the original, and others that this design could have, put back in. */
import { type BlockDevice, LinearDevice, SECTOR, done } from "@dmkit/block-io";
import { mutant, onDisks, replaced } from "@dmkit/block-io/testing";
import { type BitmapImage, BitmapWriter } from "../src/bitmap-writer.ts";
import { OwnerMap } from "../src/core/owner-map.ts";
import { CowDevice } from "../src/device.ts";
import {
  type CowTarget,
  commitTarget,
  freezeTarget,
  rebaseTarget,
  squashTarget,
  stackTarget,
} from "../src/testing/sim-targets.ts";

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
  unflushed(commitTarget, "data-not-flushed", isData),
  unflushed(commitTarget, "bits-not-flushed", isMap),
  unflushed(squashTarget, "data-not-flushed", isData),
  unflushed(rebaseTarget, "bits-not-flushed", isMap),
];
