/** What can be read without writing: after any crash, and where there is no room left to recover. */
import { BlockIoError, MemoryDevice } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import {
  BLOCK,
  JOURNAL,
  ReadOnly,
  Recorder,
  blocksOf,
  bytesOf,
  code,
  contentsOf,
  crashImages,
  deviceOf,
  noise,
  openImage,
  problemsOf,
  text,
} from "./support/images.ts";

const SIZE = 2 ** 21;
const BLOCKS = 64;

/** What a crash leaves at every step of some writes over an older state. */
async function* crashes(format: "v1" | "v2"): AsyncIterable<Buffer> {
  const lower = new Recorder(SIZE);
  const device = await openImage(lower, BLOCKS, { format, ...(format === "v2" && { journal: JOURNAL }) });
  await device.write(0, text(1, 40));
  await device.flush();
  const before = await bytesOf(lower);
  lower.log.length = 0;
  await device.write(10 * BLOCK, noise(2, 20));
  await device.write(50 * BLOCK, text(3, 9));
  await device.flush();
  await device.close();
  yield* crashImages(before, lower.log, new SeededRandom(7));
}

describe("a device that cannot be written", () => {
  it.each(["v1", "v2"] as const)(
    "shows after a crash what opening it for writing shows: %s",
    async (format) => {
      let replayed = 0;
      for await (const bytes of crashes(format)) {
        const lower = new ReadOnly(await deviceOf(bytes));
        if ((await problemsOf(lower)).some(({ kind }) => kind === "journal")) replayed += 1;
        const device = await openImage(lower, BLOCKS, {});
        expect(device.limits.capabilities.readOnly).toBe(true);
        expect(await blocksOf(device)).toEqual(await contentsOf(bytes, BLOCKS));
        expect(await code(device.write(0, noise(5, 1)))).toBe("EROFS");
        await device.flush();
        await device.close();
        expect((await bytesOf(lower)).equals(bytes)).toBe(true);
      }
      expect(replayed > 0).toBe(format === "v2");
    },
  );

  it("can be one that is full: opening it for writing says so, and changes nothing", async () => {
    class Full extends MemoryDevice {
      full = false;
      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        if (!this.full) return super.doWrite(offset, from);
        return Promise.reject(new BlockIoError("no space left on device", { code: "ENOSPC", op: "write" }));
      }
    }
    for await (const bytes of crashes("v2")) {
      const lower = new Full(SIZE);
      await lower.write(0, bytes);
      lower.full = true;
      if (!(await problemsOf(lower)).some(({ kind }) => kind === "journal")) continue;
      const refused = await openImage(lower, BLOCKS, {}).catch((error: unknown) => error as BlockIoError);
      expect(refused).toMatchObject({ code: "ENOSPC" });
      expect((refused as BlockIoError).hint).toContain("read-only");
      const device = await openImage(new ReadOnly(lower), BLOCKS, {});
      expect(await blocksOf(device)).toEqual(await contentsOf(bytes, BLOCKS));
      await device.close();
      return;
    }
    throw new Error("no crash left anything to replay");
  });

  it("that is blank cannot be made a compressed one", async () => {
    const blank = new ReadOnly(new MemoryDevice(SIZE));
    expect(await code(openImage(blank, BLOCKS, {}))).toBe("EROFS");
    expect(await code(openImage(blank, BLOCKS, { force: true }))).toBe("EROFS");
    const other = new MemoryDevice(SIZE);
    await other.write(0, noise(1, 1));
    expect(await code(openImage(new ReadOnly(other), BLOCKS, { force: true }))).toBe("EFORMAT");
  });
});
