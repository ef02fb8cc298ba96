import { createHash } from "node:crypto";
import { type BlockDevice, BlockIoError, MemoryDevice, SECTOR, realEnvironment } from "@dmkit/block-io";
import { BadSectors } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { bitmapLength, identityOffset } from "../src/format/geometry.ts";
import {
  type CowDevice,
  type LayerDevices,
  type StackDevices,
  check,
  commitTop,
  cowImages,
  createLayer,
  diff,
  exportDiff,
  findIdentity,
  flatten,
  openStack,
  rebase,
  squash,
  stackInfo,
} from "../src/index.ts";
import { buildStack, contents, layerOf, newLayer, newStack, pattern, quiet } from "./stacks.ts";

// More than one piece of a bitmap, and no multiple of anything.
const sectors = 263_001;

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

/** A base with its pattern in some places, and holes between them. */
async function sparseBase(): Promise<MemoryDevice> {
  const base = new MemoryDevice(sectors * SECTOR, { name: "base" });
  for (const start of [0, 100_000, 262_000]) await base.write(start * SECTOR, pattern(1000, "base"));
  return base;
}

/** Three layers with data in both pieces, some of it in several of them, and some zeroes. */
async function built(): Promise<StackDevices> {
  const layers = [newLayer(sectors), newLayer(sectors), newLayer(sectors)];
  const stack: StackDevices = { base: await sparseBase(), baseOffset: 0, layers, sectors };
  await createLayer(layerOf(stack, 1), { sectors });
  const fill = async (device: CowDevice, layer: number): Promise<void> => {
    for (let at = 0; at < 40; at += 1) {
      const sector = (at * 6571 * layer + 13 * layer) % (sectors - 24);
      await device.write(sector * SECTOR, Buffer.alloc((1 + (at % 17)) * SECTOR, layer * 16 + at));
    }
    await device.writeZeroes((262_100 + layer * 8) * SECTOR, 64 * SECTOR, { mayUnmap: true });
    await device.flush();
  };
  await buildStack(stack, fill, async (layer) => {
    const above = stack.layers[layer];
    if (above !== undefined) await createLayer(above, { sectors, below: layerOf(stack, layer).bitmap });
  });
  return stack;
}

/**
 * What a device has, from the start to `end`: a buffer of all of it would be memory that is touched for the first time, which
 * costs more than all else here.
 */
async function hashOf(device: BlockDevice, end = device.size): Promise<string> {
  const hash = createHash("sha1");
  const piece = Buffer.alloc(2 ** 20);
  for (let at = 0; at < end; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, device.size - at));
    await device.read(at, part);
    hash.update(part.subarray(0, end - at));
  }
  return hash.digest("hex");
}

async function shown(stack: StackDevices): Promise<string> {
  const device = await openStack(stack, { ...quiet, readOnly: true });
  try {
    return await hashOf(device);
  } finally {
    await device.close();
  }
}

const only = (stack: StackDevices, ...layers: number[]): StackDevices => ({
  ...stack,
  layers: layers.map((layer) => layerOf(stack, layer)),
});

async function problems(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { layer, kind } of check(stack)) found.push(`${layer} ${kind}`);
  return found;
}

/** What a stack of one layer has in it. */
async function ranges(stack: StackDevices): Promise<{ offset: number; length: number }[]> {
  const found: { offset: number; length: number }[] = [];
  for await (const { offset, length } of diff(stack, 1, 1)) found.push({ offset, length });
  return found;
}

/** A disk with places, sectors and how many, that cannot be read or written. */
class BadPlaces extends MemoryDevice {
  bad: readonly (readonly [sector: number, count: number])[] = [];
  flushes = true;
  readonly #what: "read" | "write";

  constructor(size: number, what: "read" | "write") {
    super(size, { name: "bad" });
    this.#what = what;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    if (this.#what === "read") this.#check(offset, into.length);
    return super.doRead(offset, into);
  }

