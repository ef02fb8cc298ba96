import { describe, expect, it } from "vitest";
import {
  type AnyTarget,
  type BlockDevice,
  type Environment,
  FlakeyDevice,
  LinearDevice,
  MemoryDevice,
  StripedDevice,
  TargetRegistry,
  basicTargets,
  linear,
  openTable,
  parseTable,
  printTable,
  realEnvironment,
} from "../src/index.ts";
import { BadSectors, conformance } from "../src/testing/index.ts";

const framework = { describe, it };
const MIB = 1024 * 1024;
const registry = new TargetRegistry(basicTargets);

async function open(table: string, environment: Environment = realEnvironment): Promise<BlockDevice> {
  return openTable(parseTable(table, registry), { environment });
}

conformance("linear", async () => ({ device: await open("0 2048 linear mem:4M 100") }), framework);
conformance(
  "linear of two lines",
  async () => ({
    device: await open("0 300 linear mem:1M 7\n300 1748 linear mem:1M 0"),
  }),
  framework,
);
conformance(
  "striped",
  async () => ({ device: await open("0 2304 striped 3 8 mem:1M 0 mem:1M 16 mem:2M 0") }),
  framework,
);
conformance(
  "striped of odd chunks",
  async () => ({ device: await open("0 2250 striped 3 5 mem:1M 0 mem:1M 16 mem:2M 3") }),
  framework,
);
conformance("delay", async () => ({ device: await open("0 2048 delay mem:4M 0 0") }), framework);
conformance(
  "flakey that is up",
  async () => ({ device: await open("0 2048 flakey mem:4M 0 5 0") }),
  framework,
);
conformance(
  "linear over striped over flakey over memory",
  async () => {
    const lower = [1, 2].map(() => new BadSectors(2 * 1024 * 1024));
    const up = { up: 1, down: 0, behaviour: "error_all" } as const;
    const reopen = async (): Promise<BlockDevice> => {
      const flakeys = lower.map((memory) => new FlakeyDevice(memory, 4096, MIB, up, realEnvironment.clock));
      const stripes = flakeys.map((device) => ({ device, offset: 0 }));
      return new LinearDevice(new StripedDevice(stripes, 8192, 2 * MIB), 512, MIB);
    };
    return { device: await reopen(), reopen, lower };
  },
  framework,
);

describe("zero", () => {
  it("reads as zeroes and forgets writes", async () => {
    const device = await open("0 64 zero");
    await device.write(0, Buffer.alloc(512, 1));
    const into = Buffer.alloc(512, 1);
    await device.read(0, into);
    expect(into.equals(Buffer.alloc(512))).toBe(true);
    await device.close();
  });
});

describe("error", () => {
  it("fails reads, writes, discards and zeroes with EIO", async () => {
    const device = await open("0 64 error");
    const one = Buffer.alloc(512);
    await expect(device.read(0, one)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.write(0, one)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.discard(0, 512)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.writeZeroes(0, 512)).rejects.toMatchObject({ code: "EIO" });
    await device.close();
  });

  it("fails only its own part of a table", async () => {
    const device = await open("0 8 linear mem:1M 0\n8 8 error\n16 8 linear mem:1M 0");
    await device.write(0, Buffer.alloc(8 * 512, 3));
    await device.write(16 * 512, Buffer.alloc(8 * 512, 4));
    await expect(device.read(7 * 512, Buffer.alloc(1024))).rejects.toMatchObject({ code: "EIO" });
    const into = Buffer.alloc(512);
    await device.read(16 * 512, into);
    expect(into[0]).toBe(4);
    await device.close();
  });
});

/** A clock that stands still until it is told to go on. */
function manualClock(): { environment: Environment; advance: (milliseconds: number) => void } {
  let now = 0;
  const timers: { at: number; callback: () => void }[] = [];
  const environment: Environment = {
    ...realEnvironment,
    clock: {
      now: () => now,
      wallTime: () => now,
      after(milliseconds, callback) {
        timers.push({ at: now + milliseconds, callback });
        return { cancel() {} };
      },
    },
  };
  const advance = (milliseconds: number): void => {
    now += milliseconds;
    for (const timer of timers.splice(0)) {
      if (timer.at <= now) timer.callback();
      else timers.push(timer);
    }
  };
  return { environment, advance };
}

describe("flakey", () => {
  it("fails while down and works again when up", async () => {
    const { environment, advance } = manualClock();
    const device = await open("0 64 flakey mem:1M 0 2 3", environment);
    const one = Buffer.alloc(512, 1);
    await device.write(0, one);
    advance(2000);
    await expect(device.write(0, one)).rejects.toMatchObject({ code: "EIO" });
    await expect(device.read(0, one)).rejects.toMatchObject({ code: "EIO" });
    advance(3000);
    await device.write(0, one);
    await device.close();
  });

  it("error_writes still reads, drop_writes loses silently", async () => {
    for (const behaviour of ["error_writes", "drop_writes"]) {
      const { environment, advance } = manualClock();
      const device = await open(`0 64 flakey mem:1M 0 1 1 1 ${behaviour}`, environment);
      await device.write(0, Buffer.alloc(512, 1));
      advance(1000);
      const write = device.write(0, Buffer.alloc(512, 2));
      if (behaviour === "drop_writes") await write;
      else await expect(write).rejects.toMatchObject({ code: "EIO" });
      const into = Buffer.alloc(512);
      await device.read(0, into);
      expect(into[0]).toBe(1);
      advance(1000);
      await device.close();
    }
  });
});

