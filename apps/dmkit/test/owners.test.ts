/**
 * What one target owns or relies on is written by nobody else: every target of the app, what it does with every device
 * below it, and what may therefore stand beside it; then the ways in which two owners used to come to one device.
 */
import { linkSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  MemoryDevice,
  isZero,
  openFile,
  realEnvironment,
  type Use,
  linear,
  replaceReferences,
} from "@dmkit/block-io";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { openedAs } from "../src/manager/device/opened-table.ts";
import { lowerReferences, readTable } from "../src/manager/references.ts";
import { openReference } from "../src/devices.ts";
import { openExports } from "../src/serve/exports.ts";
import { Stack } from "../src/serve/stack.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { NbdServer } from "@dmkit/nbd";
import { cleanUp, makePartitioned, tempFolder } from "./support.ts";

// Sectors.
const SIZE = 8192;
const LOWER = 65_536;

interface Case {
  /** The target's words. */
  readonly args: string;
  /** What it does with its devices; `part` where it uses the first SIZE sectors only. */
  readonly uses: Readonly<Record<string, Use>>;
  readonly part: readonly string[];
  /** Makes what has to be there before. */
  readonly prepare?: () => Promise<void>;
}

let manager: DeviceManager;

const cases: Readonly<Record<string, Case>> = {
  linear: { args: "dm:a 0", uses: { a: "shares" }, part: ["a"] },
  striped: { args: "2 8 dm:a 0 dm:b 0", uses: { a: "shares", b: "shares" }, part: ["a", "b"] },
  zero: { args: "", uses: {}, part: [] },
  error: { args: "", uses: {}, part: [] },
  delay: { args: "dm:a 0 0", uses: { a: "shares" }, part: ["a"] },
  flakey: { args: "dm:a 0 60 0", uses: { a: "shares" }, part: ["a"] },
  "log-writes": { args: "dm:a dm:b", uses: { a: "owns", b: "owns" }, part: ["a"] },
  writeboost: {
    args: "1 dm:a dm:b dm:c 2 segment_size_order 4",
    uses: { a: "owns", b: "owns", c: "owns" },
    part: ["a"],
  },
  cache: { args: "dm:a dm:b 2 8 256 256", uses: { a: "owns", b: "owns" }, part: ["a"] },
  cow: {
    args: "dm:a 0 dm:b dm:c 0 dm:d dm:e 0",
    uses: { a: "reads", b: "reads", c: "reads", d: "owns", e: "owns" },
    part: ["a", "b", "c", "d", "e"],
    async prepare() {
      await manager.create("before", `0 ${SIZE} cow dm:a 0 dm:b dm:c 0`);
      await manager.message("before", ["freeze", "dm:d", "dm:e"]);
      await manager.remove("before");
    },
  },
  tracked: { args: "dm:a dm:b", uses: { a: "owns", b: "owns" }, part: ["a"] },
  compression: { args: "dm:a writethrough 2 journal 65536", uses: { a: "owns" }, part: [] },
  // All of it is in a store.
  archive: { args: "/archives/vm1", uses: {}, part: [] },
  // What it keeps of an image is in a folder, and no device.
  image: { args: "/images/debian", uses: {}, part: [] },
  zram: { args: "lz4 4 backing_dev dm:a snapshot dm:b", uses: { a: "owns", b: "owns" }, part: [] },
};

/** How else somebody may come to eight sectors of a device: tables, each on top of the one before. */
const probes: Readonly<Record<Exclude<Use, "looks">, (device: string, offset: number) => readonly string[]>> =
  {
    shares: (device, offset) => [`0 8 linear dm:${device} ${offset}`],
    reads: (device, offset) => [`0 8 cow dm:${device} ${offset} mem:1M mem:1M 0`],
    // The part alone is in nobody's way who shares; it is in the way of all others, as what is on it.
    owns: (device, offset) => [`0 8 linear dm:${device} ${offset}`, "0 8 log-writes dm:probe0 mem:1M"],
  };

const goesWith: Readonly<Record<Use, readonly string[]>> = {
  owns: [],
  reads: ["reads"],
  shares: ["shares"],
  looks: ["reads", "shares", "owns"],
};

beforeEach(() => {
  manager = new DeviceManager(realEnvironment);
});

afterEach(() => manager.close());

async function memory(...names: readonly string[]): Promise<void> {
  for (const name of names) await manager.create(name, `0 ${LOWER} linear mem:32M 0`);
}

