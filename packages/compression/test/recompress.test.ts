/** Conversion into another format, algorithm or level, on another device. */
import {
  type BlockDevice,
  type Logger,
  type BlockIoError,
  MemoryDevice,
  parseOptions,
  realEnvironment,
  silentLogger,
} from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { type Recompressed, compressionImages, recompress, recompressOptions } from "../src/index.ts";
import {
  BLOCK,
  JOURNAL,
  ReadOnly,
  Recorder,
  bytesOf,
  code,
  contentsOf,
  deviceOf,
  flipBit,
  layoutOf,
  noise,
  openImage,
  problemsOf,
  text,
  work,
} from "./support/images.ts";

const BLOCKS = 300;
const SIZE = 2 ** 21;
const seed = Number(process.env["DMKIT_SEED"] ?? 1 + (process.pid % 1000));

/** Text, noise and holes, written in pieces that overlap, so that extents are of all lengths and places. */
async function made(values: Readonly<Record<string, unknown>>, close = true): Promise<MemoryDevice> {
  const lower = new MemoryDevice(SIZE);
  const random = new SeededRandom(seed);
  const sized = values["format"] === "v1" ? values : { journal: JOURNAL, ...values };
  const device = await openImage(lower, BLOCKS, sized);
  for (let step = 0; step < 40; step += 1) {
    const blocks = 1 + random.below(40);
    const first = random.below(BLOCKS - blocks);
    const data =
      step % 5 === 4 ? Buffer.alloc(blocks * BLOCK) : (step % 2 === 0 ? text : noise)(step, blocks);
    await device.write(first * BLOCK, data);
    if (random.chance(0.2)) await device.flush();
  }
  await device.flush();
  if (close) await device.close();
  else await device.suspend();
  return lower;
}

function convert(
  from: BlockDevice,
  to: BlockDevice,
  values: Readonly<Record<string, unknown>>,
  more = {},
): Promise<Recompressed> {
  const options = parseOptions(recompressOptions, { journal: JOURNAL, ...values });
  return recompress(from, to, options, { ...work, ...more });
}

/** What of the options can be seen in the new image. */
function stored({ format, algorithm }: Record<string, unknown>): Record<string, unknown> {
  return { ...(format !== undefined && { format }), ...(algorithm !== undefined && { algorithm }) };
}

