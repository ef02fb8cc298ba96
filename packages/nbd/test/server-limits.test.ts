/** Back-pressure, stalls and crowds: what a client can cost, and that it costs nobody else. */
import type { Socket } from "node:net";
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { ManualClock } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import { CMD, OPT, REP, encodeInfoRequest } from "../src/protocol.ts";
import { MINIMUM_CHARGE, resolveLimits } from "../src/server/limits.ts";
import { StallMeter } from "../src/server/stall.ts";
import { ProbeDevice } from "./support/devices.ts";
import { RawClient } from "./support/raw-client.ts";
import { DISK, hurried, pattern, serve, until } from "./support/serve.ts";

const MiB = 1024 * 1024;

/** What takes seconds, in some milliseconds; but not the handshake, which would have 200 of them and is not what is tested. */
const hurriedly = { environment: hurried, limits: { handshakeTime: 3_600_000 } };

/** Waits until nothing changes any more. */
async function settled(figure: () => number): Promise<number> {
  for (let before = figure(), same = 0; ; ) {
    await new Promise((resolve) => setTimeout(resolve, 5));
    const now = figure();
    same = now === before ? same + 1 : 0;
    before = now;
    if (same === 20) return now;
  }
}

describe("limits", () => {
  it.each([
    { connections: 0 },
    { maximumPayload: 4096 },
    { bytesPerConnection: 3 * MiB },
    { bytesInAll: 40 * MiB },
    { connections: 10_000 },
    { drainedPayload: 2 * MiB },
    { stallTime: -1 },
    { handshakeTime: 1.5 },
    { extentsPerReply: 2 ** 21 },
    { extentsPerReply: Number.NaN },
    { maximumPayload: MiB, extentsPerReply: 65_537 },
  ])("out of range or at odds: %o", (limits) => {
    expect(() => resolveLimits(limits)).toThrow(expect.objectContaining({ code: "EINVAL" }));
  });
});