async function refused(work: () => Promise<unknown> | void): Promise<BlockIoError> {
  const error = await (async () => work())().then(
    () => "it was allowed",
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(BlockIoError);
  expect((error as BlockIoError).code).toBe("EBUSY");
  return error as BlockIoError;
}

/** Whether tables can be opened beside others; they are closed again. */
async function isAllowed(...tables: readonly string[]): Promise<boolean> {
  let count = 0;
  try {
    for (const table of tables) {
      await manager.create(`probe${count}`, table);
      count += 1;
    }
  } catch (error) {
    expect(error, tables.join("; ")).toMatchObject({ code: "EBUSY" });
  }
  const allowed = count === tables.length;
  while (count > 0) await manager.remove(`probe${(count -= 1)}`);
  return allowed;
}

async function fill(device: BlockDevice, offset: number, byte: number): Promise<void> {
  await device.write(offset, Buffer.alloc(4096, byte));
  await device.flush();
}

async function byteAt(device: BlockDevice, offset: number): Promise<number> {
  const back = Buffer.alloc(512);
  await device.read(offset, back);
  return back[0] as number;
}

function file(folder: string, name: string, bytes = 2 ** 22): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, bytes);
  return path;
}

describe("every target", () => {
  it("is in the table of this test, with every device it can have", () => {
    expect(Object.keys(cases).toSorted()).toEqual(
      targets
        .list()
        .map(({ name }) => name)
        .toSorted(),
    );
    for (const [name, { args, uses, part }] of Object.entries(cases)) {
      const [segment] = readTable(`0 ${SIZE} ${name} ${args}`);
      const given = lowerReferences(`0 ${SIZE} ${name} ${args}`).flatMap((reference) =>
        reference.startsWith("dm:") ? [reference.slice(3)] : [],
      );
      expect(given.toSorted(), name).toEqual(Object.keys(uses).toSorted());
      expect(Object.keys(uses), name).toEqual(expect.arrayContaining([...part]));
      const declared = segment?.target.uses?.(segment.options, SIZE * 512) ?? [];
      expect(Object.fromEntries(declared.map(([reference, use]) => [reference.slice(3), use])), name).toEqual(
        uses,
      );
      expect(
        declared.flatMap(([reference, , range]) => (range ? [reference.slice(3)] : [])),
        name,
      ).toEqual(part);
      const left = new Set<string>();
      for (const [option, spec] of Object.entries(segment?.target.options ?? {})) {
        if (spec.type === "device" || spec.type === "list") left.add(option);
      }
      for (const option of left) {
        let seen = 0;
        const only = { [option]: (segment?.target.options ?? {})[option] } as Parameters<
          typeof replaceReferences
        >[0];
        replaceReferences(only, segment?.options, () => {
          seen += 1;
          return undefined;
        });
        expect(seen, `${name} ${option}`).toBeGreaterThan(0);
      }
    }
  });

  const below = Object.entries(cases).filter(([, { uses }]) => Object.keys(uses).length > 0);

  for (const [name, { args, uses, part, prepare }] of below) {
    it(`${name} ${args}`, async () => {
      const lowers = Object.keys(uses);
      const table = `0 ${SIZE} ${name} ${args}`;
      await memory(...lowers);
      await prepare?.();
      await manager.create("subject", table);
      for (const [lower, use] of Object.entries(uses)) {
        for (const [how, probe] of Object.entries(probes)) {
          const allowed = goesWith[use].includes(how);
          expect(await isAllowed(...probe(lower, 0)), `${use} ${lower}, ${how}`).toBe(allowed);
          // Through another device, too; that one alone is what `shares` is about.
          if (use === "shares") {
            await manager.create("part", `0 4096 linear dm:${lower} 0`);
            expect(await isAllowed(...probe("part", 0)), `${use} ${lower}, ${how} a part`).toBe(allowed);
            await manager.remove("part");
          }
          // Behind what it uses everybody is free.
          expect(await isAllowed(...probe(lower, LOWER - 8)), `end of ${lower}, ${how}`).toBe(
            part.includes(lower) || allowed,
          );
        }
        await refused(() => manager.exported(lower, "e", true) && undefined);
        manager.exported(lower, "e", false)();
      }
      // The same once more, beside it and in the same table.
      const sharing = Object.values(uses).every((use) => use === "shares");
      expect(await isAllowed(table)).toBe(sharing);
      await manager.remove("subject");
      expect(await isAllowed(`${table}\n${SIZE} ${SIZE} ${name} ${args}`)).toBe(sharing);
      // Nothing is left of it, nor of all that was refused.
      for (const lower of lowers) {
        expect(manager.snapshotOf(lower).holders).toEqual([]);
        manager.exported(lower, "e", true)();
      }
      expect(await isAllowed(table)).toBe(true);
    });
  }

  it("goes on with its own devices when its table is exchanged, and keeps them while it is suspended", async () => {
    for (const [name, { args, uses, prepare }] of below) {
      if (name === "zram") continue;
      await memory(...Object.keys(uses));
      await prepare?.();
      await manager.create("subject", `0 ${SIZE} ${name} ${args}`);
      await manager.suspend("subject");
      for (const [lower, use] of Object.entries(uses)) {
        expect(await isAllowed(...probes.shares(lower, 0)), `${name} ${lower}`).toBe(use === "shares");
      }
      await manager.resume("subject");
      await manager.reload("subject", `0 ${SIZE} ${name} ${args}`, { force: name === "log-writes" });
      await manager.resume("subject");
      for (const [lower, use] of Object.entries(uses)) {
        expect(await isAllowed(...probes.shares(lower, 0)), `${name} ${lower}`).toBe(use === "shares");
      }
      await manager.remove("subject");
      for (const lower of Object.keys(uses)) await manager.remove(lower);
    }
  });
});

