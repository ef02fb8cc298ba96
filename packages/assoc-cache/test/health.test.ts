/** What a cache says of itself when one of its devices has failed, and what it can still do. */
import { describe, expect, it } from "vitest";
import { block, readSectors, rig, settled } from "./support/rig.ts";

describe("a cache that lost its cache device", () => {
  it.each(["write-through", "write-around", "write-back"])(
    "with nothing dirty is degraded, holds nothing that others have not, and closes: %s",
    async (policy) => {
      const { source, cache, open } = rig({ policy });
      const device = await open();
      expect(device.health()).toEqual({ state: "ok" });
      await device.write(0, block(1));
      await device.message(["clean"]);
      // Something is in the cache that was never flushed.
      await readSectors(device, 80);
      await settled();
      cache.pulled = true;
      expect(await readSectors(device, 160)).toEqual(block(0));
      await settled();
      await device.write(8192, block(2));
      expect(device.health()).toMatchObject({
        state: "degraded",
        why: expect.stringContaining("without its cache device"),
        help: expect.stringContaining("open the cache again"),
      });
      await device.message(["clean"]);
      await device.flush();
      expect(await readSectors(device, 16)).toEqual(block(2));
      await device.close();
      expect(await readSectors(source.lower, 0)).toEqual(block(1));
      expect(await readSectors(source.lower, 16)).toEqual(block(2));
    },
  );

  it("with dirty blocks has failed, and says how many", async () => {
    const { cache, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    cache.pulled = true;
    await readSectors(device, 80);
    await settled();
    expect(device.health()).toMatchObject({
      state: "failed",
      why: expect.stringMatching(/only copy of 1 blocks.*pulled out/),
    });
    await expect(device.message(["clean"])).rejects.toMatchObject({ code: "EIO" });
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
  });

  it("still refuses what would leave older data listed as dirty beside newer data of the source", async () => {
    const { source, cache, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    // The entry is on the cache device; the loss of it cannot be stored any more.
    cache.failsWrites = true;
    await expect(device.message(["clean"])).rejects.toMatchObject({ code: "EIO" });
    expect(await readSectors(source.lower, 0)).toEqual(block(1));
    await expect(device.write(0, block(2))).rejects.toMatchObject({ code: "EIO" });
    await expect(device.message(["clean"])).rejects.toMatchObject({ code: "EIO" });
    cache.failsWrites = false;
    await device.close().catch(() => {});
    const again = await open({ persistence: 1 });
    expect(await readSectors(again, 0)).toEqual(block(1));
    await again.close();
  });

  it("fails flushes as long as a crash could put older data over what the source has", async () => {
    const { source, cache, open } = rig({ policy: "write-back" });
    const device = await open();
    await device.write(0, block(1));
    await device.flush();
    // The entry says dirty for good; of the data below it the cache device now has two versions, and may keep either.
    await device.write(0, block(2));
    cache.failsFlushes = true;
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    await expect(device.write(0, block(3))).rejects.toMatchObject({ code: "EIO" });
    // Nothing is dirty any more, and still it is not safe.
    expect(await readSectors(source.lower, 0)).toEqual(block(2));
    expect(device.state.frames.dirty).toBe(0);
    await expect(device.flush()).rejects.toMatchObject({
      code: "EIO",
      message: expect.stringContaining("older data"),
    });
    await expect(device.close()).rejects.toMatchObject({ code: "EIO" });
  });

  it("needs a check after it was closed, until it had one", async () => {
    const { cache, open } = rig();
    const device = await open();
    await readSectors(device, 0);
    await settled();
    cache.failsWrites = true;
    await readSectors(device, 80);
    await settled();
    cache.failsWrites = false;
    await device.close();
    const again = await open({ persistence: 1 });
    expect(again.health()).toMatchObject({ state: "needs check", help: expect.stringContaining("fsck") });
    await again.close();
  });
});

describe("a cache whose source failed a flush", () => {
  it("has failed", async () => {
    const { source, open } = rig();
    const device = await open();
    await device.write(0, block(1));
    source.pulled = true;
    await expect(device.flush()).rejects.toMatchObject({ code: "EIO" });
    expect(device.health()).toMatchObject({ state: "failed", why: expect.stringContaining("source") });
    await device.close().catch(() => {});
  });
});