  protected override doWrite(offset: number, from: Buffer): Promise<void> {
    if (this.#what === "write") this.#check(offset, from.length);
    return super.doWrite(offset, from);
  }

  protected override async doFlush(): Promise<void> {
    if (!this.flushes) throw new BlockIoError("it is lost", { code: "EIO", op: "flush" });
  }

  #check(offset: number, length: number): void {
    for (const [sector, count] of this.bad) {
      const meets = sector * SECTOR < offset + length && offset < (sector + count) * SECTOR;
      if (meets) throw new BlockIoError("a bad place", { code: "EIO", device: this.name, offset, length });
    }
  }
}

/** A signal that is given after so many reports of progress. */
function stopAfter(reports: number): { progress: () => void; signal: AbortSignal } {
  const abort = new AbortController();
  let left = reports;
  return { progress: () => (--left === 0 ? abort.abort() : undefined), signal: abort.signal };
}

describe("create", () => {
  it("gives a layer its identity and freezes the one below", async () => {
    const [bottom, top] = [newLayer(sectors), newLayer(sectors)];
    const first = await createLayer(bottom, { sectors });
    const second = await createLayer(top, { sectors, below: bottom.bitmap });
    expect(second.parent).toBe(first.uuid);
    expect(await findIdentity(top.bitmap)).toEqual({ kind: "layer", identity: second });
    const stack = { base: await sparseBase(), baseOffset: 0, layers: [bottom], sectors };
    expect(await code(openStack(stack, quiet))).toBe("EROFS");
    const device = await openStack({ ...stack, layers: [bottom, top] }, quiet);
    await device.close();
    expect(await code(createLayer(top, { sectors }))).toBe("EEXIST");
    expect(await code(createLayer(newLayer(sectors), { sectors, below: newLayer(sectors).bitmap }))).toBe(
      "EFORMAT",
    );
    expect(await code(createLayer(newLayer(8), { sectors }))).toBe("EINVAL");
  });
});

