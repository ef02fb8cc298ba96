/** Structured replies: data and hole chunks, DF, error texts and offsets, block status. */
import { BlockIoError, type Extent, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { CHUNK, CMD, CMD_FLAG, ERRNO, decodeBlockStatusChunk } from "../src/protocol.ts";
import { ProbeDevice } from "./support/devices.ts";
import type { Chunk, RawClient } from "./support/raw-client.ts";
import { DISK, type ServeOptions, pattern, serve, until } from "./support/serve.ts";

const KiB = 1024;
const STATUS = ["base:allocation"];

async function connected(options: ServeOptions = {}, contexts: readonly string[] = []): Promise<RawClient> {
  const { client } = await serve(options);
  return (await client()).go("disk", { structured: true, contexts });
}

const types = (chunks: readonly Chunk[]): number[] => chunks.map(({ type }) => type);

/** A device whose extents are what the test says. */
class Mapped extends ProbeDevice {
  map: readonly Extent[] = [];

  override async *extents(offset: number, length: number): AsyncIterable<Extent> {
    this.calls.push({ op: "extents", offset, length });
    await this.gate("extents", offset);
    for (const extent of this.map) {
      const start = Math.max(offset, extent.offset);
      const end = Math.min(offset + length, extent.offset + extent.length);
      if (start < end) yield { offset: start, length: end - start, kind: extent.kind };
    }
  }
}

describe("READ", () => {
  it("tells holes instead of sending zeroes", async () => {
    const client = await connected();
    await client.write(128 * KiB, pattern(64 * KiB));
    const reply = await client.readBack(0, 512 * KiB);
    expect(types(reply.chunks)).toEqual([CHUNK.OFFSET_HOLE, CHUNK.OFFSET_DATA, CHUNK.OFFSET_HOLE]);
    expect(reply.chunks.map(({ flags }) => flags)).toEqual([0, 0, 1]);
    const expected = Buffer.alloc(512 * KiB);
    pattern(64 * KiB).copy(expected, 128 * KiB);
    expect(reply.data.equals(expected)).toBe(true);
  });

  it("of any offset and length is covered by its chunks exactly", async () => {
    const client = await connected();
    const model = Buffer.alloc(DISK);
    for (const offset of [100 * KiB, 300 * KiB, 700 * KiB]) {
      await client.write(offset, pattern(50 * KiB, offset));
      pattern(50 * KiB, offset).copy(model, offset);
    }
    for (const [offset, length] of [
      [0, DISK],
      [1, DISK - 1],
      [12_345, 700_001],
      [65_537, 65_536],
      [1, 80_000],
    ] as const) {
      const { data } = await client.readBack(offset, length);
      expect(data.equals(model.subarray(offset, offset + length))).toBe(true);
    }
  });

  it("with DF comes in one chunk", async () => {
    const client = await connected();
    await client.write(128 * KiB, pattern(64 * KiB));
    const reply = await client.readBack(0, DISK, CMD_FLAG.DF);
    expect(types(reply.chunks)).toEqual([CHUNK.OFFSET_DATA]);
    expect(reply.data.subarray(128 * KiB, 192 * KiB).equals(pattern(64 * KiB))).toBe(true);
    expect(reply.data.subarray(0, 128 * KiB).equals(Buffer.alloc(128 * KiB))).toBe(true);
  });

  it("of a few blocks asks for no extents, nor does one from a device that has none to tell", async () => {
    const small = new ProbeDevice(DISK);
    await (await connected({ device: small })).readBack(0, 32 * KiB);
    const dense = new ProbeDevice(DISK, { extents: false });
    await (await connected({ device: dense })).readBack(0, DISK);
    expect(small.count("extents") + dense.count("extents")).toBe(0);
  });

  it("asks less and less while there are no holes, and again when there are", async () => {
    const device = new ProbeDevice(8 * DISK);
    const client = await connected({ device });
    await client.write(0, pattern(DISK));
    for (let count = 0; count < 100; count += 1) await client.readBack(0, 64 * KiB);
    const asked = device.count("extents");
    expect(asked).toBeGreaterThan(3);
    expect(asked).toBeLessThan(10);
    let holes = 0;
    for (let count = 0; count < 40; count += 1) {
      const { chunks } = await client.readBack(4 * DISK, 64 * KiB);
      if (chunks[0]?.type === CHUNK.OFFSET_HOLE) holes += 1;
    }
    expect(holes).toBeGreaterThan(5);
  });

  it("is answered in a bounded number of chunks, and never with tiny holes", async () => {
    const device = new Mapped(DISK);
    await device.inner.write(0, pattern(DISK));
    const step = 8192;
    device.map = Array.from({ length: DISK / step }, (_, index) => ({
      offset: index * step,
      length: step,
      kind: index % 2 === 0 ? ("data" as const) : ("hole" as const),
    }));
    for (const { offset, kind } of device.map)
      if (kind === "hole") await device.inner.writeZeroes(offset, step);
    const client = await connected({ device });
    const many = await client.readBack(0, DISK);
    expect(many.chunks.length).toBeGreaterThan(10);
    expect(many.chunks.length).toBeLessThanOrEqual(64);
    const model = Buffer.alloc(DISK);
    await device.inner.read(0, model);
    expect(many.data.equals(model)).toBe(true);
    device.map = [
      { offset: 0, length: 65_536, kind: "data" },
      { offset: 65_536, length: 512, kind: "hole" },
      { offset: 66_048, length: DISK - 66_048, kind: "data" },
    ];
    expect(types((await client.readBack(0, DISK)).chunks)).toEqual([CHUNK.OFFSET_DATA]);
  });

  it("errors carry text and offset", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device });
    device.fail(
      "read",
      new BlockIoError("bad sector", { code: "EIO", device: "probe", offset: 4608, length: 512 }),
    );
    const exact = await client.readBack(4096, 4096);
    expect(exact).toMatchObject({ error: ERRNO.EIO, offset: 4608 });
    expect(exact.text).toContain("bad sector");
    // An offset on another device says nothing about this one.
    device.fail("read", new BlockIoError("bad sector", { code: "EIO", device: "below", offset: 4608 }));
    expect(await client.readBack(4096, 4096)).toMatchObject({ error: ERRNO.EIO, offset: 4096 });
    device.fail("read", new BlockIoError("bad sector", { code: "EIO", device: "probe", offset: 512 }));
    expect(await client.readBack(4096, 4096)).toMatchObject({ error: ERRNO.EIO, offset: 4096 });
  });

  it("a sparse one that fails in part fails as a whole", async () => {
    const device = new Mapped(DISK);
    device.map = [
      { offset: 0, length: 256 * KiB, kind: "data" },
      { offset: 256 * KiB, length: 256 * KiB, kind: "hole" },
      { offset: 512 * KiB, length: 512 * KiB, kind: "data" },
    ];
    const error = new BlockIoError("bad", { code: "EIO", device: "probe", offset: 512 * KiB });
    device.gate = (op, offset) => (op === "read" && offset > 0 ? Promise.reject(error) : undefined);
    const client = await connected({ device });
    const reply = await client.readBack(0, DISK);
    expect(reply).toMatchObject({ error: ERRNO.EIO, offset: 512 * KiB });
    expect(types(reply.chunks)).toEqual([CHUNK.ERROR_OFFSET]);
    device.gate = (op) => (op === "extents" ? Promise.reject(error) : undefined);
    expect((await client.readBack(0, DISK)).error).toBe(ERRNO.EIO);
  });
});

