/** The devices of a zram disk are written over only if they are blank, or were its own. */
import {
  type BlockDevice,
  ByteAccess,
  MemoryDevice,
  codeOf,
  parseOptions,
  realEnvironment,
} from "@dmkit/block-io";
import { contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { zram, zramOptions } from "../src/index.ts";

const PAGE = 4096;
const PAGES = 16;
const strangers: readonly (readonly [what: string, offset: number, bytes: string])[] = [
  ["ext4", 1080, "53ef"],
  ["btrfs", 65_600, Buffer.from("_BHRfS_M").toString("hex")],
  ["RAID", 2 ** 20 - 8192, "fc4e2ba9"],
  ["not known", 0, "01"],
];

async function open(
  values: Readonly<Record<string, unknown>>,
  devices: Readonly<Record<string, BlockDevice>>,
) {
  const names = Object.fromEntries(Object.keys(devices).map((name) => [name, name]));
  return zram.open(parseOptions(zramOptions, { ...values, ...names }), {
    name: "zram",
    size: PAGES * PAGE,
    environment: realEnvironment,
    lower: async (reference) => devices[reference] as BlockDevice,
  });
}

async function attempt(...args: Parameters<typeof open>): Promise<string> {
  try {
    const device = await open(...args);
    await device.write(0, Buffer.alloc(PAGE, 9));
    await device.close();
    return "opened";
  } catch (error) {
    return `${codeOf(error)} ${(error as Error).message}`;
  }
}

describe.each(["snapshot", "backing_dev"])("the device of %s", (option) => {
  it.each(strangers)("with %s is not taken without the word", async (what, offset, hex) => {
    const device = new MemoryDevice(2 ** 20, { name: option });
    await new ByteAccess(device).write(offset, Buffer.from(hex, "hex"));
    const before = await contentsOf(device);
    const refused = await attempt({}, { [option]: device });
    expect(refused).toMatch(/^EFORMAT/);
    expect(refused).toContain(what);
    expect((await contentsOf(device)).equals(before)).toBe(true);
    expect(await attempt({ force: true }, { [option]: device })).toBe("opened");
    // From now on it is its own.
    expect(await attempt({}, { [option]: device })).toBe("opened");
  });
});

describe("the word", () => {
  it("leaves a snapshot that is there", async () => {
    const snapshot = new MemoryDevice(2 ** 20);
    expect(await attempt({}, { snapshot })).toBe("opened");
    const device = await open({ force: true }, { snapshot });
    const page = Buffer.alloc(PAGE);
    await device.read(0, page);
    expect(page.equals(Buffer.alloc(PAGE, 9))).toBe(true);
    await device.close();
  });

  it("is not needed for pages of an earlier disk", async () => {
    const backing_dev = new MemoryDevice(2 ** 20);
    for (let round = 0; round < 2; round += 1) {
      const device = await open({}, { backing_dev });
      await device.write(0, Buffer.from(Array.from({ length: PAGE }, (_, at) => (at * at) % 251)));
      expect(await device.message(["writeback", "all"])).toBe("1 pages written back");
      await device.close();
    }
  });
});

it.each(["comp_algorithm", "recomp_algorithm"])(
  "an unknown %s costs no device anything, also with the word",
  async (option) => {
    for (const name of ["backing_dev", "snapshot"]) {
      const device = new MemoryDevice(2 ** 20);
      await new ByteAccess(device).write(1080, Buffer.from("53ef", "hex"));
      const before = await contentsOf(device);
      const opening = open({ force: true, [option]: "none-such" }, { [name]: device });
      await expect(opening).rejects.toThrow(/none-such/);
      expect((await contentsOf(device)).equals(before)).toBe(true);
    }
  },
);

it("a mark that may be in a volatile cache only is stable before pages are written behind it", async () => {
  const disk = new Flushed(2 ** 20);
  await (await open({}, { backing_dev: disk })).close();
  disk.flushes = 0;
  const device = await open({}, { backing_dev: disk });
  expect(disk.flushes).toBe(1);
  await device.close();
});

class Flushed extends MemoryDevice {
  flushes = 0;

  override async flush(): Promise<void> {
    this.flushes += 1;
    await super.flush();
  }
}