describe("delay", () => {
  it("answers after the given time, not before", async () => {
    const { environment, advance } = manualClock();
    const device = await open("0 64 delay mem:1M 0 10 20 0", environment);
    let answered = 0;
    const read = device.read(0, Buffer.alloc(512)).then(() => (answered += 1));
    const write = device.write(0, Buffer.alloc(512)).then(() => (answered += 1));
    advance(9);
    await new Promise((resolve) => setImmediate(resolve));
    expect(answered).toBe(0);
    advance(1);
    await read;
    expect(answered).toBe(1);
    advance(10);
    await write;
    await device.close();
  });
});

describe("tables", () => {
  const good = [
    "0 2048 linear ./a.img 0",
    '0 8 linear "a file.img" 8\n8 8 zero',
    "0 2304 striped 3 8 a 0 b 16 c 0",
    "0 64 flakey a 0 5 1 1 drop_writes",
    "0 64 flakey a 0 5 1",
    "0 64 delay a 0 10 20 30",
    "0 8 error\n8 8 zero\n16 8 linear mem:1M 4",
    '0 8 linear "say \\"hi\\" \\\\ #" 1',
  ];
  it.each(good)("prints %s back", (text) => {
    const printed = printTable(parseTable(text, registry));
    expect(printTable(parseTable(printed, registry))).toBe(printed);
    expect(printed).toBe(text);
  });

  it("takes comments, blank lines and sizes for sectors", () => {
    expect(printTable(parseTable("# a comment\n\n0 8 linear a 4K # rest\n", registry))).toBe(
      "0 8 linear a 8",
    );
  });

  const bad: readonly [text: string, code: string, says: RegExp][] = [
    ["", "EPARSE", /no lines/],
    ["0 8", "EPARSE", /line 1.*needs a start/],
    ["0 8 lineal a 0", "EPARSE", /line 1.*no target "lineal"/],
    ["0 8 linear a 0 extra", "EPARSE", /unexpected "extra"/],
    ["0 8 linear", "EPARSE", /device is missing/],
    ["0 8 linear a x", "EPARSE", /offset.*"x"/],
    ["0 0 zero", "EPARSE", /length is 0/],
    ["-1 8 zero", "EPARSE", /start "-1"/],
    ["0 1e3 zero", "EPARSE", /length "1e3"/],
    ["8 8 zero", "EPARSE", /starts at sector 8/],
    ["0 8 zero\n7 8 zero", "EPARSE", /line 2.*overlaps/],
    ["0 8 zero\n9 8 zero", "EPARSE", /line 2.*gap/],
    ["0 99999999999999999 zero", "EPARSE", /length/],
    ["0 17592186044415 zero\n17592186044415 1 zero", "EPARSE", /beyond/],
    ['0 8 linear "a 0', "EPARSE", /quote/],
    ["0 8 striped 0 8", "EPARSE", /number of stripes/],
    ["0 8 striped 2 8 a 0", "EPARSE", /device is missing/],
    ["0 8 flakey a 0 1 1 1 nonsense", "EPARSE", /feature/],
    ["0 8 flakey a 0 1 1 9", "EPARSE", /number of features/],
  ];
  it.each(bad)("refuses %j with %s", (text, code, says) => {
    expect(() => parseTable(text, registry)).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(says) as string }),
    );
  });

  it("refuses a target over a device that is too small, and closes what it opened", async () => {
    await expect(open("0 4096 linear mem:1M 0")).rejects.toMatchObject({ code: "EINVAL" });
    await expect(open("0 100 striped 2 8 mem:1M 0 mem:1M 0")).rejects.toMatchObject({ code: "EINVAL" });
  });

  it.each([-512, 0.5, Number.NaN])("maps nothing from offset %d on", (offset) => {
    expect(() => new LinearDevice(new MemoryDevice(2 ** 20), offset, 4096)).toThrow(/do not fit/);
  });

  it("that is refused for a line that does not fit has written nothing for those before", async () => {
    const writes: string[] = [];
    class Watched extends MemoryDevice {
      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        writes.push(this.name);
        return super.doWrite(offset, from);
      }
    }
    // A table that is refused closes what it has opened.
    const schemes = {
      async ram(name: string): Promise<BlockDevice> {
        const logicalBlockSize = name === "ram:4k" ? 4096 : 512;
        return new Watched(name === "ram:small" ? 4096 : 2 ** 17, { name, logicalBlockSize });
      },
    };
    const logged = "0 64 log-writes ram:a ram:log";
    for (const line of [
      "64 64 linear ram:small 0",
      "64 64 striped 2 8 ram:a 64 ram:small 0",
      // Inside a block: every request would be refused.
      "64 64 linear ram:4k 1",
      "64 64 striped 1 8 ram:4k 1",
    ]) {
      const segments = parseTable(`${logged}\n${line}`, registry);
      await expect(openTable(segments, { environment: realEnvironment, schemes })).rejects.toMatchObject({
        code: "EINVAL",
        hint: expect.stringMatching(/./),
      });
    }
    expect(writes).toEqual([]);
    // A log of larger sectors.
    const log = parseTable("0 64 log-writes ram:a ram:4k", registry);
    await expect(openTable(log, { environment: realEnvironment, schemes })).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining("512-byte"),
    });
    expect(writes).toEqual([]);
  });

  it("gives one device for one name, and status by segment", async () => {
    const device = await openTable(parseTable("0 8 linear mem:1M 0\n8 8 zero", registry), {
      environment: realEnvironment,
    });
    expect(device.status()).toBe("0 8 linear\n8 8 zero");
    expect(device.table).toBe("0 8 linear mem:1M 0\n8 8 zero");
    await expect(device.message(["hello"])).rejects.toMatchObject({ code: "EINVAL" });
    await expect(device.message(["@8", "hello"])).rejects.toMatchObject({ code: "EINVAL" });
    await device.close();
  });

  it("lets its targets rest while it is suspended, in whatever order it is told", async () => {
    const seen: string[] = [];
    const watched: AnyTarget = {
      ...linear,
      name: "watched",
      async open(options, context) {
        const device = await linear.open(options as Parameters<typeof linear.open>[0], context);
        const suspend = device.suspend.bind(device);
        const resume = device.resume.bind(device);
        device.suspend = () => suspend().then(() => void seen.push("rests"));
        device.resume = () => resume().then(() => void seen.push("goes on"));
        return device;
      },
    };
    const known = new TargetRegistry([watched]);
    const device = await openTable(parseTable("0 8 watched mem:1M 0", known), {
      environment: realEnvironment,
    });
    await device.suspend();
    await device.suspend();
    expect(seen).toEqual(["rests"]);
    await device.resume();
    await Promise.all([device.suspend(), device.resume()]);
    expect(seen).toEqual(["rests", "goes on", "rests", "goes on"]);
    await device.write(0, Buffer.alloc(512, 1), { fua: true });
    await device.suspend();
    // Flushes through targets that hold everything back.
    await device.close();
    await Promise.allSettled([device.suspend(), device.resume()]);
  });

  it("lists targets by name and alias, and refuses two of one name", () => {
    const aliased: AnyTarget = { ...linear, name: "other", aliases: ["o"] };
    expect(new TargetRegistry([linear, aliased]).get("o").name).toBe("other");
    expect(() => new TargetRegistry([linear, linear])).toThrow(/two targets/);
    expect(registry.list().map(({ name }) => name)).toEqual([
      "linear",
      "striped",
      "zero",
      "error",
      "delay",
      "flakey",
      "log-writes",
    ]);
  });
});

