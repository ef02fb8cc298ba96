/** Every command of the transmission phase: right, wrong and at the edges. */
import { BlockIoError, MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { CMD, CMD_FLAG, ERRNO } from "../src/protocol.ts";
import type { RequestEvent } from "../src/server/requests/request-log.ts";
import { ProbeDevice } from "./support/devices.ts";
import { RawClient } from "./support/raw-client.ts";
import { DISK, type ServeOptions, pattern, serve, until } from "./support/serve.ts";

async function connected(options: ServeOptions = {}, structured = false): Promise<RawClient> {
  const { client } = await serve(options);
  return (await client()).go("disk", { structured });
}

const both = [
  ["simple replies", false],
  ["structured replies", true],
] as const;

describe.each(both)("with %s", (_, structured) => {
  it("WRITE, then READ", async () => {
    const client = await connected({}, structured);
    const data = pattern(128 * 1024);
    expect(await client.write(4096, data)).toBe(0);
    for (const [offset, length] of [
      [4096, 131_072],
      [4096, 512],
      [5000, 777],
      [4095, 2],
      [0, 4096],
    ] as const) {
      const expected = Buffer.concat([Buffer.alloc(4096), data]).subarray(offset, offset + length);
      expect((await client.readBack(offset, length)).data.equals(expected)).toBe(true);
    }
  });

  it("every length of payload arrives", async () => {
    const client = await connected({}, structured);
    for (const length of [1, 511, 512, 513, 4096, 65_508, 65_536, 65_537, 262_144, DISK]) {
      const data = pattern(length, length);
      expect(await client.write(0, data)).toBe(0);
      expect((await client.readBack(0, length)).data.equals(data)).toBe(true);
    }
  });

  it("requests cut anywhere arrive", async () => {
    const client = await connected({}, structured);
    const data = pattern(1000);
    const bytes = Buffer.concat([
      RawClient.request({ type: CMD.WRITE, offset: 100, length: 1000, cookie: 1 }),
      data,
      RawClient.request({ type: CMD.FLUSH, cookie: 2 }),
      RawClient.request({ type: CMD.WRITE, offset: 0, length: 100, cookie: 3 }),
      data.subarray(0, 100),
    ]);
    for (const cut of [
      1,
      27,
      28,
      29,
      500,
      1027,
      1028,
      1029,
      1040,
      1056,
      1057,
      1084,
      1085,
      bytes.length - 1,
    ]) {
      client.send(bytes.subarray(0, cut));
      await new Promise((resolve) => setTimeout(resolve, 2));
      client.send(bytes.subarray(cut));
      const replies = [await client.status(), await client.status(), await client.status()];
      expect(replies.map(({ error }) => error)).toEqual([0, 0, 0]);
      expect(replies.map(({ cookie }) => cookie).toSorted((a, b) => a - b)).toEqual([1, 2, 3]);
    }
    expect((await client.readBack(0, 1100)).data).toEqual(Buffer.concat([data.subarray(0, 100), data]));
  });

  it("one byte at a time works", async () => {
    const client = await connected({}, structured);
    const bytes = Buffer.concat([
      RawClient.request({ type: CMD.WRITE, offset: 7, length: 40, cookie: 1 }),
      pattern(40),
      RawClient.request({ type: 99, cookie: 2 }),
      RawClient.request({ type: CMD.WRITE, offset: DISK, length: 10, cookie: 3 }),
      pattern(10),
      RawClient.request({ type: CMD.FLUSH, cookie: 4 }),
    ]);
    for (const byte of bytes) {
      client.send(Buffer.from([byte]));
      await new Promise(setImmediate);
    }
    const errors = [];
    for (let count = 0; count < 4; count += 1) errors.push((await client.status()).error);
    expect(errors).toEqual([0, ERRNO.EINVAL, ERRNO.ENOSPC, 0]);
    expect((await client.readBack(7, 40)).data).toEqual(pattern(40));
  });

  it("past the end: ENOSPC for what writes, EINVAL for the rest, and the stream stays in step", async () => {
    const client = await connected({}, structured);
    const far = { cookieHigh: 0, offset: 2 ** 53 };
    for (const place of [
      { offset: DISK - 512, length: 1024 },
      { offset: DISK, length: 1 },
      { ...far, length: 512 },
    ]) {
      expect(await client.command({ type: CMD.WRITE, ...place }, Buffer.alloc(place.length))).toBe(
        ERRNO.ENOSPC,
      );
      expect(await client.command({ type: CMD.WRITE_ZEROES, ...place })).toBe(ERRNO.ENOSPC);
      for (const type of [CMD.READ, CMD.TRIM, CMD.CACHE]) {
        expect(await client.command({ type, ...place })).toBe(ERRNO.EINVAL);
      }
    }
    // Adding offset and length would wrap around here.
    const last = Buffer.alloc(28);
    RawClient.request({ type: CMD.READ, length: 0xffff_ffff }).copy(last);
    last.fill(0xff, 16, 24);
    client.send(last);
    expect((await client.status()).error).toBe(ERRNO.EINVAL);
    expect(await client.command({ type: CMD.FLUSH })).toBe(0);
  });

  it("zero lengths never disconnect", async () => {
    const client = await connected({}, structured);
    for (const offset of [0, 512, DISK]) {
      for (const type of [CMD.WRITE, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES]) {
        for (const flags of [0, CMD_FLAG.FUA]) expect(await client.command({ type, flags, offset })).toBe(0);
      }
      expect(await client.readBack(offset, 0)).toMatchObject({ error: 0, data: Buffer.alloc(0) });
    }
    expect(await client.command({ type: CMD.WRITE, offset: DISK + 1 })).toBe(ERRNO.ENOSPC);
    expect(await client.command({ type: CMD.FLUSH })).toBe(0);
  });

  it("unknown commands and flags: EINVAL, and the stream stays in step", async () => {
    const client = await connected({}, structured);
    for (const type of [8, 9, 100, 0x7fff, 0xffff]) {
      expect(await client.command({ type, offset: 512, length: 512 })).toBe(ERRNO.EINVAL);
    }
    const payload = Buffer.alloc(512, 9);
    for (const flags of [
      CMD_FLAG.NO_HOLE,
      CMD_FLAG.DF,
      CMD_FLAG.REQ_ONE,
      0x8000,
      0xffff,
      CMD_FLAG.PAYLOAD_LEN,
    ]) {
      expect(await client.command({ type: CMD.WRITE, flags, length: 512 }, payload)).toBe(ERRNO.EINVAL);
      if (flags !== CMD_FLAG.DF || !structured) {
        expect(await client.command({ type: CMD.READ, flags, length: 512 })).toBe(ERRNO.EINVAL);
      }
      expect(await client.command({ type: CMD.FLUSH, flags })).toBe(ERRNO.EINVAL);
      expect(await client.command({ type: CMD.TRIM, flags, length: 512 })).toBe(ERRNO.EINVAL);
      expect(await client.command({ type: CMD.CACHE, flags, length: 512 })).toBe(ERRNO.EINVAL);
    }
    expect((await client.readBack(0, 512)).data).toEqual(Buffer.alloc(512));
  });

  it("FLUSH takes no offset and no length", async () => {
    const client = await connected({}, structured);
    expect(await client.command({ type: CMD.FLUSH, offset: 512 })).toBe(ERRNO.EINVAL);
    expect(await client.command({ type: CMD.FLUSH, length: 512 })).toBe(ERRNO.EINVAL);
    expect(await client.command({ type: CMD.FLUSH })).toBe(0);
  });

  it("a read-only export: EPERM, payload drained", async () => {
    for (const options of [
      { export: { readOnly: true } },
      { device: new ProbeDevice(DISK, { readOnly: true }) },
    ]) {
      const client = await connected(options, structured);
      expect(await client.write(0, pattern(100_000))).toBe(ERRNO.EPERM);
      expect(await client.command({ type: CMD.WRITE_ZEROES, length: 512 })).toBe(ERRNO.EPERM);
      expect(await client.command({ type: CMD.TRIM, length: 512 })).toBe(ERRNO.EPERM);
      expect(await client.command({ type: CMD.FLUSH })).toBe(0);
      expect((await client.readBack(0, 512)).data).toEqual(Buffer.alloc(512));
    }
  });

  it("payloads over the maximum are drained up to the limit", async () => {
    const limits = { maximumPayload: 1024 * 1024, drainedPayload: 2 * 1024 * 1024 };
    const client = await connected({ device: new MemoryDevice(8 * DISK), limits }, structured);
    expect(await client.write(0, Buffer.alloc(limits.maximumPayload, 1))).toBe(0);
    expect(await client.write(0, Buffer.alloc(limits.maximumPayload + 1, 2))).toBe(ERRNO.EINVAL);
    expect(await client.write(0, Buffer.alloc(limits.drainedPayload, 3))).toBe(ERRNO.EINVAL);
    const tooMuch = await client.readBack(0, limits.maximumPayload + 1);
    expect(tooMuch.error).toBe(structured ? ERRNO.EOVERFLOW : ERRNO.EINVAL);
    expect((await client.readBack(0, 512)).data).toEqual(Buffer.alloc(512, 1));
    // Commands without a payload may be as long as the export.
    expect(await client.command({ type: CMD.WRITE_ZEROES, length: 8 * DISK })).toBe(0);
    client.request({ type: CMD.WRITE, length: limits.drainedPayload + 1 });
    await client.closed;
  });

  it("a bad magic number is the end", async () => {
    const client = await connected({}, structured);
    client.send(Buffer.alloc(28, 0x25));
    await client.closed;
  });

  it("cookies come back with all their bits, and may be used twice", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device }, structured);
    const release = device.hold("flush");
    for (let count = 0; count < 2; count += 1) {
      client.request({ type: CMD.FLUSH, cookieHigh: 0xdead_beef, cookieLow: 0xffff_ffff });
    }
    await until(() => device.count("flush") === 2);
    release();
    for (let count = 0; count < 2; count += 1) {
      expect((await client.status()).cookie).toBe(0xdead_beef * 2 ** 32 + 0xffff_ffff);
    }
  });

  it("unaligned requests on a device of 4096-byte blocks", async () => {
    const device = new ProbeDevice(DISK, { blockSize: 4096 });
    const client = await connected({ device }, structured);
    const model = Buffer.alloc(DISK);
    for (const [offset, length] of [
      [1, 1],
      [4095, 2],
      [100, 8192],
      [4096, 4096],
      [8000, 12_288],
    ] as const) {
      const data = pattern(length, offset);
      data.copy(model, offset);
      expect(await client.write(offset, data)).toBe(0);
    }
    model.fill(0, 5000, 14_000);
    expect(await client.command({ type: CMD.WRITE_ZEROES, offset: 5000, length: 9000 })).toBe(0);
    expect(await client.command({ type: CMD.TRIM, offset: 1, length: 100 })).toBe(0);
    expect(await client.command({ type: CMD.CACHE, offset: 1, length: 9999 })).toBe(0);
    expect((await client.readBack(0, 32_768)).data).toEqual(model.subarray(0, 32_768));
    expect((await client.readBack(4097, 5001)).data).toEqual(model.subarray(4097, 4097 + 5001));
    for (const { offset, length } of device.calls) expect([offset % 4096, length % 4096]).toEqual([0, 0]);
  });

  it("a strict export refuses unaligned requests", async () => {
    const device = new MemoryDevice(DISK, { logicalBlockSize: 4096 });
    const client = await connected({ device, export: { strict: true } }, structured);
    expect(await client.write(0, Buffer.alloc(4096, 1))).toBe(0);
    expect(await client.write(512, Buffer.alloc(4096, 2))).toBe(ERRNO.EINVAL);
    expect(await client.write(0, Buffer.alloc(512, 2))).toBe(ERRNO.EINVAL);
    for (const type of [CMD.READ, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES]) {
      expect(await client.command({ type, offset: 4096, length: 4095 })).toBe(ERRNO.EINVAL);
      expect(await client.command({ type, offset: 1, length: 4096 })).toBe(ERRNO.EINVAL);
    }
    expect((await client.readBack(0, 4096)).data).toEqual(Buffer.alloc(4096, 1));
  });

  it("errors of the device reach the client as their numbers", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device }, structured);
    for (const [code, errno] of [
      ["EIO", ERRNO.EIO],
      ["ENOSPC", ERRNO.ENOSPC],
      ["EROFS", ERRNO.EPERM],
      ["ENOMEM", ERRNO.ENOMEM],
      ["ESHUTDOWN", ERRNO.ESHUTDOWN],
      ["EFORMAT", ERRNO.EIO],
      ["ETIMEDOUT", ERRNO.EIO],
      // Reserved for fast zeroes.
      ["ENOTSUP", ERRNO.EINVAL],
    ] as const) {
      const error = new BlockIoError("told to", { code });
      for (const [op, fields] of [
        ["read", { type: CMD.READ, length: 512 }],
        ["flush", { type: CMD.FLUSH }],
        ["discard", { type: CMD.TRIM, length: 512 }],
        ["writeZeroes", { type: CMD.WRITE_ZEROES, length: 512 }],
      ] as const) {
        device.fail(op, error);
        expect(await client.command(fields)).toBe(errno);
      }
      device.fail("write", error);
      expect(await client.write(0, Buffer.alloc(512))).toBe(errno);
    }
    device.gate = () => Promise.reject(new TypeError("a bug"));
    expect(await client.command({ type: CMD.READ, length: 512 })).toBe(ERRNO.EIO);
    device.gate = () => undefined;
    expect((await client.readBack(0, 512)).data).toEqual(Buffer.alloc(512));
  });

  it("a device that throws instead of rejecting costs an error, not the server", async () => {
    const device = new ProbeDevice(DISK);
    device.flush = () => {
      throw new BlockIoError("at once", { code: "EIO" });
    };
    const client = await connected({ device }, structured);
    expect(await client.command({ type: CMD.FLUSH })).toBe(ERRNO.EIO);
    expect(await client.write(0, Buffer.alloc(512))).toBe(0);
  });

  it("replies come in order of completion", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device }, structured);
    const release = device.hold("flush");
    client.request({ type: CMD.FLUSH, cookie: 1 });
    client.request({ type: CMD.WRITE, length: 512, cookie: 2 }, Buffer.alloc(512, 5));
    expect((await client.status()).cookie).toBe(2);
    expect((await client.readBack(0, 512)).data).toEqual(Buffer.alloc(512, 5));
    release();
    expect((await client.status()).cookie).toBe(1);
  });

  it("DISC waits for what is in flight, and is not answered", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device }, structured);
    const release = device.hold("write");
    client.request({ type: CMD.WRITE, length: 512, cookie: 7 }, Buffer.alloc(512, 5));
    client.request({ type: CMD.DISC });
    client.request({ type: CMD.WRITE, length: 512, cookie: 8 }, Buffer.alloc(512, 6));
    await until(() => device.count("write") === 1);
    release();
    expect((await client.status()).cookie).toBe(7);
    await client.closed;
    expect(client.buffered).toBe(0);
    expect(device.count("write")).toBe(1);
  });
});

