/** A dump of an image that was used since: old metadata over newer data. */
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  BlockIoError,
  type ErrorCode,
  type TableDevice,
  openTable,
  parseTable,
  realEnvironment,
} from "@dmkit/block-io";
import { expect, it } from "vitest";
import { refuseUsed } from "../src/offline/protect.ts";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const SECTORS = (8 * MIB) / 512;

/** Its devices by role, the first one what a dump is of, and a table that opens it, or makes it. */
interface Kind {
  readonly table: (at: (role: string) => string) => string;
  readonly roles: readonly string[];
}

const kinds: Record<string, Kind> = {
  writeboost: {
    roles: ["cache", "backing"],
    table: (at) => `writeboost 0 ${at("backing")} ${at("cache")} 2 segment_size_order 7`,
  },
  cache: {
    roles: ["cache", "source"],
    table: (at) => `cache ${at("source")} ${at("cache")} 2 8 256 4 1`,
  },
  cow: {
    roles: ["bitmap", "data", "base"],
    table: (at) => `cow ${at("base")} 0 ${at("bitmap")} ${at("data")} 0`,
  },
  compression: { roles: ["device"], table: (at) => `compression ${at("device")} writeback 1` },
  tracked: { roles: ["bitmap", "device"], table: (at) => `tracked ${at("device")} ${at("bitmap")}` },
};

it("all formats that restore are here", async () => {
  const all = (await targets.images()).filter((format) => format.restore !== undefined);
  expect(all.map(({ name }) => name).toSorted()).toEqual(Object.keys(kinds).toSorted());
});

it.each(Object.entries(kinds))("%s: is refused, and nothing is written", async (name, { roles, table }) => {
  const folder = tempFolder();
  const at = (role: string): string => join(folder, role);
  for (const role of roles) {
    writeFileSync(at(role), "");
    truncateSync(at(role), 16 * MIB);
  }
  const sectors = name === "tracked" ? 2 * SECTORS : SECTORS;
  const use = async (work: (device: TableDevice) => Promise<void>, words = ""): Promise<void> => {
    const parsed = parseTable(`0 ${sectors} ${table(at)}${words}`, targets);
    const device = await openTable(parsed, { environment: realEnvironment });
    await work(device);
    await device.close();
  };
  const write = (first: number, byte: number): Promise<void> =>
    use(async (device) => {
      for (let block = first; block < first + 256; block += 1)
        await device.write(block * 4096, Buffer.alloc(4096, byte));
      await device.flush();
    });
  await write(0, 1);
  if (name === "tracked") await use(async (device) => void (await device.message(["begin", "monday"])));
  const [first = "", ...others] = roles;
  const named = [at(first), ...others.flatMap((role) => [`--${role}`, at(role)])];
  const dump = at("dump.json");
  expect(await cli("dump", ...named, "-o", dump)).toMatchObject({ code: 0 });
  const contents = (): Buffer => Buffer.concat(roles.map((role) => readFileSync(at(role))));
  expect(await cli("restore", "-q", dump, ...named)).toMatchObject({ code: 0, stderr: "" });

  await write(512, 2);
  const used = contents();
  const refused = await cli("restore", "-q", dump, ...named);
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringMatching(/EEXIST.*--force/s)]);
  expect(contents().equals(used)).toBe(true);
  await use(async (device) => {
    const read = Buffer.alloc(MIB);
    await device.read(2 * MIB, read);
    expect(read.equals(Buffer.alloc(MIB, 2))).toBe(true);
  });

  // Whoever asks for it gets it: contents of then, or what the source has; more marks, never too few.
  expect(await cli("restore", "-q", "--force", dump, ...named)).toMatchObject({ code: 0 });
  if (name === "cache") {
    // The source is not the one of then, and what is cached counts for nothing.
    await use(async (device) => {
      const read = Buffer.alloc(MIB);
      for (const [place, byte] of [
        [0, 1],
        [2 * MIB, 2],
      ] as const) {
        await device.read(place, read);
        expect(read.equals(Buffer.alloc(MIB, byte)), `byte ${place}`).toBe(true);
      }
    }, " 2 force 1");
  }
  if (name === "tracked") {
    const { stdout } = await cli("info", "--json", at("bitmap"));
    expect(stdout).toContain("monday");
    expect((await cli("dump", at("bitmap"))).stdout).toMatch(/"excess": true/);
  }
});

it.each(["closed", "crashed"])(
  "a historical cache that was used since, and %s, shows what its source has",
  async (end) => {
    const folder = tempFolder();
    const [source, cache, copy] = ["source", "cache", "copy"].map((name) => join(folder, name));
    if (source === undefined || cache === undefined || copy === undefined) throw new Error("unreachable");
    const contents = Buffer.concat(
      Array.from({ length: 1024 }, (_, block) => Buffer.alloc(4096, (block % 251) + 1)),
    );
    writeFileSync(source, contents);
    writeFileSync(cache, "");
    truncateSync(cache, 4 * MIB);
    const open = (path: string): Promise<TableDevice> => {
      const words = "2 8 256 256 0 4 format v1 read_sequential_cutoff 0";
      return openTable(parseTable(`0 8192 cache ${source} ${path} ${words}`, targets), {
        environment: realEnvironment,
      });
    };
    const read = async (device: TableDevice, ...places: readonly number[]): Promise<void> => {
      for (const place of places)
        for (let at = 0; at < 128; at += 1) {
          const into = Buffer.alloc(4096);
          await device.read(place + at * 4096, into);
          expect(into.equals(contents.subarray(place + at * 4096, place + (at + 1) * 4096))).toBe(true);
        }
    };
    const first = await open(cache);
    await read(first, 0);
    await first.close();
    const dump = join(folder, "dump.json");
    expect(await cli("dump", cache, "--source", source, "-o", dump)).toMatchObject({ code: 0 });
    // The same metadata: all of it is warm again.
    const unused = readFileSync(cache);
    expect(await cli("restore", "-q", "--force", dump, cache, "--source", source)).toMatchObject({ code: 0 });
    expect(readFileSync(cache).equals(unused)).toBe(true);

    const later = await open(cache);
    await read(later, 2 * MIB, 3 * MIB, MIB);
    copyFileSync(cache, copy);
    await later.close();
    const used = end === "closed" ? cache : copy;
    const text = await cli("restore", "-q", dump, used, "--source", source);
    expect([text.code, text.stderr]).toEqual([1, expect.stringMatching(/EEXIST.*--force/s)]);
    expect(await cli("restore", "-q", "--force", dump, used, "--source", source)).toMatchObject({ code: 0 });
    const again = await open(used);
    await read(again, 0, MIB, 2 * MIB, 3 * MIB);
    await again.close();
  },
);

it.each<[ErrorCode, string | undefined]>([
  ["EFORMAT", undefined],
  ["EIO", undefined],
  ["EACCES", "EACCES"],
])("metadata of which nothing can be told are none that were used since: %s", async (code, thrown) => {
  const [format] = await targets.images();
  if (format === undefined) throw new Error("there are no formats");
  const broken = { ...format, dump: () => Promise.reject(new BlockIoError("it cannot be read", { code })) };
  const asked = refuseUsed({ format: broken, devices: {}, dump: {} }, {}, { environment: realEnvironment });
  expect(await asked.catch((error: unknown) => (error as BlockIoError).code)).toBe(thrown);
});