describe("errors", () => {
  it("of every kind are chunks with a text", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device });
    device.gate = () => Promise.reject(new BlockIoError("told to", { code: "EIO" }));
    for (const fields of [
      { type: CMD.READ, length: 512 },
      { type: CMD.READ, offset: DISK, length: 512 },
      { type: CMD.FLUSH },
      { type: CMD.FLUSH, flags: 0x8000 },
      { type: CMD.TRIM, length: 512 },
      { type: CMD.CACHE, length: 512 },
      { type: CMD.WRITE_ZEROES, length: 512 },
      { type: CMD.BLOCK_STATUS, length: 512 },
      { type: 77 },
    ]) {
      client.request(fields);
      const { chunk, error, text } = await client.status();
      expect(chunk.structured).toBe(true);
      expect(chunk.flags).toBe(1);
      expect(error).not.toBe(0);
      expect(text.length).toBeGreaterThan(5);
    }
  });
});

describe("BLOCK_STATUS", () => {
  const descriptors = async (client: RawClient, fields: object): Promise<readonly number[]> => {
    client.request({ type: CMD.BLOCK_STATUS, ...fields });
    const chunk = await client.reply();
    expect(chunk).toMatchObject({ type: CHUNK.BLOCK_STATUS, flags: 1 });
    return decodeBlockStatusChunk(chunk.payload).descriptors;
  };

  it("tells data from holes", async () => {
    const client = await connected({}, STATUS);
    expect(await descriptors(client, { length: DISK })).toEqual([DISK, 3]);
    await client.write(128 * KiB, pattern(64 * KiB));
    expect(await descriptors(client, { length: DISK })).toEqual([128 * KiB, 3, 64 * KiB, 0, 832 * KiB, 3]);
    expect(await descriptors(client, { offset: 130 * KiB, length: 4096 })).toEqual([4096, 0]);
  });

  it("answers for exactly the bytes asked about", async () => {
    const client = await connected({ device: new MemoryDevice(DISK, { logicalBlockSize: 4096 }) }, STATUS);
    await client.write(64 * KiB, pattern(64 * KiB));
    expect(await descriptors(client, { offset: 64 * KiB - 3, length: 5 })).toEqual([3, 3, 2, 0]);
    expect(await descriptors(client, { offset: 1, length: 1 })).toEqual([1, 3]);
  });

  it("REQ_ONE: one descriptor, no longer than asked", async () => {
    const client = await connected({}, STATUS);
    await client.write(128 * KiB, pattern(64 * KiB));
    const flags = CMD_FLAG.REQ_ONE;
    expect(await descriptors(client, { flags, length: DISK })).toEqual([128 * KiB, 3]);
    expect(await descriptors(client, { flags, offset: 140 * KiB, length: 1024 })).toEqual([1024, 0]);
  });

  it("merges neighbours and ends at the limit", async () => {
    const device = new Mapped(DISK);
    const kinds = ["data", "data", "hole", "zero"] as const;
    device.map = Array.from({ length: DISK / 512 }, (_, index) => ({
      offset: index * 512,
      length: 512,
      kind: kinds[index % 4] ?? "data",
    }));
    const client = await connected({ device, limits: { extentsPerReply: 5 } }, STATUS);
    expect(await descriptors(client, { length: DISK })).toEqual([1024, 0, 512, 3, 512, 2, 1024, 0, 512, 3]);
  });

  /** Endless runs of blocks the device hands out without waiting, and what it was asked for. */
  class Fragmented extends ProbeDevice {
    yielded = 0;
    walking = 0;
    mostWalking = 0;
    kinds: readonly Extent["kind"][] = ["data", "hole"];

    override async *extents(offset: number, length: number): AsyncIterable<Extent> {
      this.calls.push({ op: "extents", offset, length });
      this.walking += 1;
      this.mostWalking = Math.max(this.mostWalking, this.walking);
      try {
        for (let at = offset; at < offset + length; at += 512) {
          this.yielded += 1;
          yield { offset: at, length: 512, kind: this.kinds[(at / 512) % this.kinds.length] ?? "data" };
        }
      } finally {
        this.walking -= 1;
      }
    }
  }

  it("lets others have their turns, and walks for one request of a connection at a time", async () => {
    const device = new Fragmented(4 * DISK);
    let turns = 0;
    const environment = {
      ...realEnvironment,
      scheduler: {
        defer(callback: () => void) {
          turns += 1;
          realEnvironment.scheduler.defer(callback);
        },
      },
    };
    const client = await connected({ device, environment }, STATUS);
    for (let cookie = 0; cookie < 5; cookie += 1) {
      client.request({ type: CMD.BLOCK_STATUS, length: 4 * DISK, cookie });
    }
    for (let cookie = 0; cookie < 5; cookie += 1) {
      const chunk = await client.reply();
      expect(chunk.cookie).toBe(cookie);
      expect(decodeBlockStatusChunk(chunk.payload).descriptors.length).toBe((2 * 4 * DISK) / 512);
    }
    expect(device.mostWalking).toBe(1);
    expect(turns).toBeGreaterThanOrEqual((5 * 4 * DISK) / 512 / 256);
  });

  it("walks on for little after the last descriptor, and ends the walk", async () => {
    const device = new Fragmented(4 * DISK);
    device.kinds = ["data"];
    const client = await connected({ device }, STATUS);
    const [length, status] = await descriptors(client, { flags: CMD_FLAG.REQ_ONE, length: 4 * DISK });
    expect([(length ?? 0) / 512, status]).toEqual([device.yielded, 0]);
    expect(device.yielded).toBeLessThan(300);
    expect(device.walking).toBe(0);
    // A long READ does not look at every block either.
    device.yielded = 0;
    expect((await client.readBack(0, 4 * DISK)).data.equals(Buffer.alloc(4 * DISK))).toBe(true);
    expect(device.yielded).toBeGreaterThan(0);
    expect(device.yielded).toBeLessThan(300);
    expect(device.walking).toBe(0);
  });

  it("of a client that is gone is not begun", async () => {
    const device = new Mapped(DISK);
    const { client, server } = await serve({ device });
    const gone = await (await client()).go("disk", { structured: true, contexts: STATUS });
    const release = device.hold("extents");
    for (let count = 0; count < 5; count += 1) gone.request({ type: CMD.BLOCK_STATUS, length: DISK });
    await until(() => device.count("extents") === 1);
    // No request: it is dropped at once.
    gone.send(Buffer.alloc(28));
    await until(() => server.statistics().connections === 0);
    release();
    await until(() => server.statistics().bytesInFlight === 0);
    expect(device.count("extents")).toBe(1);
  });

  it("of a device that tells no extents is data", async () => {
    const client = await connected({ device: new ProbeDevice(DISK, { extents: false }) }, STATUS);
    expect(await descriptors(client, { length: DISK })).toEqual([DISK, 0]);
  });

  it("has one chunk for each context", async () => {
    const layer = {
      name: "dmkit:layer",
      async *describe(_: unknown, __: number, length: number) {
        yield { length: 512, status: 1 };
        yield { length: length - 512, status: 2 };
      },
    };
    const client = await connected({ export: { metaContexts: [layer] } }, ["base:allocation", "dmkit:layer"]);
    client.request({ type: CMD.BLOCK_STATUS, length: 4096 });
    const first = await client.reply();
    const second = await client.reply();
    expect([first.flags, second.flags]).toEqual([0, 1]);
    expect(decodeBlockStatusChunk(first.payload)).toEqual({ contextId: 1, descriptors: [4096, 3] });
    expect(decodeBlockStatusChunk(second.payload)).toEqual({ contextId: 2, descriptors: [512, 1, 3584, 2] });
  });

  it("wrong ones", async () => {
    const client = await connected({}, STATUS);
    const type = CMD.BLOCK_STATUS;
    expect(await client.command({ type, length: 0 })).toBe(ERRNO.EINVAL);
    expect(await client.command({ type, offset: DISK, length: 512 })).toBe(ERRNO.EINVAL);
    expect(await client.command({ type, length: DISK + 1 })).toBe(ERRNO.EINVAL);
    expect(await client.command({ type, length: 512, flags: CMD_FLAG.DF })).toBe(ERRNO.EINVAL);
    expect(await (await connected()).command({ type, length: 512 })).toBe(ERRNO.EINVAL);
  });

  it("a context that fails or says nothing is an error", async () => {
    const silent = { name: "x-silent:y", async *describe() {} };
    const client = await connected({ export: { metaContexts: [silent] } }, ["x-silent:y"]);
    expect(await client.command({ type: CMD.BLOCK_STATUS, length: 512 })).toBe(ERRNO.EIO);
    expect(await client.write(0, Buffer.alloc(512))).toBe(0);
  });
});
