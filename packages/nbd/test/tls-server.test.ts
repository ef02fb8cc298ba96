/** TLS of the server against clients that do as they like; those of other people: tls-interop.test.ts. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";
import { type ConnectionOptions, type TLSSocket } from "node:tls";
import { type LogLevel, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { ManualClock, manualEnvironment } from "@dmkit/block-io/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  OPT,
  REP,
  encodeExportName,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  encodeOptionReply,
} from "../src/protocol.ts";
import { NbdServer, type NbdServerOptions } from "../src/server.ts";
import type { ServerTlsOptions } from "../src/tls/server-tls.ts";
import { Certificates, PSK, hasOpenssl } from "./support/certificates.ts";
import { earlySession } from "./support/early-data.ts";
import { RawClient } from "./support/raw-client.ts";
import { DISK, atEnd, pattern, temporaryDirectory, until } from "./support/serve.ts";
import { streamPair } from "./support/stream-pair.ts";
import { secured, startTls } from "./support/tls-client.ts";

describe.skipIf(!hasOpenssl)("TLS of the server", () => {
  let certificates: Certificates;
  let folder: string;

  beforeAll(() => {
    certificates = new Certificates();
    folder = certificates.issue("server", "server", "server.example");
  });
  afterAll(() => certificates.dispose());

  const read = (place: string, file: string): Buffer => readFileSync(join(place, file));

  /** Options of a client that trusts the authority. @param own a folder with a certificate of its own. */
  function trusting(own?: string): ConnectionOptions {
    return {
      ca: read(folder, "ca-cert.pem"),
      servername: "server.example",
      ...(own && { cert: read(own, "client-cert.pem"), key: read(own, "client-key.pem") }),
    };
  }

  const withKey = (identity: string, key = PSK): ConnectionOptions => ({
    ciphers: "TLS_AES_128_GCM_SHA256:PSK",
    pskCallback: () => ({ identity, psk: Buffer.from(key, "hex") }),
    checkServerIdentity: () => undefined,
  });

  async function serve(
    tls: ServerTlsOptions,
    options: NbdServerOptions = {},
  ): Promise<{ server: NbdServer; device: MemoryDevice; client: () => Promise<RawClient> }> {
    const server = new NbdServer(options);
    const device = new MemoryDevice(DISK);
    server.addExport({ name: "disk", device });
    const path = join(await temporaryDirectory(), "s");
    await server.listen({ path, tls });
    const clients: RawClient[] = [];
    atEnd(async () => {
      for (const client of clients) client.close();
      await server.close({ timeout: 100 });
    });
    const client = async (): Promise<RawClient> => {
      const connected = await RawClient.connect({ path });
      clients.push(connected);
      return connected;
    };
    return { server, device, client };
  }

  const enter = (client: RawClient): Promise<unknown> =>
    client.negotiate(OPT.GO, encodeInfoRequest({ name: "disk", requests: [] }));
  const required = (): ServerTlsOptions => ({ mode: "require", certificates: folder });

  it.each(["TLSv1.2", "TLSv1.3"] as const)("carries requests under %s", async (version) => {
    const { client, device } = await serve(required());
    const plain = await client();
    const encrypted = await startTls(plain, { ...trusting(), maxVersion: version });
    expect((encrypted.stream as TLSSocket).getProtocol()).toBe(version);
    await enter(encrypted);
    const bytes = pattern(600_000);
    expect(await encrypted.write(4096, bytes)).toBe(0);
    const there = Buffer.alloc(bytes.length + 512);
    await device.read(4096, there.subarray(0, 600_064));
    expect(there.subarray(0, bytes.length).equals(bytes)).toBe(true);
    expect((await encrypted.readBack(4096, bytes.length)).data.equals(bytes)).toBe(true);
  });

  it("carries them on a stream without a handle", async () => {
    const server = new NbdServer();
    const device = new MemoryDevice(DISK);
    server.addExport({ name: "disk", device });
    const [ours, theirs] = streamPair();
    const gone = server.serveStream(theirs, { tls: required() });
    const encrypted = await startTls(new RawClient(ours), trusting());
    await enter(encrypted);
    expect(await encrypted.write(0, pattern(100_000))).toBe(0);
    expect((await encrypted.readBack(0, 100_000)).data.equals(pattern(100_000))).toBe(true);
    encrypted.close();
    ours.destroy();
    await gone;
  });

  it("does not wait for one that leaves as soon as, or before, it is secure", async () => {
    const { server, client } = await serve(required(), { limits: { handshakeTime: 3_600_000 } });
    const refused = startTls(await client(), { ...trusting(), servername: "other.example" });
    await expect(refused).rejects.toThrow();
    const silent = await client();
    await silent.greet();
    await silent.option(OPT.STARTTLS);
    silent.close();
    await until(() => server.statistics().accepted === 2 && server.statistics().connections === 0);
  });

  it("answers everything but STARTTLS and ABORT with TLS_REQD where it is required", async () => {
    const { client } = await serve(required());
    const plain = await client();
    await plain.greet();
    for (let option = 3; option <= 40; option += 1) {
      if (option === OPT.STARTTLS) continue;
      const [reply] = await plain.option(option, Buffer.alloc(option === OPT.LIST ? 0 : 5));
      expect([option, reply?.type]).toEqual([option, REP.ERR_TLS_REQD]);
    }
    // Too long to be kept, and still not told anything else.
    const [reply] = await plain.option(OPT.SET_META_CONTEXT, Buffer.alloc(40 * 1024));
    expect(reply?.type).toBe(REP.ERR_TLS_REQD);
    expect((await plain.option(OPT.STARTTLS, Buffer.alloc(3)))[0]?.type).toBe(REP.ERR_INVALID);
    expect((await plain.option(OPT.ABORT))[0]?.type).toBe(REP.ACK);
    await plain.closed;
    const older = await client();
    await older.greet();
    older.send(
      Buffer.from("49484156454f5054", "hex"),
      Buffer.from([0, 0, 0, 1, 0, 0, 0, 4]),
      encodeExportName("disk"),
    );
    await older.closed;
    expect(older.buffered).toBe(0);
  });

  it("is not there for who does not speak fixed newstyle, and so nothing is where it is required", async () => {
    const name = encodeOption(OPT.EXPORT_NAME, encodeExportName("disk"));
    for (const mode of ["on", "require"] as const) {
      const { client } = await serve({ mode, certificates: folder });
      const plain = await client();
      await plain.greet(2);
      const [none, nothing] = mode === "on" ? [REP.ERR_UNSUP, REP.ACK] : [REP.ERR_POLICY, REP.ERR_POLICY];
      expect((await plain.option(OPT.STARTTLS)).at(-1)?.type).toBe(none);
      expect((await plain.option(OPT.LIST)).at(-1)?.type).toBe(nothing);
      const [long] = await plain.option(OPT.SET_META_CONTEXT, Buffer.alloc(40 * 1024));
      expect(long?.type).toBe(mode === "on" ? REP.ERR_TOO_BIG : REP.ERR_POLICY);
      plain.send(name);
      if (mode === "on") expect((await plain.read(10)).readBigUInt64BE(0)).toBe(BigInt(DISK));
      else await plain.closed;
      expect(plain.buffered).toBe(0);
    }
  });

  it("serves both where it is offered, and says UNSUP where it is off", async () => {
    const offered = await serve({ mode: "on", certificates: folder });
    await (await offered.client()).go("disk");
    await enter(await startTls(await offered.client(), trusting()));
    const { client } = await serve({ mode: "off" });
    const plain = await client();
    await plain.greet();
    expect((await plain.option(OPT.STARTTLS))[0]?.type).toBe(REP.ERR_UNSUP);
    await enter(plain);
  });

  it("forgets everything that was negotiated in plain text", async () => {
    const { client } = await serve({ mode: "on", certificates: folder });
    const plain = await client();
    await plain.greet();
    await plain.negotiate(OPT.STRUCTURED_REPLY);
    const context = encodeMetaContextRequest({ exportName: "disk", queries: ["base:allocation"] });
    await plain.negotiate(OPT.SET_META_CONTEXT, context);
    await plain.negotiate(OPT.EXTENDED_HEADERS);
    await plain.negotiate(OPT.STARTTLS);
    const encrypted = await secured(plain, trusting());
    expect((await encrypted.option(OPT.SET_META_CONTEXT, context))[0]?.type).toBe(REP.ERR_INVALID);
    expect((await encrypted.option(OPT.STARTTLS))[0]?.type).toBe(REP.ERR_INVALID);
    await enter(encrypted);
    expect((await encrypted.readBack(0, 512)).chunks[0]?.structured).toBe(false);
  });

  it.each([
    ["an option", (): Buffer => Buffer.from("49484156454f505400000003000000", "hex")],
    ["a TLS hello that did not wait", (): Buffer => Buffer.from("1603010005010000010000", "hex")],
    ["one byte", (): Buffer => Buffer.from([0])],
  ])("hangs up on %s behind STARTTLS", async (_, behind) => {
    const { client, server } = await serve(required());
    const plain = await client();
    await plain.greet();
    const start = Buffer.from("49484156454f50540000000500000000", "hex");
    plain.send(Buffer.concat([start, behind()]));
    await plain.closed;
    expect(plain.buffered).toBe(0);
    await until(() => server.statistics().connections === 0);
  });

  it.each([
    ["plain text", Buffer.from("49484156454f50540000000300000000", "hex")],
    ["application data", Buffer.concat([Buffer.from("1703030400", "hex"), Buffer.alloc(1024)])],
    [
      "a hello that never ends",
      Buffer.concat([Buffer.from("160301400001ffffff", "hex"), Buffer.alloc(0x4000)]),
    ],
    ["noise", pattern(100_000)],
  ])("hangs up on %s instead of TLS", async (_, bytes) => {
    const { client, server } = await serve(required());
    const other = await startTls(await client(), trusting());
    const plain = await client();
    await plain.greet();
    await plain.negotiate(OPT.STARTTLS);
    plain.stream.on("error", () => {});
    plain.send(bytes);
    await plain.closed;
    plain.close();
    await enter(other);
    expect(await other.write(0, pattern(512))).toBe(0);
    await until(() => server.statistics().connections === 1);
  });

  it("hangs up on who begins with TLS and does not go on, or not in time", async () => {
    const clock = new ManualClock();
    const { client, server } = await serve(required(), { environment: manualEnvironment(1, clock) });
    const silent = await client();
    await silent.greet();
    await silent.negotiate(OPT.STARTTLS);
    const half = await client();
    await half.greet();
    await half.negotiate(OPT.STARTTLS);
    half.send(Buffer.from("160301020001", "hex"));
    const idle = await startTls(await client(), trusting());
    await clock.passUntil(() => server.statistics().connections === 0);
    await Promise.all([silent.closed, half.closed, idle.closed]);
    await until(() => server.statistics().connections === 0);
  });

  it("counts options and bytes before and behind STARTTLS together", async () => {
    const { client } = await serve({ mode: "on", certificates: folder }, { limits: { handshakeOptions: 6 } });
    const plain = await client();
    await plain.greet();
    for (let count = 0; count < 4; count += 1) await plain.option(OPT.LIST);
    await plain.negotiate(OPT.STARTTLS);
    const encrypted = await secured(plain, trusting());
    await encrypted.option(OPT.LIST);
    await expect(encrypted.option(OPT.LIST)).rejects.toThrow("connection closed");
  });

  it("refuses versions before 1.2 and a change of keys by renegotiation", async () => {
    const { client } = await serve(required());
    const old = {
      ...trusting(),
      minVersion: "TLSv1",
      maxVersion: "TLSv1.1",
      ciphers: "ALL:@SECLEVEL=0",
    } as const;
    await expect(startTls(await client(), old)).rejects.toThrow();
    const encrypted = await startTls(await client(), { ...trusting(), maxVersion: "TLSv1.2" });
    await enter(encrypted);
    (encrypted.stream as TLSSocket).renegotiate({}, () => {});
    await encrypted.closed;
  });

  it("takes nothing that was sent before it had said a word", async () => {
    const { client, server } = await serve(required());
    const session = join(certificates.folder, "session.pem");
    const early = join(certificates.folder, "early");
    const certificate = { cert: read(folder, "server-cert.pem"), key: read(folder, "server-key.pem") };
    writeFileSync(session, await earlySession(certificate));
    writeFileSync(early, encodeOption(OPT.LIST));
    // In between: it begins with TLS in the way of NBD, and passes on what comes then.
    const between = createServer((theirs) => {
      void (async () => {
        const plain = await client();
        await plain.greet();
        await plain.negotiate(OPT.STARTTLS);
        plain.stream.removeAllListeners("data");
        theirs.on("error", () => {});
        theirs.pipe(plain.stream).pipe(theirs);
      })();
    });
    const path = join(await temporaryDirectory(), "between");
    between.listen({ path });
    atEnd(() => void between.close());
    const openssl = spawn("openssl", [
      "s_client",
      "-unix",
      path,
      "-ign_eof",
      "-sess_in",
      session,
      "-early_data",
      early,
    ]);
    openssl.stdin.end(encodeOption(OPT.ABORT));
    const said: Buffer[] = [];
    openssl.stdout.on("data", (chunk: Buffer) => said.push(chunk));
    await once(openssl, "close");
    const text = Buffer.concat(said);
    expect(text.toString("latin1")).toContain("Early data was rejected");
    const reply = (option: number): Buffer => encodeOptionReply(option, REP.ACK);
    expect([text.includes(reply(OPT.ABORT)), text.includes(reply(OPT.LIST))]).toEqual([true, false]);
    await until(() => server.statistics().connections === 0);
  });

  it("a flood of beginnings takes the places there are, and in time all come free", async () => {
    const limits = { connections: 4 };
    const clock = new ManualClock();
    const { client, server } = await serve(required(), { environment: manualEnvironment(1, clock), limits });
    const flood = await Promise.all(Array.from({ length: 20 }, client));
    const begun = await Promise.allSettled(
      flood.map(async (one) => {
        await one.greet();
        await one.negotiate(OPT.STARTTLS);
        one.stream.on("error", () => {});
        one.send(Buffer.from("16030102000100", "hex"));
      }),
    );
    expect(begun.filter(({ status }) => status === "fulfilled").length).toBeLessThanOrEqual(4);
    await clock.passUntil(() => server.statistics().connections === 0);
    await Promise.all(flood.map(({ closed }) => closed));
    await until(() => server.statistics().connections === 0);
    await enter(await startTls(await client(), trusting()));
  });

  it("resumes no session", async () => {
    const { client } = await serve(required());
    const first = await startTls(await client(), { ...trusting(), maxVersion: "TLSv1.2" });
    const session = (first.stream as TLSSocket).getSession();
    await enter(first);
    const again = await startTls(await client(), { ...trusting(), maxVersion: "TLSv1.2", session });
    expect((again.stream as TLSSocket).isSessionReused()).toBe(false);
  });

  it("lets in who has a certificate, and nobody whose certificate is not right", async () => {
    const own = certificates.issue("verifying", "server", "server.example");
    const good = certificates.issue("good", "client", "alice");
    const revoked = certificates.issue("revoked", "client", "mallory");
    const late = certificates.issue("late", "client", "late", 0);
    const server = certificates.issue("misused", "server", "server.example");
    for (const file of ["cert", "key"])
      copyFileSync(join(server, `server-${file}.pem`), join(server, `client-${file}.pem`));
    certificates.revoke("revoked/client-cert.pem", own);
    const elsewhere = new Certificates();
    const foreign = elsewhere.issue("foreign", "client", "alice");
    const { client, device } = await serve({ mode: "require", certificates: own, verifyPeer: true });
    await enter(await startTls(await client(), trusting(good)));
    for (const bad of [undefined, revoked, late, foreign, server]) {
      // In 1.3 the client has finished before the server has looked at its certificate.
      const attempt = startTls(await client(), trusting(bad)).then(enter);
      await expect(attempt, bad ?? "none").rejects.toThrow();
    }
    elsewhere.dispose();
    expect(device.size).toBe(DISK);
  });

  it.each(["TLSv1.2", "TLSv1.3"] as const)("lets in who has a shared key, under %s", async (version) => {
    const { client } = await serve({ mode: "require", psk: certificates.psk });
    const encrypted = await startTls(await client(), { ...withKey("alice"), maxVersion: version });
    await enter(encrypted);
    expect(await encrypted.write(0, pattern(70_000))).toBe(0);
    for (const bad of [withKey("alice", PSK.replace("0", "1")), withKey("eve"), withKey("")]) {
      await expect(startTls(await client(), { ...bad, maxVersion: version }).then(enter)).rejects.toThrow();
    }
    await expect(startTls(await client(), trusting()).then(enter)).rejects.toThrow();
  });

  it("takes certificates that have changed for the next client, and keeps those it had if they are wrong", async () => {
    const own = certificates.issue("changing", "server", "server.example");
    const logged: [LogLevel, string][] = [];
    const environment = {
      ...realEnvironment,
      logger: { log: (level: LogLevel, text: string) => void logged.push([level, text]) },
    };
    const { client } = await serve({ mode: "require", certificates: own }, { environment });
    const serial = (one: RawClient): string => (one.stream as TLSSocket).getPeerCertificate().serialNumber;
    const first = await startTls(await client(), trusting());
    await enter(first);
    certificates.issue("changing", "server", "server.example");
    const second = await startTls(await client(), trusting());
    expect(serial(second)).not.toBe(serial(first));
    writeFileSync(join(own, "server-key.pem"), read(folder, "server-key.pem"));
    const third = await startTls(await client(), trusting());
    expect(serial(third)).toBe(serial(second));
    expect(logged.filter(([level]) => level === "error")).toHaveLength(1);
    expect(await first.write(0, pattern(512))).toBe(0);
  });

  it("goes to other machines without being told twice, if it is required", async () => {
    const server = new NbdServer();
    const listener = await server.listen({ host: "0.0.0.0", port: 0, tls: required() });
    expect(listener.uri("x")).toMatch(/^nbds:/);
    await expect(
      server.listen({ host: "0.0.0.0", port: 0, tls: { mode: "on", certificates: folder } }),
    ).rejects.toMatchObject({ code: "EPERM" });
    await server.close();
  });

  it("refuses options and files that are not right before it listens", async () => {
    const server = new NbdServer();
    const keys = join(certificates.folder, "bad.psk");
    writeFileSync(keys, "alice:1234\n");
    const pipe = join(certificates.folder, "pipe");
    // Nobody is at its other end: who waits for that waits for good.
    execFileSync("mkfifo", [pipe]);
    const long = join(certificates.folder, "long");
    writeFileSync(long, "");
    truncateSync(long, 4 * 1024 * 1024 + 1);
    for (const [tls, code, hint = /./] of [
      [{ mode: "on" }, "EINVAL"],
      [{ mode: "maybe", certificates: folder }, "EINVAL"],
      [{ mode: "on", certificates: folder, psk: certificates.psk }, "EINVAL"],
      [{ mode: "on", psk: certificates.psk, verifyPeer: true }, "EINVAL"],
      [{ mode: "off", psk: certificates.psk }, "EINVAL"],
      [{ mode: "on", certificates: "/nowhere" }, "ENOENT"],
      [{ mode: "on", psk: "/nowhere" }, "ENOENT", /IDENTITY:KEY/],
      [{ mode: "on", psk: certificates.folder }, "EINVAL", /IDENTITY:KEY/],
      [{ mode: "on", psk: pipe }, "EINVAL", /IDENTITY:KEY/],
      [{ mode: "on", psk: long }, "EFORMAT", /IDENTITY:KEY/],
      [{ mode: "on", psk: keys }, "EFORMAT"],
    ] as [ServerTlsOptions, string, RegExp?][]) {
      await expect(server.listen({ path: "/nowhere/s", tls }), JSON.stringify(tls)).rejects.toMatchObject({
        code,
        hint: expect.stringMatching(hint),
      });
    }
  });
});
