import { describe, expect, it } from "vitest";
import {
  type BlockDevice,
  type BlockIoError,
  ByteAccess,
  MemoryDevice,
  TableArguments,
  ZeroDevice,
  beginFormat,
  contentsOf,
  eraseSignatures,
  logWrites,
  realEnvironment,
  requireBlank,
  requireNoCache,
} from "../src/index.ts";
import { placesOf, signatures } from "../src/format/signatures.ts";

const MIB = 1024 * 1024;
const SIZES = [512 * 200, 3 * MIB + 512];
const disks = new Map(SIZES.map((size) => [size, new ByteAccess(new MemoryDevice(size, { name: "disk" }))]));

async function deviceWith(
  size: number,
  offset: number,
  bytes: Buffer,
  block?: 512 | 4096,
): Promise<MemoryDevice> {
  const device = new MemoryDevice(size, { name: "disk", ...(block && { logicalBlockSize: block }) });
  await new ByteAccess(device).write(offset, bytes);
  return device;
}

/** Runs with the bytes on a disk that is empty before and after. */
async function having(
  { size, offset, bytes }: { size: number; offset: number; bytes: Buffer },
  work: (disk: BlockDevice) => Promise<void>,
): Promise<void> {
  const access = disks.get(size) as ByteAccess;
  await access.write(offset, bytes);
  await work(access.device);
  await access.write(offset, Buffer.alloc(bytes.length));
}

async function refusal(work: Promise<unknown>): Promise<BlockIoError | undefined> {
  return work.then(
    () => undefined,
    (error: unknown) => error as BlockIoError,
  );
}

/** Every place of every signature on devices of several sizes. */
function* all(): Iterable<{
  size: number;
  offset: number;
  bytes: Buffer;
  name: string;
  kind?: string | undefined;
}> {
  for (const size of SIZES) {
    for (const { name, at, bytes: hex, kind } of signatures) {
      const bytes = Buffer.from(hex, "hex");
      const places = [...placesOf(at, size)].filter((place) => place >= 0 && place + bytes.length <= size);
      // Of the hundreds of places of ZFS the first and the last ones are as good as all.
      const some = places.length > 4 ? [...places.slice(0, 2), ...places.slice(-2)] : places;
      for (const offset of some) yield { size, offset, bytes, name, kind };
    }
  }
}

