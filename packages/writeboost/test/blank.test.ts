/** What opening formats, and what it refuses to: caches, plogs, and backing devices. */
import {
  type BlockDevice,
  MemoryDevice,
  TableArguments,
  codeOf,
  currentArguments,
  realEnvironment,
} from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { type OpenOptions, openWriteboost, writeboost } from "../src/index.ts";
import { plogSegmentSize } from "../src/format/geometry.ts";

const MIB = 1024 * 1024;
const BLOCK = 4096;
const SEGMENT = plogSegmentSize(4);

/** Bytes of other owners by what they are; each leaves sector 0 zero, or has nothing of ours there. */
const strangers: readonly (readonly [name: string, offset: number, bytes: string])[] = [
  ["ext4", 1080, Buffer.from("53ef", "hex").toString("latin1")],
  ["swap", 4086, "SWAPSPACE2"],
  ["btrfs", 65_600, "_BHRfS_M"],
  ["LVM", 512, "LABELONE"],
  ["XFS", 0, "XFSB"],
  ["data that is not known", 700_000, "x"],
];

async function put(device: BlockDevice, offset: number, bytes: string | Buffer): Promise<void> {
  const within = offset % BLOCK;
  const block = Buffer.alloc(BLOCK);
  await device.read(offset - within, block);
  Buffer.from(bytes as string, "latin1").copy(block, within);
  await device.write(offset - within, block);
}

async function contents(device: BlockDevice): Promise<Buffer> {
  const all = Buffer.alloc(device.size);
  await device.read(0, all);
  return all;
}

function devices(plog?: number) {
  return {
    backing: new MemoryDevice(2 * MIB, { name: "backing" }),
    cache: new MemoryDevice(2 * MIB, { name: "cache" }),
    plog: plog === undefined ? undefined : new MemoryDevice(plog, { name: "plog" }),
  };
}

const attempt = async (on: ReturnType<typeof devices>, options: OpenOptions = {}): Promise<string> => {
  try {
    await (await openWriteboost(on, { order: 4, ...options })).close();
    return "opened";
  } catch (error) {
    return `${codeOf(error)} ${(error as Error).message}`;
  }
};

/** Tries, and proves that no byte of any device has changed. */
async function refused(on: ReturnType<typeof devices>, options: OpenOptions = {}): Promise<string> {
  const all = [on.backing, on.cache, ...(on.plog === undefined ? [] : [on.plog])];
  const before = await Promise.all(all.map(contents));
  const result = await attempt(on, options);
  for (const [index, device] of all.entries())
    expect((await contents(device)).equals(before[index] as Buffer)).toBe(true);
  return result;
}

/** Fails all writes after some. */
function limited(device: MemoryDevice, power: { left: number }): MemoryDevice {
  return new Proxy(device, {
    get: (target, name) => {
      const value = Reflect.get(target, name, target) as unknown;
      if (typeof value !== "function") return value;
      if (name !== "write" && name !== "writeZeroes") return value.bind(target) as unknown;
      return (...args: unknown[]) =>
        power.left-- > 0 ? (value.apply(target, args) as unknown) : Promise.reject(new Error("no power"));
    },
  });
}

describe("a cache device", () => {
  it.each(strangers)("with %s is not formatted without the word", async (name, offset, bytes) => {
    const on = devices();
    await put(on.cache, offset, bytes);
    expect(await refused(on)).toMatch(/^EFORMAT cache: open: holds something already/);
    expect(await refused(on)).toContain(name === "LVM" ? "LVM" : name);
    expect(await attempt(on, { force: true })).toBe("opened");
    // Now it is a cache, and the word is needed no more, nor does it do any harm.
    expect(await attempt(on)).toBe("opened");
    expect(await attempt(on, { force: true })).toBe("opened");
  });

  it("that is a cache is never formatted, word or not, even if its header is lost", async () => {
    const on = devices();
    const device = await openWriteboost(on, { order: 4 });
    await device.write(0, Buffer.alloc(BLOCK, 7));
    await device.close();
    const again = await openWriteboost(on, { force: true });
    const block = Buffer.alloc(BLOCK);
    await again.read(0, block);
    expect(block[9]).toBe(7);
    await again.close();
    for (const bytes of [Buffer.alloc(512), Buffer.alloc(512, 3)]) {
      await on.cache.write(0, bytes);
      expect(await refused(on, { force: true })).toMatch(/header was lost/);
    }
  });

  it("whose formatting was interrupted is formatted again", async () => {
    for (let step = 1; ; step += 1) {
      const on = devices(3 * SEGMENT);
      const result = await attempt({ ...on, cache: limited(on.cache, { left: step }) });
      expect(await attempt(on), `after ${step} writes`).toBe("opened");
      if (result === "opened") break;
    }
  });
});