describe("FUA", () => {
  it("is accepted on every command", async () => {
    const { client } = await serve();
    const connection = await (await client()).go("disk", { structured: true, contexts: ["base:allocation"] });
    for (const type of [CMD.READ, CMD.FLUSH, CMD.TRIM, CMD.CACHE, CMD.WRITE_ZEROES, CMD.BLOCK_STATUS]) {
      const length = type === CMD.FLUSH ? 0 : 512;
      expect(await connection.command({ type, flags: CMD_FLAG.FUA, length })).toBe(0);
    }
    expect(await connection.write(0, Buffer.alloc(512), CMD_FLAG.FUA)).toBe(0);
  });

  it("is passed down; a trim has none, and is followed by a flush", async () => {
    const device = new ProbeDevice(DISK, { fua: "native" });
    const client = await connected({ device });
    expect(await client.write(0, Buffer.alloc(512), CMD_FLAG.FUA)).toBe(0);
    expect(await client.command({ type: CMD.WRITE_ZEROES, flags: CMD_FLAG.FUA, length: 512 })).toBe(0);
    expect(await client.command({ type: CMD.TRIM, flags: CMD_FLAG.FUA, length: 512 })).toBe(0);
    expect(device.calls.map(({ op }) => op)).toEqual(["write", "writeZeroes", "discard", "flush"]);
    expect(device.calls[0]?.options).toMatchObject({ fua: true });
    expect(device.calls[1]?.options).toMatchObject({ fua: true });
  });

  it("a reply waits for the flush of a trim", async () => {
    const device = new ProbeDevice(DISK);
    device.fail("flush");
    const client = await connected({ device });
    expect(await client.command({ type: CMD.TRIM, flags: CMD_FLAG.FUA, length: 512 })).toBe(ERRNO.EIO);
  });
});