describe("what is blank", () => {
  it("is a device of zeroes, of any size, also one that is as large as can be", async () => {
    for (const size of SIZES) expect(await contentsOf(new MemoryDevice(size))).toBeUndefined();
    expect(await contentsOf(new MemoryDevice(4096 * 64, { logicalBlockSize: 4096 }))).toBeUndefined();
    expect(await contentsOf(new ZeroDevice(2 ** 53 - 4096, "null:"))).toBeUndefined();
  });

  it("takes two reads of less than 2 MiB", async () => {
    const reads: number[] = [];
    const counted = new Proxy(new MemoryDevice(64 * MIB), {
      get: (target, name) => {
        if (name !== "read") return Reflect.get(target, name, target) as unknown;
        return (offset: number, into: Buffer) => {
          reads.push(into.length);
          return target.read(offset, into);
        };
      },
    });
    expect(await contentsOf(counted)).toBeUndefined();
    expect(reads).toHaveLength(2);
    expect(reads.reduce((sum, length) => sum + length)).toBeLessThan(2 * MIB);
  });

  it("is nothing with a signature; the error says what it is, and which word overrides", async () => {
    const names = signatures.map(({ name }) => name);
    let tried = 0;
    for (const one of all()) {
      if (one.kind === "unfinished") continue;
      tried += 1;
      await having(one, async (device) => {
        const where = `${one.name} at ${one.offset} of ${one.size}`;
        const error = await refusal(requireBlank(device, { force: false, word: "--force" }));
        expect(error?.code, where).toBe("EFORMAT");
        // One format's bytes may be part of another's, which says more.
        expect(
          names.some((name) => error?.message.includes(name)),
          where,
        ).toBe(true);
        expect(error?.hint, where).toContain("--force");
      });
    }
    expect(tried).toBeGreaterThan(signatures.length);
  });

  it("names what is on a device with several marks by the most telling one", async () => {
    const device = await deviceWith(4 * MIB, 510, Buffer.from("55aa", "hex"));
    expect((await contentsOf(device))?.text).toContain("MBR");
    await device.write(4 * MIB - 512, Buffer.concat([Buffer.from("EFI PART"), Buffer.alloc(504)]));
    expect((await contentsOf(device))?.text).toContain("GPT");
  });

  it("is nothing whose first MiB holds any other byte; what lies behind does not matter", async () => {
    for (const block of [512, 4096] as const) {
      for (const offset of [0, 511, 4096, MIB - 1]) {
        const device = await deviceWith(4 * MIB, offset, Buffer.from([7]), block);
        expect(await contentsOf(device)).toMatchObject({ known: false, offset });
        expect((await refusal(requireBlank(device, { force: false })))?.message).toContain(`byte ${offset}`);
      }
      expect(await contentsOf(await deviceWith(4 * MIB, MIB, Buffer.from([7]), block))).toBeUndefined();
    }
  });

  it("is an area of its own on a larger device", async () => {
    const device = await deviceWith(8 * MIB, 4 * MIB + 1080, Buffer.from("53ef", "hex"));
    expect(await contentsOf(device, { offset: 0, length: 4 * MIB })).toBeUndefined();
    expect(await contentsOf(device, { offset: 4 * MIB, length: 2 * MIB })).toMatchObject({ offset: 1080 });
    expect(await contentsOf(device, { offset: 4 * MIB, length: 1536 })).toMatchObject({ offset: 1080 });
  });

  it("is nothing with historical metadata of a cache, which have no magic", async () => {
    const last = Buffer.alloc(512);
    last[0] = 64;
    last[8] = 8;
    last[12] = 16;
    expect(await contentsOf(await deviceWith(4 * MIB, 4 * MIB - 512, last))).toMatchObject({ cache: true });
    // Three frames are none.
    last[0] = 3;
    expect(await contentsOf(await deviceWith(4 * MIB, 4 * MIB - 512, last))).toBeUndefined();
  });

  it("is a device whose formatting was interrupted, unless there is a signature on it since", async () => {
    for (const block of [512, 4096] as const) {
      const device = await deviceWith(4 * MIB, 20_000, Buffer.alloc(4096, 9), block);
      expect((await contentsOf(device))?.known).toBe(false);
      await beginFormat(device);
      expect(await contentsOf(device)).toBeUndefined();
      await new ByteAccess(device).write(1080, Buffer.from("53ef", "hex"));
      expect((await contentsOf(device))?.text).toContain("ext4");
    }
  });

  it("is one with what counts only together with the sector that says so; what has a place of its own counts", async () => {
    for (const [at, isBlank] of [
      [4096, true],
      [256, true],
      [4 * MIB - 512, false],
    ] as const) {
      const device = await deviceWith(4 * MIB, 0, Buffer.from("dmkit formatting"));
      await new ByteAccess(device).write(at, Buffer.from("dmkitWB1"));
      expect((await contentsOf(device)) === undefined, `at ${at}`).toBe(isBlank);
    }
  });

  it("is made of one that is not so that a crash leaves all of a mark, or all marks before it", async () => {
    const device = await deviceWith(4 * MIB, 0, Buffer.from("74734257", "hex"));
    await new ByteAccess(device).write(4096, Buffer.from("dmkitWB1"));
    const order: string[] = [];
    const watched = new Proxy(device, {
      get: (target, name) => {
        const member: unknown = Reflect.get(target, name, target);
        if (typeof member !== "function") return member;
        return (...args: unknown[]): unknown => {
          if (name === "write" || name === "flush") order.push(name === "write" ? String(args[0]) : name);
          return Reflect.apply(member, target, args) as unknown;
        };
      },
    });
    await eraseSignatures(watched);
    expect(order).toEqual(["0", "flush", "4096", "flush"]);
  });
});

