import {
  type BlockDevice,
  BlockIoError,
  type ErrorCode,
  type Extent,
  MemoryDevice,
  SECTOR,
  plainLimits,
} from "@dmkit/block-io";
import { ManualClock, manualEnvironment } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { bitmapLength, identityOffset } from "../src/format/geometry.ts";
import { type LayerDevices, readIdentity } from "../src/device/layer/layer.ts";
import type { StackDevices } from "../src/device/layer/stack-devices.ts";
import { openStack } from "../src/open/open.ts";
import {
  SECTORS,
  baseImage,
  buildStack,
  layerOf,
  contents,
  newLayer,
  newStack,
  pattern,
  quiet,
} from "./stacks.ts";

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

/** The bitmap's bytes of a layer, as they are on its device. */
async function bits({ bitmap }: { bitmap: BlockDevice }, bytes = 2048): Promise<Buffer> {
  const found = Buffer.alloc(bytes);
  await bitmap.read(0, found);
  return found;
}

/** A memory device that keeps a log of what it is asked. */
class Watched extends MemoryDevice {
  readonly log: string[] = [];
  readonly #events: string[] | undefined;
  failing: "read" | "write" | "flush" | undefined;
  code: ErrorCode = "EIO";
  lossless = false;
  /** Cannot be read. */
  badSector: number | undefined;

  constructor(size: number, name: string, events?: string[]) {
    super(size, { name });
    this.#events = events;
  }

  #note(what: string): Promise<void> | undefined {
    this.log.push(what);
    this.#events?.push(`${this.name} ${what.split(" ")[0]}`);
    if (this.failing === undefined || !what.startsWith(this.failing)) return undefined;
    const { code: failure, name: device, lossless } = this;
    return Promise.reject(new BlockIoError("injected", { code: failure, device, lossless }));
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    const bad = (this.badSector ?? -1) * SECTOR;
    if (offset <= bad && bad < offset + into.length) {
      into.fill(0);
      return Promise.reject(new BlockIoError("a bad sector", { code: "EIO", device: this.name }));
    }
    return this.#note(`read ${offset / SECTOR}+${into.length / SECTOR}`) ?? super.doRead(offset, into);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    return this.#note(`write ${offset / SECTOR}+${from.length / SECTOR}`) ?? super.doWrite(offset, from);
  }

  protected override doFlush(): Promise<void> {
    return this.#note("flush") ?? super.doFlush();
  }
}

function watchedLayer(events?: string[]): { bitmap: Watched; data: Watched; offset: number } {
  const { bitmap } = newLayer();
  return {
    bitmap: new Watched(bitmap.size, "bitmap", events),
    data: new Watched(SECTORS * SECTOR, "data", events),
    offset: 0,
  };
}

