/** TLS of the client against our server and against servers that cheat; those of other people: tls-interop.test.ts. */
import { join } from "node:path";
import { readFileSync } from "node:fs";
import { type Server, type Socket, createServer } from "node:net";
import { TLSSocket, createSecureContext } from "node:tls";
import { MemoryDevice } from "@dmkit/block-io";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { listNbdExports, openNbd, resolveNbdUri } from "../src/client/index.ts";
import { OPT, REP, encodeGreeting, encodeOptionReply } from "../src/protocol.ts";
import { NbdServer } from "../src/server.ts";
import type { ServerTlsOptions } from "../src/tls/server-tls.ts";
import { Certificates, hasOpenssl } from "./support/certificates.ts";
import { DISK, atEnd, pattern, temporaryDirectory, until } from "./support/serve.ts";

describe.skipIf(!hasOpenssl)("TLS of the client", () => {
  let certificates: Certificates;
  let other: Certificates;
  let folder: string;

  beforeAll(() => {
    certificates = new Certificates();
    folder = certificates.issue("both", "server", "server.example");
    certificates.issue("both", "client", "alice");
    other = new Certificates();
    other.issue("both", "client", "alice");
  });
  afterAll(() => {
    certificates.dispose();
    other.dispose();
  });

  async function serve(tls: ServerTlsOptions, at?: string): Promise<{ server: NbdServer; path: string }> {
    const server = new NbdServer();
    server.addExport({ name: "disk", device: new MemoryDevice(DISK) });
    const path = at ?? join(await temporaryDirectory(), "s");
    await server.listen({ path, tls });
    atEnd(() => server.close({ timeout: 100 }));
    return { server, path };
  }

  const uri = (path: string, more: string, user = ""): string =>
    `nbds+unix://${user}/disk?socket=${path}&${more}`;

  it.each([
    [
      "certificates",
      (): [ServerTlsOptions, string, string] => [
        { mode: "require", certificates: folder, verifyPeer: true },
        `tls-certificates=${folder}`,
        "",
      ],
    ],
    [
      "a pre-shared key",
      (): [ServerTlsOptions, string, string] => [
        { mode: "require", psk: certificates.psk },
        `tls-psk-file=${certificates.psk}`,
        "alice@",
      ],
    ],
  ])("reads and writes with %s, over several connections", async (_, make) => {
    const [tls, more, user] = make();
    const { path } = await serve(tls);
    const device = await openNbd(`${uri(path, more, user)}&connections=3`);
    await device.write(4096, pattern(300_032));
    await device.flush();
    const back = Buffer.alloc(300_032);
    await device.read(4096, back);
    expect(back.equals(pattern(300_032))).toBe(true);
    await device.close();
    expect((await listNbdExports(uri(path, more, user))).map(({ name }) => name)).toEqual(["disk"]);
  });

  it("believes no server that is not the right one", async () => {
    const { path } = await serve({ mode: "require", certificates: folder });
    const foreign = join(other.folder, "both");
    for (const [more, code] of [
      [`tls-certificates=${folder}&tls-hostname=server.example`, undefined],
      [`tls-certificates=${folder}&tls-hostname=127.0.0.1`, undefined],
      [`tls-certificates=${foreign}&tls-verify-peer=false`, undefined],
      [`tls-certificates=${folder}&tls-hostname=elsewhere.example`, "EPERM"],
      [`tls-certificates=${folder}&tls-hostname=127.0.0.2`, "EPERM"],
      [`tls-certificates=${foreign}`, "EPERM"],
      ["tls-verify-peer", "EPERM"],
      [`tls-psk-file=${certificates.psk}`, "ENOENT"],
      ["tls-certificates=/nowhere", "ENOENT"],
    ] as const) {
      const opened = openNbd(uri(path, more)).then((device) => device.close());
      if (code === undefined) await opened;
      else await expect(opened, more).rejects.toMatchObject({ code });
    }
  });

  it("is told when the server does not believe it", async () => {
    const { path } = await serve({ mode: "require", certificates: folder, verifyPeer: true });
    const foreign = join(other.folder, "both");
    await expect(
      openNbd(uri(path, `tls-certificates=${foreign}&tls-verify-peer=false`)),
    ).rejects.toMatchObject({
      code: "ENOTCONN",
      hint: expect.stringContaining("certificate"),
    });
    await expect(openNbd(`nbd+unix:///disk?socket=${path}`)).rejects.toMatchObject({
      code: "EPERM",
      hint: expect.stringContaining("nbds"),
    });
  });

  /** A server that does as it likes once the client has sent its flags and STARTTLS. */
  async function cheat(answer: (socket: Socket) => void): Promise<{ path: string; said: () => Buffer }> {
    const path = join(await temporaryDirectory(), "s");
    let said = Buffer.alloc(0);
    const sockets: Socket[] = [];
    const server: Server = createServer((socket: Socket): void => {
      sockets.push(socket);
      socket.on("error", () => {});
      socket.write(encodeGreeting(3));
      const listen = (chunk: Buffer): void => {
        said = Buffer.concat([said, chunk]);
        if (said.length !== 20) return;
        socket.off("data", listen);
        answer(socket);
      };
      socket.on("data", listen);
    });
    await new Promise<void>((resolve) => server.listen(path, resolve));
    atEnd(() => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    return { path, said: () => said };
  }

  const ack = encodeOptionReply(OPT.STARTTLS, REP.ACK);

  const answers: [string, (socket: Socket) => void, string][] = [
    [
      "has none",
      (socket: Socket) => void socket.write(encodeOptionReply(OPT.STARTTLS, REP.ERR_UNSUP)),
      "ENOTSUP",
    ],
    [
      "has none for it",
      (socket: Socket) => void socket.write(encodeOptionReply(OPT.STARTTLS, REP.ERR_POLICY)),
      "EPERM",
    ],
    ["speaks on in plain text", (socket: Socket) => void socket.write(Buffer.concat([ack, ack])), "EPROTO"],
    ["hangs up", (socket: Socket) => void socket.destroy(), "ENOTCONN"],
    [
      "answers with noise",
      (socket: Socket) => {
        socket.write(ack);
        socket.once("data", () => socket.write(pattern(5000)));
      },
      "EPERM",
    ],
  ];

  it.each(answers)("goes on in plain text with no server that %s", async (_, answer, code) => {
    const { path, said } = await cheat(answer);
    await expect(openNbd(uri(path, `tls-certificates=${folder}`))).rejects.toMatchObject({ code });
    // Flags and STARTTLS: not a word of what it wants.
    expect(said()).toHaveLength(20);
    expect(said().includes("disk")).toBe(false);
  });

  it("takes no certificate where a key was to be used", async () => {
    const { path } = await cheat((socket) => {
      socket.write(ack, () => {
        const pem = (name: string): Buffer => readFileSync(join(folder, name));
        const secureContext = createSecureContext({
          cert: pem("server-cert.pem"),
          key: pem("server-key.pem"),
        });
        const tls = new TLSSocket(socket, { isServer: true, secureContext });
        tls.on("error", () => {});
        tls.resume();
      });
    });
    await expect(openNbd(uri(path, `tls-psk-file=${certificates.psk}`, "alice@"))).rejects.toMatchObject({
      code: "EPERM",
    });
  });

  it("gives up a server that begins with TLS and does not go on", async () => {
    const { path } = await cheat((socket) => void socket.write(ack));
    const opened = openNbd(uri(path, `tls-certificates=${folder}`), { connectTimeout: 0.1 });
    await expect(opened).rejects.toMatchObject({ code: "ETIMEDOUT" });
  });

  it("connects again with TLS, and only with TLS", async () => {
    const tls: ServerTlsOptions = { mode: "require", certificates: folder };
    const { server, path } = await serve(tls);
    const device = await openNbd(uri(path, `tls-certificates=${folder}`), {
      reconnect: 60,
      replayBuffer: 2 ** 20,
    });
    await device.write(0, pattern(4096));
    await server.close({ timeout: 0 });
    const writing = device.write(4096, pattern(4096, 2));
    const plain = await serve({ mode: "off" }, path);
    await until(() => plain.server.statistics().accepted > 1);
    expect(plain.server.exports()[0]?.statistics.write.count).toBe(0);
    await plain.server.close({ timeout: 0 });
    const again = await serve(tls, path);
    await writing;
    await device.flush();
    // Both: what was not flushed was repeated.
    expect(again.server.exports()[0]?.statistics.write.count).toBe(2);
    await device.close();
  });

  it("finds relative paths of a URI in the folder of who wrote it", () => {
    expect(resolveNbdUri("nbds://h/x?tls-certificates=pki&reconnect=5", "/etc")).toBe(
      "nbds://h/x?tls-certificates=/etc/pki&reconnect=5",
    );
    expect(resolveNbdUri("nbds+unix:///x?socket=s&tls-psk-file=k", "/etc")).toBe(
      "nbds+unix:///x?socket=/etc/s&tls-psk-file=/etc/k",
    );
    expect(resolveNbdUri("nbds://h/x?reconnect=5", "/etc")).toBe("nbds://h/x?reconnect=5");
  });
});