describe("two bytes that name something", () => {
  /** By what surrounds them: as in the formats' descriptions. */
  const real: readonly (readonly [name: string, parts: readonly (readonly [at: number, hex: string])[]])[] = [
    [
      "ext4",
      [
        [1048, "02000000"],
        [1080, "53ef010001000000"],
        [1100, "01000000"],
      ],
    ],
    ["NILFS2", [[1024, "0200000000003434"]]],
    [
      "HFS file",
      [
        [1024, "4244"],
        [1038, "0003"],
        [1044, "00001000"],
      ],
    ],
    [
      "minix",
      [
        [1034, "0000"],
        [1040, "78240100"],
      ],
    ],
    [
      "Apple",
      [
        [0, "45520200"],
        [512, "504d"],
      ],
    ],
    [
      "MBR",
      [
        [446, "80"],
        [462, "00"],
        [478, "00"],
        [494, "00"],
        [510, "55aa"],
      ],
    ],
  ];

  it("are certain with what belongs around them, and may be chance without", async () => {
    for (const [name, parts] of real) {
      for (const certain of [true, false]) {
        const device = await deviceWith(4 * MIB, 0, Buffer.alloc(4096, 0xb7));
        const access = new ByteAccess(device);
        const [at, hex] = parts.find(([, bytes]) => /53ef|3434|4244|7824|4552|55aa/.test(bytes)) ?? [0, ""];
        const [mark] = /53ef|3434|4244|7824|4552|55aa/.exec(hex) as unknown as [string];
        if (certain) for (const [place, bytes] of parts) await access.write(place, Buffer.from(bytes, "hex"));
        else await access.write(at + hex.indexOf(mark) / 2, Buffer.from(mark, "hex"));
        const contents = await contentsOf(device);
        expect(contents, name).toMatchObject({ known: true, certain });
        expect(contents?.text).toContain(name);
        // They ask for a word all the same.
        expect((await refusal(requireBlank(device, { force: false })))?.code).toBe("EFORMAT");
      }
    }
  });

  it("need more than chance to take back a device whose formatting was interrupted", async () => {
    const device = await deviceWith(4 * MIB, 0, Buffer.alloc(4096, 0xb7));
    await new ByteAccess(device).write(1040, Buffer.from("7824", "hex"));
    expect((await contentsOf(device))?.text).toContain("minix");
    const sector = Buffer.alloc(512);
    sector.write("dmkit formatting", "latin1");
    await device.write(0, sector);
    expect(await contentsOf(device)).toBeUndefined();
  });

  it("are few: what has fewer than four says what must stand around it", () => {
    for (const { name, bytes, bornOutBy } of signatures)
      if (bytes.length < 8) expect(bornOutBy, name).toBeDefined();
  });
});

describe("the word", () => {
  it("takes all signatures off, and nothing else", async () => {
    const device = await deviceWith(4 * MIB, 1080, Buffer.from("53ef", "hex"));
    await device.write(4 * MIB - 512, Buffer.concat([Buffer.from("EFI PART"), Buffer.alloc(504, 1)]));
    await device.write(8192, Buffer.alloc(4096, 3));
    await requireBlank(device, { force: true });
    expect(await contentsOf(device)).toMatchObject({ known: false, offset: 8192 });
    const last = Buffer.alloc(512);
    await device.read(4 * MIB - 512, last);
    expect(last).toEqual(Buffer.concat([Buffer.alloc(8), Buffer.alloc(504, 1)]));
    // What lies outside an area is left alone.
    await new ByteAccess(device).write(1080, Buffer.from("53ef", "hex"));
    await eraseSignatures(device, { offset: MIB, length: MIB });
    expect(await contentsOf(device)).toMatchObject({ known: true });
  });

  it("is needed for a cache below a cache, and for nothing else there", async () => {
    for (const one of all()) {
      await having(one, async (device) => {
        const error = await refusal(requireNoCache(device, { force: false }));
        expect(error?.code, `${one.name} at ${one.offset}`).toBe(
          one.kind === "cache" ? "EFORMAT" : undefined,
        );
        if (error !== undefined) await requireNoCache(device, { force: true });
      });
    }
  });
});

describe("a log of writes", () => {
  it("replaces an older one, and nothing else without the word", async () => {
    const log = new MemoryDevice(4 * MIB);
    const below = new MemoryDevice(MIB);
    const open = async (words: string): Promise<string | undefined> => {
      const options = logWrites.parse(new TableArguments(words.split(" ")));
      const work = logWrites.open(options, {
        name: "log-writes",
        size: MIB,
        environment: realEnvironment,
        lower: async (reference) => (reference === "log" ? log : below),
      });
      return (await refusal(work.then((device) => device.close())))?.code;
    };
    expect(await open("disk log")).toBeUndefined();
    expect(await open("disk log")).toBeUndefined();
    await log.write(0, Buffer.alloc(512, 3));
    expect(await open("disk log")).toBe("EFORMAT");
    expect(await open("disk log 2 force 1")).toBeUndefined();
    const options = logWrites.parse(new TableArguments("disk log 2 force 1".split(" ")));
    expect(logWrites.print(options).join(" ")).toBe("disk log 2 force 1");
  });
});