describe("a stack", () => {
  it("loses nothing when a write covers a sector that is there already", async () => {
    const stack = await newStack();
    const device = await openStack(stack, quiet);
    await device.write(0, Buffer.alloc(SECTOR, 1));
    await device.write(0, Buffer.alloc(4 * SECTOR, 2));
    const expected = pattern(SECTORS, "base");
    expected.fill(2, 0, 4 * SECTOR);
    expect((await contents(device)).equals(expected)).toBe(true);
    await device.close();
    expect((await bits(layerOf(stack, 1))).subarray(0, 2)).toEqual(Buffer.from([0x0f, 0]));
    const again = await openStack(stack, quiet);
    expect((await contents(again)).equals(expected)).toBe(true);
    await again.close();
  });

  it("brings data, then bits to the disk", async () => {
    const events: string[] = [];
    const layer = watchedLayer(events);
    const stack = { base: await baseImage(), baseOffset: 0, layers: [layer], sectors: SECTORS };
    const device = await openStack(stack, quiet);
    events.length = 0;
    await device.write(0, Buffer.alloc(8 * SECTOR));
    await device.write(5000 * SECTOR, Buffer.alloc(8 * SECTOR));
    expect(events).toEqual(["bitmap read", "data write", "data write"]);
    events.length = 0;
    await device.flush();
    expect(events).toEqual(["data flush", "bitmap write", "bitmap flush"]);
    expect(layer.bitmap.log.at(-2)).toBe("write 0+2");
    expect((await bits(layer))[625]).toBe(0xff);
    events.length = 0;
    await device.flush();
    expect(events).toEqual(["data flush"]);
    await device.write(0, Buffer.alloc(8 * SECTOR), { fua: true });
    await device.write(8 * SECTOR, Buffer.alloc(8 * SECTOR), { fua: true });
    expect(events).toEqual([
      "data flush",
      "data write",
      "data write",
      "data flush",
      "bitmap write",
      "bitmap flush",
    ]);
    await device.close();
  });

  it("reads 128 KiB of one layer with one read below, and each run from its own place", async () => {
    const layer = watchedLayer();
    const base = new Watched(SECTORS * SECTOR, "base");
    await base.write(0, pattern(SECTORS, "base"));
    const device = await openStack({ base, baseOffset: 0, layers: [layer], sectors: SECTORS }, quiet);
    base.log.length = 0;
    await device.read(4000 * SECTOR, Buffer.alloc(256 * SECTOR));
    expect(base.log).toEqual(["read 4000+256"]);
    await device.write(4100 * SECTOR, Buffer.alloc(10 * SECTOR, 7));
    base.log.length = 0;
    layer.data.log.length = 0;
    const into = Buffer.alloc(256 * SECTOR);
    await device.read(4000 * SECTOR, into);
    expect(base.log).toEqual(["read 4000+100", "read 4110+146"]);
    expect(layer.data.log).toEqual(["read 4100+10"]);
    const expected = pattern(SECTORS, "base").subarray(4000 * SECTOR, 4256 * SECTOR);
    expected.fill(7, 100 * SECTOR, 110 * SECTOR);
    expect(into.equals(expected)).toBe(true);
    await device.close();
  });

  it.each([1, 2, 10, 64, 250])(
    "of %i layers shows the topmost of each sector, with offsets on every device",
    async (count) => {
      const sectors = 5000;
      const offset = 3 * SECTOR;
      const layers = Array.from({ length: count }, () => newLayer(sectors, offset));
      const stack = { base: await baseImage(sectors, 5 * SECTOR), baseOffset: 5 * SECTOR, layers, sectors };
      const expected = pattern(sectors, "base");
      await buildStack(stack, async (device, layer) => {
        const data = Buffer.alloc((layer % 7) * SECTOR + SECTOR, layer);
        const at = ((layer * 37) % 4900) * SECTOR;
        data.copy(expected, at);
        await device.write(at, data);
      });
      const device = await openStack(stack, quiet);
      expect((await contents(device)).equals(expected)).toBe(true);
      expect(device.layers).toBe(count);
      const words = device.status().split(" ");
      expect(words.slice(0, count + 1)).toEqual([
        String(count),
        ...layers.map((_, index) => String(((index + 1) % 7) + 1)),
      ]);
      await device.close();
    },
    // 250 stacks are opened one after the other.
    180_000,
  );

  it("refuses layers in the wrong order, of another length, foreign, and frozen ones on top", async () => {
    const stack = await newStack(3);
    await buildStack(stack, async () => {});
    const [a, b, c] = [layerOf(stack, 1), layerOf(stack, 2), layerOf(stack, 3)];
    expect(await code(openStack({ ...stack, layers: [b, a, c] }, quiet))).toBe("EFORMAT");
    expect(await code(openStack({ ...stack, layers: [b] }, quiet))).toBe("EFORMAT");
    expect(await code(openStack({ ...stack, layers: [a, a] }, quiet))).toBe("EINVAL");
    expect(await code(openStack({ ...stack, layers: [] }, quiet))).toBe("EINVAL");
    expect(await code(openStack({ ...stack, sectors: SECTORS - 1 }, quiet))).toBe("EFORMAT");
    expect(await code(openStack({ ...stack, sectors: SECTORS + 1 }, quiet))).toBe("EINVAL");
    expect(await code(openStack({ ...stack, layers: [newLayer(), c] }, quiet))).toBe("EFORMAT");
    await a.bitmap.write(identityOffset(bitmapLength(SECTORS)), Buffer.alloc(SECTOR, 1));
    expect(await code(openStack(stack, quiet))).toBe("EFORMAT");
  });

  it("refuses a new layer whose bitmap is not zero, and one without room", async () => {
    const stack = await newStack();
    const { bitmap, data } = layerOf(stack, 1);
    const room = new MemoryDevice(bitmap.size - SECTOR);
    expect(await code(openStack({ ...stack, layers: [{ bitmap: room, data, offset: 0 }] }))).toBe("EINVAL");
    expect(await code(openStack({ ...stack, layers: [{ bitmap, data, offset: SECTOR }] }))).toBe("EINVAL");
    await bitmap.write(1024, Buffer.alloc(SECTOR, 4));
    expect(await code(openStack(stack))).toBe("EFORMAT");
    expect(await code(openStack(stack, { readOnly: true }))).toBe("EFORMAT");
  });

  it("passes a failed bitmap read on and tries again", async () => {
    const layer = watchedLayer();
    const device = await openStack(
      { base: await baseImage(), baseOffset: 0, layers: [layer], sectors: SECTORS },
      quiet,
    );
    layer.bitmap.failing = "read";
    expect(await code(device.read(0, Buffer.alloc(SECTOR)))).toBe("EIO");
    expect(await code(device.write(0, Buffer.alloc(SECTOR)))).toBe("EIO");
    expect(await code(device.writeZeroes(0, SECTOR))).toBe("EIO");
    layer.bitmap.failing = undefined;
    await device.write(0, Buffer.alloc(SECTOR, 3));
    await device.close();
  });

  it("of a bitmap that cannot be read in one place gives everything that this does not speak for", async () => {
    const layers = [watchedLayer(), watchedLayer()];
    const stack = { base: await baseImage(), baseOffset: 0, layers, sectors: SECTORS };
    await buildStack(stack, async (device, layer) => {
      for (const at of [0, 4095, 4096, 8191, 8192, SECTORS - 1])
        await device.write(at * SECTOR, Buffer.alloc(SECTOR, layer));
    });
    const whole = await openStack(stack, quiet);
    const expected = await contents(whole);
    await whole.close();
    for (const layer of layers) {
      layer.bitmap.badSector = 1;
      const device = await openStack(stack, quiet);
      for (const [sector, count] of [
        [0, 4096],
        [8192, SECTORS - 8192],
      ] as const) {
        const into = Buffer.alloc(count * SECTOR);
        await device.read(sector * SECTOR, into);
        expect(into.equals(expected.subarray(sector * SECTOR, (sector + count) * SECTOR))).toBe(true);
        await device.write(sector * SECTOR, into.subarray(0, SECTOR));
      }
      // Nothing is taken for what lies below.
      for (const sector of [4095, 4096, 8191]) {
        expect(await code(device.read(sector * SECTOR, Buffer.alloc(2 * SECTOR)))).toBe("EIO");
        expect(await code(device.write(sector * SECTOR, Buffer.alloc(2 * SECTOR)))).toBe("EIO");
      }
      // What is not known may be data.
      const told: Extent[] = [];
      for await (const extent of device.extents(0, SECTORS * SECTOR)) told.push(extent);
      const offset = 4096 * SECTOR;
      expect(told.at(-1)).toEqual({ offset, length: (SECTORS - 4096) * SECTOR, kind: "data" });
      expect(device.health()).toMatchObject({
        state: "degraded",
        why: expect.stringMatching(/^1 sectors of/),
      });
      layer.bitmap.badSector = undefined;
      expect((await contents(device)).equals(expected)).toBe(true);
      expect(device.health().state).toBe("ok");
      await device.close();
    }
  });

  it("takes no more writes after bits or data could not be made stable", async () => {
    for (const [which, what] of [
      ["data", "flush"],
      ["bitmap", "write"],
      ["bitmap", "flush"],
    ] as const) {
      for (const fua of [false, true]) {
        const layer = watchedLayer();
        const stack = { base: await baseImage(), baseOffset: 0, layers: [layer], sectors: SECTORS };
        const device = await openStack(stack, quiet);
        await device.write(0, Buffer.alloc(SECTOR, 3));
        layer[which].failing = what;
        expect(await code(fua ? device.write(SECTOR, Buffer.alloc(SECTOR), { fua }) : device.flush())).toBe(
          "EIO",
        );
        layer[which].failing = undefined;
        expect(await code(device.write(0, Buffer.alloc(SECTOR)))).toBe("EIO");
        expect(await code(device.flush())).toBe("EIO");
        await device.read(0, Buffer.alloc(SECTOR));
        await device.close();
      }
    }
  });

  it("leaves sectors of a failed write old", async () => {
    const layer = watchedLayer();
    const device = await openStack(
      { base: await baseImage(), baseOffset: 0, layers: [layer], sectors: SECTORS },
      quiet,
    );
    layer.data.failing = "write";
    expect(await code(device.write(0, Buffer.alloc(SECTOR)))).toBe("EIO");
    layer.data.failing = undefined;
    expect((await contents(device)).equals(pattern(SECTORS, "base"))).toBe(true);
    await device.close();
    expect((await bits(layer)).every((byte) => byte === 0)).toBe(true);
  });

  it("never lets a discard uncover what is below", async () => {
    const stack = await newStack();
    const device = await openStack(stack, quiet);
    await device.write(0, Buffer.alloc(16 * SECTOR, 5));
    await device.discard(0, 32 * SECTOR);
    const expected = pattern(SECTORS, "base");
    expected.fill(0, 0, 32 * SECTOR);
    expect((await contents(device)).equals(expected)).toBe(true);
    await device.discard(5000 * SECTOR, 32 * SECTOR);
    const kinds = [];
    for await (const extent of device.extents(4990 * SECTOR, 64 * SECTOR))
      kinds.push([extent.kind, extent.length / SECTOR]);
    expect(kinds).toEqual([
      ["data", 10],
      ["hole", 32],
      ["data", 22],
    ]);
    await device.close();
  });

  it("does nothing for a discard where the data device cannot", async () => {
    class Plain extends MemoryDevice {
      override readonly limits = { ...plainLimits, discardGranularity: 512 };
    }
    const stack = await newStack();
    const layers = [{ ...layerOf(stack, 1), data: new Plain(SECTORS * SECTOR) }];
    const device = await openStack({ ...stack, layers }, quiet);
    await device.discard(0, 32 * SECTOR);
    expect((await contents(device)).equals(pattern(SECTORS, "base"))).toBe(true);
    expect(device.limits.capabilities.discard).toBe("none");
    await device.close();
  });

  it("tells how deep each part comes from", async () => {
    const stack = await newStack(2);
    await buildStack(stack, async (device, layer) => {
      await device.write(layer * 8 * SECTOR, Buffer.alloc(8 * SECTOR, layer));
    });
    const device = await openStack(stack, quiet);
    const depths = [];
    for await (const { length, depth } of device.depths(0, device.size))
      depths.push([length / SECTOR, depth]);
    expect(depths).toEqual([
      [8, 2],
      [8, 1],
      [8, 0],
      [SECTORS - 24, 2],
    ]);
    await device.close();
  });

  it("counts what has not been needed yet when asked", async () => {
    const sectors = 300_000;
    const stack = await newStack(1, sectors);
    const first = await openStack(stack, quiet);
    await first.write(0, Buffer.alloc(SECTOR));
    await first.write(299_999 * SECTOR, Buffer.alloc(SECTOR));
    await first.close();
    const device = await openStack(stack, quiet);
    await device.read(0, Buffer.alloc(SECTOR));
    expect(device.status()).toBe("1 1+ 1 64 0 0 0 0");
    expect(await device.message(["count"])).toBe("1 2 1 74 0 0 0 0");
    expect(await code(device.message(["fly"]))).toBe("EINVAL");
    await device.close();
  });

  it("commits bits by itself after a while", async () => {
    const stack = await newStack();
    const device = await openStack(stack, { autocommit: 20 });
    await device.write(0, Buffer.alloc(SECTOR, 1));
    for (let turn = 0; turn < 500 && (await bits(layerOf(stack, 1)))[0] === 0; turn += 1) {
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    expect((await bits(layerOf(stack, 1)))[0]).toBe(1);
    await device.close();
  });
});

it.each([
  [{ autocommit: -1 }, /^(EINVAL)$/],
  [{ autocommit: Number.NaN }, /^(EINVAL)$/],
  [{ autocommit: 3_600_001 }, /^(EINVAL)$/],
  [{ aliasedBlockSize: 4095 as 4096 }, /^(EINVAL)$/],
])("a program's options are refused as a table's are: %o", async (options, expected) => {
  expect(await code(openStack(await newStack(), options))).toMatch(expected);
});

describe("layers of the original", () => {
  async function original(): Promise<{ stack: StackDevices; layer: LayerDevices }> {
    const stack = await newStack();
    const layer = layerOf(stack, 1);
    const identity = Buffer.alloc(SECTOR);
    // bmap_len of 10007 sectors is 3.
    identity.writeBigUInt64LE(0x00ba_be0e_aaba_be11n);
    identity[8] = 3;
    await layer.bitmap.write(identityOffset(3), identity);
    const bitmap = Buffer.alloc(4096);
    bitmap[113] = 1;
    await layer.bitmap.write(0, bitmap);
    await layer.data.write(5000 * SECTOR, Buffer.alloc(SECTOR, 9));
    return { stack, layer };
  }

  it("are refused without a block size", async () => {
    const { stack } = await original();
    expect(await code(openStack(stack))).toBe("EFORMAT");
    expect(await code(openStack({ ...stack, sectors: 8000 }, { aliasedBlockSize: 4096 }))).toBe("EFORMAT");
  });

  it("are read-only, decoded, and warned of", async () => {
    const { stack, layer } = await original();
    const warnings: string[] = [];
    const { environment } = await import("./environment.ts");
    const device = await openStack(stack, {
      aliasedBlockSize: 4096,
      environment: environment((level) => warnings.push(level)),
    });
    expect(warnings).toEqual(["warn"]);
    expect(device.limits.capabilities.readOnly).toBe(true);
    const into = Buffer.alloc(SECTOR);
    await device.read(5000 * SECTOR, into);
    expect(into[0]).toBe(9);
    // 904 shares the bit and may be present: it is taken for present.
    await device.read(904 * SECTOR, into);
    expect(into[0]).toBe(0);
    await device.read(905 * SECTOR, into);
    expect(into.readUInt32LE(4)).toBe(905);
    expect(await code(device.write(0, into))).toBe("EROFS");
    expect(await code(device.freeze(newLayer()))).toBe("EROFS");
    await device.close();
    const top = newLayer();
    const above = await openStack({ ...stack, layers: [layer, top] }, { ...quiet, aliasedBlockSize: 4096 });
    await above.write(0, Buffer.alloc(SECTOR, 1));
    await above.close();
    expect(await code(openStack({ ...stack, layers: [top] }, quiet))).toBe("EFORMAT");
  });
});

describe("no space", () => {
  it.each(["flush", "fua"])(
    "for the bitmap: %s fails, nothing is lost, the next one covers it",
    async (how) => {
      const stack = await newStack();
      const layer = watchedLayer();
      const device = await openStack({ ...stack, layers: [layer] }, quiet);
      layer.bitmap.code = "ENOSPC";
      layer.bitmap.failing = "write";
      await device.write(0, Buffer.alloc(SECTOR, 1));
      const attempt = (): Promise<void> =>
        how === "flush" ? device.flush() : device.write(8 * SECTOR, Buffer.alloc(SECTOR, 2), { fua: true });
      expect(await code(attempt())).toBe("ENOSPC");
      expect(await code(attempt())).toBe("ENOSPC");
      expect(device.failure).toBeUndefined();
      await device.write(5000 * SECTOR, Buffer.alloc(SECTOR, 3));
      const before = await contents(device);
      expect([before[0], before[5000 * SECTOR]]).toEqual([1, 3]);
      layer.bitmap.failing = undefined;
      await attempt();
      await device.flush();
      // As after a crash: the bits are on the bitmap.
      const again = await openStack({ ...stack, layers: [layer] }, quiet);
      expect((await contents(again)).equals(await contents(device))).toBe(true);
      await device.close();
    },
  );

  it("for the bitmap, found by the autocommit: told once, tried again", async () => {
    const clock = new ManualClock();
    const told: string[] = [];
    const logger = { log: (_level: string, message: string) => void told.push(message) };
    const stack = await newStack();
    const layer = watchedLayer();
    const environment = { ...manualEnvironment(1, clock), logger };
    const device = await openStack({ ...stack, layers: [layer] }, { autocommit: 1000, environment });
    layer.bitmap.code = "ENOSPC";
    layer.bitmap.failing = "write";
    await device.write(0, Buffer.alloc(SECTOR, 1));
    await clock.pass(5000);
    expect(told).toEqual([
      "what was written could not be made stable; nothing is lost, and it is tried again",
    ]);
    layer.bitmap.failing = undefined;
    await clock.pass(1000);
    expect((await bits(layer))[0]).toBe(1);
    await device.close();
    expect(clock.pending).toBe(0);
  });

  it("for data: that write fails, everything else goes on", async () => {
    const stack = await newStack();
    const layer = watchedLayer();
    const device = await openStack({ ...stack, layers: [layer] }, quiet);
    layer.data.code = "ENOSPC";
    layer.data.failing = "write";
    expect(await code(device.write(0, Buffer.alloc(SECTOR, 1)))).toBe("ENOSPC");
    expect((await contents(device)).equals(pattern(SECTORS, "base"))).toBe(true);
    layer.data.failing = undefined;
    await device.write(0, Buffer.alloc(SECTOR, 1));
    await device.close();
  });
});

describe("a failure below that loses nothing", () => {
  it.each([
    ["data", "flush", "ENOSPC"],
    ["data", "flush", "EIO"],
    ["bitmap", "write", "EIO"],
    ["bitmap", "flush", "ENOSPC"],
  ] as const)("%s %s, %s: the next flush covers the bits of it", async (which, what, failure) => {
    const stack = await newStack();
    const layer = watchedLayer();
    const device = await openStack({ ...stack, layers: [layer] }, quiet);
    Object.assign(layer[which], { lossless: true, code: failure, failing: what });
    await device.write(0, Buffer.alloc(SECTOR, 1));
    expect(await code(device.flush())).toBe(failure);
    expect(await code(device.write(SECTOR, Buffer.alloc(SECTOR, 1), { fua: true }))).toBe(failure);
    await device.write(5000 * SECTOR, Buffer.alloc(SECTOR, 3));
    layer[which].failing = undefined;
    await device.flush();
    expect(layer.bitmap.log.at(-2)).toBe("write 0+2");
    expect([(await bits(layer))[0], (await bits(layer))[625]]).toEqual([3, 1]);
    await device.close();
  });

  it("at the flush of a close: what may not be stable is not sampled", async () => {
    const stack = await newStack();
    const layer = watchedLayer();
    const layers = [layer];
    const first = await openStack({ ...stack, layers }, quiet);
    await first.write(0, Buffer.alloc(2 * SECTOR, 1));
    await first.close();
    const samples = async (): Promise<readonly number[] | undefined> => {
      const block = await readIdentity(layer.bitmap, SECTORS);
      return block.kind === "layer" ? block.identity.samples?.map(({ sector }) => sector) : undefined;
    };
    expect(await samples()).toEqual([0, 1]);
    const second = await openStack({ ...stack, layers }, quiet);
    await second.write(0, Buffer.alloc(SECTOR, 2));
    Object.assign(layer.data, { lossless: true, failing: "flush" });
    expect(await code(second.close())).toBe("EIO");
    expect(await samples()).toEqual([1]);
  });
});