describe("discards through a device that is made of parts", () => {
  const GRANULE = 4096;

  /** Discards whole granules only, as files do. */
  class Coarse extends MemoryDevice {
    constructor() {
      super(256 * GRANULE);
      Object.assign(this, { limits: { ...this.limits, discardGranularity: GRANULE } });
    }

    protected override doDiscard(offset: number, length: number): Promise<void> {
      const [from, to] = [
        Math.ceil(offset / GRANULE) * GRANULE,
        Math.floor((offset + length) / GRANULE) * GRANULE,
      ];
      return to > from ? super.doDiscard(from, to - from) : Promise.resolve();
    }
  }

  it.each<[string, string, boolean]>([
    ["linear at a granule", "0 64 linear mem:a 8", true],
    ["linear inside of one", "0 64 linear mem:a 1", false],
    ["lines that begin at granules", "0 8 linear mem:a 0\n8 64 linear mem:b 8", true],
    ["a line that begins inside of one", "0 3 linear mem:a 0\n3 64 linear mem:b 0", false],
    ["lines, one of them shifted below", "0 8 linear mem:a 0\n8 64 linear mem:b 3", false],
    ["stripes of granules", "0 64 striped 2 8 mem:a 0 mem:b 8", true],
    ["stripes of parts of them", "0 64 striped 2 1 mem:a 0 mem:b 0", false],
    ["stripes that begin inside of one", "0 64 striped 2 8 mem:a 0 mem:b 1", false],
  ])("zero whole granules, or do not claim to: %s", async (_name, table, zeroes) => {
    const schemes = { mem: async (): Promise<BlockDevice> => new Coarse() };
    const device = await openTable(parseTable(table, registry), { environment: realEnvironment, schemes });
    const { capabilities, discardGranularity } = device.limits;
    expect(capabilities.discardZeroes).toBe(zeroes);
    const bytes = Buffer.alloc(device.size, 1);
    await device.write(0, bytes);
    await device.discard(0, device.size);
    await device.read(0, bytes);
    const whole = Math.floor(device.size / discardGranularity) * discardGranularity;
    if (zeroes) expect(bytes.subarray(0, whole).equals(Buffer.alloc(whole))).toBe(true);
    await device.close();
  });
});
