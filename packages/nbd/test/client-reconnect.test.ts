/** Servers that go away and come back: at every byte, under load, with and without what they had promised. */
import { BlockIoError, type Environment, realEnvironment } from "@dmkit/block-io";
import { ManualClock, SeededRandom, isDeep } from "@dmkit/block-io/testing";
import { afterEach, describe, expect, it } from "vitest";
import { type NbdClientOptions, type NbdDevice, openNbd } from "../src/index.ts";
import { CMD, ERRNO, FLAG, encodeErrorChunk } from "../src/protocol.ts";
import { type Behaviour, COMMON_FLAGS, FakeServer } from "./client-fake-server.ts";
import { Load } from "./client-load.ts";
import { Oracle } from "./client-oracle.ts";
import { Proxy } from "./client-proxy.ts";
import { until } from "./client-servers.ts";
import { EFFORT, runs, timeFor } from "./support/runs.ts";

const KIB = 1024;
const MIB = 1024 * KIB;
const SEED = Number(process.env["DMKIT_SEED"] ?? 0) || 1 + ((process.pid * 7919) % 1_000_000);

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

async function fake(behaviour: Partial<Behaviour> = {}): Promise<FakeServer> {
  const server = await new FakeServer(behaviour).start();
  cleanups.push(() => server.stop());
  return server;
}

async function opened(uri: string, options: NbdClientOptions = {}): Promise<NbdDevice> {
  const device = await openNbd(uri, options);
  cleanups.push(() => device.close().catch(() => {}));
  return device;
}

async function failure(promise: Promise<unknown>): Promise<BlockIoError> {
  try {
    await promise;
  } catch (error) {
    expect(error).toBeInstanceOf(BlockIoError);
    return error as BlockIoError;
  }
  return expect.fail("it succeeded");
}

const data = (length: number, value: number): Buffer => Buffer.alloc(length, value);

async function readBack(device: NbdDevice, offset: number, length: number): Promise<Buffer> {
  const into = Buffer.alloc(length, 0xee);
  await device.read(offset, into);
  return into;
}