describe("two owners of one device", () => {
  it("are refused in one table, over files, whatever they are called", async () => {
    const folder = tempFolder();
    const [one, two, ssd] = [file(folder, "one"), file(folder, "two"), file(folder, "ssd")];
    const hard = join(folder, "hard");
    linkSync(ssd, hard);
    const caches = (first: string, second: string): string =>
      `0 8192 writeboost 0 ${one} ${first} 2 segment_size_order 4\n8192 8192 writeboost 0 ${two} ${second} 2 segment_size_order 4`;
    const error = await refused(() => manager.create("x", caches(ssd, ssd)));
    expect(error.device).toBe(ssd);
    expect(error.reason).toMatch(/the same table \(writeboost\) owns it/);
    await refused(() => manager.create("x", caches(ssd, hard)));
    await refused(() => manager.create("x", `${caches(ssd, file(folder, "ssd2"))}\n16384 8 linear ${ssd} 0`));
    await refused(() => manager.create("x", `0 8192 cow ${one} 0 ${ssd} ${two} 0\n8192 8 linear ${one} 0`));
    await refused(() => manager.create("x", `0 8192 writeboost 0 ${one} ${one} 2 segment_size_order 4`));
    await refused(() => manager.create("x", `0 2048 zram lz4 4 snapshot ${one} backing_dev ${one}`));
    // Refusing has let go of everything, and nothing was written before.
    for (const path of [one, two, ssd]) {
      await (await openFile(path)).close();
      expect(isZero(readFileSync(path)), path).toBe(true);
    }
  });

  it("are refused over a named device, and told who has it", async () => {
    await memory("one", "two", "ssd");
    await manager.create("cached", `0 ${SIZE} writeboost 0 dm:one dm:ssd 2 segment_size_order 4`);
    const error = await refused(() => manager.create("x", `0 ${SIZE} writeboost 0 dm:two dm:ssd`));
    expect(error).toMatchObject({ device: "dm:ssd", op: "open" });
    expect(error.reason).toBe("is in use: device cached (writeboost) owns it");
    expect(error.hint).toContain("dmkit remove cached");
    await manager.rename("cached", "other");
    expect((await refused(() => manager.create("x", "0 8 linear dm:ssd 0"))).reason).toContain(
      "device other",
    );
    expect(manager.snapshotOf("two").holders).toEqual([]);
    await manager.create("x", `0 ${SIZE} writeboost 0 dm:two mem:4M 2 segment_size_order 4`);
  });

  it("are refused where they meet below, and partitions that do not meet are fine", async () => {
    await memory("one", "two", "ssd");
    await manager.create("p1", "0 16384 linear dm:ssd 0");
    await manager.create("p2", "0 16384 linear dm:ssd 16384");
    await manager.create("across", "0 16384 striped 1 8 dm:ssd 8192");
    expect((await refused(() => manager.create("c", `0 ${SIZE} writeboost 0 dm:one dm:p1`))).reason).toMatch(
      /bytes in it.* device across \(striped\) writes to bytes 4194304 … 12582911 of dm:ssd/,
    );
    await manager.remove("across");
    await manager.create("c1", `0 ${SIZE} writeboost 0 dm:one dm:p1 2 segment_size_order 4`);
    await manager.create("c2", `0 ${SIZE} writeboost 0 dm:two dm:p2 2 segment_size_order 4`);
    await refused(() => manager.create("across", "0 16384 striped 1 8 dm:ssd 8192"));
    await refused(() => manager.create("again", "0 8 linear dm:p1 0"));
    await manager.create("rest", "0 32768 linear dm:ssd 32768");
    // Behind the part of a disk that is cached another cache may have its log.
    await manager.create("log", `0 4096 linear dm:one ${SIZE}`);
    await manager.create("c3", `0 ${SIZE} cache dm:rest dm:log 2 8 64 64`);
    await refused(() => manager.create("x", `0 ${SIZE} cache dm:two mem:1M 2 8 64 64`));
  });

  it("are refused when a table is exchanged, and what was before goes on", async () => {
    await memory("one", "two", "ssd", "other");
    await manager.create("c", `0 ${SIZE} writeboost 0 dm:one dm:ssd 2 segment_size_order 4`);
    await fill(manager.device("c"), 0, 7);
    // Onto what another one owns.
    const x = await manager.create("x", "0 8192 linear dm:other 0");
    await fill(x, 0, 3);
    await manager.reload("x", "0 8192 linear dm:ssd 0");
    expect((await refused(() => manager.resume("x"))).message).toMatch(
      /device c .*the old table is in place/,
    );
    expect(await byteAt(x, 0)).toBe(3);
    // Below a cache, onto what another one writes to.
    await manager.create("p", "0 32768 linear dm:two 0");
    await manager.create("c2", `0 ${SIZE} writeboost 0 mem:4M dm:p 2 segment_size_order 4`);
    await fill(manager.device("c2"), 0, 9);
    await manager.reload("p", "0 65536 linear dm:other 0");
    expect((await refused(() => manager.resume("p"))).message).toMatch(
      /device x .*the old table is in place/,
    );
    await fill(manager.device("c2"), 4096, 9);
    await refused(() => manager.create("y", "0 8 linear dm:two 0"));
    await manager.create("y", "0 8 linear dm:other 8192");
    // And once nobody is there.
    await manager.remove("x");
    await manager.remove("y");
    await manager.reload("p", "0 65536 linear dm:other 0", { force: true });
    await manager.resume("p");
    await refused(() => manager.create("y", "0 8 linear dm:other 0"));
    await manager.create("y", "0 8 linear dm:two 0");
  });

  it("are refused where an image is served", async () => {
    const folder = tempFolder();
    const disk = file(folder, "disk");
    linkSync(disk, join(folder, "hard"));
    const what = { table: [], readOnly: false, preallocate: false, data: join(folder, "data") };
    await openExports({ ...what, images: [disk, "mem:16M"] }, manager, realEnvironment);
    expect(
      (await refused(() => manager.create("x", `0 8 linear ${join(folder, "hard")} 0`))).reason,
    ).toContain("device disk");
    await manager.create("c", `0 ${SIZE} cache dm:disk mem:1M 2 8 64 64`);
    await refused(() => manager.create("x", "0 8 linear dm:disk 0"));
    await manager.remove("c");
    await manager.remove("disk");
    await (await openFile(disk)).close();
    makePartitioned(disk);
    const two = async (one: string, other: string): Promise<string> => {
      const images = [`${disk}?${one}`, `${join(folder, "hard")}?${other}`];
      const done = await openExports({ ...what, images }, manager, realEnvironment).then(
        () => "open",
        (error: unknown) => (error as BlockIoError).code,
      );
      for (const name of manager.names) await manager.remove(name);
      return done;
    };
    expect(await two("partition=1", "partition=2")).toBe("open");
    expect(await two("partition=1", "partition=3")).toBe("EBUSY");
    expect(await two("partition=1", "partition=1")).toBe("EBUSY");
    expect(await two("partition=1", "no-lock")).toBe("EBUSY");
    expect(await two("no-lock", "no-lock")).toBe("EBUSY");
    // A target that was opened by itself owns what it stands on.
    const [backing, cache] = [new MemoryDevice(2 ** 24), new MemoryDevice(2 ** 24)];
    class Through extends MemoryDevice {
      places(offset: number, length: number): readonly { on: BlockDevice; offset: number; length: number }[] {
        return [{ on: cache, offset, length }];
      }
    }
    const args = { target: targets.get("writeboost"), words: () => ["0", "backing", "cache"] };
    await manager.adopt("w", openedAs(new MemoryDevice(2 ** 24), args, [backing, cache]));
    const image = { target: linear, words: () => ["cache", "0"] };
    const error = await refused(() => manager.adopt("image", openedAs(new Through(2 ** 24), image)));
    expect(error.reason).toContain("device w owns");
    await manager.remove("w");
    await manager.adopt("image", openedAs(new Through(2 ** 24), image));
  });

  it("are refused in a stack file, with its line", async () => {
    const server = new NbdServer({ environment: realEnvironment });
    cleanUp(() => server.close({ timeout: 0 }));
    const stack = (text: string): Stack => {
      const { plan } = parseStack({ text, file: "/stacks/s.yaml" });
      if (plan === undefined) throw new Error("not a plan");
      const exports = new ExportManager(server, manager, realEnvironment);
      return new Stack(plan, {
        devices: manager,
        exports,
        server,
        environment: realEnvironment,
        readOnly: false,
      });
    };
    const error = await refused(() =>
      stack(`
devices:
  ssd: mem:32M
  one: { target: writeboost, backing: mem:4M, cache: ssd, segment_size_order: 4 }
  two: { target: writeboost, backing: mem:4M, cache: ssd, segment_size_order: 4 }
`).open(),
    );
    expect(error.device).toBe("/stacks/s.yaml:5:3: dm:ssd");
    expect(error.reason).toContain("device one (writeboost) owns it");
  });

  it("are refused offline and for a copy, of a file and of its other names", async () => {
    const path = file(tempFolder(), "a");
    const reading = await openReference(path, "read", realEnvironment);
    await (await openReference(path, "read", realEnvironment)).close();
    await refused(() => openReference(path, "write", realEnvironment));
    await reading.close();
    const writing = await openReference(path, "write", realEnvironment);
    await refused(() => openReference(path, "read", realEnvironment));
    await writing.close();
    await (await openReference(path, "write", realEnvironment)).close();
  });
});

