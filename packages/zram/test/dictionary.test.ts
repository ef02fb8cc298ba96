/** Dictionaries: files that pages are compressed with, and without which nobody reads them. */
import {
  type BlockDevice,
  BlockIoError,
  MemoryDevice,
  absoluteTexts,
  parseOptions,
  realEnvironment,
} from "@dmkit/block-io";
import { SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { createHash } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it, onTestFinished } from "vitest";
import { snapshotRoom } from "../src/device/snapshot/place.ts";
import { type ZramDevice, openZram, zramOptions } from "../src/index.ts";
import { audit } from "../src/testing/audit.ts";

const PAGE = 4096;
const PAGES = 16;
const ROOM = 2 * snapshotRoom(PAGES);

/** Four bytes in turn of words that a page has once only, and dictionaries have. */
const words = (from: number): Buffer[] =>
  Array.from({ length: 64 }, (_, at) => new SeededRandom(from + at).fill(Buffer.alloc(64)));
const dictionary = (from: number): Buffer => Buffer.concat(words(from));
/** Incompressible but for what is in the dictionary. */
const page = (number: number, from = 100): Buffer => {
  const all = words(from);
  const random = new SeededRandom(number);
  for (let at = all.length - 1; at > 0; at -= 1) {
    const other = random.below(at + 1);
    [all[at], all[other]] = [all[other] as Buffer, all[at] as Buffer];
  }
  return Buffer.concat(all);
};

function file(contents: Buffer): string {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-dictionary-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const path = join(folder, "dictionary");
  writeFileSync(path, contents);
  return path;
}

/** With files as they are, unlike that of the simulation. */
function start(
  values: Readonly<Record<string, unknown>>,
  snapshot?: BlockDevice,
  backing?: BlockDevice,
): Promise<ZramDevice> {
  const below = { ...(snapshot && { snapshot: "snapshot" }), ...(backing && { backing_dev: "backing" }) };
  const options = parseOptions(zramOptions, { ...values, ...below });
  const lower = async (name: string): Promise<BlockDevice> =>
    (name === "backing" ? backing : snapshot) as BlockDevice;
  return openZram(options, { name: "zram", size: PAGES * PAGE, environment: realEnvironment, lower });
}

async function refusal(work: Promise<unknown>): Promise<BlockIoError> {
  return work.then(
    () => Promise.reject(new Error("it was not refused")),
    (error: unknown) => error as BlockIoError,
  );
}

async function read(device: ZramDevice, number: number): Promise<Buffer> {
  const into = Buffer.alloc(PAGE);
  await device.read(number * PAGE, into);
  return into;
}

describe.each(["lz4", "deflate", "zstd"])("%s with a dictionary", (comp_algorithm) => {
  it("makes of pages what it cannot make of them without", async () => {
    const sizes: unknown[] = [];
    for (const more of [{}, { comp_dict: file(dictionary(100)) }]) {
      const device = await start({ comp_algorithm, ...more });
      for (let number = 0; number < 8; number += 1) await device.write(number * PAGE, page(number));
      await device.write(512, page(9).subarray(512, 1024));
      sizes.push(device.facts()["huge_pages"]);
      const expected = Buffer.concat([page(0).subarray(0, 512), page(9).subarray(512, 1024)]);
      expect((await read(device, 0)).subarray(0, 1024).equals(expected)).toBe(true);
      expect((await read(device, 7)).equals(page(7))).toBe(true);
      expect(audit(device)).toEqual([]);
      await device.close();
    }
    expect(sizes).toEqual([8, 0]);
  });
});

