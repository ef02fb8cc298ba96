/** What servers call their exports, and say: whatever it is, it hides nothing and reaches nobody raw. Options in URIs. */
import { afterEach, describe, expect, it } from "vitest";
import { listNbdExports, nbdInfo, openNbd, resolveNbdUri, splitNbdUri } from "../src/index.ts";
import {
  ERRNO,
  INFO,
  OPT,
  REP,
  encodeErrorChunk,
  encodeInfoExport,
  encodeOptionError,
  encodeOptionReply,
  encodeServerEntry,
} from "../src/protocol.ts";
import { COMMON_FLAGS, FakeServer } from "./client-fake-server.ts";

const servers: FakeServer[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop();
});

async function fake(onOption: (option: number) => Uint8Array | undefined): Promise<FakeServer> {
  const server = await new FakeServer({ onOption }).start();
  servers.push(server);
  return server;
}

/** An entry of a list, made of raw bytes. */
function entry(name: Buffer, description: Buffer): Buffer {
  const length = Buffer.alloc(4);
  length.writeUInt32BE(name.length);
  return encodeOptionReply(OPT.LIST, REP.SERVER, Buffer.concat([length, name, description]));
}

const listEnd = (): Buffer => Buffer.from(encodeOptionReply(OPT.LIST, REP.ACK, Buffer.alloc(0)));

describe("a list of exports", () => {
  it("is told although one name, or a description, is no UTF-8", async () => {
    const server = await fake((option) =>
      option === OPT.LIST
        ? Buffer.concat([
            entry(Buffer.from([0x61, 0xff, 0x62]), Buffer.from("one")),
            entry(Buffer.from("two"), Buffer.from([0xfe])),
            entry(Buffer.from("th\0ree"), Buffer.alloc(0)),
            listEnd(),
          ])
        : undefined,
    );
    const exports = await listNbdExports(server.uri);
    expect([...exports]).toEqual([
      { name: "a\ufffdb", description: "one", exact: false },
      { name: "two", description: "\ufffd" },
      { name: "th\0ree", description: "", exact: false },
    ]);
    expect(exports.complete).toBe(true);
  });

  it("may be long, and is cut where it has no end", async () => {
    const one = encodeOptionReply(OPT.LIST, REP.SERVER, encodeServerEntry({ name: "e", description: "" }));
    const many = (count: number): Buffer => Buffer.concat(Array<Uint8Array>(count).fill(one));
    const long = await fake((option) =>
      option === OPT.LIST ? Buffer.concat([many(12_000), listEnd()]) : undefined,
    );
    const told = await listNbdExports(long.uri);
    expect([told.length, told.complete]).toEqual([12_000, true]);
    const endless = await fake((option) => (option === OPT.LIST ? many(100_001) : undefined));
    const cut = await listNbdExports(endless.uri);
    expect([cut.length, cut.complete]).toEqual([100_000, false]);
  });
});

describe("texts of a server", () => {
  it("keep nobody from opening the export where they are no UTF-8", async () => {
    const ill = Buffer.from([0, INFO.DESCRIPTION, 0xff]);
    const server = await fake((option) =>
      option === OPT.INFO || option === OPT.GO
        ? Buffer.concat([
            encodeOptionReply(option, REP.INFO, ill),
            encodeOptionReply(option, REP.INFO, encodeInfoExport(1024 * 1024, COMMON_FLAGS)),
            encodeOptionReply(option, REP.ACK, Buffer.alloc(0)),
          ])
        : undefined,
    );
    expect((await nbdInfo(server.uri)).description).toBe("\ufffd");
  });

  it("are no reason to hang up where they come with an error", async () => {
    const server = await fake(() => undefined);
    const device = await openNbd(server.uri);
    server.behaviour.onRequest = (request) => {
      const chunk = encodeErrorChunk(request, ERRNO.EIO, "x");
      chunk[chunk.length - 1] = 0xff;
      return chunk;
    };
    await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "EIO" });
    expect(device.status.reconnects).toBe(0);
    server.behaviour.onRequest = () => undefined;
    await device.close();
  });

  it("are one line of the error of a request", async () => {
    const server = await fake(() => undefined);
    const device = await openNbd(server.uri);
    server.behaviour.onRequest = (request) =>
      encodeErrorChunk(request, ERRNO.EIO, "bad\ndmkit: all is well\u001b[2J");
    await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject({
      reason: "bad\\ndmkit: all is well\\x1b[2J",
    });
    server.behaviour.onRequest = () => undefined;
    await device.close();
  });

  it("are shown as what they are when it refuses", async () => {
    const server = await fake((option) =>
      option === OPT.LIST ? encodeOptionError(OPT.LIST, REP.ERR_POLICY, "no\u001b[2J\u009b1m") : undefined,
    );
    await expect(listNbdExports(server.uri)).rejects.toMatchObject({
      code: "EPERM",
      reason: "the server refused to list its exports: no\\x1b[2J\\x9b1m",
    });
  });
});

describe("options in a URI", () => {
  it("are taken out of it, and what is left is a URI for everybody", () => {
    expect(splitNbdUri("nbd://h/e?reconnect=off&whole-blocks")).toMatchObject({
      uri: "nbd://h/e",
      options: { reconnect: "off", wholeBlocks: true },
    });
    expect(
      splitNbdUri("nbd+unix:///e?socket=/s&replay-buffer=64M&connections=4&write-through=0"),
    ).toMatchObject({
      uri: "nbd+unix:///e?socket=/s",
      options: { replayBuffer: 64 * 1024 * 1024, connections: 4, writeThrough: false },
    });
    for (const uri of [
      "nbd://h?reconnect=x",
      "nbd://h?whole-blocks=2",
      "nbd://h?connections=1&connections=2",
    ]) {
      expect(() => splitNbdUri(uri)).toThrow(expect.objectContaining({ code: "EPARSE" }));
    }
  });

  it("stay where a relative socket is given its folder", () => {
    expect(resolveNbdUri("nbd+unix:///a%20b?socket=s.sock&reconnect=5", "/f")).toBe(
      "nbd+unix:///a%20b?socket=/f/s.sock&reconnect=5",
    );
    for (const uri of ["nbd+unix:///?socket=/s&reconnect=5", "nbd://h/e?reconnect=5"]) {
      expect(resolveNbdUri(uri, "/f")).toBe(uri);
    }
  });

  it("do what they say, and give way to those of the call", async () => {
    const server = await fake(() => undefined);
    server.behaviour.size = 1024 * 1024 + 100;
    await expect(openNbd(server.uri)).rejects.toMatchObject({
      code: "EINVAL",
      hint: expect.stringContaining("whole-blocks=1"),
    });
    const device = await openNbd(`${server.uri}&whole-blocks=1`);
    expect(device.size).toBe(1024 * 1024);
    await device.close();
    await expect(openNbd(`${server.uri}&whole-blocks=1`, { wholeBlocks: false })).rejects.toMatchObject({
      code: "EINVAL",
    });
    await expect(openNbd(`${server.uri}&connections=17`)).rejects.toMatchObject({ code: "EINVAL" });
  });
});

describe("a socket in a folder that is not there", () => {
  it("is not a question of permissions", async () => {
    const { NbdServer } = await import("../src/index.ts");
    await expect(new NbdServer().listen({ path: "/tmp/no such folder/s.sock" })).rejects.toMatchObject({
      code: "ENOENT",
      reason: "the folder of the socket does not exist",
      hint: "Make it first: mkdir -p '/tmp/no such folder'",
    });
  });
});