describe("commit", () => {
  it("moves the top into the layer below, which shows the same by itself when the top is dropped", async () => {
    const stack = await built();
    const before = await shown(stack);
    const bytes = await commitTop(stack);
    expect(bytes).toBeGreaterThan(0);
    expect(await shown(stack)).toBe(before);
    expect((await stackInfo(stack)).layers[2]?.allocated).toBe(0);
    expect(await commitTop(stack, { drop: true })).toBe(0);
    expect(await shown(only(stack, 1, 2))).toBe(before);
    const writable = await openStack(only(stack, 1, 2), quiet);
    await writable.close();
    expect(await commitTop(only(stack, 1, 2))).toBeGreaterThan(0);
    expect(await code(commitTop(only(stack, 1)))).toBe("EROFS");
    expect(await problems(only(stack, 1, 2))).toEqual([]);
  });

  it("moves the only layer into the base", async () => {
    const stack = await built();
    const bottom = only(stack, 1);
    expect(await code(commitTop(bottom))).toBe("EROFS");
    const alone = await newStack(1);
    await buildStack(alone, async (device) => {
      await device.write(5 * SECTOR, Buffer.alloc(9 * SECTOR, 9));
    });
    const before = await shown(alone);
    expect(await commitTop(alone, { drop: true })).toBe(9 * SECTOR);
    expect(await hashOf(alone.base)).toBe(before);
    expect(await shown(alone)).toBe(before);
  });

  it("goes on past places that cannot be written or read, and leaves them in the top", async () => {
    for (const what of ["write", "read"] as const) {
      const bad = new BadPlaces(sectors * SECTOR, what);
      const layer = { ...newLayer(sectors), ...(what === "read" && { data: bad }) };
      const base = what === "read" ? new MemoryDevice(sectors * SECTOR) : bad;
      const stack: StackDevices = { base, baseOffset: 0, layers: [layer], sectors };
      await buildStack(stack, async (device) => {
        await device.write(0, Buffer.alloc(1000 * SECTOR, 7));
        await device.write(262_500 * SECTOR, Buffer.alloc(300 * SECTOR, 8));
      });
      const before = await shown(stack);
      // One sector in the middle, and the last ones of what was written.
      bad.bad = [
        [301, 1],
        [262_795, 5],
      ];
      await expect(commitTop(stack, { drop: true })).rejects.toMatchObject({
        code: "EIO",
        message: expect.stringMatching(/bytes cannot be committed, everything else is: bytes .*15/) as string,
      });
      const { allocated = 0 } = (await stackInfo(stack)).layers[0] ?? {};
      expect(allocated).toBeGreaterThanOrEqual(6 * SECTOR);
      expect(allocated).toBeLessThanOrEqual(24 * SECTOR);
      const left = await ranges(stack);
      expect(
        left.every(({ offset }) => [300, 301, 296, 304, 262_792, 262_795].includes(offset / SECTOR)),
      ).toBe(true);
      bad.bad = [];
      expect(await shown(stack)).toBe(before);
      expect(await commitTop(stack, { drop: true })).toBe(allocated);
      expect(await hashOf(base)).toBe(before);
    }
  });

  it("goes on past places of a bitmap that cannot be read", async () => {
    const bad = new BadPlaces(newLayer(sectors).bitmap.size, "read");
    const base = new MemoryDevice(sectors * SECTOR);
    const stack = { base, baseOffset: 0, layers: [{ ...newLayer(sectors), bitmap: bad }], sectors };
    await buildStack(stack, async (device) => {
      for (const at of [0, 42_000, 100_000, 262_500])
        await device.write(at * SECTOR, Buffer.alloc(8 * SECTOR, 7));
    });
    const before = await shown(stack);
    bad.bad = [[10, 1]];
    await expect(commitTop(stack)).rejects.toMatchObject({
      code: "EIO",
      message: expect.stringContaining(`${32_768 * SECTOR} bytes cannot be committed`) as string,
    });
    bad.bad = [];
    expect(await ranges(stack)).toEqual([{ offset: 42_000 * SECTOR, length: 8 * SECTOR }]);
    expect(await shown(stack)).toBe(before);
    expect(await commitTop(stack)).toBe(8 * SECTOR);
    expect(await hashOf(base)).toBe(before);
  });

  it("gives up where a flush fails, or nothing works any more", async () => {
    for (const places of [[[0, sectors]] as const, "flush" as const]) {
      const base = new BadPlaces(sectors * SECTOR, "write");
      const stack: StackDevices = { base, baseOffset: 0, layers: [newLayer(sectors)], sectors };
      await buildStack(stack, async (device) => {
        await device.write(0, Buffer.alloc(20_000 * SECTOR, 7));
      });
      if (places === "flush") base.flushes = false;
      else base.bad = places;
      await expect(commitTop(stack)).rejects.toMatchObject({
        code: "EIO",
        message: expect.not.stringMatching(/everything else/) as string,
      });
      expect((await stackInfo(stack)).layers[0]?.allocated).toBe(20_000 * SECTOR);
    }
  });

  it("stops between two pieces and goes on", async () => {
    const stack = await built();
    const before = await shown(stack);
    await expect(commitTop(stack, stopAfter(1))).rejects.toMatchObject({ name: "AbortError" });
    expect(await shown(stack)).toBe(before);
    expect((await stackInfo(stack)).layers[2]?.allocated).toBeGreaterThan(0);
    expect(await commitTop(stack)).toBeGreaterThan(0);
    expect(await shown(stack)).toBe(before);
  });
});

