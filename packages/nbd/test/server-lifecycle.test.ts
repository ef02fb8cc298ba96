/** Listening, taking exports away, shutting down. */
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { chmod, lstat, readdir, rm, stat, writeFile } from "node:fs/promises";
import { type Server, connect, createServer } from "node:net";
import { join } from "node:path";
import { MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { CMD, ERRNO, OPT, REP, encodeInfoRequest } from "../src/protocol.ts";
import { NbdServer } from "../src/server.ts";
import { ProbeDevice } from "./support/devices.ts";
import { RawClient } from "./support/raw-client.ts";
import { streamPair } from "./support/stream-pair.ts";
import { DISK, atEnd, pattern, serve, temporaryDirectory, until } from "./support/serve.ts";

const rejects = (code: string) => expect.objectContaining({ code });

async function bareServer(): Promise<NbdServer> {
  const server = new NbdServer();
  server.addExport({ name: "disk", device: new MemoryDevice(DISK) });
  atEnd(() => server.close({ timeout: 0 }));
  return server;
}

/** What a killed server leaves behind: a socket file without a listener. */
async function stale(path: string): Promise<void> {
  const dead = createServer().listen(path);
  await once(dead, "listening");
  await abandon(dead, path);
}

describe("unix sockets", () => {
  it("have mode 0600 and are gone after close", async () => {
    const { server, path } = await serve();
    expect((await stat(path)).mode & 0o777).toBe(0o600);
    await server.close();
    await expect(lstat(path)).rejects.toThrow();
  });

  it("a stale one is taken over, even if it was closed to us", async () => {
    const path = join(await temporaryDirectory(), "s");
    await stale(path);
    expect((await lstat(path)).isSocket()).toBe(true);
    await chmod(path, 0o600);
    const server = await bareServer();
    await server.listen({ path });
    await (await RawClient.connect({ path })).go("disk");
  });

  it.each(["a stale one", "nothing", "a stale one, and the lock of a server that was killed"])(
    "where there is %s, one of several that start at once gets it and keeps it",
    async (there) => {
      for (let round = 0; round < 10; round += 1) {
        const directory = await temporaryDirectory();
        const path = join(directory, "s");
        if (there !== "nothing") await stale(path);
        if (there.includes("lock")) await stale(`${path}.nbd~`);
        const servers = [await bareServer(), await bareServer(), await bareServer()];
        const outcomes = await Promise.allSettled(servers.map((server) => server.listen({ path })));
        const winner = servers[outcomes.findIndex(({ status }) => status === "fulfilled")];
        expect(outcomes.filter(({ status }) => status === "fulfilled").length).toBe(1);
        for (const outcome of outcomes)
          if (outcome.status === "rejected") expect(outcome.reason).toEqual(rejects("EADDRINUSE"));
        // The losers take nothing with them.
        for (const server of servers) if (server !== winner) await server.close();
        expect((await stat(path)).mode & 0o777).toBe(0o600);
        await (await RawClient.connect({ path })).go("disk");
        await until(() => winner?.statistics().connections === 1);
        expect(await readdir(directory)).toEqual(["s"]);
        await winner?.close({ timeout: 0 });
        expect(await readdir(directory)).toEqual([]);
      }
    },
  );

  it("are left alone at close if they have become somebody else's", async () => {
    const { server, path } = await serve();
    await rm(path);
    const heir = await bareServer();
    await heir.listen({ path });
    await server.close();
    await (await RawClient.connect({ path })).go("disk");
    await rm(path);
    await writeFile(path, "data");
    await heir.close({ timeout: 0 });
    expect(readFileSync(path, "utf8")).toBe("data");
  });

  it("a lock that is no socket is left alone, and so is what is under the path", async () => {
    const path = join(await temporaryDirectory(), "s");
    await writeFile(`${path}.nbd~`, "data");
    const server = await bareServer();
    await expect(server.listen({ path })).rejects.toEqual(rejects("EEXIST"));
    expect(readFileSync(`${path}.nbd~`, "utf8")).toBe("data");
    await expect(lstat(path)).rejects.toThrow();
  });

  it("can have paths of 102 bytes", async () => {
    const directory = await temporaryDirectory();
    const path = join(directory, "p".repeat(102 - directory.length - 1));
    const server = await bareServer();
    await expect(server.listen({ path: `${path}p` })).rejects.toEqual(rejects("EINVAL"));
    await server.listen({ path });
    await (await RawClient.connect({ path })).go("disk");
  });

  it("a live one is EADDRINUSE, and stays alive", async () => {
    const { path } = await serve();
    const second = await bareServer();
    await expect(second.listen({ path })).rejects.toEqual(rejects("EADDRINUSE"));
    await (await RawClient.connect({ path })).go("disk");
  });

  it("a file that is no socket is left alone", async () => {
    const path = join(await temporaryDirectory(), "precious");
    await writeFile(path, "data");
    const server = await bareServer();
    await expect(server.listen({ path })).rejects.toEqual(rejects("EEXIST"));
    expect(readFileSync(path, "utf8")).toBe("data");
  });

  it("a directory that does not exist is an error", async () => {
    const server = await bareServer();
    await expect(server.listen({ path: "/nonexistent/s" })).rejects.toEqual(rejects("ENOENT"));
  });

  it("say their URI", async () => {
    const server = await bareServer();
    const directory = await temporaryDirectory();
    const listener = await server.listen({ path: join(directory, "a b") });
    expect(listener.uri()).toBe(`nbd+unix:///?socket=${directory}/a%20b`);
    expect(listener.uri("x/ü")).toBe(`nbd+unix:///x%2F%C3%BC?socket=${directory}/a%20b`);
  });
});

describe("TCP", () => {
  it("listens on 127.0.0.1 unless told otherwise", async () => {
    const server = await bareServer();
    const listener = await server.listen({ port: 0 });
    expect(listener.host).toBe("127.0.0.1");
    expect(listener.uri("disk")).toBe(`nbd://127.0.0.1:${listener.port}/disk`);
    const client = await (await RawClient.connect({ host: "127.0.0.1", port: listener.port as number })).go(
      "disk",
    );
    expect(await client.write(0, pattern(100_000))).toBe(0);
    expect((await client.readBack(0, 100_000)).data.equals(pattern(100_000))).toBe(true);
    client.close();
    const second = await bareServer();
    await expect(second.listen({ port: listener.port })).rejects.toEqual(rejects("EADDRINUSE"));
  });

  it.each(["0.0.0.0", "::", "192.0.2.1", "example.org", "127.example.org"])("refuses %s", async (host) => {
    const server = await bareServer();
    await expect(server.listen({ host, port: 0 })).rejects.toEqual(rejects("EPERM"));
  });
});

describe("one stream", () => {
  it("is served until it ends", async () => {
    const server = await bareServer();
    const [ours, theirs] = streamPair();
    const served = server.serveStream(ours);
    const client = await new RawClient(theirs).go("disk", { structured: true });
    expect(await client.write(3, pattern(100_000))).toBe(0);
    expect((await client.readBack(3, 100_000)).data.equals(pattern(100_000))).toBe(true);
    client.request({ type: CMD.DISC });
    await served;
  });
});

describe("exports", () => {
  it("names are taken once, and must be fit to send", async () => {
    const server = await bareServer();
    const device = new MemoryDevice(DISK);
    expect(() => server.addExport({ name: "disk", device })).toThrow(rejects("EEXIST"));
    expect(() => server.addExport({ name: "n".repeat(4097), device })).toThrow(rejects("EINVAL"));
    expect(() => server.addExport({ name: "a\0b", device })).toThrow(rejects("EINVAL"));
    expect(() => server.addExport({ name: "a", device, description: "ü".repeat(2049) })).toThrow(
      rejects("EINVAL"),
    );
    await expect(server.removeExport("nothing")).rejects.toEqual(rejects("ENOENT"));
    await server.removeExport("disk");
    server.addExport({ name: "disk", device });
  });

  it("are listed with their clients", async () => {
    const { server, client } = await serve({ export: { readOnly: true, description: "one" } });
    await (await client()).go("disk");
    expect(server.exports()).toEqual([
      {
        name: "disk",
        description: "one",
        size: DISK,
        readOnly: true,
        strict: false,
        connections: 1,
        maxConnections: undefined,
        leaving: false,
        statistics: server.statistics().exports.get("disk"),
      },
    ]);
  });

  it("safe: refused while somebody is there", async () => {
    const { server, client } = await serve();
    const connection = await (await client()).go("disk");
    await expect(server.removeExport("disk", "safe")).rejects.toEqual(rejects("EBUSY"));
    expect(await connection.command({ type: CMD.FLUSH })).toBe(0);
    connection.close();
    await until(() => server.statistics().connections === 0);
    await server.removeExport("disk", "safe");
  });

  it("hide: nobody new, those who are there stay", async () => {
    const { server, client } = await serve();
    const connection = await (await client()).go("disk");
    let gone = false;
    const removal = server.removeExport("disk", "hide").then(() => (gone = true));
    const late = await client();
    await late.greet();
    const replies = await late.option(OPT.GO, encodeInfoRequest({ name: "disk", requests: [] }));
    expect(replies[0]?.type).toBe(REP.ERR_UNKNOWN);
    expect((await late.option(OPT.LIST)).map(({ type }) => type)).toEqual([REP.ACK]);
    expect(await connection.write(0, pattern(512))).toBe(0);
    expect(gone).toBe(false);
    expect(server.exports()).toMatchObject([{ name: "disk", leaving: true, connections: 1 }]);
    connection.close();
    await removal;
  });

  it("hide, and later on: who was let stay is sent away by the same name, unless a new export has it", async () => {
    const { server, client } = await serve();
    const connection = await (await client()).go("disk");
    const removal = server.removeExport("disk", "hide");
    await expect(server.removeExport("disk", "safe")).rejects.toEqual(rejects("EBUSY"));
    server.addExport({ name: "disk", device: new MemoryDevice(DISK) });
    await server.removeExport("disk", "hard");
    expect(await connection.write(0, pattern(512))).toBe(0);
    const later = server.removeExport("disk", "soft");
    expect(await connection.write(0, pattern(512))).toBe(ERRNO.ESHUTDOWN);
    await server.removeExport("disk", "hard");
    await Promise.all([removal, later]);
    expect(server.exports()).toEqual([]);
    await expect(server.removeExport("disk", "hard")).rejects.toEqual(rejects("ENOENT"));
  });

  it("soft: ESHUTDOWN for all that comes later", async () => {
    const device = new ProbeDevice(DISK);
    const { server, client } = await serve({ device });
    const connection = await (await client()).go("disk");
    const release = device.hold("flush");
    connection.request({ type: CMD.FLUSH });
    await until(() => device.count("flush") === 1);
    const removal = server.removeExport("disk", "soft");
    expect(await connection.write(0, pattern(512))).toBe(ERRNO.ESHUTDOWN);
    expect(await connection.command({ type: CMD.READ, length: 512 })).toBe(ERRNO.ESHUTDOWN);
    release();
    expect((await connection.status()).error).toBe(0);
    connection.close();
    await removal;
    expect(device.count("write")).toBe(0);
  });

  it("hard: disconnected, and resolved only when the device is let go", async () => {
    const device = new ProbeDevice(DISK);
    const { server, client } = await serve({ device });
    const connection = await (await client()).go("disk");
    const release = device.hold("write");
    connection.request({ type: CMD.WRITE, length: 512 }, pattern(512));
    await until(() => device.count("write") === 1);
    let gone = false;
    const removal = server.removeExport("disk", "hard").then(() => (gone = true));
    await connection.closed;
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(gone).toBe(false);
    release();
    await removal;
  });
});

describe("close", () => {
  it("finishes what is in flight, answers the rest with ESHUTDOWN, accepts nobody", async () => {
    const device = new ProbeDevice(DISK);
    const { server, client, path } = await serve({ device });
    const connection = await (await client()).go("disk");
    const release = device.hold("write");
    connection.request({ type: CMD.WRITE, length: 512, cookie: 1 }, pattern(512));
    await until(() => device.count("write") === 1);
    const closing = server.close();
    expect(await connection.write(512, pattern(512))).toBe(ERRNO.ESHUTDOWN);
    await expect(RawClient.connect({ path })).rejects.toThrow();
    release();
    expect(await connection.status()).toMatchObject({ error: 0, cookie: 1 });
    await connection.closed;
    await closing;
    expect(device.count("write")).toBe(1);
    const stored = Buffer.alloc(512);
    await device.inner.read(0, stored);
    expect(stored).toEqual(pattern(512));
  });

  it("idle clients are sent away at once, haggling ones are told why", async () => {
    const device = new ProbeDevice(DISK);
    const { server, client } = await serve({ device });
    const idle = await (await client()).go("disk");
    const busy = await (await client()).go("disk");
    const haggling = await client();
    await haggling.greet();
    await haggling.option(OPT.LIST);
    const release = device.hold("flush");
    busy.request({ type: CMD.FLUSH });
    await until(() => device.count("flush") === 1);
    const closing = server.close();
    await idle.closed;
    expect((await haggling.option(OPT.LIST))[0]?.type).toBe(REP.ERR_SHUTDOWN);
    release();
    expect((await busy.status()).error).toBe(0);
    await closing;
    await haggling.closed;
  });

  it("ends within its time limit, whatever the device does", async () => {
    const device = new ProbeDevice(DISK);
    const { server, client } = await serve({ device });
    const connection = await (await client()).go("disk");
    const release = device.hold("flush");
    connection.request({ type: CMD.FLUSH });
    await until(() => device.count("flush") === 1);
    await server.close({ timeout: 50 });
    await connection.closed;
    release();
    await until(() => server.statistics().bytesInFlight === 0);
  });

  it("ends within its time limit, whatever a client does", async () => {
    const { server, client } = await serve({ device: new MemoryDevice(64 * DISK) });
    const deaf = await (await client()).go("disk");
    deaf.stream.pause();
    for (let count = 0; count < 4; count += 1) deaf.request({ type: CMD.READ, length: 8 * DISK });
    const half = await (await client()).go("disk");
    half.request({ type: CMD.WRITE, length: 4096 }, Buffer.alloc(100));
    await until(() => (server.statistics().exports.get("disk")?.read.count ?? 0) > 0);
    await server.close({ timeout: 50 });
  });

  it("may be called again, also before anything happened", async () => {
    const server = new NbdServer();
    await Promise.all([server.close(), server.close()]);
    await server.close();
  });
});

/** Closes a listening socket without removing its file, as a kill would. */
async function abandon(server: Server, path: string): Promise<void> {
  const { rename } = await import("node:fs/promises");
  await rename(path, `${path}.kept`);
  await new Promise((resolve) => server.close(resolve));
  await rename(`${path}.kept`, path);
  const probe = connect(path);
  await once(probe, "error");
}
