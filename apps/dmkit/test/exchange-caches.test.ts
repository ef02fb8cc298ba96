/** A table that is exchanged leaves nothing behind in a cache that the new table does not have. */
import { readFileSync, renameSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BlockIoError, MemoryDevice, realEnvironment, linear } from "@dmkit/block-io";
import { NbdServer, openNbd } from "@dmkit/nbd";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import type { NamedDevice } from "../src/manager/device/named-device.ts";
import { openedAs } from "../src/manager/device/opened-table.ts";
import { Stack } from "../src/serve/stack.ts";
import { readStackFile } from "../src/stack-file/read/read.ts";
import { cleanUp, dmkit, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;
// Sectors.
const SIZE = 8192;

let manager: DeviceManager;
let folder: string;

beforeEach(() => {
  manager = new DeviceManager(realEnvironment);
  folder = tempFolder();
});

afterEach(() => manager.close());

function file(name: string, size = 8 * MIB): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

const caches = {
  writeboost: (backing: string, cache: string) =>
    `0 ${SIZE} writeboost 0 ${backing} ${cache} 2 segment_size_order 4`,
  cache: (source: string, cache: string) => `0 ${SIZE} cache ${source} ${cache} 2 8 64 64 1`,
} as const;

async function write(device: NamedDevice, byte: number): Promise<void> {
  for (let at = 0; at < MIB / 4; at += 4096) await device.write(at, Buffer.alloc(4096, byte));
  await device.flush();
}

async function bytesOf(device: NamedDevice): Promise<Set<number>> {
  const bytes = Buffer.alloc(MIB / 4);
  await device.read(0, bytes);
  return new Set(bytes);
}

async function exchange(
  table: string,
  options: { readonly force?: boolean; readonly readOnly?: boolean } = {},
): Promise<void> {
  await manager.reload("d", table, options);
  await manager.resume("d");
}

/** A disk that takes no writes, or lets requests wait, when it is told so. */
class Moody extends MemoryDevice {
  refuses = false;
  /** Requests wait until it is called. */
  open: (() => void) | undefined;
  #gate = Promise.resolve();
  waiting = 0;

  shut(): void {
    this.#gate = new Promise((resolve) => {
      this.open = resolve;
    });
  }

  protected override async doRead(offset: number, into: Buffer): Promise<void> {
    await this.#pass();
    await super.doRead(offset, into);
  }

  async #pass(): Promise<void> {
    this.waiting += 1;
    await this.#gate;
    this.waiting -= 1;
  }

  protected override async doWrite(offset: number, from: Buffer): Promise<void> {
    await this.#pass();
    if (this.refuses) throw new BlockIoError("the disk is broken", { code: "EIO" });
    await super.doWrite(offset, from);
  }
}

async function moody(name = "disk"): Promise<Moody> {
  const disk = new Moody(8 * MIB, { name });
  await manager.adopt(name, openedAs(disk, { target: linear, words: () => [name, "0"] }));
  return disk;
}