describe("WRITE_ZEROES", () => {
  it("passes NO_HOLE and FAST_ZERO down", async () => {
    const device = new ProbeDevice(DISK);
    const client = await connected({ device });
    for (const flags of [0, CMD_FLAG.NO_HOLE, CMD_FLAG.FAST_ZERO]) {
      expect(await client.command({ type: CMD.WRITE_ZEROES, flags, length: 4096 })).toBe(0);
    }
    expect(device.calls.map(({ options }) => options)).toMatchObject([
      { mayUnmap: true, fast: false },
      { mayUnmap: false, fast: false },
      { mayUnmap: true, fast: true },
    ]);
  });

  it("FAST_ZERO that would be slow: ENOTSUP, contents unchanged", async () => {
    const client = await connected();
    await client.write(0, pattern(4096));
    const fields = { type: CMD.WRITE_ZEROES, flags: CMD_FLAG.FAST_ZERO };
    expect(await client.command({ ...fields, offset: 100, length: 2000 })).toBe(ERRNO.ENOTSUP);
    expect((await client.readBack(0, 4096)).data).toEqual(pattern(4096));
    expect(await client.command({ ...fields, length: 4096 })).toBe(0);
    expect((await client.readBack(0, 4096)).data).toEqual(Buffer.alloc(4096));
  });

  it("FAST_ZERO where it is not advertised: EINVAL", async () => {
    const client = await connected({ device: new ProbeDevice(DISK, { fastZero: false }) });
    expect(await client.command({ type: CMD.WRITE_ZEROES, flags: CMD_FLAG.FAST_ZERO, length: 512 })).toBe(
      ERRNO.EINVAL,
    );
  });
});