describe("layers of cow", () => {
  const stack = (base: string, ...layers: readonly string[]): string =>
    `0 ${SIZE} cow dm:${base} 0 ${layers.map((layer) => `dm:${layer}.map dm:${layer}.img 0`).join(" ")}`;

  it("are written in one stack only; base and frozen ones are in many", async () => {
    await memory("base", ...["u", "v", "w"].flatMap((layer) => [`${layer}.map`, `${layer}.img`]));
    await manager.create("one", stack("base", "u"));
    await refused(() => manager.create("two", stack("base", "u")));
    await refused(() => manager.create("two", stack("base", "u", "v")));
    await refused(() => manager.create("two", "0 8 linear dm:base 0"));
    await manager.create("two", stack("base", "v"));
    // Freezing adds a layer, and gives the old one free to be read.
    await manager.remove("two");
    await memory("x.map", "x.img");
    await manager.message("one", ["freeze", "dm:x.map", "dm:x.img"]);
    await fill(manager.device("one"), 0, 5);
    await refused(() => manager.create("two", stack("base", "x")));
    await manager.create("two", stack("base", "u", "w"));
    await refused(() => manager.create("three", "0 8 linear dm:u.img 0"));
    expect(await byteAt(manager.device("two"), 0)).toBe(0);
  });

  it("that cannot be put on top are given back", async () => {
    await memory("base", "u.map", "u.img", "x.map", "x.img");
    await manager.create("one", stack("base", "u"));
    await expect(manager.message("one", ["freeze", "dm:x.map", "dm:none"])).rejects.toMatchObject({
      code: "ENOENT",
    });
    await refused(() => manager.message("one", ["freeze", "dm:x.map", "dm:u.img"]));
    await refused(() => manager.message("one", ["freeze", "dm:x.map", "dm:x.map"]));
    await expect(manager.message("one", ["freeze", "dm:x.map", "dm:x.img", "65535"])).rejects.toMatchObject({
      code: "EINVAL",
    });
    for (const name of ["x.map", "x.img"]) {
      expect(manager.snapshotOf(name).holders).toEqual([]);
      manager.exported(name, "e", true)();
    }
    await manager.message("one", ["freeze", "dm:x.map", "dm:x.img"]);
    await refused(() => manager.create("two", "0 8 linear dm:x.img 0"));
  });

  it("may have base and data on one device, where they do not meet", async () => {
    const folder = tempFolder();
    const [disk, map] = [file(folder, "disk", 2 ** 24), file(folder, "map")];
    await refused(() => manager.create("x", `0 ${SIZE} cow ${disk} 0 ${map} ${disk} ${SIZE - 8}`));
    const device = await manager.create("x", `0 ${SIZE} cow ${disk} 0 ${map} ${disk} ${SIZE}`);
    await fill(device, 0, 6);
    expect(await byteAt(device, 0)).toBe(6);
    await manager.remove("x");
    const raw = await openFile(disk, { readOnly: true });
    expect([await byteAt(raw, 0), await byteAt(raw, SIZE * 512)]).toEqual([0, 6]);
    await raw.close();
  });
});