describe.each(Object.keys(caches) as (keyof typeof caches)[])("a table with %s", (target) => {
  const table = caches[target];

  it("that goes, or gets another cache, writes back what it has; clients see what they wrote", async () => {
    const [disk, one, two] = [file("disk"), file("one"), file("two")];
    const device = await manager.create("d", table(disk, one));
    await write(device, 1);
    await exchange(table(disk, two));
    expect(await bytesOf(device)).toEqual(new Set([1]));
    // While clients wait there may be something, too.
    await write(device, 2);
    await manager.suspend("d");
    await exchange(`0 ${SIZE} linear ${disk} 0`);
    expect(await bytesOf(device)).toEqual(new Set([2]));
  });

  it("that goes and is put back begins anew: its disk went on without it", async () => {
    const [disk, one, two] = [file("disk", 64 * MIB), file("one"), file("two")];
    const device = await manager.create("d", table(disk, one));
    for (const between of [`0 ${SIZE} linear ${disk} 0`, table(disk, two)]) {
      await write(device, 1);
      // What is read is kept as well.
      await bytesOf(device);
      await exchange(between);
      await write(device, 2);
      await exchange(table(disk, one));
      expect(await bytesOf(device)).toEqual(new Set([2]));
      expect(manager.snapshotOf("d").health.state).toBe("ok");
    }
  });

  it("that goes, and whose device is something else by then, leaves that alone", async () => {
    const [disk, one] = [file("disk"), file("one")];
    const device = await manager.create("d", table(disk, one));
    await write(device, 1);
    const start = Buffer.alloc(4096);
    await manager.reload("d", `0 ${SIZE} linear ${one} 0`);
    await manager.resume("d");
    await device.read(0, start);
    expect(start.equals(readFileSync(one).subarray(0, 4096))).toBe(true);
    expect(start.includes("dmkit formatting")).toBe(false);
  });

  it("stays, with all it has, where that cannot be written back, unless the loss is agreed to", async () => {
    const cache = file("one");
    const disk = await moody();
    const device = await manager.create("d", table("dm:disk", cache));
    await write(device, 1);
    disk.refuses = true;
    const linear = `0 ${SIZE} linear dm:disk 0`;
    const refusal = await exchange(linear).then(
      () => undefined,
      (error: unknown) => error as BlockIoError,
    );
    expect(refusal).toMatchObject({ code: "EIO", device: "d" });
    expect(refusal?.hint).toContain("--force");
    expect(manager.snapshotOf("d")).toMatchObject({ state: "live" });
    expect(await bytesOf(device)).toEqual(new Set([1]));
    await exchange(linear, { force: true });
    expect(await bytesOf(device)).toContain(0);
    // What was written since would be hidden by what is older.
    disk.refuses = false;
    await write(device, 2);
    await expect(exchange(table("dm:disk", cache))).rejects.toMatchObject({
      message: expect.stringMatching(/by force.*the old table is in place again/s) as string,
      hint: expect.stringMatching(/force 1|fsck/) as string,
    });
    expect(await bytesOf(device)).toEqual(new Set([2]));
    const sector = readFileSync(cache).subarray(0, 512);
    expect(sector.toString("latin1", 0, 4) === "dmkL" || sector.readUInt32LE(8) === 3).toBe(true);
    // Who means it gets what the cache has.
    if (target === "cache") await exchange(`${table("dm:disk", cache)} 2 force 1`);
    else {
      expect((await dmkit(["fsck", "--repair", cache])).code).toBeLessThan(4);
      await exchange(table("dm:disk", cache));
    }
    expect(await bytesOf(device)).toContain(1);
  });
});

describe("a table that is exchanged for a longer one with the same cache", () => {
  it.each([
    ["writeboost", (disk: string, cache: string) => `writeboost 0 ${disk} ${cache} 2 segment_size_order 4`],
    ["cache", (disk: string, cache: string) => `cache ${disk} ${cache} 1 8 64 64 1 2 grow_source 1`],
  ] as const)("%s: is larger, and clients see no error", async (target, longer) => {
    const [disk, cache] = [file("disk", SIZE * 512), file("one")];
    const device = await manager.create("d", caches[target](disk, cache));
    await write(device, 1);
    truncateSync(disk, 2 * SIZE * 512);
    const over = new AbortController();
    const client = (async () => {
      for (let byte = 2; !over.signal.aborted; byte += 1) await write(device, byte % 256);
    })();
    await exchange(`0 ${2 * SIZE} ${longer(disk, cache)}`);
    over.abort();
    await client;
    expect((await bytesOf(device)).size).toBe(1);
    expect(device.size).toBe(2 * SIZE * 512);
    await device.write((2 * SIZE - 8) * 512, Buffer.alloc(4096, 9));
    // The word is none of its table: the same size is loaded again.
    const table = manager.snapshotOf("d").table;
    expect(table).not.toContain("grow");
    await exchange(table);
    const into = Buffer.alloc(4096);
    await device.read((2 * SIZE - 8) * 512, into);
    expect(into.equals(Buffer.alloc(4096, 9))).toBe(true);
  });
});

