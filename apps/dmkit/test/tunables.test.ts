/**
 * What every target there is promises of its tunables, messages and facts: what is set by message shows in the table and
 * among the named fields, an exchange of tables keeps it, with the contents, and so does closing the device and opening
 * it by the table it printed; a value out of range is refused with the range; there are named fields; a message that may
 * take long tells how far it is, and ends on a signal. A target that is added is added to `tables` here, a long message
 * to `long`.
 */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlockDevice,
  type MessageProgress,
  type OptionSpec,
  type TunableTable,
  MemoryDevice,
  describeRange,
  realEnvironment,
} from "@dmkit/block-io";
import { publish } from "@dmkit/image";
import { openStore } from "@dmkit/object-store";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { readTable } from "../src/manager/references.ts";
import { targets } from "../src/targets.ts";

const MIB = 1024 * 1024;
const SIZE = 2 * MIB;

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

function file(name: string, size = SIZE): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

const data = Buffer.alloc(64 * 1024, "0123456789abcdefg");

/** An image with `data` in a store that is a folder. */
async function published(): Promise<string> {
  const source = new MemoryDevice(SIZE);
  await source.write(0, data);
  const store = await openStore(join(folder, "store"));
  await publish(source, store, { name: "golden", tag: "latest" });
  await store.close();
  return `image ${join(folder, "store")}/golden 4 cache ${join(folder, "blobs")} readahead 2`;
}

/** A disk with `data` whose log is in a store that is a folder. */
async function archived(): Promise<string> {
  const location = join(folder, "archives", "disk");
  const options = `4 segment_size_order 7 archive ${location}`;
  await manager.create(
    "w",
    `0 ${SIZE / 512} writeboost 0 ${file("disk")} ${file("ssd", 4 * MIB)} ${options}`,
  );
  await manager.device("w").write(0, data);
  await manager.remove("w");
  return `archive ${location}`;
}

const tables: Readonly<Record<string, readonly (() => string | Promise<string>)[]>> = {
  linear: [() => `linear ${file("disk")} 0`],
  striped: [() => `striped 2 8 ${file("one")} 0 ${file("two")} 0`],
  zero: [() => "zero"],
  error: [() => "error"],
  delay: [() => `delay ${file("disk")} 0 0`],
  flakey: [() => `flakey ${file("disk")} 0 1 0`],
  "log-writes": [() => `log-writes ${file("disk")} ${file("log")}`],
  writeboost: [
    () => `writeboost 0 ${file("disk")} ${file("ssd", 4 * MIB)} 2 segment_size_order 7`,
    () => `writeboost 1 ${file("disk")} ${file("ssd", 4 * MIB)} ${file("plog", MIB)} 2 segment_size_order 5`,
    () => `writeboost ${file("disk")} ${file("ssd", 8 * MIB)}`,
  ],
  cache: [
    () => `cache ${file("disk")} ${file("ssd", 4 * MIB)} 0 8 64 16 1 2 force 1`,
    () => `cache ${file("disk")} ${file("ssd", 4 * MIB)} 2 8 64 16 0 2 write_hit update`,
    () => `cache ${file("disk")} ${file("ssd", 4 * MIB)} 0 8 64 16 0 2 format v1`,
  ],
  cow: [() => `cow ${file("base")} 0 ${file("bitmap")} ${file("data")} 0`],
  tracked: [() => `tracked ${file("disk")} ${file("bitmap")}`],
  compression: [
    () => `compression ${file("disk", 16 * MIB)} writeback 5 2 force 1`,
    () => `compression ${file("disk", 4 * MIB)} writethrough 4 format v1 force 1`,
  ],
  archive: [archived],
  image: [published],
  zram: [
    () => `zram lz4 2 snapshot ${file("snapshot", 5 * MIB)}`,
    () => `zram zstd 4 max_comp_streams 2 snapshot ${file("snapshot", 5 * MIB)}`,
  ],
};

const cases = targets.list().flatMap((target) => {
  const lines = tables[target.name] ?? [];
  return lines.map((line, index) => ({ name: `${target.name}, ${index + 1}`, target, line }));
});

/** Values that are set in turn: the ends of the range, or everything there is to choose. */
function valuesOf(name: string, spec: OptionSpec): readonly string[] {
  // With historical metadata a cache does not write back.
  if (name === "policy") return ["write-around", "pass-through", "write-through"];
  if (spec.type === "choice") return spec.values;
  if (spec.type === "flag") return ["1", "0"];
  if (spec.type === "integer" || spec.type === "size") return [String(spec.max), String(spec.min)];
  throw new Error(`no values for a tunable of type ${spec.type}`);
}