describe("recompress", () => {
  it.each(["v1", "v2"])("says how much larger a device has to be, and that is enough: %s", async (format) => {
    const from = new MemoryDevice(24 * 2 ** 20);
    const image = await openImage(from, 5000, { journal: JOURNAL });
    await image.write(0, text(1, 8));
    await image.close();
    // Metadata comes with every 512 blocks, and the journal grows with the device.
    const options = { format, journal: 0 };
    const small = new MemoryDevice(6 * 2 ** 20);
    const { hint } = await convert(from, small, options).then(
      () => ({ hint: "" }),
      (error: BlockIoError) => error,
    );
    const more = Number(/larger by (\d+) bytes/.exec(hint ?? "")?.[1]);
    await convert(from, new MemoryDevice(small.size + more), options);
  });

  it.each([
    [{ format: "v1" }, { format: "v2", algorithm: "lz4" }],
    [{ format: "v2" }, { format: "v1", algorithm: "lzo" }],
    [{ format: "v2" }, { algorithm: "deflate", level: 9 }],
    [
      { format: "v2", max_extent: 8192 },
      { algorithm: "zstd", level: 1, max_extent: 16_384 },
    ],
    [{ format: "v1", algorithm: "lz4" }, { format: "v1" }],
  ])("%j to %j keeps every block, and holes holes", async (before, after) => {
    const from = await made(before);
    const old = await bytesOf(from);
    const to = await deviceOf(noise(99, 2 * (SIZE / BLOCK)));
    const progress: number[] = [];
    const result = await convert(from, to, after, {
      progress: (done: number, total: number) => progress.push(done / total),
    });
    expect((await bytesOf(from)).equals(old)).toBe(true);
    expect(result.lost).toBe(0);
    expect(result.payload).toBeLessThan(result.contents);
    expect(progress.at(-1)).toBe(1);
    expect(await problemsOf(to)).toEqual([]);
    expect(await contentsOf(await bytesOf(to), BLOCKS), `seed ${seed}`).toEqual(
      await contentsOf(old, BLOCKS),
    );
    const facts = await compressionImages.info({ device: to }, work);
    expect(facts).toMatchObject({ format: "v2", payload_bytes: result.payload, ...stored(after) });
    expect(facts["stored_blocks"]).toBe(result.contents / BLOCK);
  });

  it("takes what is only in the journal, and writes nothing to the old device", async () => {
    const from = await made({ format: "v2" }, false);
    const bytes = await bytesOf(from);
    const layout = layoutOf(SIZE);
    // Nothing of the last record got into place.
    const last = await problemsOf(from);
    expect(last.map(({ kind }) => kind)).toEqual(["journal"]);
    bytes.fill(3, layout.metaStart * BLOCK + 512 * 7, layout.metaStart * BLOCK + 512 * 8);
    const to = new MemoryDevice(2 * SIZE);
    await convert(new ReadOnly(await deviceOf(bytes)), to, {});
    expect(await contentsOf(await bytesOf(to), BLOCKS)).toEqual(await contentsOf(bytes, BLOCKS));
  });

  it("carries over that contents are gone", async () => {
    const from = await made({ format: "v2", algorithm: "lz4" });
    const bytes = await bytesOf(from);
    const layout = layoutOf(SIZE);
    for (const block of [0, 70, 140, 200]) flipBit(bytes, (layout.dataStart + block) * BLOCK + 10);
    bytes.fill(1, layout.metaStart * BLOCK + 4 * 512, layout.metaStart * BLOCK + 5 * 512);
    const whole = await contentsOf(await bytesOf(from), BLOCKS);
    const expected = await contentsOf(bytes, BLOCKS);
    for (const format of ["v1", "v2"]) {
      const to = new MemoryDevice(2 * SIZE);
      const result = await convert(await deviceOf(bytes), to, { format });
      const after = await contentsOf(await bytesOf(to), BLOCKS);
      // What the journal still has is brought back, as a repair would.
      const seen = after.map((block, at) => (expected[at] === "EIO" && block === whole[at] ? "EIO" : block));
      expect(seen).toEqual(expected);
      expect(result.lost).toBeGreaterThanOrEqual(after.filter((block) => block === "EIO").length);
      expect((await problemsOf(to)).every(({ kind }) => kind === "lost")).toBe(true);
    }
  });

  it("names the blocks whose contents are gone", async () => {
    const lower = new MemoryDevice(SIZE);
    const device = await openImage(lower, BLOCKS, { journal: JOURNAL, max_extent: 65_536 });
    await device.write(0, noise(1, 128));
    await device.flush();
    // The journal has these only, and nothing of what was before.
    for (const block of [200, 201]) {
      await device.write(block * BLOCK, noise(block, 1));
      await device.flush();
    }
    await device.close();
    const bytes = await bytesOf(lower);
    for (const block of [20, 40, 50, 100, 200]) flipBit(bytes, (layoutOf(SIZE).dataStart + block) * BLOCK);
    const logged: unknown[] = [];
    const logger: Logger = { ...silentLogger, log: (_level, text, facts) => logged.push([text, facts]) };
    const more = { environment: { ...realEnvironment, logger } };
    const { lost } = await convert(await deviceOf(bytes), new MemoryDevice(2 * SIZE), {}, more);
    expect(lost).toBe(64);
    expect(logged).toHaveLength(3);
    expect(logged).toEqual(
      expect.arrayContaining([
        ["contents are gone", { first: 16, blocks: 48 }],
        ["contents are gone", { first: 96, blocks: 16 }],
        ["a payload is damaged, the journal has it", { first: 200, blocks: 1, flaw: "checksum" }],
      ]),
    );
  });

  it("refuses what cannot be, and writes nothing then", async () => {
    const from = await made({ format: "v2" });
    const bytes = await bytesOf(from);
    const small = new Recorder(SIZE / 2);
    const refused: [BlockDevice, Record<string, unknown>, string][] = [
      [from, {}, "EINVAL"],
      [small, {}, "EINVAL"],
      [small, { size: 16 * BLOCK }, "EINVAL"],
      [small, { algorithm: "lz5" }, "EINVAL"],
      [new Recorder(2 * SIZE), { algorithm: "lz5" }, "ENOENT"],
      [new Recorder(2 * SIZE), { format: "v1", algorithm: "none" }, "EINVAL"],
      [new Recorder(2 * SIZE), { level: 77, algorithm: "deflate" }, "EINVAL"],
      [new Recorder(2 * SIZE), { max_extent: 5000 }, "EINVAL"],
    ];
    for (const [to, values, expected] of refused) {
      expect(await code(convert(from, to, values)), JSON.stringify(values)).toBe(expected);
      if (to instanceof Recorder) expect(to.log).toEqual([]);
    }
    expect((await bytesOf(from)).equals(bytes)).toBe(true);
    expect(await code(convert(await deviceOf(noise(1, 20)), small, {}))).toBe("EFORMAT");
  });

  it("fits a smaller device when it is told how much is in use", async () => {
    const lower = new MemoryDevice(2 * SIZE);
    const device = await openImage(lower, 800, { journal: JOURNAL });
    await device.write(0, text(1, 200));
    await device.close();
    const to = new MemoryDevice(SIZE);
    expect(await code(convert(lower, to, {}))).toBe("EINVAL");
    await convert(lower, to, { size: 300 * BLOCK });
    expect(await contentsOf(await bytesOf(to), 300)).toEqual(await contentsOf(await bytesOf(lower), 300));
  });

  it.each(["v1", "v2"])(
    "that is interrupted leaves a device nobody opens, and starts again: %s",
    async (format) => {
      const from = await made({ format: "v2" });
      const expected = await contentsOf(await bytesOf(from), BLOCKS);
      const whole = new Recorder(2 * SIZE);
      await convert(from, whole, { format });
      const steps = whole.log.length;
      for (const step of [1, 2, 5, Math.floor(steps / 2), steps - 6, steps - 5]) {
        const half = new MemoryDevice(2 * SIZE);
        for (const { offset, bytes } of whole.log.slice(0, step)) if (bytes) await half.write(offset, bytes);
        expect(await code(openImage(half, BLOCKS, {})), `step ${step} of ${steps}`).toBe("EFORMAT");
        await convert(from, half, { format });
        expect(await contentsOf(await bytesOf(half), BLOCKS)).toEqual(expected);
      }
      const controller = new AbortController();
      const stopped = convert(
        from,
        new MemoryDevice(2 * SIZE),
        { format },
        {
          signal: controller.signal,
          progress: () => controller.abort(new Error("enough")),
        },
      );
      await expect(stopped).rejects.toThrow("enough");
    },
  );
});
