/** Up to three further algorithms: which pages they take, in memory and through snapshots. */
import {
  type BlockDevice,
  BlockIoError,
  MemoryDevice,
  TargetRegistry,
  parseTable,
  printTable,
  realEnvironment,
} from "@dmkit/block-io";
import { SeededRandom, contentsOf } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { snapshotRoom } from "../src/device/snapshot/place.ts";
import { type ZramDevice, zram } from "../src/index.ts";
import { audit } from "../src/testing/audit.ts";
import { open } from "../src/testing/sim-targets.ts";

const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);
console.log(`DMKIT_SEED=${seed}`);

const PAGE = 4096;
const PAGES = 32;
const ROOM = 2 * snapshotRoom(PAGES);
const noise = (number: number): Buffer => new SeededRandom(number).fill(Buffer.alloc(PAGE));
/** What an entropy coder makes smaller, and lz4 and lzo do not. */
const letters = (number: number): Buffer => Buffer.from(noise(number).map((byte) => 97 + (byte & 15)));
/** Of words, which a harder search finds more of. */
const words = (number: number): Buffer =>
  Buffer.from(
    Array.from({ length: PAGE / 4 }, (_, at) => `${(at * at * (7919 + number)) % 997}  ok`).join(" "),
  ).subarray(0, PAGE);

const start = (values: Readonly<Record<string, unknown>>, snapshot?: BlockDevice): Promise<ZramDevice> =>
  open(PAGES * PAGE, values, realEnvironment, { snapshot });

async function said(device: ZramDevice, message: string): Promise<string> {
  return device.message(message.split(" "));
}

async function refusal(work: Promise<unknown>): Promise<BlockIoError> {
  return work.then(
    () => Promise.reject(new Error("it was not refused")),
    (error: unknown) => error as BlockIoError,
  );
}

/** How many pages each of the further algorithms holds. */
function held(device: ZramDevice): unknown[] {
  const facts = device.facts();
  return ["recomp_pages", "recomp_pages2", "recomp_pages3"].map((name) => facts[name]);
}

it("the table has three of them, each with its level", () => {
  const registry = new TargetRegistry([zram]);
  const line =
    "0 2048 zram lz4 12 recomp_algorithm lzo recomp_algorithm2 deflate recomp_level2 9 recomp_algorithm3 zstd recomp_level3 19 mem_limit 1048576";
  expect(printTable(parseTable(line, registry)).split(" ").toSorted()).toEqual(line.split(" ").toSorted());
});

describe("recompress", () => {
  const values = { recomp_algorithm: "lzo", recomp_algorithm2: "deflate", recomp_algorithm3: "zstd" };

  it("takes the first one whose result is smaller, and says which has what", async () => {
    const device = await start(values);
    for (let page = 0; page < 8; page += 1) await device.write(page * PAGE, letters(page));
    expect(held(device)).toEqual([0, 0, 0]);
    expect(await said(device, "recompress priority=1")).toBe("0 pages recompressed");
    expect(await said(device, "recompress algo=zstd max_pages=3")).toBe("3 pages recompressed");
    expect(held(device)).toEqual([0, 0, 3]);
    expect(await said(device, "recompress algo=deflate priority=2")).toBe("5 pages recompressed");
    // Lower priorities than they have do not count for pages any more.
    expect(held(device)).toEqual([0, 5, 3]);
    expect(await said(device, "recompress priority=2")).toBe("0 pages recompressed");
    expect(await said(device, "recomp_pages2")).toBe("5");
    for (let page = 0; page < 8; page += 1) {
      const into = Buffer.alloc(PAGE);
      await device.read(page * PAGE, into);
      expect(into.equals(letters(page)), `page ${page}`).toBe(true);
    }
    // What is written again is as every write is.
    await device.write(0, letters(0));
    expect(held(device)).toEqual([0, 5, 2]);
    expect(audit(device)).toEqual([]);
    await device.close();
  });

  it("goes on from one to the next where that is smaller by a size class", async () => {
    const device = await start({
      comp_algorithm: "lz4",
      recomp_algorithm: "deflate",
      recomp_level: 1,
      recomp_algorithm2: "deflate",
      recomp_level2: 9,
    });
    for (let page = 0; page < 8; page += 1) await device.write(page * PAGE, words(page));
    expect(await said(device, "recompress priority=1")).toBe("8 pages recompressed");
    const [before] = [Number(await said(device, "mem_used_total")), expect(held(device)[0]).toBe(8)];
    const count = Number((await said(device, "recompress")).split(" ")[0]);
    expect(count).toBeGreaterThan(0);
    expect(held(device).slice(0, 2)).toEqual([8 - count, count]);
    expect(Number(await said(device, "mem_used_total"))).toBeLessThanOrEqual(before);
    await device.close();
  });

  it("tries a page that all were tried on in vain not again, until it is written", async () => {
    const device = await start(values);
    for (let page = 0; page < 4; page += 1) await device.write(page * PAGE, noise(page));
    let tried = 0;
    const readWhole = device.readWhole.bind(device);
    device.readWhole = (page, into): void => {
      tried += 1;
      readWhole(page, into);
    };
    // One algorithm of three, or what has to be below a threshold, says nothing about the page.
    for (const [message, times] of [
      ["recompress priority=3", 4],
      ["recompress threshold=2000", 4],
      ["recompress max_pages=1", 1],
      ["recompress", 3],
      ["recompress", 0],
    ] as const) {
      tried = 0;
      expect(await said(device, message)).toBe("0 pages recompressed");
      expect(tried, message).toBe(times);
    }
    await device.write(0, noise(9));
    await said(device, "recompress");
    expect(tried).toBe(1);
    await device.close();
  });

  it("takes no result that is above the threshold", async () => {
    const device = await start(values);
    await device.write(0, letters(1));
    expect(await said(device, "recompress threshold=1000")).toBe("0 pages recompressed");
    expect(await said(device, "recompress threshold=3000")).toBe("1 pages recompressed");
    await device.close();
  });

  it.each([
    "priority=0",
    "priority=4",
    "priority=x",
    "algo=lz4",
    "algo=zstd priority=2",
    "priority=1 priority=2",
  ])("%s is refused", async (rest) => {
    const device = await start(values);
    expect((await refusal(said(device, `recompress ${rest}`))).code).toBe("EINVAL");
    await device.close();
  });

  it("does with one that is not the first", async () => {
    const device = await start({ recomp_algorithm3: "deflate" });
    await device.write(0, letters(1));
    expect(await said(device, "recompress")).toBe("1 pages recompressed");
    expect(held(device)).toEqual([undefined, undefined, 1]);
    expect((await refusal(said(device, "recompress priority=1"))).code).toBe("EINVAL");
    await device.close();
  });
});