describe("a connection that is cut at every byte", () => {
  /** A short conversation with every kind of request. True when all of it succeeded. */
  async function converse(device: NbdDevice): Promise<void> {
    await Promise.all([device.write(0, data(KIB, 1)), device.write(8 * KIB, data(512, 2))]);
    await device.flush();
    await device.writeZeroes(512, 512, { mayUnmap: true });
    await device.write(16 * KIB, data(512, 3), { fua: true });
    expect((await readBack(device, 0, KIB)).equals(Buffer.concat([data(512, 1), data(512, 0)]))).toBe(true);
    for await (const extent of device.extents(0, 64 * KIB)) expect(extent.length).toBe(64 * KIB);
    // Where a server may have lost something there may be data; who reads it is told.
    await readBack(device, 0, 64 * KIB);
    await device.close();
  }

  async function lengthOfConversation(structured: boolean): Promise<{ toClient: number; toServer: number }> {
    const server = await fake({ structured });
    const proxy = await new Proxy(server.socket).start();
    cleanups.push(() => proxy.stop());
    await converse(await opened(proxy.uri));
    return { toClient: proxy.passedToClient, toServer: proxy.passedToServer };
  }

  // Bytes from one cut to the next, in the headers and inside of data, where all are alike: seldom in everyday runs.
  const STEP = Math.max(1, Math.round(15 / EFFORT));
  const STEP_IN_DATA = Math.max(1, Math.round((isDeep ? 97 : 797) / EFFORT));

  /** Each position of the first 400 bytes in one run of {@link STEP}, and some behind them. */
  function positions(count: number): number[] {
    const all = Array.from({ length: count }, (_, index) => index + 1);
    return all.filter((at) =>
      at < 400 ? at % STEP === SEED % STEP : at % STEP_IN_DATA === SEED % STEP_IN_DATA,
    );
  }

  async function run(
    side: "toClient" | "toServer",
    count: number,
    options: NbdClientOptions,
    check: (outcome: BlockIoError | undefined, server: FakeServer, handshaken: boolean) => void,
    structured = true,
  ): Promise<void> {
    const server = await fake({ size: 64 * KIB, structured });
    const proxy = await new Proxy(server.socket).start();
    cleanups.push(() => proxy.stop());
    for (const at of positions(count)) {
      server.reset();
      proxy.toClient = Number.POSITIVE_INFINITY;
      proxy.toServer = Number.POSITIVE_INFINITY;
      proxy[side] = at;
      proxy.onCut = () => server.crash(new SeededRandom(SEED + at), 0.3);
      let device: NbdDevice | undefined;
      let outcome: BlockIoError | undefined;
      try {
        device = await openNbd(proxy.uri, options);
        await converse(device);
      } catch (error) {
        if (!(error instanceof BlockIoError)) throw error;
        outcome = error;
      }
      try {
        check(outcome, server, device !== undefined);
      } catch (error) {
        throw new Error(`cut after ${at} bytes ${side}, seed ${SEED}`, { cause: error });
      }
      await device?.close().catch(() => {});
    }
  }

  function checkWritten(server: FakeServer): void {
    expect(server.stable.subarray(0, 512).equals(data(512, 1))).toBe(true);
    expect(server.stable.subarray(512, 1024).equals(data(512, 0))).toBe(true);
    expect(server.stable.subarray(8 * KIB, 8 * KIB + 512).equals(data(512, 2))).toBe(true);
    expect(server.stable.subarray(16 * KIB, 16 * KIB + 512).equals(data(512, 3))).toBe(true);
  }

  it.each(["toClient", "toServer"] as const)("with replay, %s: nothing is noticed", async (side) => {
    const length = await lengthOfConversation(true);
    await run(side, length[side], { replayBuffer: MIB }, (outcome, server, handshaken) => {
      if (!handshaken) {
        expect(outcome?.code).toMatch(/ENOTCONN|EPROTO/);
        return;
      }
      if (outcome !== undefined) throw outcome;
      checkWritten(server);
    });
  });

  it.each(["toClient", "toServer"] as const)(
    "without replay, %s: an honest error or nothing",
    async (side) => {
      const length = await lengthOfConversation(false);
      // Whether a cut costs anything is left to the server's luck; that some do is shown below, without chance.
      const check = (outcome: BlockIoError | undefined, server: FakeServer, handshaken: boolean): void => {
        if (outcome === undefined) checkWritten(server);
        else if (handshaken) expect(outcome.code).toBe("EIO");
      };
      await run(side, length[side], { reconnect: 5 }, check, false);
    },
  );

  it("without reconnect: an error and never a wrong byte", async () => {
    const length = await lengthOfConversation(true);
    await run("toClient", length.toClient - 1, { reconnect: "off" }, (outcome) => {
      expect(outcome?.code).toMatch(/ENOTCONN|EIO/);
    });
  });
});