describe("TRIM and CACHE", () => {
  it("TRIM where it is not advertised: EINVAL", async () => {
    const client = await connected({ device: new ProbeDevice(DISK, { discard: "none" }) });
    expect(await client.command({ type: CMD.TRIM, length: 512 })).toBe(ERRNO.EINVAL);
  });

  it("CACHE reads no more than a READ could", async () => {
    const device = new ProbeDevice(64 * DISK);
    const client = await connected({ device, limits: { maximumPayload: 4 * DISK } });
    expect(await client.command({ type: CMD.CACHE, length: 64 * DISK })).toBe(0);
    expect(device.calls.reduce((sum, { length }) => sum + length, 0)).toBe(4 * DISK);
    device.fail("read");
    expect(await client.command({ type: CMD.CACHE, length: 512 })).toBe(ERRNO.EIO);
  });
});

describe("several connections and exports", () => {
  it("see each other's writes, and one flush covers all", async () => {
    const { client, server, device } = await serve();
    server.addExport({ name: "same", device, strict: true });
    const one = await (await client()).go("disk");
    const two = await (await client()).go("same");
    await one.write(0, pattern(512));
    expect((await two.readBack(0, 512)).data).toEqual(pattern(512));
    await two.write(0, pattern(512, 2));
    expect((await one.readBack(0, 512)).data).toEqual(pattern(512, 2));
  });

  it("a read-modify-write through one export does not undo a write through another", async () => {
    const device = new ProbeDevice(DISK);
    const { client, server } = await serve({ device });
    server.addExport({ name: "strict", device, strict: true });
    const loose = await (await client()).go("disk");
    const strict = await (await client()).go("strict");
    const release = device.hold("read");
    // Reads the block, and is held there.
    loose.request({ type: CMD.WRITE, offset: 10, length: 1 }, Buffer.from([1]));
    await until(() => device.count("read") === 1);
    strict.request({ type: CMD.WRITE, offset: 0, length: 512 }, Buffer.alloc(512, 2));
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(device.count("write")).toBe(0);
    release();
    expect((await loose.status()).error).toBe(0);
    expect((await strict.status()).error).toBe(0);
    expect((await strict.readBack(0, 512)).data).toEqual(Buffer.alloc(512, 2));
  });
});