describe("a snapshot", () => {
  const version = async (snapshot: BlockDevice): Promise<number> => {
    const bytes = await contentsOf(snapshot);
    // Of the copy that was written last.
    const copies = [0, snapshotRoom(PAGES)].map((at) => bytes.subarray(at, at + PAGE));
    const [a = 0, b = 0] = copies.map((copy) => copy.readUInt32LE(112));
    return (copies[a > b ? 0 : 1] as Buffer).readUInt32LE(120);
  };

  it("is of version 3 only where pages are in it that version 2 cannot tell", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const values = { recomp_algorithm: "deflate", recomp_algorithm2: "zstd" };
    let device = await start(values, snapshot);
    await device.write(0, letters(1));
    await said(device, "recompress priority=1");
    await device.close();
    expect(await version(snapshot)).toBe(0);
    device = await start({ recomp_algorithm: "deflate" }, snapshot);
    expect(held(device)[0]).toBe(1);
    await device.close();
    device = await start(values, snapshot);
    await device.write(PAGE, letters(2));
    expect(await said(device, "recompress algo=zstd type=huge")).toBe("1 pages recompressed");
    await device.close();
    expect(await version(snapshot)).toBe(3);
    // Without what it takes nothing is opened, nor written.
    const before = await contentsOf(snapshot);
    const error = await refusal(start({ recomp_algorithm: "deflate" }, snapshot));
    expect([error.code, error.hint]).toEqual(["EINVAL", expect.stringContaining("recomp_algorithm2 zstd")]);
    expect((await contentsOf(snapshot)).equals(before)).toBe(true);
    device = await start(values, snapshot);
    expect(held(device).slice(0, 2)).toEqual([1, 1]);
    await device.discard(PAGE, PAGE);
    await device.close();
    expect(await version(snapshot)).toBe(0);
  });

  it("of a later version is refused, and says so", async () => {
    const snapshot = new MemoryDevice(ROOM);
    const values = { recomp_algorithm2: "zstd" };
    const device = await start(values, snapshot);
    await device.write(0, letters(1));
    await said(device, "recompress");
    await device.close();
    const { encodeHeader, decodeHeader } = await import("../src/format/snapshot.ts");
    const { crc32c } = await import("@dmkit/block-io");
    const block = (await contentsOf(snapshot)).subarray(0, PAGE);
    expect(encodeHeader(decodeHeader(block) as never).equals(block)).toBe(true);
    block.writeUInt32LE(4, 120);
    block.writeUInt32LE(0, 12);
    block.writeUInt32LE(crc32c(block.subarray(0, 512)), 12);
    await snapshot.write(0, block);
    for (const force of [0, 1]) {
      const error = await refusal(start({ ...values, force }, snapshot));
      expect([error.code, error.reason]).toEqual(["EFORMAT", expect.stringContaining("version 4")]);
    }
    expect((await contentsOf(snapshot)).subarray(0, PAGE).equals(block)).toBe(true);
  });

  it("comes back whatever the order of its algorithms, with any pages", async () => {
    const random = new SeededRandom(seed);
    const snapshot = new MemoryDevice(ROOM);
    const model = Buffer.alloc(PAGES * PAGE);
    const further = ["lzo", "deflate", "zstd"];
    for (let round = 0; round < 12; round += 1) {
      const order = [...further];
      for (let at = 2; at > 0; at -= 1) {
        const other = random.below(at + 1);
        [order[at], order[other]] = [order[other] as string, order[at] as string];
      }
      const [first, second, third] = order;
      const device = await start(
        { recomp_algorithm: first, recomp_algorithm2: second, recomp_algorithm3: third },
        snapshot,
      );
      expect((await contentsOf(device)).equals(model), `seed ${seed}, round ${round}`).toBe(true);
      for (let step = 0; step < 20; step += 1) {
        const page = random.below(PAGES);
        const contents = random.pick([noise, letters, words])(random.below(1000));
        contents.copy(model, page * PAGE);
        await device.write(page * PAGE, contents);
        if (random.chance(0.3)) await said(device, `recompress priority=${1 + random.below(3)} max_pages=5`);
      }
      expect(audit(device)).toEqual([]);
      await device.close();
    }
  });
});