describe("requests in flight", () => {
  const limits = {
    maximumPayload: MiB,
    drainedPayload: MiB,
    bytesPerConnection: 4 * MiB,
    bytesInAll: 16 * MiB,
    connections: 32,
  };

  it("are bounded in bytes on one connection; the rest waits in the socket", async () => {
    const device = new ProbeDevice(DISK);
    const { client, server } = await serve({ device, limits });
    const connection = await (await client()).go("disk");
    const release = device.hold("write");
    const payload = pattern(256 * 1024);
    for (let cookie = 0; cookie < 100; cookie += 1) {
      connection.request({ type: CMD.WRITE, length: payload.length, cookie }, payload);
    }
    // Sixteen of them are 4 MiB; their headers and what they are received into take room as well.
    const started = await settled(() => device.count("write"));
    expect(started).toBeGreaterThanOrEqual(4);
    expect(started).toBeLessThanOrEqual(15);
    expect(server.statistics().bytesInFlight).toBeLessThanOrEqual(limits.bytesPerConnection);
    release();
    for (let cookie = 0; cookie < 100; cookie += 1)
      expect(await connection.status()).toMatchObject({ error: 0 });
    await until(() => server.statistics().bytesInFlight === 0);
  });

  it("are bounded in number: none is cheaper than what it may keep alive", async () => {
    const device = new ProbeDevice(DISK);
    const { client } = await serve({ device, limits });
    const connection = await (await client()).go("disk");
    const release = device.hold("flush");
    for (let count = 0; count < 5000; count += 1) connection.request({ type: CMD.FLUSH });
    expect(await settled(() => device.count("flush"))).toBe(
      Math.floor(limits.bytesPerConnection / MINIMUM_CHARGE),
    );
    release();
    for (let count = 0; count < 5000; count += 1) expect((await connection.status()).error).toBe(0);
  });

  it("are bounded on all connections, and a newcomer still gets through", async () => {
    const device = new ProbeDevice(DISK);
    const { client, server } = await serve({ device, limits });
    const release = device.hold("write");
    const payload = pattern(128 * 1024);
    for (let greedy = 0; greedy < 8; greedy += 1) {
      const connection = await (await client()).go("disk");
      for (let count = 0; count < 20; count += 1) {
        connection.request({ type: CMD.WRITE, length: payload.length }, payload);
      }
    }
    await settled(() => device.count("write"));
    expect(server.statistics().bytesInFlight).toBeLessThanOrEqual(limits.bytesInAll);
    const modest = await (await client()).go("disk");
    expect(await modest.readBack(0, 4096)).toMatchObject({ error: 0 });
    release();
  });

  it("a READ's reply is reserved before the device is asked", async () => {
    const device = new ProbeDevice(4 * MiB);
    const { client } = await serve({ device, limits });
    const connection = await (await client()).go("disk");
    connection.stream.pause();
    for (let count = 0; count < 50; count += 1) connection.request({ type: CMD.READ, length: MiB });
    // What the kernel's socket buffers took has left; what did not is bounded.
    expect(await settled(() => device.count("read"))).toBeLessThanOrEqual(4);
    connection.stream.resume();
    for (let count = 0; count < 50; count += 1) {
      expect((await connection.reply()).error).toBe(0);
      await connection.read(MiB);
    }
  });

  it("the largest request is served whatever was in flight before it", async () => {
    const device = new ProbeDevice(8 * MiB);
    const largest = 2.5 * MiB;
    const more = { ...limits, maximumPayload: largest, drainedPayload: largest };
    const { client } = await serve({ device, limits: more });
    const connection = await (await client()).go("disk");
    const payload = pattern(largest);
    for (let round = 0; round < 5; round += 1) {
      const release = device.hold("write");
      // They hold receive buffers, so that what follows waits in one that had to be paid for.
      for (let count = 0; count < 200; count += 1) {
        connection.request(
          { type: CMD.WRITE, offset: 4096 * count, length: 4096 },
          payload.subarray(0, 4096),
        );
      }
      // Not aligned: this one takes all the budget there is.
      connection.request({ type: CMD.WRITE, offset: 2 * MiB + 1, length: largest }, payload);
      connection.request({ type: CMD.READ, offset: 2 * MiB + 1, length: largest, cookie: 9 });
      await settled(() => device.count("write"));
      release();
      let left = 202;
      while (left > 0) {
        const reply = await connection.reply();
        expect(reply.error).toBe(0);
        if (reply.cookie === 9) await connection.read(largest);
        left -= 1;
      }
    }
  });

  it("refused requests are bounded too", async () => {
    const { client, server } = await serve({ limits });
    const connection = await (await client()).go("disk");
    connection.stream.pause();
    const flood = Buffer.concat(Array.from({ length: 2000 }, () => RawClient.request({ type: 99 })));
    let taken = 0;
    for (let count = 0; count < 100; count += 1) {
      connection.stream.write(flood, (error) => (taken += error ? 0 : 1));
    }
    await settled(() => taken);
    expect(taken).toBeLessThan(100);
    expect(server.statistics().bytesInFlight).toBeLessThanOrEqual(limits.bytesPerConnection);
    connection.stream.resume();
    for (let count = 0; count < 100 * 2000; count += 1000) await connection.read(16 * 1000);
  });

  it("clients that idle after a write hold nothing, or others would wait for ever", async () => {
    const device = new ProbeDevice(DISK);
    // A tenth of a receive buffer each: what one holds for nothing is missed by the others.
    const { client, server } = await serve({ device, limits: { ...limits, connections: 30 } });
    const idle: RawClient[] = [];
    for (let count = 0; count < 29; count += 1) {
      const connection = await (await client()).go("disk");
      const release = device.hold("write");
      // While the device has the first, the second is received into another buffer.
      connection.request({ type: CMD.WRITE, length: 512 }, pattern(512));
      await until(() => device.count("write") === 2 * count + 1);
      connection.request({ type: CMD.WRITE, length: 512 }, pattern(512));
      await until(() => device.count("write") === 2 * count + 2);
      device.gate = () => undefined;
      release();
      expect((await connection.status()).error).toBe(0);
      expect((await connection.status()).error).toBe(0);
      idle.push(connection);
    }
    await until(() => server.statistics().bytesInFlight === 0);
    const good = await (await client()).go("disk");
    expect(await good.readBack(0, MiB)).toMatchObject({ error: 0 });
    for (const connection of idle) connection.close();
    await until(() => server.statistics().connections === 1);
    expect(server.statistics().bytesInFlight).toBe(0);
  });

  it("everything comes back after clients died in all sorts of ways", async () => {
    const device = new ProbeDevice(DISK);
    const { client, server } = await serve({ device, limits });
    for (let count = 0; count < 30; count += 1) {
      const connection = await (await client()).go("disk", { structured: count % 2 === 0 });
      const release = count % 3 === 0 ? device.hold("write") : () => {};
      for (let cookie = 0; cookie < count; cookie += 1) {
        connection.request({ type: CMD.WRITE, length: 65_536 }, pattern(65_536));
        connection.request({ type: CMD.READ, length: 262_144 });
        connection.request({ type: CMD.WRITE_ZEROES, length: 4096 });
      }
      connection.request({ type: CMD.WRITE, length: 100_000 }, Buffer.alloc(count * 1000));
      await new Promise((resolve) => setTimeout(resolve, count % 4));
      connection.close();
      device.gate = () => undefined;
      release();
    }
    await until(() => server.statistics().connections === 0 && server.statistics().bytesInFlight === 0);
    const last = await (await client()).go("disk");
    expect(await last.write(0, pattern(MiB))).toBe(0);
  });
});

