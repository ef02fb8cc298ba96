/** The device manager: tables created, stacked, suspended and exchanged under load. */
import { mkdtempSync, rmSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, relative } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  GuardedDevice,
  done,
  openFile,
  plainLimits,
  realEnvironment,
  linear,
} from "@dmkit/block-io";
import { conformance } from "@dmkit/block-io/testing";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { DeviceDirectory } from "../src/manager/device-directory.ts";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { openedAs } from "../src/manager/device/opened-table.ts";
import { openExports } from "../src/serve/exports.ts";
import { deviceReferences, memoryOf, readTable, resolvePaths } from "../src/manager/references.ts";
import { printTable } from "@dmkit/block-io";
import { targets } from "../src/targets.ts";

let manager: DeviceManager;
let folder: string;

beforeEach(() => {
  manager = new DeviceManager(realEnvironment);
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
});

afterEach(async () => {
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

function file(name: string, size = 2 ** 20): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

/** Its flushes fail. */
class Lossy extends GuardedDevice {
  protected override doRead(_offset: number, into: Buffer): Promise<void> {
    into.fill(0);
    return done;
  }

  protected override doWrite(): Promise<void> {
    return done;
  }

  protected override doFlush(): Promise<void> {
    return Promise.reject(new BlockIoError("the disk is broken", { code: "EIO", op: "flush" }));
  }
}

/** Keeps `depth` writes in flight, each of a number of its own, until told to stop; then says what was written. */
function load(device: BlockDevice, depth = 8): { stop: () => Promise<Map<number, number>> } {
  const ending = new AbortController();
  const written = new Map<number, number>();
  let count = 0;
  const work = async (slot: number): Promise<void> => {
    for (let at = slot; !ending.signal.aborted; at = (at + depth) % 256) {
      count += 1;
      const mine = count % 255;
      await device.write(at * 4096, Buffer.alloc(4096, mine), { fua: count % 16 === 0 });
      written.set(at, mine);
      if (count % 7 === 0) await device.flush();
      const back = Buffer.alloc(4096);
      await device.read(at * 4096, back);
      if (!back.equals(Buffer.alloc(4096, mine))) throw new Error(`block ${at} has other bytes`);
    }
  };
  const workers = Array.from({ length: depth }, (_, slot) => work(slot));
  return {
    async stop() {
      ending.abort();
      await Promise.all(workers);
      return written;
    },
  };
}

const turns = (count: number): Promise<void> =>
  count === 0
    ? Promise.resolve()
    : new Promise<void>((resolve) => setImmediate(resolve)).then(() => turns(count - 1));

async function expectBytes(device: BlockDevice, written: Map<number, number>): Promise<void> {
  expect(written.size).toBeGreaterThan(0);
  for (const [at, byte] of written) {
    const back = Buffer.alloc(4096);
    await device.read(at * 4096, back);
    expect(back.equals(Buffer.alloc(4096, byte))).toBe(true);
  }
}

conformance(
  "a named device",
  async () => {
    const own = new DeviceManager(realEnvironment);
    const device = await own.create("x", "0 2048 linear mem:4M 100");
    return { device };
  },
  { describe, it },
);

describe("the table of a device", () => {
  it("has absolute paths, whoever opened it and by whatever name, and can be loaded from anywhere", async () => {
    const [a, map, data] = [file("a"), file("map"), file("data")];
    const here = (path: string): string => relative(process.cwd(), path);
    await manager.create("t", `0 1024 linear ${here(a)} 0`);
    const table = `0 1024 linear ${a} 0`;
    expect(manager.snapshotOf("t").table).toBe(table);
    await manager.reload("t", `0 1024 linear ${here(a)} 0`);
    expect(manager.snapshotOf("t").inactiveTable).toBe(table);
    await manager.reload("t", manager.snapshotOf("t").table, { folder: "/" });
    await manager.resume("t");
    expect(manager.snapshotOf("t").table).toBe(table);
    await manager.remove("t");
    const what = {
      table: [],
      readOnly: false,
      preallocate: false,
      data: here(join(folder, "d")),
      createSize: 2 ** 20,
    };
    await openExports({ ...what, images: [here(a)] }, manager, realEnvironment);
    expect(manager.snapshotOf("default").table).toBe(`0 2048 linear ${a} 0`);
    await manager.remove("default");
    await openExports({ ...what, images: [] }, manager, realEnvironment);
    expect(manager.snapshotOf("default").table).toContain(` ${join(folder, "d", "backing.img")} `);
    // What a message puts under a device is shown like that, too.
    await manager.create("vm", "0 1024 cow mem:1M 0 mem:1M mem:1M 0");
    await manager.message("vm", ["freeze", here(map), here(data)]);
    expect(manager.snapshotOf("vm").table).toContain(` ${map} ${data} `);
  });
});

describe("named devices", () => {
  it("are created, found, renamed and removed", async () => {
    await manager.create("a", "0 2048 linear mem:1M 0");
    await expect(manager.create("a", "0 8 zero")).rejects.toMatchObject({ code: "EEXIST" });
    await expect(manager.create("no/slash", "0 8 zero")).rejects.toMatchObject({ code: "EINVAL" });
    await manager.create("b", "0 8 zero");
    await manager.rename("a", "c");
    expect(manager.names).toEqual(["c", "b"]);
    await expect(manager.remove("a")).rejects.toMatchObject({ code: "ENOENT" });
    await manager.remove("c");
    expect(manager.names).toEqual(["b"]);
  });

  it("leave nothing open when they cannot be created", async () => {
    const path = file("a");
    await expect(
      manager.create("a", `0 2048 linear ${path} 0\n2048 8 linear ${join(folder, "none")} 0`),
    ).rejects.toMatchObject({ code: "ENOENT" });
    await manager.create("a", `0 2048 linear ${path} 0`);
  });

  it("are told of by name where they have a file locked that another table asks for", async () => {
    const path = file("a");
    symlinkSync(path, join(folder, "link"));
    await manager.create("low", `0 2048 linear ${path} 0`);
    const refused = await manager
      .create("high", `0 8 linear ${join(folder, "link")} 0`)
      .catch((e: unknown) => e);
    expect(refused).toMatchObject({ code: "EBUSY", device: join(folder, "link") });
    expect((refused as BlockIoError).reason).toContain("device low");
    expect((refused as BlockIoError).hint).toMatch(/dm:low .*dmkit remove low/);
    await manager.create("high", "0 8 linear dm:low 0");
    // Somebody else has it.
    await manager.remove("high");
    await manager.remove("low");
    const elsewhere = await openFile(path);
    const other = await manager.create("low", `0 8 linear ${path} 0`).catch((e: unknown) => e);
    await elsewhere.close();
    expect(other).toMatchObject({ code: "EBUSY" });
    expect((other as BlockIoError).hint).toMatch(/fuser.*dm:NAME/);
  });

  it("stand on each other, are removed from the top, and form no circle", async () => {
    await manager.create("low", "0 2048 linear mem:1M 0");
    await manager.create("high", "0 1024 linear dm:low 1024");
    expect(manager.snapshotOf("low").holders).toEqual([{ kind: "device", name: "high" }]);
    expect(manager.snapshotOf("high").uses).toEqual(["low"]);
    await expect(manager.remove("low")).rejects.toMatchObject({ code: "EBUSY" });
    await expect(manager.reload("low", "0 2048 linear dm:high 0")).rejects.toMatchObject({ code: "EINVAL" });
    await expect(manager.create("self", "0 8 linear dm:self 0")).rejects.toMatchObject({ code: "EINVAL" });
    await expect(manager.create("x", "0 8 linear dm:none 0")).rejects.toMatchObject({ code: "ENOENT" });
    await manager.rename("low", "lower");
    expect(manager.snapshotOf("high").table).toBe("0 1024 linear dm:lower 1024");
    await manager.remove("high");
    await manager.remove("lower");
  });

  it("are looked at once, however many ways lead to them", async () => {
    await manager.create("a0", "0 64 zero");
    await manager.create("b0", "0 64 zero");
    const levels = 7;
    for (let level = 1; level <= levels; level += 1) {
      for (const name of ["a", "b"]) {
        const below = (of: string): string => `linear dm:${of}${level - 1}`;
        await manager.create(`${name}${level}`, `0 8 ${below("a")} 0\n8 56 ${below("b")} 8`);
      }
    }
    const asked = vi.spyOn(DeviceDirectory.prototype, "below");
    await manager.reload(`a${levels}`, `0 64 linear dm:b${levels} 0`);
    expect(asked.mock.calls.length).toBeLessThan(3 * levels);
    asked.mockRestore();
  });

  it("are not written to by clients where another device stands on them", async () => {
    await manager.create("low", "0 2048 linear mem:1M 0");
    const release = manager.exported("low", "e", true);
    await expect(manager.create("high", "0 8 linear dm:low 0")).rejects.toMatchObject({ code: "EBUSY" });
    release();
    await manager.create("high", "0 8 linear dm:low 0");
    expect(() => manager.exported("low", "e", true)).toThrow(expect.objectContaining({ code: "EBUSY" }));
    const reading = manager.exported("low", "e", false);
    await manager.remove("high");
    await expect(manager.remove("low")).rejects.toMatchObject({ code: "EBUSY" });
    reading();
    await manager.remove("low");
  });
});

describe("suspend and resume", () => {
  it("hold requests back in order, and no client sees an error", async () => {
    const device = await manager.create("a", `0 2048 linear ${file("a")} 0`);
    const running = load(device);
    for (let round = 0; round < 20; round += 1) {
      await turns(3);
      await manager.suspend("a", { flush: round % 3 !== 0 });
      expect(manager.snapshotOf("a").state).toBe("suspended");
      await turns(2);
      await manager.resume("a");
    }
    await expectBytes(device, await running.stop());
  });

  it("flushing does nothing while suspended, and all goes on at the end", async () => {
    const device = await manager.create("a", "0 2048 linear mem:1M 0");
    await manager.suspend("a");
    const order: number[] = [];
    const held = [1, 2, 3, 4].map((index) =>
      device.write(0, Buffer.alloc(512, index)).then(() => order.push(index)),
    );
    await turns(3);
    expect(order).toEqual([]);
    await manager.close();
    await Promise.all(held);
    expect(order).toEqual([1, 2, 3, 4]);
  });

  it("refuse to wait for what waits below", async () => {
    await manager.create("low", "0 2048 linear mem:1M 0");
    await manager.create("high", "0 8 linear dm:low 0");
    await manager.suspend("low");
    await expect(manager.suspend("high")).rejects.toMatchObject({ code: "EBUSY" });
    await manager.resume("low");
    await manager.suspend("high");
  });
});

describe("reload", () => {
  it("exchanges tables that name the same file, under load", async () => {
    const path = file("a", 2 * 2 ** 20);
    const device = await manager.create("a", `0 2048 linear ${path} 0`);
    const running = load(device);
    for (let round = 0; round < 20; round += 1) {
      const table =
        round % 2 === 0
          ? `0 1024 linear ${path} 0\n1024 1024 linear ${path} 1024`
          : `0 ${2048 + round} linear ${path} 0`;
      await manager.reload("a", table).catch((error: unknown) => {
        expect(error).toMatchObject({ code: "EBUSY" });
      });
      await turns(2);
      await manager.resume("a");
      await turns(2);
    }
    await expectBytes(device, await running.stop());
  });

  it("goes on with the old table when the new one cannot be opened, and says so", async () => {
    const device = await manager.create("a", `0 2048 linear ${file("a")} 0`);
    const running = load(device);
    for (const table of [`0 2048 linear ${join(folder, "none")} 0`, `0 999999 linear ${file("small")} 0`]) {
      await manager.reload("a", table);
      await expect(manager.resume("a")).rejects.toMatchObject({
        message: expect.stringMatching(/the old table is in place again/) as string,
      });
      expect(manager.snapshotOf("a")).toMatchObject({ state: "live", inactiveTable: undefined });
    }
    await expectBytes(device, await running.stop());
  });

  it("that no table can show are not served, and closed", async () => {
    const what = { table: [], readOnly: false, preallocate: false, data: folder };
    for (const [name, size] of [
      ["empty.img", 0],
      ["two\nlines.img", 4096],
    ] as const) {
      const path = file(name, size);
      const opening = openExports({ ...what, images: [path] }, manager, realEnvironment);
      await expect(opening).rejects.toMatchObject({ code: "EINVAL", device: path });
      await (await openFile(path, { environment: realEnvironment })).close();
    }
    expect(manager.snapshot()).toEqual([]);
    await manager.create("a", "0 8 zero");
    const words = ["create_snapshot", "new\nline.img"];
    await expect(manager.message("a", words)).rejects.toMatchObject({ code: "EINVAL", op: "message" });
  });

  it("is refused to a device that has failed: writes that were answered may be lost", async () => {
    const path = file("a");
    const lossy = new Lossy("lossy", 2 ** 20, plainLimits);
    const device = await manager.adopt("a", openedAs(lossy, { target: linear, words: () => [path, "0"] }));
    await device.write(0, Buffer.alloc(4096, 0xaa));
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    await manager.reload("a", `0 2048 linear ${path} 0`);
    for (let time = 0; time < 2; time += 1) {
      await expect(manager.resume("a")).rejects.toMatchObject({ code: "EIO" });
      await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
      await manager.reload("a", `0 2048 linear ${path} 0`);
    }
    await expect(manager.close()).rejects.toMatchObject({ code: "EIO" });
    manager = new DeviceManager(realEnvironment);
  });

  it("keeps the table in place when its file is gone, which neither could open", async () => {
    const path = file("a");
    const device = await manager.create("a", `0 2048 linear ${path} 0`);
    await device.write(0, Buffer.alloc(4096, 1), { fua: true });
    rmSync(path);
    await manager.reload("a", `0 2048 linear ${path} 0`);
    await expect(manager.resume("a")).rejects.toMatchObject({ code: "ENOENT" });
    const into = Buffer.alloc(4096);
    await device.read(0, into);
    expect(into[0]).toBe(1);
    // Another one is put in place of it as ever.
    await manager.reload("a", `0 2048 linear ${file("other")} 0`);
    await manager.resume("a");
    await device.read(0, into);
    expect(into[0]).toBe(0);
  });

  it("keeps requests waiting when neither table opens, until one does", async () => {
    const path = file("a");
    const device = await manager.create("a", `0 2048 linear ${path} 0`);
    await device.write(0, Buffer.alloc(4096, 1), { fua: true });
    truncateSync(path, 512);
    await manager.reload("a", `0 2048 linear ${path} 0`);
    await expect(manager.resume("a")).rejects.toMatchObject({ code: "EINVAL" });
    expect(manager.snapshotOf("a").state).toBe("broken");
    const into = Buffer.alloc(4096, 7);
    const reading = device.read(0, into);
    await turns(2);
    expect(into[0]).toBe(7);
    await expect(manager.resume("a")).rejects.toMatchObject({ code: "EBUSY" });
    await manager.reload("a", `0 2048 linear ${file("other")} 0`);
    await manager.resume("a");
    await reading;
    expect(into[0]).toBe(0);
  });

  it("refuses held requests at the end when there is no table for them", async () => {
    const path = file("a");
    const device = await manager.create("a", `0 2048 linear ${path} 0`);
    truncateSync(path, 512);
    await manager.reload("a", `0 2048 linear ${path} 0`);
    await expect(manager.resume("a")).rejects.toMatchObject({ code: "EINVAL" });
    const reading = device.read(0, Buffer.alloc(512));
    const refused = expect(reading).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await manager.close();
    await refused;
  });

  it("ends what stands on a device without a table, too", async () => {
    const path = file("a");
    await manager.create("low", `0 2048 linear ${path} 0`);
    const high = await manager.create("high", "0 8 linear dm:low 0");
    truncateSync(path, 512);
    await manager.reload("low", `0 2048 linear ${path} 0`);
    await expect(manager.resume("low")).rejects.toMatchObject({ code: "EINVAL" });
    const refused = expect(high.write(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await expect(manager.close()).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await refused;
    manager = new DeviceManager(realEnvironment);
  });

  it("grows, and shrinks only what nobody uses", async () => {
    const path = file("a", 2 * 2 ** 20);
    const device = await manager.create("a", `0 2048 linear ${path} 0`);
    const release = manager.exported("a", "e", true);
    await manager.reload("a", `0 4096 linear ${path} 0`);
    await manager.resume("a");
    expect(device.size).toBe(2 * 2 ** 20);
    await expect(manager.reload("a", `0 8 linear ${path} 0`)).rejects.toMatchObject({ code: "EBUSY" });
    release();
    await manager.reload("a", `0 8 linear ${path} 0`);
    await manager.resume("a");
    expect(device.size).toBe(4096);
  });

  it("does not forget what is in memory unless told to", async () => {
    await manager.create("a", "0 2048 linear mem:1M 0");
    await expect(manager.reload("a", "0 2048 zero")).rejects.toMatchObject({ code: "EBUSY" });
    await manager.reload("a", "0 2048 zero", { force: true });
    await manager.create("z", "0 2048 zram");
    await expect(manager.reload("z", "0 2048 zero")).rejects.toMatchObject({ code: "EBUSY" });
    // Closing saves it.
    const table = `0 2048 zram lz4 2 snapshot ${file("snapshot", 4 * 2 ** 20)}`;
    await manager.create("s", table);
    const data = Buffer.alloc(4096, 7);
    await manager.device("s").write(0, data);
    await manager.reload("s", table);
    await manager.resume("s");
    const back = Buffer.alloc(4096);
    await manager.device("s").read(0, back);
    expect(back.equals(data)).toBe(true);
  });
});

describe("references in tables", () => {
  const tables = [
    "0 8 linear a 0",
    "0 16 striped 2 8 a 0 b 0",
    "0 8 delay a 0 1",
    "0 8 flakey a 0 1 1",
    "0 8 log-writes a b",
    "0 8 writeboost 1 a b c",
    "0 8 cache a b",
    "0 8 compression a writethrough",
    "0 8 cow a 0 b c 0 d e 0",
    "0 8 zram",
  ];

  it.each(tables)("are found and made absolute in %s", (table) => {
    const named = table.replaceAll(/ ([a-e])(?=\s|$)/g, " dm:$1");
    const expected = [...table.matchAll(/ ([a-e])(?=\s|$)/g)].map(([, name]) => name);
    expect(deviceReferences(readTable(named))).toEqual(expected);
    const printed = printTable(resolvePaths(readTable(table), "/folder"));
    expect(readTable(printed)).toEqual(resolvePaths(readTable(printed), "/other"));
    for (const name of expected) expect(printed).toContain(` /folder/${name}`);
    expect(memoryOf(readTable(table)) === undefined).toBe(!table.includes("zram"));
  });

  it.each([
    ["0 8 image st/c", "0 8 image /folder/st/c"],
    ["0 8 image st/c:v1 2 cache blobs", "0 8 image /folder/st/c:v1 2 cache /folder/blobs"],
    ["0 8 image image:/st/c 2 cache none", "0 8 image /st/c 2 cache none"],
    ["0 8 image s3://b/c?region=x&ca=../a%20b.pem", "0 8 image s3://b/c?region=x&ca=/a%20b.pem"],
  ])("are absolute in texts, too: %s", (table, wanted) => {
    const printed = printTable(resolvePaths(readTable(table), "/folder"));
    expect(printed).toBe(wanted);
    expect(printTable(resolvePaths(readTable(printed), "/other"))).toBe(wanted);
  });

  it("which are the options of every target that are said to be paths", () => {
    // A path in a text that is not said to be one begins wherever the server happens to run.
    const silent = targets.list().flatMap(({ name, options }) =>
      Object.entries(options)
        .filter(([, spec]) => spec.type === "text" && spec.absolute === undefined)
        .filter(([, { help }]) => /path|file|folder/i.test(help))
        .map(([option]) => `${name} ${option}`),
    );
    expect(silent).toEqual([]);
  });
});