describe("a plog device", () => {
  it.each(strangers)("with %s is not zeroed without the word", async (_name, offset, bytes) => {
    // With a new cache, with one that was type 0, and with one that was closed in order.
    for (const [before, size] of ["nothing", "type 0", "type 1"].flatMap((one) => [
      [one, 2 * MIB] as const,
      [one, 400 * SEGMENT] as const,
    ])) {
      const on = devices(size);
      if (before === "type 0") await attempt({ ...on, plog: undefined });
      if (before === "type 1") await attempt({ ...on, plog: new MemoryDevice(size) });
      await put(on.plog as MemoryDevice, offset, bytes);
      expect(await refused(on), before).toMatch(/^EFORMAT plog: open: holds something already/);
      expect(await attempt(on, { force: true }), before).toBe("opened");
      expect(await attempt(on), before).toBe("opened");
    }
  });

  it("loses only the plog segments that are used, also when they become more", async () => {
    const on = devices(4 * MIB);
    const plog = on.plog as MemoryDevice;
    // By the rule it is blank: what lies behind the first MiB is not looked at.
    await plog.write(2 * MIB, Buffer.alloc(MIB, 0x77));
    await attempt(on);
    const device = await openWriteboost(on, { pool: 500 });
    await device.write(0, Buffer.alloc(BLOCK, 1));
    await device.flush();
    await device.close();
    const end = 500 * SEGMENT;
    expect(end).toBeGreaterThan(2 * MIB);
    const after = await contents(plog);
    expect(after.subarray(2 * MIB, end).equals(Buffer.alloc(end - 2 * MIB))).toBe(true);
    expect(after.subarray(end, 3 * MIB).equals(Buffer.alloc(3 * MIB - end, 0x77))).toBe(true);
  });

  it.each([4 * SEGMENT + 512, 4 * SEGMENT])(
    "of another cache is not taken by a cache that has no name yet (%d bytes)",
    async (size) => {
      const other = devices(size);
      await attempt(other);
      const on = devices();
      expect(await refused({ ...on, plog: other.plog })).toMatch(/^EFORMAT plog.*plog of a writeboost cache/);
      // Nor by one that the original drivers have made, which is what one without an identity record looks like.
      await attempt(on);
      await on.cache.write(4096, Buffer.alloc(BLOCK));
      expect(await refused({ ...on, plog: other.plog })).toMatch(/^EFORMAT plog.*plog of a writeboost cache/);
      expect(await attempt(other)).toBe("opened");
    },
  );

  it.each([4 * SEGMENT + 512, 4 * SEGMENT, SEGMENT])(
    "finds its cache again, wherever the first opening ends (%d bytes)",
    async (size) => {
      for (let step = 1; ; step += 1) {
        const on = devices(size);
        const power = { left: step };
        const result = await attempt({
          ...on,
          cache: limited(on.cache, power),
          plog: limited(on.plog as MemoryDevice, power),
        });
        expect(await attempt(on), `after ${step} writes`).toBe("opened");
        if (result === "opened") break;
      }
    },
  );
});

describe("a backing device", () => {
  it("that is a cache, or a plog, is not cached without the word", async () => {
    const other = devices(4 * SEGMENT + 512);
    await attempt(other);
    for (const backing of [other.cache, other.plog as MemoryDevice]) {
      const on = { ...devices(), backing };
      expect(await refused(on)).toMatch(/^EFORMAT (cache|plog): open: is to be cached, but holds/);
      expect(await attempt(on, { force: true })).toBe("opened");
      expect(await attempt(on)).toBe("opened");
    }
  });

  it("may be anything else", async () => {
    for (const [, offset, bytes] of strangers) {
      const on = devices();
      await put(on.backing, offset, bytes);
      expect(await attempt(on)).toBe("opened");
    }
  });
});

describe("the word", () => {
  it("is an option of tables, and is not in the table of an open device", async () => {
    const line = "0 hdd ssd 6 segment_size_order 4 nr_rambuf_pool 8 force 1";
    const options = writeboost.parse(new TableArguments(line.split(" ")));
    expect(options.force).toBe(true);
    expect(writeboost.print(options).join(" ")).toBe(line);
    const on: Record<string, BlockDevice> = { hdd: devices().backing, ssd: devices().cache };
    const device = await writeboost.open(options, {
      name: "wb",
      size: MIB,
      environment: realEnvironment,
      lower: async (reference) => on[reference] as BlockDevice,
    });
    expect(currentArguments(writeboost, options, device).join(" ")).toBe(
      "0 hdd ssd 4 segment_size_order 4 nr_rambuf_pool 8",
    );
    await device.close();
  });
});