describe("a snapshot with a dictionary", () => {
  it("is opened with the same bytes only, and says which those are", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const path = file(dictionary(100));
    let device = await start({ comp_dict: path }, snapshot);
    await device.write(0, page(1));
    await device.close();
    const before = await contentsOf(snapshot);
    const hash = createHash("sha256").update(dictionary(100)).digest("hex");
    expect(before.subarray(160, 192).toString("hex")).toBe(hash);
    for (const values of [
      {},
      { comp_dict: file(dictionary(101)) },
      { comp_dict: file(dictionary(100).subarray(1)) },
      { comp_algorithm: "deflate", comp_dict: path },
    ]) {
      const error = await refusal(start(values, snapshot));
      expect([error.code, error.reason, error.hint]).toEqual([
        "EINVAL",
        expect.stringContaining(hash),
        expect.stringContaining("comp_dict"),
      ]);
    }
    expect((await contentsOf(snapshot)).equals(before)).toBe(true);
    device = await start({ comp_dict: file(dictionary(100)) }, snapshot);
    expect((await read(device, 0)).equals(page(1))).toBe(true);
    await device.close();
  });

  it("was written without one, and is not taken for one with", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const text = Buffer.alloc(PAGE, "what lz4 makes smaller without any help");
    let device = await start({}, snapshot);
    await device.write(0, text);
    await device.close();
    const path = file(dictionary(100));
    const error = await refusal(start({ comp_dict: path }, snapshot));
    expect([error.code, error.reason]).toEqual(["EINVAL", expect.stringContaining("without a dictionary")]);
    // Whoever wants one from now on gives the old way of reading beside it.
    device = await start({ comp_dict: path, recomp_algorithm: "lz4" }, snapshot);
    expect((await read(device, 0)).equals(text)).toBe(true);
    await device.write(0, page(1));
    await device.close();
    device = await start({ comp_dict: path }, snapshot);
    expect((await read(device, 0)).equals(page(1))).toBe(true);
    await device.close();
  });

  it("has pages of two dictionaries, each read with its own, in either order", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const [one, two] = [file(dictionary(100)), file(dictionary(300))];
    const algorithms = { recomp_algorithm: "lz4", recomp_algorithm2: "lz4" };
    let device = await start({ ...algorithms, recomp_dict: one, recomp_dict2: two }, snapshot);
    await device.write(0, page(1, 100));
    await device.write(PAGE, page(2, 300));
    expect(await device.message(["recompress"])).toBe("2 pages recompressed");
    expect([device.facts()["recomp_pages"], device.facts()["recomp_pages2"]]).toEqual([1, 1]);
    await device.close();
    device = await start({ ...algorithms, recomp_dict: two, recomp_dict2: one }, snapshot);
    expect((await read(device, 0)).equals(page(1, 100))).toBe(true);
    expect((await read(device, 1)).equals(page(2, 300))).toBe(true);
    await device.close();
  });

  it("holds pages as they are whose dictionary is gone by then, or another one: nobody could read them", async () => {
    const tables = [
      { comp_dict: "" },
      { recomp_algorithm: "lz4", recomp_dict: "" },
      { comp_dict: "", compressed_writeback: 1 },
    ];
    for (const given of tables)
      for (const change of [rmSync, (path: string): void => writeFileSync(path, dictionary(300))]) {
        const snapshot = new MemoryDevice(ROOM);
        const backing = given.compressed_writeback === 1 ? new MemoryDevice(ROOM) : undefined;
        const path = file(dictionary(100));
        const isFirst = given.comp_dict === "";
        const values = { ...given, ...(isFirst ? { comp_dict: path } : { recomp_dict: path }) };
        let device = await start(values, snapshot, backing);
        await device.write(0, page(1));
        await device.write(PAGE, Buffer.alloc(PAGE, "what lz4 makes smaller"));
        if (!isFirst) await device.message(["recompress"]);
        if (backing !== undefined) await device.message(["writeback", "all"]);
        change(path);
        await device.close();
        const { compressed_writeback: _, recomp_algorithm: __, ...rest } = values;
        const later = isFirst ? { ...rest, comp_dict: file(dictionary(500)) } : {};
        device = await start(later, snapshot, backing);
        expect((await read(device, 0)).equals(page(1))).toBe(true);
        expect((await read(device, 1)).equals(Buffer.alloc(PAGE, "what lz4 makes smaller"))).toBe(true);
        expect(audit(device)).toEqual([]);
        await device.close();
      }
  });

  it("is of version 2 as long as no page takes the dictionary", async () => {
    const snapshot = new MemoryDevice(ROOM);
    let device = await start({ comp_dict: file(dictionary(100)) }, snapshot);
    await device.write(0, Buffer.alloc(PAGE, 7));
    await device.write(PAGE, new SeededRandom(1).fill(Buffer.alloc(PAGE)));
    await device.close();
    expect((await contentsOf(snapshot)).readUInt32LE(120)).toBe(0);
    device = await start({}, snapshot);
    expect((await read(device, 0)).equals(Buffer.alloc(PAGE, 7))).toBe(true);
    await device.close();
  });
});

describe("a dictionary is refused", () => {
  it.each([
    ["lzo has none", { comp_algorithm: "lzo" }, "ENOTSUP"],
    ["none has none", { comp_algorithm: "none" }, "ENOTSUP"],
  ])("%s", async (_, values, code) => {
    const error = await refusal(start({ ...values, comp_dict: file(dictionary(1)) }));
    expect([error.code, error.hint]).toEqual([code, expect.stringContaining("lz4, deflate, zstd")]);
  });

  it("that is not there, is no file, is too short or too long, or is none", async () => {
    for (const [path, code] of [
      ["/nowhere/at/all", "ENOENT"],
      [tmpdir(), "EISDIR"],
      [file(Buffer.alloc(7, 1)), "EINVAL"],
      [file(Buffer.alloc(1024 * 1024 + 1, 1)), "EINVAL"],
    ] as const) {
      const error = await refusal(start({ comp_dict: path }));
      expect(error).toBeInstanceOf(BlockIoError);
      if (code !== "EISDIR") expect(error.code).toBe(code);
      expect(error.message).toContain("zram");
    }
    const broken = file(Buffer.concat([Buffer.from("37a430ec", "hex"), Buffer.alloc(99, 255)]));
    expect((await refusal(start({ comp_algorithm: "zstd", comp_dict: broken }))).code).toBe("EINVAL");
  });
});

it("a path in a table begins where the table is", () => {
  const options = parseOptions(zramOptions, { comp_dict: "d", recomp_dict3: "/e" });
  expect(absoluteTexts(zramOptions, options, "/there")).toMatchObject({
    comp_dict: "/there/d",
    recomp_dict3: "/e",
  });
});