it("a larger cache device is used when its table is exchanged, and the word is none of the table", async () => {
  const [disk, cache] = [file("disk"), file("one", 2 * MIB)];
  const device = await manager.create("d", caches.writeboost(disk, cache));
  await write(device, 1);
  truncateSync(cache, 4 * MIB);
  const table = caches.writeboost(disk, cache);
  await exchange(table);
  const segments = (): unknown => manager.snapshotOf("d").segments[0]?.fields["segments"];
  expect(segments()).toBe(128);
  await exchange(table.replace("2 segment_size_order 4", "4 segment_size_order 4 grow_cache 1"));
  expect([segments(), await bytesOf(device)]).toEqual([384, new Set([1])]);
  expect(manager.snapshotOf("d").table).not.toContain("grow");
});

describe.each(["while clients go on", "while requests wait"])(
  "what an exchange refers to is renamed %s",
  (when) => {
    /** Begins an exchange of a cache over dm:disk; the disk is renamed while that is written back. */
    async function renamedMeanwhile(next: string): Promise<void> {
      const disk = await moody();
      const device = await manager.create("d", caches.writeboost("dm:disk", file("one")));
      await write(device, 1);
      disk.shut();
      if (when === "while requests wait") await manager.suspend("d");
      await manager.reload("d", next);
      const exchanged = manager.resume("d");
      await until(() => disk.waiting > 0, "a request to the disk");
      await manager.rename("disk", "other");
      // Whoever takes the name now is not meant.
      await manager.create("disk", `0 ${2 * SIZE} zero`);
      disk.open?.();
      await exchanged;
    }

    it("the new table stands on it", async () => {
      await renamedMeanwhile(`0 ${SIZE} linear dm:disk 0`);
      expect(manager.snapshotOf("d")).toMatchObject({
        state: "live",
        table: `0 ${SIZE} linear dm:other 0`,
      });
      expect(await bytesOf(manager.device("d"))).toEqual(new Set([1]));
    });

    it("the old table stands on it where the new one cannot be opened", async () => {
      const path = file("gone");
      const failing = renamedMeanwhile(`0 ${SIZE} flakey ${path} 0 1 1`);
      rmSync(path);
      await expect(failing).rejects.toMatchObject({ code: "ENOENT", device: "d" });
      expect(manager.snapshotOf("d").table).toContain("writeboost 0 dm:other");
      expect(await bytesOf(manager.device("d"))).toEqual(new Set([1]));
    });
  },
);