describe("statistics", () => {
  it("count requests, bytes, errors and latencies", async () => {
    const { client, server } = await serve();
    const connection = await (await client()).go("disk");
    await connection.write(0, Buffer.alloc(4096));
    await connection.write(4096, Buffer.alloc(512));
    await connection.write(DISK, Buffer.alloc(512));
    await connection.readBack(0, 1024);
    await connection.command({ type: CMD.FLUSH });
    await connection.command({ type: 77 });
    const figures = server.statistics().exports.get("disk");
    expect(figures).toMatchObject({
      write: { count: 3, bytes: 4608, errors: 1 },
      read: { count: 1, bytes: 1024, errors: 0 },
      flush: { count: 1, errors: 0 },
      trim: { count: 0 },
      unknown: { count: 1, errors: 1 },
    });
    expect(figures?.write.latency.reduce((sum, count) => sum + count)).toBe(3);
    expect(server.statistics()).toMatchObject({ connections: 1, accepted: 1, refused: 0 });
  });
});

describe("the log of requests", () => {
  it("has a begin and an end for each, with the same id", async () => {
    const events: RequestEvent[] = [];
    const { client } = await serve({ onRequest: (event) => events.push(event) });
    const connection = await (await client()).go("disk");
    await connection.write(512, Buffer.alloc(512), CMD_FLAG.FUA);
    await connection.command({ type: CMD.READ, offset: DISK, length: 512 });
    await connection.command({ type: CMD.FLUSH });
    const common = { exportName: "disk", flags: 0 };
    expect(events).toEqual([
      { ...common, event: "begin", id: 1, operation: "write", offset: 512, length: 512, flags: 1 },
      { ...common, event: "end", id: 1, operation: "write", offset: 512, length: 512, flags: 1 },
      { ...common, event: "begin", id: 2, operation: "read", offset: DISK, length: 512 },
      { ...common, event: "end", id: 2, operation: "read", offset: DISK, length: 512, error: "EINVAL" },
      { ...common, event: "begin", id: 3, operation: "flush", offset: 0, length: 0 },
      { ...common, event: "end", id: 3, operation: "flush", offset: 0, length: 0 },
    ]);
  });
});

