import { existsSync, mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  BlockIoError,
  SECTOR,
  TargetRegistry,
  basicTargets,
  openFile,
  openTable,
  parseTable,
  printTable,
  realEnvironment,
} from "@dmkit/block-io";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { bitmapDeviceSize, cow } from "../src/index.ts";

const registry = new TargetRegistry([...basicTargets, cow]);
const code = (work: () => unknown): Promise<string> =>
  Promise.resolve()
    .then(work)
    .then(
      () => "no error",
      (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
    );

describe("the table", () => {
  it.each([
    "0 8385866 cow base.img 0 w.map w.img 0",
    "0 100 cow base.img 8",
    "0 100 cow base.img 0 a.map a.img 16 b.map b.img 0",
    "0 100 cow base.img 0 a.map a.img 16 2 aliased_block_size 4096",
    "0 100 cow base.img 0 a.map a.img 16 4 aliased_block_size 512 autocommit 0",
    `0 100 cow base.img 0${Array.from({ length: 64 }, (_, index) => ` ${index}.map ${index}.img ${index}`).join("")}`,
  ])("%s is read and printed", (line) => {
    expect(printTable(parseTable(line, registry))).toBe(line);
  });

  it("takes layers whose names are numbers", () => {
    const line = "0 100 cow base.img 0 2 x 0 5 y 0";
    expect(printTable(parseTable(line, registry))).toBe(line);
  });

  it.each([
    "0 100 cow",
    "0 100 cow base.img",
    "0 100 cow base.img 0 a.map",
    "0 100 cow base.img 0 a.map a.img",
    "0 100 cow base.img 0 a.map a.img x",
    "0 100 cow base.img 0 a.map a.img -1",
    "0 100 cow base.img 0 a.map a.img 0 2 aliased_block_size 4097",
    "0 100 cow base.img 0 a.map a.img 0 2 autocommit x",
    `0 100 cow base.img 0${" m d 0".repeat(251)}`,
  ])("%s is refused", async (line) => {
    expect(await code(() => parseTable(line, registry))).toBe("EPARSE");
  });
});

describe("on files", () => {
  let folder: string;
  const path = (name: string): string => join(folder, name);
  const sectors = 20_000;
  const open = (table: string, readOnly = false): ReturnType<typeof openTable> =>
    openTable(parseTable(table, registry), { environment: realEnvironment, readOnly });

  beforeEach(async () => {
    folder = mkdtempSync(join(tmpdir(), "cow-"));
    writeFileSync(path("base"), Buffer.alloc(sectors * SECTOR, "base"));
    for (const name of ["w", "v", "x"]) {
      await (await openFile(path(`${name}.map`), { createSize: bitmapDeviceSize(sectors) })).close();
      await (await openFile(path(`${name}.img`), { createSize: sectors * SECTOR })).close();
    }
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));

  const line = (...words: string[]): string => `0 ${sectors} cow ${path("base")} 0 ${words.join(" ")}`;
  const layer = (name: string): string => `${path(`${name}.map`)} ${path(`${name}.img`)} 0`;

  it("two stacks share a base, and nobody else may write to a top", async () => {
    const first = await open(line(layer("w")));
    const second = await open(line(layer("v")));
    expect(await code(() => open(line(layer("w"))))).toBe("EBUSY");
    expect(await code(() => openFile(path("base")))).toBe("EBUSY");
    await first.write(0, Buffer.alloc(4096, 1));
    const into = Buffer.alloc(4096);
    await second.read(0, into);
    expect(into.toString("latin1", 0, 4)).toBe("base");
    await first.close();
    await second.close();
  });

  it("stays thin", async () => {
    const device = await open(line(layer("w")));
    for (let at = 0; at < 256; at += 1)
      await device.write(((at * 37) % 2400) * 4096, Buffer.alloc(4096, at + 1));
    await device.flush();
    expect(device.status()).toBe(`0 ${sectors} cow 1 2048 1 5 0 0 0 0`);
    await device.close();
    expect(statSync(path("w.img")).blocks).toBeLessThanOrEqual(2048 * 1.05);
  });

  it("a stack of only a base writes to it", async () => {
    const device = await open(line());
    await device.write(0, Buffer.alloc(SECTOR, 7));
    await device.close();
    const base = await openFile(path("base"), { readOnly: true });
    const into = Buffer.alloc(SECTOR);
    await base.read(0, into);
    expect(into[0]).toBe(7);
    await base.close();
  });

  it("freezes by message and tells the new table", async () => {
    const device = await open(line(layer("w")));
    await device.write(0, Buffer.alloc(4096, 1));
    expect(await code(() => device.message(["freeze"]))).toBe("EINVAL");
    expect(await code(() => device.message(["freeze", path("no.map"), path("no.img")]))).toBe("ENOENT");
    const table = await device.message(["freeze", path("v.map"), path("v.img")]);
    expect(table).toBe(`${path("base")} 0 ${layer("w")} ${layer("v")}`);
    await device.write(4096, Buffer.alloc(4096, 2));
    await device.close();
    expect(await code(() => open(line(layer("w"))))).toBe("EROFS");
    const again = await open(`0 ${sectors} cow ${table}`);
    const into = Buffer.alloc(8192);
    await again.read(0, into);
    expect(into.equals(Buffer.concat([Buffer.alloc(4096, 1), Buffer.alloc(4096, 2)]))).toBe(true);
    expect(await again.message(["table"])).toBe(table);
    await again.close();
  });

  it("freezes what is below the top as well, where a table has put one layer on another", async () => {
    const device = await open(line(layer("w")));
    await device.write(0, Buffer.alloc(4096, 1));
    await device.close();
    const upper = await open(line(layer("w"), layer("v")));
    await upper.message(["snapshot", "monday", path("x.map"), path("x.img")]);
    await upper.write(0, Buffer.alloc(4096, 2));
    await upper.close();
    expect(await code(() => open(line(layer("w"))))).toBe("EROFS");
    // It is only read, as before.
    const again = await open(line(layer("w"), layer("v"), layer("x")));
    const into = Buffer.alloc(4096);
    await again.read(0, into);
    expect(into[0]).toBe(2);
    await again.close();
  });

  it("tells tables that are read as they are, whatever the paths are", async () => {
    for (const part of ["map", "img"]) symlinkSync(path(`v.${part}`), path(`v "two" # ${part}`));
    const device = await open(line(layer("w")));
    const table = await device.message(["freeze", path('v "two" # map'), path('v "two" # img')]);
    expect(await device.message(["table"])).toBe(table);
    await device.close();
    await (await open(`0 ${sectors} cow ${table}`)).close();
  });

  it("opens read-only without touching anything", async () => {
    const device = await open(line(layer("w")), true);
    const into = Buffer.alloc(4096);
    await device.read(0, into);
    expect(into.toString("latin1", 0, 4)).toBe("base");
    expect(await code(() => device.write(0, into))).toBe("EROFS");
    await device.close();
    expect(existsSync(path("w.map")) && statSync(path("w.map")).blocks).toBe(0);
  });
});