describe("a sector of a bitmap that cannot be read", () => {
  const few = 60_001;

  /** One layer, with 8 sectors here and there; what is shown, and its bitmap. */
  async function made(): Promise<{ stack: StackDevices; bad: BadPlaces; before: string; bytes: Buffer }> {
    const bad = new BadPlaces(newLayer(few).bitmap.size, "read");
    const base = new MemoryDevice(few * SECTOR);
    for (const start of [100, 42_004]) await base.write(start * SECTOR, pattern(100, "base"));
    const stack = { base, baseOffset: 0, layers: [{ ...newLayer(few), bitmap: bad }], sectors: few };
    await buildStack(stack, async (device) => {
      for (const at of [0, 42_000, 50_000]) await device.write(at * SECTOR, Buffer.alloc(8 * SECTOR, 7));
    });
    const before = await shown(stack);
    const device = await openStack(stack, { ...quiet, readOnly: true });
    const bytes = await contents(device);
    await device.close();
    // Speaks for sectors 40,960 … 45,055.
    bad.bad = [[10, 1]];
    return { stack, bad, before, bytes };
  }

  it("is named by flatten if it is told to, and everything else is in the image", async () => {
    const { stack, bytes } = await made();
    const image = new MemoryDevice(few * SECTOR);
    await image.write(0, Buffer.alloc(few * SECTOR, 9));
    expect(await code(flatten(stack, image))).toBe("EIO");
    expect(await flatten(stack, image, { bad: "zero" })).toEqual([{ sector: 40_960, count: 4096 }]);
    const expected = bytes.fill(0, 40_960 * SECTOR, 45_056 * SECTOR);
    expect((await contents(image)).equals(expected)).toBe(true);
  });

  it("keeps rebase from nothing but the last step", async () => {
    const { stack, bad, before } = await made();
    const other = { base: new MemoryDevice(few * SECTOR), baseOffset: 0, layers: [], sectors: few };
    await expect(rebase(stack, other)).rejects.toMatchObject({
      code: "EIO",
      message: expect.stringContaining("cannot be copied up, everything else is: bytes") as string,
    });
    bad.bad = [];
    expect(await shown(stack)).toBe(before);
    await rebase(stack, other);
    expect(await shown({ ...other, layers: stack.layers })).toBe(before);
  });

  it("is named by info and check where it is the one that says who the layer is", async () => {
    const { stack, bad } = await made();
    bad.bad = [[identityOffset(bitmapLength(few)) / SECTOR, 1]];
    const { layers, problems: told } = await stackInfo(stack);
    expect(layers[0]?.kind).toBe("damaged");
    expect(told.map(({ kind }) => kind)).toEqual(["damaged"]);
    expect(await problems(stack)).toEqual(["1 damaged"]);
    const kinds: string[] = [];
    for await (const { kind } of cowImages.check({ bitmap: bad }, { environment: realEnvironment }))
      kinds.push(kind);
    expect(kinds).toEqual(["damaged"]);
  });
});

describe("squash", () => {
  it.each([
    [1, 2],
    [2, 3],
    [1, 3],
  ])("%i..%i leaves what the stack shows, and the layers below the result as they were", async (from, to) => {
    const stack = await built();
    const before = await shown(stack);
    const lower = await shown(only(stack, 1));
    await expect(squash(stack, from, to, stopAfter(1))).rejects.toMatchObject({ name: "AbortError" });
    expect(await shown(stack)).toBe(before);
    await squash(stack, from, to);
    expect(await squash(stack, from, to)).toBe(0);
    const left = [1, 2, 3].filter((layer) => layer < from || layer >= to);
    expect(await shown(only(stack, ...left))).toBe(before);
    expect(await shown(only(stack, 1))).toBe(from === 1 && to === 1 ? before : lower);
    expect(await problems(only(stack, ...left))).toEqual([]);
    expect(await code(openStack(stack, quiet))).toBe("EFORMAT");
  });

  it("goes on past what cannot be read, and keeps its parent until everything is there", async () => {
    const bad = new BadPlaces(sectors * SECTOR, "read");
    const layers = [{ bitmap: newLayer(sectors).bitmap, data: bad, offset: 0 }, newLayer(sectors)];
    const stack: StackDevices = { base: new MemoryDevice(sectors * SECTOR), baseOffset: 0, layers, sectors };
    await buildStack(
      stack,
      (device, layer) => device.write(layer * 100 * SECTOR, Buffer.alloc(400 * SECTOR, layer)),
      async (layer) => {
        const above = stack.layers[layer];
        if (above !== undefined) await createLayer(above, { sectors, below: layerOf(stack, layer).bitmap });
      },
    );
    const before = await shown(stack);
    bad.bad = [[150, 1]];
    const { parent } = (await stackInfo(stack)).layers[1] ?? {};
    await expect(squash(stack, 1, 2)).rejects.toMatchObject({ code: "EIO" });
    const after = (await stackInfo(stack)).layers[1];
    expect(after?.parent).toBe(parent);
    expect(after?.allocated).toBe((500 - 8) * SECTOR);
    bad.bad = [];
    expect(await squash(stack, 1, 2)).toBe(8 * SECTOR);
    expect(await shown(only(stack, 2))).toBe(before);
  });

  it("refuses what is no range", async () => {
    const stack = await built();
    for (const [from, to] of [
      [0, 1],
      [1, 1],
      [2, 1],
      [1, 4],
      [1.5, 2],
    ] as const) {
      expect(await code(squash(stack, from, to))).not.toBe("no error");
    }
  });
});