function fieldsOf(name: string): Readonly<Record<string, string | number>> {
  const [only] = manager.snapshotOf(name).segments;
  if (only === undefined) throw new Error("there is no segment");
  return only.fields;
}

async function exchange(table: string): Promise<void> {
  await manager.reload("a", table, { force: true });
  await manager.resume("a");
}

/** Exchanges tables, and fails: the old one is opened again. */
async function failToExchange(): Promise<void> {
  await manager.reload("a", `0 ${SIZE / 512} linear ${join(folder, "missing")} 0`, { force: true });
  await expect(manager.resume("a")).rejects.toThrow("the old table is in place again");
}

async function contents(device: BlockDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(64 * 1024);
  await device.read(0, bytes);
  return bytes;
}

describe("every target", () => {
  it("is in this test", () => {
    expect(Object.keys(tables).sort()).toEqual(
      targets
        .list()
        .map(({ name }) => name)
        .sort(),
    );
    for (const [name, lines] of Object.entries(tables)) expect(lines, name).not.toEqual([]);
  });

  it.each(cases)("$name: keeps what is set by message", async ({ target, line }) => {
    const device = await manager.create("a", `0 ${SIZE / 512} ${await line()}`);
    const holds = target.name !== "zero" && target.name !== "error";
    if (holds && !device.limits.capabilities.readOnly) await device.write(0, data);
    const tunables: TunableTable = target.tunables ?? { options: {}, names: [], aliases: {} };
    const values = tunables.names.map((name) => valuesOf(name, tunables.options[name] as OptionSpec));
    for (let round = 0; round < Math.max(0, ...values.map(({ length }) => length)); round += 1) {
      const wanted = new Map(
        tunables.names.map((name, at) => [name, values[at]?.[round % values[at].length] as string]),
      );
      // A low watermark follows the high one up, and goes down before it.
      for (const [name, value] of round % 2 === 0 ? wanted : [...wanted].toReversed()) {
        // By any grammar, in any case.
        const words = round % 2 === 0 ? ["set", name, value] : ["0", name.toUpperCase(), value];
        expect(await manager.message("a", words), `${name} ${value}`).toBe("");
      }
      const before = manager.snapshotOf("a").table;
      if (round % 2 === 0) await exchange(before);
      else await failToExchange();
      for (const [name, value] of wanted) {
        expect([name, await manager.message("a", [name])]).toEqual([name, value]);
        // Of these threads there are as many as the machine has, where 0 is said.
        if (name !== "max_comp_streams") expect([name, String(fieldsOf("a")[name])]).toEqual([name, value]);
      }
      expect(manager.snapshotOf("a").table).toBe(before);
    }
    const table = manager.snapshotOf("a").table;
    for (const name of tunables.names) {
      const spec = tunables.options[name] as OptionSpec;
      for (const wrong of spec.type === "choice" ? ["none-such"] : ["-1", "999999999999999", "x", ""]) {
        await expect(manager.message("a", [name, wrong]), `${name} "${wrong}"`).rejects.toMatchObject({
          code: "EINVAL",
          hint: expect.stringContaining(describeRange(spec)) as string,
        });
      }
    }
    expect(manager.snapshotOf("a").table).toBe(table);
    await manager.remove("a");
    await manager.create("a", table);
    expect(manager.snapshotOf("a").table).toBe(table);
    if (holds && target.inMemory !== undefined) await manager.device("a").write(0, data);
    // The table that is printed, loaded again, is the device as it is: nothing is made anew.
    await exchange(manager.snapshotOf("a").table);
    if (holds) expect((await contents(manager.device("a"))).equals(data)).toBe(true);
    const [segment] = readTable(manager.snapshotOf("a").table);
    for (const [name, spec] of Object.entries(target.options)) {
      if (!spec.once) continue;
      const { [name]: now } = (segment?.options ?? {}) as Readonly<Record<string, unknown>>;
      expect(now, name).toEqual("default" in spec ? spec.default : undefined);
    }
  });

  it.each(cases)("$name: has named fields, and refuses unknown messages with what it takes", async (one) => {
    const { target, line } = one;
    await manager.create("a", `0 ${SIZE / 512} ${await line()}`);
    const fields = fieldsOf("a");
    for (const [name, value] of Object.entries(fields)) {
      expect(name).toMatch(/^[a-z][a-z0-9_]*$/);
      expect(["number", "string"]).toContain(typeof value);
    }
    expect(Object.keys(fields)).toContain("in_flight");
    for (const name of target.tunables?.names ?? []) expect(Object.keys(fields)).toContain(name);
    for (const words of [["no_such_thing"], ["set"], ["set", "no_such_thing", "1"], ["0", "nothing"], []]) {
      await expect(manager.message("a", words)).rejects.toMatchObject({ code: "EINVAL" });
    }
    const known = [...(target.tunables?.names ?? []), ...Object.keys(target.messages ?? {})];
    const error = (await manager.message("a", ["nothing"]).catch((thrown: unknown) => thrown)) as Error & {
      hint: string;
    };
    for (const name of known) expect(error.hint).toContain(name);
  });
});