describe("unflushed writes when the server goes away", () => {
  it("are not forgotten: flushes and writes fail, reads fail where data may be old", async () => {
    const server = await fake();
    const device = await opened(server.uri);
    await device.write(0, data(512, 1));
    await device.flush();
    await device.write(256 * KIB, data(512, 2));
    server.crash(new SeededRandom(SEED), 0);
    expect((await failure(device.flush())).code).toBe("EIO");
    expect((await failure(device.flush())).code).toBe("EIO");
    expect((await failure(device.write(0, data(512, 3)))).code).toBe("EIO");
    expect((await failure(device.read(256 * KIB, data(512, 0)))).code).toBe("EIO");
    expect((await readBack(device, 0, 512)).equals(data(512, 1))).toBe(true);
    expect(device.failure?.code).toBe("EIO");
    expect(server.stable.subarray(0, 512).equals(data(512, 1))).toBe(true);
  });

  it("are not believed to be stable where the server can be asked", async () => {
    const server = await fake();
    const device = await opened(server.uri, { writeThrough: true });
    await device.write(0, data(512, 1));
    server.crash(new SeededRandom(SEED), 0);
    expect((await failure(device.flush())).code).toBe("EIO");
  });

  it("do not matter when there are none: flushed, forced, or only read", async () => {
    const server = await fake();
    const device = await opened(server.uri);
    await device.write(0, data(512, 1));
    await device.flush();
    await device.write(512, data(512, 2), { fua: true });
    server.crash(new SeededRandom(SEED), 0);
    await device.write(1024, data(512, 3));
    await device.flush();
    const expected = Buffer.concat([data(512, 1), data(512, 2), data(512, 3)]);
    expect((await readBack(device, 0, 1536)).equals(expected)).toBe(true);
    expect(server.stable.subarray(0, 1536).equals(expected)).toBe(true);
    expect(device.status.reconnects).toBe(1);
    expect(device.facts()).toMatchObject({ reconnects: 1, connections: 1 });
  });

  it("are written again from the replay buffer, in order and before anything is read", async () => {
    const server = await fake();
    const device = await opened(server.uri, { replayBuffer: MIB });
    await device.write(0, data(1024, 1));
    await device.write(512, data(1024, 2));
    await device.writeZeroes(1024, 1024);
    await device.write(2048, data(512, 4), { fua: true });
    server.crash(new SeededRandom(SEED), 0);
    const expected = Buffer.concat([data(512, 1), data(512, 2), data(1024, 0), data(512, 4)]);
    expect((await readBack(device, 0, 2560)).equals(expected)).toBe(true);
    expect(device.status.replayBytes).toBeGreaterThan(0);
    await device.flush();
    expect(device.status.replayBytes).toBe(0);
    expect(server.stable.subarray(0, 2560).equals(expected)).toBe(true);
  });

  it("are lost after all if the server refuses them the second time", async () => {
    const server = await fake();
    const device = await opened(server.uri, { replayBuffer: MIB });
    await device.write(0, data(512, 1));
    server.behaviour.onRequest = (request) =>
      request.type === CMD.WRITE ? encodeErrorChunk(request, ERRNO.EIO, "no") : undefined;
    server.crash(new SeededRandom(SEED), 0);
    expect((await failure(device.read(0, data(512, 0)))).code).toBe("EIO");
    expect((await failure(device.flush())).code).toBe("EIO");
    await readBack(device, 512 * KIB, 512);
  });

  it("are flushed by the device itself before the replay buffer is full", async () => {
    const server = await fake();
    const device = await opened(server.uri, { replayBuffer: MIB });
    const writes = Array.from({ length: 64 }, (_, index) =>
      device.write((index % 16) * 64 * KIB, data(64 * KIB, index)),
    );
    await Promise.all(writes);
    expect(server.seen.some(({ type }) => type === CMD.FLUSH)).toBe(true);
    expect(device.status.replayBytes).toBeLessThanOrEqual(MIB);
  });

  it("count as lost when a flush fails", async () => {
    const server = await fake();
    const device = await opened(server.uri, { replayBuffer: MIB });
    await device.write(0, data(512, 1));
    server.behaviour.onRequest = (request) =>
      request.type === CMD.FLUSH ? encodeErrorChunk(request, ERRNO.EIO, "no") : undefined;
    const flushes = [device.flush(), device.flush()].map((flush) => failure(flush));
    for (const error of await Promise.all(flushes)) expect(error.code).toBe("EIO");
    server.behaviour.onRequest = () => undefined;
    expect((await failure(device.flush())).code).toBe("EIO");
    expect((await failure(device.write(0, data(512, 1)))).code).toBe("EIO");
  });
});