describe("rebase", () => {
  it("puts the top on another base and other layers, and it shows the same", async () => {
    const stack = await built();
    const before = await shown(stack);
    const base = new MemoryDevice(sectors * SECTOR);
    const onto: StackDevices = { base, baseOffset: 0, sectors, layers: [newLayer(sectors)] };
    await buildStack(onto, async (device) => {
      await device.write(3 * SECTOR, Buffer.alloc(70 * SECTOR, 3));
    });
    await expect(rebase(stack, onto, stopAfter(1))).rejects.toMatchObject({ name: "AbortError" });
    expect(await shown(stack)).toBe(before);
    expect(await rebase(stack, onto)).toBeGreaterThan(0);
    const moved = { ...onto, layers: [...onto.layers, layerOf(stack, 3)] };
    expect(await shown(moved)).toBe(before);
    expect(await code(openStack(stack, quiet))).toBe("EFORMAT");
    expect(await code(rebase(moved, { ...onto, sectors: 8 }))).toBe("EINVAL");
  });

  it("copies only what differs", async () => {
    const stack = await built();
    expect(await rebase(stack, only(stack, 1, 2))).toBe(0);
    const changed = await sparseBase();
    await changed.write(100 * SECTOR, Buffer.alloc(2 * SECTOR, 1));
    const alone = only(await built(), 1);
    const bytes = await rebase(alone, { ...alone, base: changed, layers: [] });
    expect(bytes).toBeLessThanOrEqual(2 * SECTOR);
  });
});

describe("flatten, diff and info", () => {
  it("writes what the stack shows, and goes on where it stopped", async () => {
    const stack = await built();
    const image = new MemoryDevice(sectors * SECTOR);
    let reached = 0;
    const abort = new AbortController();
    const progress = (bytes: number): void => {
      reached = bytes;
      abort.abort();
    };
    await expect(flatten(stack, image, { progress, signal: abort.signal })).rejects.toMatchObject({
      name: "AbortError",
    });
    expect(reached).toBe(262_144 * SECTOR);
    await flatten(stack, image, { from: reached });
    expect(await hashOf(image)).toBe(await shown(stack));
    expect(await code(flatten(stack, new MemoryDevice(SECTOR)))).toBe("EINVAL");
    const blocks = new MemoryDevice(Math.ceil((sectors * SECTOR) / 4096) * 4096, { logicalBlockSize: 4096 });
    await flatten(stack, blocks);
    expect(await hashOf(blocks, image.size)).toBe(await shown(stack));
  });

  it("lists and exports changed ranges", async () => {
    const stack = await newStack(2);
    await buildStack(stack, async (device, layer) => {
      await device.write(layer * 8 * SECTOR, Buffer.alloc(12 * SECTOR, layer));
    });
    const ranges = [];
    for await (const range of diff(stack, 1, 2))
      ranges.push([range.offset / SECTOR, range.length / SECTOR, range.layer]);
    expect(ranges).toEqual([
      [8, 8, 1],
      [16, 12, 2],
    ]);
    const image = new MemoryDevice(stack.sectors * SECTOR);
    expect(await exportDiff(stack, diff(stack, 2, 2), image)).toEqual([
      { offset: 16 * SECTOR, length: 12 * SECTOR, layer: 2 },
    ]);
    const copied = await contents(image);
    expect(copied.subarray(16 * SECTOR, 28 * SECTOR).equals(Buffer.alloc(12 * SECTOR, 2))).toBe(true);
    expect(copied.subarray(0, 16 * SECTOR).every((byte) => byte === 0)).toBe(true);
  });

  it("tells the chain and what each layer holds", async () => {
    const stack = await newStack(2);
    await buildStack(stack, async (device, layer) => {
      await device.write(0, Buffer.alloc(layer * SECTOR, layer));
    });
    const info = await stackInfo(stack);
    expect(info.layers.map(({ kind, allocated, frozen }) => [kind, allocated, frozen])).toEqual([
      ["layer", 512, false],
      ["layer", 1024, false],
    ]);
    expect(info.layers[1]?.parent).toBe(info.layers[0]?.uuid);
    expect(info.problems).toEqual([]);
  });
});