describe("receive buffers", () => {
  it("are not written to while a WRITE out of them is in flight", async () => {
    const device = new ProbeDevice(4 * DISK);
    const { client } = await serve({ device });
    const connection = await (await client()).go("disk");
    // The second time it is all done with buffers that were used before.
    for (const wave of [1, 2]) {
      const release = device.hold("write");
      const model = Buffer.alloc(4 * DISK);
      const before = device.count("write");
      let count = 0;
      for (let offset = 0; offset < 4 * DISK - 200_000; count += 1) {
        // Small ones that share a chunk, some that straddle two, some that are received straight into place.
        const length = [512, 4096, 512, 65_536, 131_072][count % 5] ?? 512;
        const data = pattern(length, count + 1000 * wave);
        data.copy(model, offset);
        connection.request({ type: CMD.WRITE, offset, length, cookie: count }, data);
        offset += length;
      }
      await until(() => device.count("write") === before + count);
      release();
      for (let replies = 0; replies < count; replies += 1) expect((await connection.status()).error).toBe(0);
      const stored = Buffer.alloc(4 * DISK);
      await device.inner.read(0, stored);
      expect(stored.subarray(0, 4 * DISK - 200_000).equals(model.subarray(0, 4 * DISK - 200_000))).toBe(true);
    }
  });
});