it("bitmaps whose device went on without them say that everything has changed", async () => {
  const tracked = `0 ${SIZE} tracked ${file("disk")} ${file("map")}`;
  const device = await manager.create("d", tracked);
  await manager.message("d", ["begin", "monday"]);
  await exchange(`0 ${SIZE} linear ${join(folder, "disk")} 0`);
  await device.write(0, Buffer.alloc(4096, 1));
  await device.flush();
  await exchange(tracked);
  expect(await manager.message("d", ["list"])).toContain(`${SIZE * 512}/${SIZE * 512} more-than-changed`);
  // The same line again has seen all.
  await manager.message("d", ["begin", "tuesday"]);
  await exchange(tracked);
  expect(await manager.message("d", ["list"])).toMatch(/tuesday .* 0\//);
});

describe.each(["writeboost", "cache", "tracked"] as const)(
  "what %s knows of a disk is worth nothing",
  (target) => {
    const tables = {
      ...caches,
      tracked: (disk: string, bitmap: string): string => `0 ${SIZE} tracked ${disk} ${bitmap}`,
    };
    const check = async (device: NamedDevice): Promise<void> => {
      expect(await bytesOf(device)).toEqual(new Set([2]));
      // Bitmaps that say too much are told of.
      if (target !== "tracked") expect(manager.snapshotOf("d").health.state).toBe("ok");
      if (target !== "tracked") return;
      expect(await manager.message("d", ["list"])).toContain(`${SIZE * 512}/${SIZE * 512} more-than-changed`);
    };
    const opened = async (): Promise<{ disk: string; cache: string; device: NamedDevice; table: string }> => {
      const [disk, cache] = [file("disk"), file("one")];
      const table = tables[target](disk, cache);
      const device = await manager.create("d", table);
      if (target === "tracked") await manager.message("d", ["begin", "monday"]);
      await write(device, 1);
      await bytesOf(device);
      return { disk, cache, device, table };
    };

    it("when clients went on without it after two tables that could not be opened", async () => {
      const { disk, cache, device, table } = await opened();
      await manager.reload("d", `0 ${SIZE} linear ${join(folder, "none")} 0`);
      const spoilt = manager.resume("d");
      const { opened: old } = device;
      const close = old?.close.bind(old);
      Object.assign(old as object, {
        close: async () => {
          await close?.();
          renameSync(cache, `${cache}.away`);
        },
      });
      await expect(spoilt).rejects.toMatchObject({ code: "ENOENT" });
      expect(manager.snapshotOf("d").state).toBe("broken");
      renameSync(`${cache}.away`, cache);
      await exchange(`0 ${SIZE} linear ${disk} 0`);
      await write(device, 2);
      await exchange(table);
      await check(device);
    });

    it("when clients went on without it after a table that could not write", async () => {
      const { disk, device, table } = await opened();
      // What is dirty could not be written back then, and would be refused.
      if (target === "writeboost") await manager.message("d", ["drop_caches"]);
      if (target === "cache") await manager.message("d", ["clean"]);
      for (const next of [table, `0 ${SIZE} linear ${disk} 0`]) await exchange(next, { readOnly: true });
      await exchange(`0 ${SIZE} linear ${disk} 0`, { readOnly: false });
      await write(device, 2);
      await exchange(table);
      await check(device);
    });

    it("unless nobody has written meanwhile", async () => {
      const { disk, device, table } = await opened();
      if (target === "writeboost") await manager.message("d", ["drop_caches"]);
      if (target === "cache") await manager.message("d", ["clean"]);
      for (const next of [table, `0 ${SIZE} linear ${disk} 0`, table])
        await exchange(next, { readOnly: true });
      await exchange(table, { readOnly: false });
      expect(await bytesOf(device)).toEqual(new Set([1]));
      if (target === "tracked")
        expect(await manager.message("d", ["list"])).not.toContain("more-than-changed");
    });
  },
);

it("another file in the place of a cache that goes is left alone", async () => {
  const [disk, cache] = [file("disk"), file("one")];
  await manager.create("d", caches.writeboost(disk, cache));
  rmSync(cache);
  writeFileSync(cache, Buffer.alloc(8 * MIB, 7));
  await exchange(`0 ${SIZE} linear ${disk} 0`);
  expect(readFileSync(cache).every((byte) => byte === 7)).toBe(true);
});

it("what the old table stands on stays its until the new one is in place", async () => {
  const slow = await moody("slow");
  await slow.write(0, Buffer.alloc(4096, 9));
  await manager.create("low", `0 ${SIZE} linear ${file("disk")} 0`);
  const cache = file("one");
  // A cache of another disk: the new table cannot be opened.
  const other = file("other");
  await manager.create("d", caches.writeboost(other, cache));
  await write(manager.device("d"), 1);
  await manager.remove("d");
  const device = await manager.create("d", `0 ${SIZE} linear dm:low 0`);
  await write(device, 2);
  await manager.reload("d", caches.writeboost("dm:slow", cache));
  slow.shut();
  const exchanged = manager.resume("d");
  exchanged.catch(() => {});
  await until(() => slow.waiting > 0, "a request to the disk");
  await expect(manager.remove("low")).rejects.toMatchObject({ code: "EBUSY" });
  await expect(manager.remove("low", { force: true })).rejects.toMatchObject({ code: "EBUSY" });
  expect(() => manager.exported("low", "e", true)).toThrow(/EBUSY/);
  slow.open?.();
  await expect(exchanged).rejects.toMatchObject({ code: "EFORMAT" });
  expect(await bytesOf(device)).toEqual(new Set([2]));
  manager.exported("low", "e", false)();
});

it("a word that makes a cache anew counts when it is made, not again when the same table is loaded", async () => {
  const disk = await moody();
  const table = `0 ${SIZE} cache dm:disk ${file("one")} 0 8 64 64 1 2 force 1`;
  const device = await manager.create("d", table);
  await write(device, 1);
  disk.refuses = true;
  await exchange(table).catch(() => {});
  disk.refuses = false;
  await exchange(table).catch(() => {});
  expect(manager.snapshotOf("d").state).toBe("live");
  expect(await bytesOf(device)).toEqual(new Set([1]));
});

it.each([
  ["writeboost", (disk: string, one: string) => `writeboost 0 ${disk} ${one} 2 segment_size_order 4`, ""],
  ["cache", (disk: string, one: string) => `cache ${disk} ${one} 1 8 64 64 1`, " 2 grow_source 1"],
])("%s is as large as before where another line of the larger table does not fit", async (_, line, word) => {
  const [disk, one] = [file("disk"), file("one")];
  const device = await manager.create("d", `0 ${SIZE} ${line(disk, one).replace(" 1 8 64", " 2 8 64")}`);
  await write(device, 1);
  const blocks = new MemoryDevice(MIB, { name: "blocks", logicalBlockSize: 4096 });
  await manager.adopt("blocks", openedAs(blocks, { target: linear, words: () => ["blocks", "0"] }));
  await manager.reload(
    "d",
    `0 ${SIZE + 2048} ${line(disk, one)}${word}\n${SIZE + 2048} 8 linear dm:blocks 0`,
  );
  await expect(manager.resume("d")).rejects.toThrow("the old table is in place again");
  expect(manager.snapshotOf("d")).toMatchObject({ state: "live", size: SIZE * 512 });
  expect(await bytesOf(device)).toEqual(new Set([1]));
});

it("a value that a message has set stays where the new table says nothing of it, or what is left out means", async () => {
  const table = caches.cache(file("disk"), file("one"));
  await manager.create("d", table);
  await manager.message("d", ["set", "high_watermark", "77"]);
  await exchange(table);
  expect(manager.snapshotOf("d").table).toContain("high_watermark 77");
  await exchange(`${table} 2 high_watermark 66`);
  expect(manager.snapshotOf("d").table).toContain("high_watermark 66");
});

describe("a table that is exchanged for one with the same cache", () => {
  it("keeps in it what it has", async () => {
    const cache = file("one");
    await moody();
    const device = await manager.create("d", caches.writeboost("dm:disk", cache));
    await write(device, 1);
    await exchange(`${caches.writeboost("dm:disk", cache)}\n${SIZE} 8 zero`);
    expect(await bytesOf(device)).toEqual(new Set([1]));
    expect(await bytesOf(manager.device("disk"))).toEqual(new Set([0]));
  });

  it("is not forgotten when neither can be opened", async () => {
    const [disk, cache] = [file("disk"), file("one")];
    const device = await manager.create("d", caches.writeboost(disk, cache));
    await write(device, 1);
    // The new table names what is not there, and the cache is spoilt as soon as the old table is closed.
    const next = `${caches.writeboost(disk, cache)}\n${SIZE} 8 linear ${join(folder, "none")} 0`;
    await manager.reload("d", next);
    const spoilt = manager.resume("d");
    const { opened } = device;
    const close = opened?.close.bind(opened);
    Object.assign(opened as object, {
      close: async () => {
        await close?.();
        truncateSync(cache, 0);
      },
    });
    await expect(spoilt).rejects.toMatchObject({ code: "ENOENT" });
    expect(manager.snapshotOf("d").state).toBe("broken");
    const linear = `0 ${SIZE} linear ${disk} 0`;
    await expect(manager.reload("d", linear)).rejects.toMatchObject({ code: "EBUSY" });
    await exchange(linear, { force: true });
    expect(manager.snapshotOf("d").state).toBe("live");
  });
});

describe("writing back for a table that is exchanged", () => {
  it("can be cancelled: the old table goes on, and the new one stays loaded", async () => {
    const cache = file("one");
    await moody();
    const device = await manager.create("d", caches.writeboost("dm:disk", cache));
    await write(device, 1);
    // Storage that does not answer.
    await manager.suspend("disk", { flush: false });
    const linear = `0 ${SIZE} linear dm:disk 0`;
    await manager.reload("d", linear);
    await expect(manager.resume("d")).rejects.toMatchObject({ code: "EBUSY" });
    await manager.resume("disk");
    const ending = new AbortController();
    const told: number[] = [];
    const resuming = manager.resume("d", {
      signal: ending.signal,
      progress: ({ done }) => {
        told.push(done);
        ending.abort();
      },
    });
    await expect(resuming).rejects.toMatchObject({ message: expect.stringContaining("cancelled") });
    expect(told.length).toBeGreaterThan(0);
    expect(manager.snapshotOf("d")).toMatchObject({ state: "live", inactiveTable: linear });
    await write(device, 2);
    await manager.resume("d");
    expect(await bytesOf(device)).toEqual(new Set([2]));
  });

  it("that the server ends before it is over leaves the rest in the cache, and says so", async () => {
    const cache = file("one");
    await moody();
    const device = await manager.create("d", caches.writeboost("dm:disk", cache));
    await write(device, 1);
    await manager.reload("d", `0 ${SIZE} linear dm:disk 0`);
    let ended: Promise<void> | undefined;
    const resuming = manager.resume("d", { progress: () => void (ended ??= manager.resumeAll()) });
    await expect(resuming).rejects.toMatchObject({
      code: "ESHUTDOWN",
      reason: expect.stringContaining("still in the cache"),
    });
    await ended;
    expect(await bytesOf(device)).toEqual(new Set([1]));
  });

  it("is done by a stack file that is read again", async () => {
    const [disk, cache] = [file("disk"), file("one")];
    const { stack, reread } = await stackOf(
      `devices:\n  d: { target: writeboost, backing: ${disk}, cache: ${cache}, segment_size_order: 4 }\n`,
    );
    await stack.open();
    await write(manager.device("d"), 3);
    expect(await reread(`devices:\n  d: ${disk}\n`)).toEqual(["device d reloaded"]);
    expect(await bytesOf(manager.device("d"))).toEqual(new Set([3]));
  });
});

async function stackOf(text: string): Promise<{
  readonly stack: Stack;
  readonly server: NbdServer;
  readonly reread: (text: string) => Promise<readonly string[]>;
}> {
  const stackFile = join(folder, "stack.yaml");
  writeFileSync(stackFile, text);
  const server = new NbdServer({ environment: realEnvironment });
  cleanUp(() => server.close({ timeout: 0 }));
  const exports = new ExportManager(server, manager, realEnvironment);
  const context = { devices: manager, exports, server, environment: realEnvironment, readOnly: false };
  const stack = new Stack(readStackFile(stackFile), context);
  const reread = (next: string): Promise<readonly string[]> => {
    writeFileSync(stackFile, next);
    return stack.reload();
  };
  return { stack, server, reread };
}

describe("an export that a stack file moves to another device", () => {
  it("shows what clients wrote, though it was in a cache that is gone", async () => {
    const [disk, cache] = [file("disk"), file("one")];
    const { stack, reread } = await stackOf(
      `devices:\n  fast: { target: writeboost, backing: ${disk}, cache: ${cache}, segment_size_order: 4 }\nexports: { d: { device: fast } }\n`,
    );
    await stack.open();
    await write(manager.device("fast"), 3);
    await reread(`devices:\n  plain: ${disk}\nexports: { d: { device: plain } }\n`);
    expect(await bytesOf(manager.device("plain"))).toEqual(new Set([3]));
  });

  it("stays while clients use it, who would find other data when they come back", async () => {
    const [one, two] = [file("one"), file("two")];
    const devices = `devices:\n  a: ${one}\n  b: ${two}\n`;
    const { stack, server, reread } = await stackOf(`${devices}exports: { d: { device: a } }\n`);
    await stack.open();
    await write(manager.device("b"), 2);
    const path = join(folder, "nbd.sock");
    await server.listen({ path });
    const client = await openNbd(`nbd+unix:///d?socket=${path}`);
    const moved = `${devices}exports: { d: { device: b } }\n`;
    expect(await reread(moved)).toEqual([
      expect.stringMatching(/^failed: .*another device.*1 of its clients/),
    ]);
    const again = await openNbd(`nbd+unix:///d?socket=${path}`);
    for (const one of [client, again]) {
      const bytes = Buffer.alloc(4096, 9);
      await one.read(0, bytes);
      expect(new Set(bytes)).toEqual(new Set([0]));
      await one.close();
    }
    const isUsed = (): boolean => server.exports().some(({ connections }) => connections > 0);
    await until(() => !isUsed(), "the end of the connections");
    expect(await reread(moved)).toEqual(['export "d" withdrawn', 'export "d" of b']);
  });
});