interface LongMessage {
  /** Bytes of the device: enough for more than one step. */
  readonly size: number;
  readonly line: (size: number) => string;
  /** Behind the message's name. */
  readonly words?: readonly string[];
  /** A message that comes before. */
  readonly before?: (size: number) => readonly string[];
}

const cache = (size: number): string =>
  `cache ${file("disk", size)} ${file("ssd", 2 * size)} 0 8 ${size / 4096} 16 1 2 sequential_cutoff 0`;

/** By target and message. */
const long: Readonly<Record<string, LongMessage>> = {
  "writeboost drop_caches": {
    size: SIZE,
    line: () => `writeboost 0 ${file("disk")} ${file("ssd", 8 * MIB)} 2 segment_size_order 7`,
  },
  "writeboost clean": {
    size: SIZE,
    line: () => `writeboost 0 ${file("disk")} ${file("ssd", 8 * MIB)} 2 segment_size_order 7`,
  },
  "cache clean": { size: 32 * MIB, line: cache },
  "cache invalidate": { size: 32 * MIB, line: cache, words: ["0", String((32 * MIB) / 512)] },
  "cow commit": {
    size: 512 * MIB,
    line: (size) => `cow ${file("base", size)} 0 ${file("bitmap")} ${file("data", size)} 0`,
    before: (size) => ["freeze", file("bitmap2"), file("data2", size)],
    words: ["1"],
  },
  "cow snapshot-delete": {
    size: 512 * MIB,
    line: (size) => `cow ${file("base", size)} 0 ${file("bitmap")} ${file("data", size)} 0`,
    before: (size) => ["snapshot", "monday", file("bitmap2"), file("data2", size)],
    words: ["monday"],
  },
  "cow count": {
    size: 4096 * MIB,
    line: (size) => `cow ${file("base", size)} 0 ${file("bitmap")} ${file("data", size)} 0`,
  },
  "compression extents": {
    size: 32 * MIB,
    line: (size) => `compression ${file("packed", size + 8 * MIB)} writeback 5`,
  },
  "zram recompress": { size: SIZE, line: () => "zram lz4 2 recomp_algorithm zstd", words: ["all"] },
  "zram writeback": {
    size: SIZE,
    line: () => `zram lz4 2 backing_dev ${file("room", 4 * MIB)}`,
    words: ["all"],
  },
};

describe("a message that may take long", () => {
  const all = targets
    .list()
    .flatMap(({ name, messages = {} }) =>
      Object.entries(messages).flatMap(([message, spec]) => (spec.long ? [`${name} ${message}`] : [])),
    );

  it("is in this test", () => {
    expect(all.toSorted()).toEqual(Object.keys(long).toSorted());
  });

  it.each(all)("%s: tells how far it is, and ends on a signal", async (which) => {
    const [, message = ""] = which.split(" ");
    const { size, line, words = [], before: first } = long[which] as LongMessage;
    const fill = async (): Promise<void> => {
      // No two blocks alike: what is all one byte takes no room in memory.
      const bytes = Buffer.from(Array.from({ length: MIB }, (_, at) => (at >> 12) ^ (at % 251)));
      for (let at = 0; at < Math.min(size, 8 * MIB); at += MIB) await manager.device("a").write(at, bytes);
    };
    await manager.create("a", `0 ${size / 512} ${line(size)}`);
    await fill();
    if (first !== undefined) await manager.message("a", first(size));
    const over = new Error("nobody waits any more");
    const before = AbortSignal.abort(over);
    await expect(manager.message("a", [message, ...words], { signal: before })).rejects.toBe(over);
    const ending = new AbortController();
    const seen: MessageProgress[] = [];
    const begun = manager.message("a", [message, ...words], {
      signal: ending.signal,
      progress(one) {
        seen.push(one);
        ending.abort(over);
      },
    });
    await expect(begun).rejects.toBe(over);
    expect(seen[0]?.done).toBeLessThan(seen[0]?.total ?? 0);
    const whole: MessageProgress[] = [];
    await fill();
    await manager.message("a", [message, ...words], { progress: (one) => void whole.push(one) });
    for (const [index, { done, total, unit }] of [...seen, ...whole].entries()) {
      expect([done >= 0 && done <= total, unit], `${done} of ${total}`).toEqual([true, unit]);
      expect(unit, String(index)).toMatch(/^[a-z]+s$/);
    }
    expect(whole.map(({ done }) => done)).toEqual(whole.map(({ done }) => done).toSorted((a, b) => a - b));
  });
});

