/**
 * A plog whose name is being written, or whose cache is retired, when the power fails: nobody has to zero it by hand, and
 * nothing that counted is lost.
 */
import { type BlockDevice, BlockIoError, GuardedDevice, contentsOf, isZero } from "@dmkit/block-io";
import { manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { writeboostImages } from "../src/index.ts";
import { checkWriteboost } from "../src/open/open.ts";
import { readSuperblock } from "../src/open/superblock.ts";
import { eraseCache } from "../src/open/making/erase-cache.ts";
import { plogSegmentSize } from "../src/format/geometry.ts";
import { check } from "./support/check.ts";
import { type Lands, everything, nothing } from "./support/hand.ts";
import { BLOCK, Rig, filled } from "./support/rig.ts";

const SEGMENT = plogSegmentSize(5);
const SECTOR = 512;

/** What is left of this many writes and flushes. */
class Power {
  left = Number.POSITIVE_INFINITY;
  /**
   * The power fails in a write of the sector of a name, which is spoilt; `any`: or in one that erases it, or says in the first
   * sector of the plog that nothing on it counts.
   */
  spoils: boolean | "any" = false;

  /** The device until the power fails. @param name where the name of a plog is. */
  under(device: BlockDevice, name = -1): BlockDevice {
    return new Powered(device, this, name);
  }
}

class Powered extends GuardedDevice {
  readonly #device: BlockDevice;
  readonly #power: Power;
  readonly #name: number;

  constructor(device: BlockDevice, power: Power, name: number) {
    super(device.name, device.size, { ...device.limits });
    this.#device = device;
    this.#power = power;
    this.#name = name;
  }

  async #use(offset: number, from?: Buffer): Promise<void> {
    this.#power.left -= 1;
    if (this.#power.left > 0) return;
    if (this.#power.left === 0 && this.#power.spoils !== false && this.#isName(offset, from)) {
      await this.#device.write(offset, Buffer.alloc(SECTOR, 0xa5));
      await this.#device.flush();
    }
    throw new BlockIoError("the power has failed", { code: "EIO", device: this.name });
  }

  #isName(offset: number, from: Buffer | undefined): boolean {
    if (from?.length !== SECTOR || this.#name < 0) return false;
    if (this.#power.spoils === "any") return offset === this.#name || offset === 0;
    return offset === this.#name && !isZero(from);
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    return this.#device.read(offset, into);
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await this.#use(offset, from);
    await this.#device.write(offset, from);
  }

  protected override async doFlush(): Promise<void> {
    await this.#use(-1);
    await this.#device.flush();
  }
}

/** The plog has a sector behind its segments, or its name is in its first one. */
const shapes = [
  ["in its last sector", 3 * SEGMENT + SECTOR, 3 * SEGMENT],
  ["in its first sector", 3 * SEGMENT, 0],
] as const;

const survivors: readonly Lands[] = [nothing, everything];
/** Of each write some sectors have landed. */
const torn: readonly Lands[] = [
  ...survivors,
  (_write, sector) => sector === 0,
  (_write, sector) => sector !== 0,
];

describe.each(shapes)("a plog with its name %s", (_where, plog, name) => {
  const rigged = (power: Power): Rig => {
    const rig = new Rig({ order: 5, slots: 9, plog, options: { pool: 3 } });
    rig.wrap = (disk, role) => (role === "backing" ? disk : power.under(disk, role === "plog" ? name : -1));
    return rig;
  };

  /** Block 1 in the log, block 2 in the plog alone, or closed in order. */
  async function made(power: Power, closed: boolean): Promise<Rig> {
    const rig = rigged(power);
    await rig.open();
    await rig.segment(1, 0x11);
    await rig.device.dropCaches();
    await rig.segment(2, 0x22);
    if (closed) await rig.device.close();
    await rig.crash(nothing);
    return rig;
  }

  it.each([
    ["at first", false],
    ["of another cache, after an orderly close", true],
  ])("has it whenever the power fails while it is written: %s", async (_name, isNew) => {
    for (let writes = 1; ; writes += 1) {
      for (const lands of survivors) {
        const power = new Power();
        const rig = await made(power, isNew);
        if (isNew) {
          // Another plog, blank.
          const other = rigged(power);
          rig.plog = other.plog as NonNullable<Rig["plog"]>;
        }
        // The first sector is written with records, too: a disk that spoils it then takes the name along.
        power.spoils = name > 0;
        power.left = writes;
        // What is in use is mapped further: the name says so, too.
        const opened = await rig.open({ pool: isNew ? 3 : 4 }).catch(() => undefined);
        power.left = Number.POSITIVE_INFINITY;
        if (opened === undefined) {
          await rig.crash(lands);
          await rig.open({ pool: isNew ? 3 : 4 });
        }
        expect(await rig.read(1), `write ${writes}`).toEqual(filled(0x11));
        expect(await rig.read(2), `write ${writes}`).toEqual(filled(0x22));
        await rig.segment(3, 0x33);
        await rig.crash(nothing);
        await rig.open();
        expect(await rig.read(3), `write ${writes}`).toEqual(filled(0x33));
        if (opened !== undefined) return;
      }
    }
  });

  it("is anybody's when its cache was retired, whenever the power fails meanwhile", async () => {
    for (let writes = 1; ; writes += 1) {
      const seen = new Set<string>();
      let isDone = false;
      for (const lands of torn) {
        const power = new Power();
        const rig = await made(power, true);
        power.spoils = "any";
        power.left = writes;
        isDone = await eraseCache(power.under(rig.cache), power.under(rig.plog as BlockDevice, name)).then(
          () => true,
          () => false,
        );
        power.left = Number.POSITIVE_INFINITY;
        await rig.crash(lands);
        const isCache = (await writeboostImages.detect(rig.cache)) !== undefined;
        seen.add(isCache ? "cache" : "blank");
        // What a cache lacks of what says which device it belongs to would be believed by any other one.
        if (isCache) expect(typeof (await readSuperblock(rig.cache)).identity).toBe("object");
        else {
          const { backing, cache, plog: rest } = rig;
          expect(await contentsOf(cache)).toBeUndefined();
          await expect(
            checkWriteboost({ backing, cache, plog: rest }, { order: 5 }),
          ).resolves.toBeUndefined();
          // Nothing is offered that would make a cache of it again.
          const [problem, ...others] = await check(cache, backing);
          expect(problem).toMatchObject({
            kind: "superblock",
            text: expect.stringContaining("was given up"),
          });
          expect([problem?.repair, others]).toEqual([undefined, []]);
        }
        if (isDone) expect(await contentsOf(rig.plog as BlockDevice)).toBeUndefined();
        // The same devices again, without a word.
        await rig.open({ environment: manualEnvironment(9, rig.clock) });
        if (isCache) {
          expect(await rig.read(1)).toEqual(filled(0x11));
          expect(await rig.read(2)).toEqual(filled(0x22));
        }
        await rig.segment(3, 0x33);
        await rig.crash(nothing);
        await rig.open();
        expect(await rig.read(3)).toEqual(filled(0x33));
      }
      if (isDone) {
        expect([...seen]).toEqual(["blank"]);
        return;
      }
    }
  });

  it("is taken for no blank one while its cache is in use, or was not retired", async () => {
    const power = new Power();
    const rig = await made(power, false);
    const other = rigged(power);
    other.plog = rig.plog as NonNullable<Rig["plog"]>;
    await expect(other.open()).rejects.toMatchObject({ code: "EFORMAT", device: "plog" });
    expect(rig.cache.size).toBeGreaterThan(BLOCK);
  });
});