describe("a bitmap with a bad sector", () => {
  it("where the identity is opens, but for the first of the block's eight; that one says what to do", async () => {
    const bitmap = new BadSectors(newLayer().bitmap.size, { name: "bitmap" });
    const stack = { ...(await newStack()), layers: [{ ...newLayer(), bitmap }] };
    await buildStack(stack, async (device) => device.write(0, Buffer.alloc(SECTOR, 7)));
    const before = await shown(stack);
    const place = identityOffset(bitmapLength(stack.sectors)) / SECTOR;
    for (const sector of [1, 7]) bitmap.bad.add(place + sector);
    expect(await shown(stack)).toBe(before);
    expect(await findIdentity(bitmap)).toMatchObject({ kind: "layer" });
    bitmap.bad.add(place);
    for (const looking of [() => shown(stack), () => findIdentity(bitmap)])
      await expect(looking()).rejects.toMatchObject({
        code: "EIO",
        hint: expect.stringContaining("backup") as string,
      });
    // A new layer has to be blank for certain.
    await bitmap.write(place * SECTOR, Buffer.alloc(SECTOR));
    expect(bitmap.bad.size).toBe(2);
    await expect(shown(stack)).rejects.toMatchObject({ code: "EIO" });
  });

  it("is told about by info, which counts the rest", async () => {
    const bitmap = new BadSectors(newLayer(sectors).bitmap.size, { name: "bitmap" });
    const base = new MemoryDevice(sectors * SECTOR);
    const stack = { base, baseOffset: 0, layers: [{ ...newLayer(sectors), bitmap }], sectors };
    await buildStack(stack, async (device) => {
      for (const at of [0, 42_000]) await device.write(at * SECTOR, Buffer.alloc(8 * SECTOR, 7));
    });
    bitmap.bad.add(10);
    const { unknown, layers } = await stackInfo(stack);
    expect([unknown, layers[0]?.allocated]).toEqual([32_768 * SECTOR, 8 * SECTOR]);
  });
});

describe("check", () => {
  const spoil = async (device: LayerDevices, offset: number): Promise<void> => {
    await device.bitmap.write(offset, Buffer.alloc(SECTOR, 0xff));
  };

  it("finds nothing in a sound stack, and writes nothing", async () => {
    const stack = await built();
    const before = await contents(layerOf(stack, 1).bitmap);
    expect(await problems(stack)).toEqual([]);
    expect((await contents(layerOf(stack, 1).bitmap)).equals(before)).toBe(true);
  });

  it("finds each kind of problem", async () => {
    const stack = await built();
    expect(await problems(only(stack, 2, 3))).toEqual(["1 wrong-parent"]);
    expect(await problems(only(stack, 1, 3))).toEqual(["2 wrong-parent"]);
    expect(await problems({ ...stack, sectors: sectors - 1 })).toContain("1 wrong-length");
    expect(await problems({ ...stack, baseOffset: SECTOR })).toEqual(["0 no-base", "1 wrong-offset"]);
    const short = { ...layerOf(stack, 1), data: new MemoryDevice(SECTOR) };
    expect(await problems({ ...stack, layers: [short] })).toEqual(["1 too-small"]);
    const last = Math.floor(sectors / 4096) * SECTOR;
    await spoil(layerOf(stack, 1), last);
    expect(await problems(stack)).toEqual(["1 stray-bits"]);
    const bad = new BadPlaces(layerOf(stack, 2).bitmap.size, "read");
    await bad.write(0, await contents(layerOf(stack, 2).bitmap));
    bad.bad = [[1, 2]];
    const [first, , third] = stack.layers as [LayerDevices, LayerDevices, LayerDevices];
    const unread = { ...stack, layers: [first, { ...layerOf(stack, 2), bitmap: bad }, third] };
    expect(await problems(unread)).toEqual(["1 stray-bits", "2 unreadable"]);
    await spoil(layerOf(stack, 2), identityOffset(bitmapLength(sectors)));
    expect(await problems(stack)).toEqual(["2 foreign", "3 wrong-parent", "1 stray-bits"]);
  });
});