describe("stalled clients", () => {
  it("one that never reads its replies is dropped, others go on", async () => {
    const { client, server } = await serve({ device: new MemoryDevice(64 * MiB), ...hurriedly });
    const dead = await (await client()).go("disk");
    const good = await (await client()).go("disk");
    dead.stream.pause();
    for (let count = 0; count < 4; count += 1) dead.request({ type: CMD.READ, length: 4 * MiB });
    while (server.statistics().connections > 1) {
      expect(await good.readBack(0, 4096)).toMatchObject({ error: 0 });
    }
    await until(() => server.statistics().bytesInFlight === 0);
  });

  it.each([
    ["header", RawClient.request({ type: CMD.WRITE, length: 4096 }).subarray(0, 20)],
    ["payload", Buffer.concat([RawClient.request({ type: CMD.WRITE, length: 4096 }), Buffer.alloc(4095)])],
    ["payload to be drained", RawClient.request({ type: CMD.WRITE, offset: DISK, length: 4096 })],
  ])("one that never completes its %s is dropped", async (_, bytes) => {
    const device = new ProbeDevice(DISK);
    const { client, server } = await serve({ device, ...hurriedly });
    const connection = await (await client()).go("disk");
    connection.send(bytes);
    await connection.closed;
    expect(device.count("write")).toBe(0);
    await until(() => server.statistics().bytesInFlight === 0);
  });

  describe("one that is slow, but moves bytes, is served", () => {
    /** A server whose time passes when the test says so, and a client of it. */
    async function slow(): Promise<{ connection: RawClient; pass: () => Promise<void> }> {
      const clock = new ManualClock();
      const environment = { ...realEnvironment, clock };
      const { client } = await serve({ device: new MemoryDevice(8 * MiB), environment });
      const pass = async (): Promise<void> => {
        // All that was sent has arrived: both ends are in this process.
        for (let turns = 0; turns < 5; turns += 1) await new Promise((resolve) => setImmediate(resolve));
        clock.advance(20_000);
      };
      return { connection: await (await client()).go("disk"), pass };
    }

    it("with a request", async () => {
      const { connection, pass } = await slow();
      const data = pattern(4 * MiB);
      connection.send(RawClient.request({ type: CMD.WRITE, length: data.length }));
      for (let at = 0; at < data.length; at += MiB / 2) {
        await pass();
        connection.send(data.subarray(at, at + MiB / 2));
      }
      expect((await connection.status()).error).toBe(0);
      expect((await connection.readBack(0, data.length)).data.equals(data)).toBe(true);
    });

    it("with a reply", async () => {
      const { connection, pass } = await slow();
      const socket = connection.stream as Socket;
      const state = { done: false };
      const reply = connection.readBack(0, 4 * MiB).finally(() => (state.done = true));
      while (!state.done) {
        // More than the operating system holds: the server has sent some of it meanwhile.
        const enough = socket.bytesRead + MiB / 2;
        socket.resume();
        await until(() => state.done || socket.bytesRead >= enough);
        socket.pause();
        if (!state.done) await pass();
      }
      expect(await reply).toMatchObject({ error: 0 });
    });
  });

  it("moving a byte now and then is no progress", () => {
    const meter = new StallMeter();
    const allowed = 30_000;
    let now = 0;
    let moved = 0;
    const stalled = (bytes: number): boolean => {
      now += 20_000;
      moved += 1;
      return meter.stalled(1, bytes, moved, now, allowed);
    };
    expect([stalled(28), stalled(28), stalled(28)]).toEqual([false, false, true]);
    // But a long request may take its time, though not without moving at all.
    expect(stalled(4 * MiB)).toBe(false);
    expect(meter.stalled(1, 4 * MiB, moved, now + allowed, allowed)).toBe(false);
    expect(meter.stalled(1, 4 * MiB, moved, now + allowed + 1, allowed)).toBe(true);
  });

  it("a slow device is no stall, nor is idling", async () => {
    const device = new ProbeDevice(DISK);
    const { client } = await serve({ device, ...hurriedly });
    const waiting = await (await client()).go("disk");
    const idle = await (await client()).go("disk");
    const release = device.hold("flush");
    waiting.request({ type: CMD.FLUSH });
    await new Promise((resolve) => setTimeout(resolve, 900));
    release();
    expect((await waiting.status()).error).toBe(0);
    expect(await idle.command({ type: CMD.READ, offset: DISK, length: 1 })).toBe(22);
  });

  it("idling can be limited", async () => {
    const { client } = await serve({ ...hurriedly, limits: { ...hurriedly.limits, idleTime: 5000 } });
    const idle = await (await client()).go("disk");
    await idle.closed;
  });
});