describe("waiting for a server", () => {
  it("ends after the given time, for all", async () => {
    const clock = new ManualClock();
    const environment: Environment = { ...realEnvironment, clock };
    const server = await fake();
    const device = await opened(server.uri, { environment, reconnect: 20 });
    await server.stop();
    await until(() => device.status.connections === 0);
    const waiting = [device.read(0, data(512, 0)), device.write(0, data(512, 1)), device.flush()].map(
      (request) =>
        request.then(
          () => "done",
          (error: unknown) => (error as BlockIoError).code,
        ),
    );
    let settled = false;
    void Promise.all(waiting).then(() => (settled = true));
    for (let second = 0; second < 19; second += 1) {
      await until(() => clock.pending > 1);
      clock.advance(1000);
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(settled).toBe(false);
    clock.advance(1000);
    // The flush has nothing to make stable.
    expect(await Promise.all(waiting)).toEqual(["ENOTCONN", "ENOTCONN", "done"]);
    expect((await failure(device.read(0, data(512, 0)))).code).toBe("ENOTCONN");
    await device.close();
    expect(clock.pending).toBe(0);
  });

  it("goes on for ever while nobody waits", async () => {
    const clock = new ManualClock();
    const server = await fake();
    const device = await opened(server.uri, { environment: { ...realEnvironment, clock }, reconnect: 1 });
    await server.stop();
    for (let round = 0; round < 20; round += 1) {
      await until(() => clock.pending > 0);
      clock.advance(10_000);
    }
    await server.start();
    const read = device.read(0, data(512, 0));
    await until(() => {
      clock.advance(100);
      return device.status.connections === 1;
    });
    await read;
  });

  it("is not needed to close", async () => {
    const server = await fake();
    const device = await opened(server.uri);
    await device.write(0, data(512, 1), { fua: true });
    await server.stop();
    await until(() => device.status.connections === 0);
    await device.close();
  });

  it("ends at once for another export", async () => {
    for (const change of [
      (behaviour: Behaviour): void => void (behaviour.size += 512),
      (behaviour: Behaviour): void => void (behaviour.flags |= FLAG.READ_ONLY),
      (behaviour: Behaviour): void =>
        void (behaviour.blockSizes = { minimum: 4096, preferred: 4096, maximumPayload: 65_536 }),
    ]) {
      const server = await fake();
      const device = await opened(server.uri);
      change(server.behaviour);
      server.drop();
      expect((await failure(device.read(0, data(512, 0)))).code).toBe("ENOTCONN");
    }
  });

  it("ends for a request that kills every server", async () => {
    const server = await fake();
    const device = await opened(server.uri, { reconnect: 0.5 });
    server.behaviour.onRequest = (request) => (request.offset === 4096 ? "drop" : undefined);
    const state = { settled: false };
    const others = (async () => {
      while (!state.settled) await device.read(0, data(512, 0));
    })().catch(() => {});
    const error = await failure(device.read(4096, data(512, 0)));
    state.settled = true;
    expect(error.code).toBe("ENOTCONN");
    await others;
  });

  it("moves over to the successor of a server that says it is shutting down", async () => {
    const server = await fake();
    const device = await opened(server.uri, { replayBuffer: MIB });
    let refused = 0;
    server.behaviour.onRequest = (request) => {
      if (server.connections > 1) return undefined;
      refused += 1;
      return encodeErrorChunk(request, ERRNO.ESHUTDOWN, "good night");
    };
    await Promise.all([device.write(0, data(512, 1)), device.read(512, data(512, 0)), device.flush()]);
    expect(refused).toBe(3);
    await device.flush();
    expect(server.stable.subarray(0, 512).equals(data(512, 1))).toBe(true);
    expect(device.status.reconnects).toBe(1);
  });

  it("reports the shutdown where reconnecting is off", async () => {
    const server = await fake();
    const device = await opened(server.uri, { reconnect: "off" });
    server.behaviour.onRequest = (request) => encodeErrorChunk(request, ERRNO.ESHUTDOWN, "good night");
    expect((await failure(device.read(0, data(512, 0)))).code).toBe("ESHUTDOWN");
    server.drop();
    await until(() => device.status.connections === 0);
    expect((await failure(device.read(0, data(512, 0)))).code).toBe("ENOTCONN");
  });
});

describe("old copies of writes", () => {
  it("take effect before the write is repeated, not after what replaced it", async () => {
    for (const trouble of ["one of two connections is lost", "the server breaks the protocol"]) {
      const multi = trouble.startsWith("one");
      const server = await fake({ flags: COMMON_FLAGS | FLAG.CAN_MULTI_CONN });
      const proxy = await new Proxy(server.socket).start();
      cleanups.push(() => proxy.stop());
      const device = await opened(multi ? proxy.uri : server.uri, { connections: multi ? 2 : 1 });
      let slow = true;
      server.behaviour.delay = () => (slow ? 150 : 0);
      const first = device.write(0, data(512, 1), { fua: true });
      await until(() => server.seen.length === 1);
      slow = false;
      if (multi) proxy.cutOne(server.seen.at(0)?.connection === 1 ? 1 : 0);
      else {
        server.behaviour.onRequest = (request) => (request.type === CMD.READ ? data(16, 1) : undefined);
        const read = device.read(4096, data(512, 0));
        await until(() => server.seen.length > 1);
        server.behaviour.onRequest = () => undefined;
        await read;
      }
      await first;
      await device.write(0, data(512, 2), { fua: true });
      await new Promise((resolve) => setTimeout(resolve, 250));
      expect(server.current[0]).toBe(2);
      expect(device.status.reconnects).toBe(1);
    }
  });
});

describe("overlapping writes", () => {
  it("are never in flight together", async () => {
    const server = await fake();
    const device = await opened(server.uri);
    let inFlight: number[] = [];
    let most = 0;
    server.behaviour.delay = () => 1;
    server.behaviour.onRequest = (request) => {
      inFlight = inFlight.filter((offset) => offset !== request.offset);
      return undefined;
    };
    const watch = server.seen.push.bind(server.seen);
    server.seen.push = (...items) => {
      for (const { offset } of items) {
        expect(inFlight).not.toContain(offset);
        inFlight.push(offset);
        most = Math.max(most, inFlight.length);
      }
      return watch(...items);
    };
    await Promise.all(
      Array.from({ length: 60 }, (_, index) => device.write((index % 6) * 4096, data(4096, index))),
    );
    expect(most).toBe(6);
    for (let index = 0; index < 6; index += 1) {
      expect(server.current[index * 4096]).toBe(54 + index);
    }
  });
});

describe("several connections", () => {
  it("each keep to their stripes, and requests are cut there", async () => {
    const server = await fake({ size: 8 * MIB, flags: COMMON_FLAGS | FLAG.CAN_MULTI_CONN });
    const device = await opened(server.uri, { connections: 3 });
    expect(device.status.connections).toBe(3);
    await Promise.all(
      Array.from({ length: 24 }, (_, index) => device.write(index * 256 * KIB, data(512, index))),
    );
    await Promise.all(Array.from({ length: 24 }, (_, index) => readBack(device, index * 256 * KIB, 512)));
    await device.write(MIB - 512, data(1024, 1));
    await device.writeZeroes(0, 8 * MIB);
    const users = new Map<number, Set<number>>();
    for (const { offset, length, connection } of server.seen) {
      const stripe = Math.floor(offset / MIB);
      expect(Math.floor((offset + length - 1) / MIB)).toBe(stripe);
      users.set(stripe, (users.get(stripe) ?? new Set()).add(connection));
    }
    expect([...users.values()].every(({ size }) => size === 1)).toBe(true);
    expect(new Set([...users.values()].flatMap((connections) => [...connections])).size).toBe(3);
  });

  it("are not used where the server does not keep them consistent", async () => {
    const server = await fake();
    const device = await opened(server.uri, { connections: 3 });
    expect(device.status.connections).toBe(1);
    expect(server.connections).toBe(1);
  });
});

describe("random load with losses", () => {
  interface Run {
    readonly replayBuffer: number;
    readonly flags: number;
    readonly connections: number;
    readonly operations: number;
    readonly workers: number;
    /** Milliseconds a request may take. */
    readonly delay: number;
    readonly losses: number;
  }

  async function load(seed: number, run: Run): Promise<{ failed: boolean; crashes: number }> {
    const random = new SeededRandom(seed);
    const size = 128 * KIB;
    const oracle = new Oracle(size);
    const server = await new FakeServer({ size, flags: run.flags }).start();
    const proxy = await new Proxy(server.socket).start();
    server.behaviour.delay = () => (random.chance(0.5) ? 0 : random.below(run.delay + 1));
    const { replayBuffer, connections } = run;
    const device = await openNbd(proxy.uri, { replayBuffer, connections, maxInFlight: 1 + random.below(16) });
    // Only a device without replay buffer may fail, and only for what it must not promise.
    const tolerated = replayBuffer > 0 ? [] : ["EIO"];
    const running = new Load(device, oracle, random, tolerated);
    const enemy = (async () => {
      for (let loss = 0; loss < run.losses; loss += 1) {
        const at = Math.floor(((loss + random.next()) * run.operations) / run.losses);
        await until(() => running.operations >= at);
        if (random.chance(0.5)) {
          server.crash(random, random.next());
          oracle.checkStable(server.stable);
        } else {
          proxy.cut();
        }
      }
    })();
    try {
      await Promise.all([enemy, running.run(run.operations, run.workers)]);
      const failed = device.failure !== undefined;
      // A loss may come to light between the look and the flush.
      if (!failed) {
        await running.flush().catch((error: unknown) => {
          if (device.failure === undefined) throw error;
        });
      }
      server.crash(random, 0);
      oracle.checkStable(server.stable);
      return { failed, crashes: server.crashes };
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    } finally {
      await device.close().catch(() => {});
      await proxy.stop();
      await server.stop();
    }
  }

  const base: Run = {
    replayBuffer: MIB,
    flags: COMMON_FLAGS,
    connections: 1,
    operations: 400,
    workers: 12,
    delay: 3,
    losses: 6,
  };

  it.each<[string, Partial<Run>, number]>([
    ["one connection, with replay", {}, 3],
    ["no native FUA", { flags: COMMON_FLAGS & ~FLAG.SEND_FUA }, 2],
    ["three connections", { flags: COMMON_FLAGS | FLAG.CAN_MULTI_CONN, connections: 3 }, 2],
  ])(
    "%s: nobody notices",
    async (_name, change, count) => {
      for (let index = 0; index < runs(count); index += 1) {
        const result = await load(SEED + index, { ...base, ...change });
        expect(result.failed).toBe(false);
      }
    },
    timeFor(30_000),
  );

  it("without replay: errors, but nothing old and nothing lost that was flushed", async () => {
    for (let index = 0; index < 8; index += 1) {
      await load(SEED + index, { ...base, replayBuffer: 0, losses: 2, operations: 200 });
    }
  });
});

describe("a server that is lost for good", () => {
  it("is not waited for where somebody knows better; errors have the name that was given", async () => {
    const server = await fake();
    const taken = new BlockIoError("somebody else has it", {
      code: "EBUSY",
      device: "disk",
      hint: "Ask them.",
    });
    let isTaken = false;
    const lost = (): Promise<BlockIoError | undefined> => Promise.resolve(isTaken ? taken : undefined);
    const device = await opened(server.uri, { name: "disk", lost, reconnect: 3600 });
    server.crash(new SeededRandom(SEED), 0);
    await readBack(device, 0, KIB);
    isTaken = true;
    await server.stop();
    const wanted = { code: "EBUSY", hint: "Ask them.", device: "disk" };
    expect(await failure(readBack(device, 0, KIB))).toMatchObject(wanted);
    expect(await failure(device.write(0, data(512, 1)))).toMatchObject(wanted);
  });
});
