/** A server that stays away for longer than requests wait: what is told, and that all goes on when it is back. */
import { BlockIoError, type Environment, realEnvironment } from "@dmkit/block-io";
import { ManualClock, SeededRandom } from "@dmkit/block-io/testing";
import { afterEach, describe, expect, it } from "vitest";
import { type NbdClientOptions, type NbdDevice, openNbd } from "../src/index.ts";
import { CMD } from "../src/protocol.ts";
import { type Behaviour, FakeServer } from "./client-fake-server.ts";
import { until } from "./client-servers.ts";

const SEED = Number(process.env["DMKIT_SEED"] ?? 0) || 1 + ((process.pid * 7919) % 1_000_000);

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).toReversed()) await cleanup();
});

interface Rig {
  readonly server: FakeServer;
  readonly device: NbdDevice;
  readonly clock: ManualClock;
  /** Lets so many seconds pass, with attempts to connect in between. */
  readonly pass: (seconds: number) => Promise<void>;
  /** Lets time pass until the server is found again. */
  readonly found: () => Promise<void>;
}

async function rig(options: NbdClientOptions = {}, behaviour: Partial<Behaviour> = {}): Promise<Rig> {
  const clock = new ManualClock();
  const environment: Environment = { ...realEnvironment, clock };
  const server = await new FakeServer(behaviour).start();
  cleanups.push(() => server.stop());
  const device = await openNbd(server.uri, { environment, reconnect: 5, ...options });
  cleanups.push(() => device.close().catch(() => {}));
  const pass = async (seconds: number): Promise<void> => {
    for (let step = 0; step < seconds * 4; step += 1) {
      clock.advance(250);
      for (let turn = 0; turn < 4; turn += 1) await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const found = async (): Promise<void> => {
    await server.start();
    await until(() => {
      clock.advance(1000);
      return device.status.connections === 1;
    });
  };
  return { server, device, clock, pass, found };
}

const data = (value: number): Buffer => Buffer.alloc(512, value);
const code = (request: Promise<unknown>): Promise<string> =>
  request.then(
    () => "done",
    (error: unknown) => (error as BlockIoError).code,
  );

async function byteAt(device: NbdDevice, offset: number): Promise<number | undefined> {
  const into = data(0xee);
  await device.read(offset, into);
  return into[0];
}

describe("a server that is away for longer than requests wait", () => {
  it("is told of while it is, and all goes on when it is back", async () => {
    const { server, device, pass, found } = await rig();
    expect(device.health()).toEqual({ state: "ok" });
    await device.write(0, data(1));
    await device.flush();
    await server.stop();
    await until(() => device.status.connections === 0);
    expect(device.health()).toMatchObject({ state: "degraded", since: expect.any(Number) });
    const waiting = [code(device.read(0, data(0))), code(device.write(0, data(2)))];
    await pass(6);
    expect(await Promise.all(waiting)).toEqual(["ENOTCONN", "ENOTCONN"]);
    expect(device.health()).toMatchObject({
      state: "failed",
      why: expect.stringMatching(/did not come back in time.*connection was lost/),
      help: expect.stringContaining("as soon as it is back"),
    });
    // Nobody waits once more.
    expect(await code(device.read(0, data(0)))).toBe("ENOTCONN");
    // There is nothing to make stable.
    await device.flush();
    const before = server.seen.length;
    await found();
    expect(device.health()).toEqual({ state: "ok" });
    expect(await byteAt(device, 0)).toBe(1);
    // What was given up is not carried out behind anybody's back.
    expect(server.seen.slice(before).map(({ type }) => type)).toEqual([CMD.READ]);
    await device.write(0, data(3));
    await device.flush();
    expect(server.stable[0]).toBe(3);
    expect(device.failure).toBeUndefined();
  });

  it("gets back what it had acknowledged and lost from the replay buffer, flushes that failed notwithstanding", async () => {
    const { server, device, pass, found } = await rig({ replayBuffer: 1024 * 1024 });
    await device.write(0, data(1));
    server.crash(new SeededRandom(SEED), 0);
    await server.stop();
    await until(() => device.status.connections === 0);
    const flushing = code(device.flush());
    await pass(6);
    expect(await flushing).toBe("ENOTCONN");
    expect(server.stable[0]).toBe(0);
    await found();
    await device.write(512, data(2));
    await device.flush();
    expect([server.stable[0], server.stable[512]]).toEqual([1, 2]);
  });

  it("is not trusted again where it may have lost what nobody has kept, and that is said", async () => {
    const { server, device, found } = await rig();
    await device.write(0, data(1));
    server.crash(new SeededRandom(SEED), 0);
    await server.stop();
    await until(() => device.status.connections === 0);
    await found();
    expect(device.health()).toMatchObject({
      state: "needs check",
      why: expect.stringContaining("writes that were not flushed"),
      help: expect.stringContaining("reopen"),
    });
    expect(await code(device.write(0, data(2)))).toBe("EIO");
    expect(await code(device.read(0, data(0)))).toBe("EIO");
  });
});

describe("a server that is there and does not answer", () => {
  it("is told of while the oldest request waits, and not once all is answered", async () => {
    const { server, device, clock } = await rig();
    server.behaviour.onRequest = ({ type, offset }) =>
      type === CMD.READ && offset === 0 ? "hold" : undefined;
    // Closing waits for what is held, also if this fails.
    cleanups.push(async () => {
      server.behaviour.onRequest = () => undefined;
      server.drop();
    });
    clock.advance(60_000);
    // Nobody waits.
    expect(device.health()).toEqual({ state: "ok" });
    const held = device.read(0, data(0));
    await until(() => server.seen.length === 1);
    clock.advance(9999);
    expect(device.health()).toEqual({ state: "ok" });
    clock.advance(15_001);
    // What is answered beside it does not hide it.
    await device.read(512, data(0));
    expect(device.health()).toEqual({
      state: "degraded",
      since: 60_000,
      why: expect.stringContaining("requests have waited 25 s for an answer of the server"),
      help: expect.stringContaining("sent again"),
    });
    // Restarting it has its price while something is not flushed.
    await device.write(512, data(1));
    expect(device.health().help).toContain("may be lost");
    await device.flush();
    expect(clock.pending).toBe(0);
    server.behaviour.onRequest = () => undefined;
    // It is restarted, and the request sent again.
    server.drop();
    await until(() => {
      clock.advance(100);
      return device.status.reconnects === 1;
    });
    await held;
    expect(device.health()).toEqual({ state: "ok" });
  });
});

describe("why a server is not used any more", () => {
  it("is told when it came back with another export", async () => {
    const { server, device, clock } = await rig();
    server.behaviour.size += 512;
    server.drop();
    await until(() => {
      clock.advance(100);
      return device.health().state === "failed";
    });
    expect(device.health()).toMatchObject({
      why: expect.stringMatching(/another export: the size changed from \d+ to \d+ bytes/),
      help: expect.stringContaining("right image"),
    });
    expect(await code(device.read(0, data(0)))).toBe("ENOTCONN");
  });

  it("is told when it broke the protocol", async () => {
    const { server, device, clock } = await rig();
    server.behaviour.onRequest = () => Buffer.alloc(16, 1);
    const reading = code(device.read(0, data(0)));
    await until(() => {
      clock.advance(100);
      return device.health().state === "degraded";
    });
    expect(device.health().why).toMatch(/connection was lost: .*EPROTO/);
    await until(() => {
      clock.advance(1000);
      return device.health().state === "failed" || device.status.connections === 1;
    });
    server.behaviour.onRequest = () => undefined;
    // It may have been asked, and have broken the protocol, once more before that.
    let ended = "";
    void reading.then((how) => (ended = how));
    await until(() => {
      clock.advance(100);
      return ended !== "";
    });
    expect(ended).toMatch(/done|EPROTO/);
  });
});

describe("a server that breaks the protocol whenever it is asked", () => {
  it("is told of as such, and not as one that is away", async () => {
    const { device, clock } = await rig({}, { onRequest: () => Buffer.alloc(64, "x") });
    const reading = code(device.read(0, data(0)));
    await until(() => {
      clock.advance(100);
      return device.health().state === "failed";
    });
    expect(device.health().why).toContain("breaks the protocol");
    expect(device.health().help).toContain("Update the server");
    expect(await reading).toBe("EPROTO");
  });
});