describe("a running cache", () => {
  it("is loaded by its table, with its policy, and not made anew", async () => {
    const device = await manager.create("a", `0 ${SIZE / 512} ${await tables["cache"]?.[0]?.()}`);
    await device.write(0, Buffer.alloc(4096, 7));
    expect(fieldsOf("a")).toMatchObject({ dirty: 1, policy: "write-back" });
    await exchange(manager.snapshotOf("a").table);
    expect(fieldsOf("a")).toMatchObject({ used: 1, policy: "write-back" });
    expect(manager.snapshotOf("a").table).toMatch(/ cache \S+ \S+ 1 8 64 16 1$/);
    await manager.message("a", ["policy", "cleaner"]);
    expect(manager.snapshotOf("a").table).toMatch(/ cache \S+ \S+ 1 8 64 16 0 2 policy cleaner$/);
    await exchange(manager.snapshotOf("a").table);
    expect(fieldsOf("a")).toMatchObject({ policy: "cleaner" });
  });
});

describe("a RAM disk", () => {
  it("is not emptied under those who use it, unless they say so", async () => {
    const device = await manager.create("a", `0 ${SIZE / 512} zram`);
    await device.write(0, Buffer.alloc(4096, 7));
    const release = manager.exported("a", "disk", true);
    await expect(manager.message("a", ["reset"])).rejects.toMatchObject({
      code: "EBUSY",
      reason: expect.stringContaining('export "disk"') as string,
      hint: expect.stringContaining("reset force") as string,
    });
    expect((await contents(device)).readUInt8(0)).toBe(7);
    const told: string[] = [];
    const before = (): undefined => undefined;
    await manager.atRest("a", (at) => {
      at.keeper = { before, replaced: (why) => told.push(why) };
    });
    await manager.message("a", ["reset", "force"]);
    expect(told).toHaveLength(1);
    expect((await contents(device)).readUInt8(0)).toBe(0);
    device.keeper = undefined;
    await device.write(0, Buffer.alloc(4096, 7));
    await manager.create("b", `0 ${SIZE / 512} linear dm:a 0`).catch(() => undefined);
    release();
    const above = await manager.create("c", `0 ${SIZE / 512} linear dm:a 0`);
    // Not by any word: a device above keeps what it knows of the contents.
    for (const words of [["reset"], ["reset", "force"]])
      await expect(manager.message("a", words)).rejects.toThrow("device c");
    expect((await contents(above)).readUInt8(0)).toBe(7);
    await manager.remove("c");
    await manager.message("a", ["reset"]);
    expect((await contents(device)).readUInt8(0)).toBe(0);
  });
});

describe("writeboost", () => {
  it("shows the geometry in use, and how many segments are written back at once", async () => {
    const device = await manager.create(
      "a",
      `0 ${SIZE / 512} writeboost 0 ${file("disk")} ${file("ssd", 8 * MIB)}`,
    );
    expect(device.opened?.table()).toMatch(/ 4 segment_size_order 10 nr_rambuf_pool 8$/);
    expect(fieldsOf("a")).toMatchObject({
      segment_size_order: 10,
      nr_rambuf_pool: 8,
      nr_max_batched_writeback: 32,
      nr_cur_batched_writeback: 32,
    });
    // 64 MiB at once are the most.
    await manager.message("a", ["nr_max_batched_writeback", "1000"]);
    expect(fieldsOf("a")).toMatchObject({ nr_max_batched_writeback: 1000, nr_cur_batched_writeback: 128 });
    expect(device.status()).toContain(" nr_cur_batched_writeback 128 ");
    expect(device.opened?.table()).toMatch(/ 2 nr_max_batched_writeback 1000$/);
    // Names of the later drivers, and dmsetup's sector before the message.
    await manager.message("a", ["update_sb_record_interval", "60"]);
    await manager.message("a", ["0", "sync_data_interval", "30"]);
    expect(fieldsOf("a")).toMatchObject({ update_record_interval: 60, sync_interval: 30 });
    await device.write(0, Buffer.alloc(4096, 7));
    await manager.message("a", ["0", "drop_caches"]);
    expect(fieldsOf("a")).toMatchObject({ dirty_blocks: 0 });
    await expect(manager.message("a", ["8192", "drop_caches"])).rejects.toMatchObject({ code: "EINVAL" });
  });
});