describe("crowds", () => {
  it("clients over the limit are told so, and come in when there is room", async () => {
    const { client, server } = await serve({ limits: { connections: 2 } });
    const first = await (await client()).go("disk");
    await (await client()).go("disk");
    const third = await client();
    await third.greet();
    const info = encodeInfoRequest({ name: "disk", requests: [] });
    for (const option of [OPT.LIST, OPT.INFO, OPT.GO]) {
      const [reply] = await third.option(option, option === OPT.LIST ? undefined : info);
      expect(reply?.type).toBe(REP.ERR_POLICY);
      expect(reply?.data.toString()).toContain("connections");
    }
    expect((await third.option(OPT.ABORT))[0]?.type).toBe(REP.ACK);
    await third.closed;
    expect(server.statistics()).toMatchObject({ connections: 2, refused: 1 });
    first.close();
    await until(() => server.statistics().connections === 1);
    await (await client()).go("disk");
  });

  it("1,000 connections: the limit holds, and a good client is served all along", async () => {
    const { client, server } = await serve({ limits: { handshakeTime: 60_000 } });
    const good = await (await client()).go("disk");
    let served = 0;
    const crowd = Promise.all(Array.from({ length: 1000 }, () => client()));
    const enough = { yes: false };
    const serving = (async () => {
      while (!enough.yes) {
        expect(await good.write(0, pattern(4096, served))).toBe(0);
        expect((await good.readBack(0, 4096)).data.equals(pattern(4096, served))).toBe(true);
        served += 1;
      }
    })();
    await until(() => server.statistics().accepted === 1001);
    expect(server.statistics().connections).toBe(100);
    expect(server.statistics().refused).toBe(901);
    const before = served;
    await until(() => served > before + 10);
    enough.yes = true;
    await serving;
    for (const connection of await crowd) connection.close();
    await until(() => server.statistics().connections === 1);
  });
});
