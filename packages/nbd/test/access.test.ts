/** Who may come, see an export, and write to it. */
import { statSync } from "node:fs";
import { join } from "node:path";
import type { ConnectionOptions } from "node:tls";
import { MemoryDevice } from "@dmkit/block-io";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { listNbdExports, nbdInfo, openNbd } from "../src/client/index.ts";
import { CMD, OPT, REP, encodeInfoRequest, encodeMetaContextRequest } from "../src/protocol.ts";
import { NbdServer } from "../src/server.ts";
import { AddressList } from "../src/server/exports/access.ts";
import { groupNumber } from "../src/server/io/group.ts";
import { Certificates, PSK, hasOpenssl } from "./support/certificates.ts";
import { RawClient } from "./support/raw-client.ts";
import { DISK, atEnd, pattern, temporaryDirectory } from "./support/serve.ts";
import { secured, startTls } from "./support/tls-client.ts";

function server(): NbdServer {
  const made = new NbdServer();
  atEnd(() => made.close({ timeout: 100 }));
  return made;
}

describe("a list of addresses", () => {
  it.each([
    [["10.0.0.0/8"], ["10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203"], ["11.0.0.1", "::1", undefined]],
    [["10.1.2.3"], ["10.1.2.3"], ["10.1.2.4"]],
    [
      ["fe80::/64", "::1"],
      ["fe80::1%eth0", "::1"],
      ["fe80:0:0:1::1", "127.0.0.1", undefined],
    ],
    [["0.0.0.0/0"], ["1.2.3.4"], ["::1", undefined, "", "nonsense"]],
    [["unix"], [undefined], ["127.0.0.1", "unix"]],
    [[], [], ["127.0.0.1", undefined]],
  ] as const)("%j has its own", (ranges, inside, outside) => {
    const list = new AddressList(ranges);
    for (const address of inside) expect(list.has(address), address).toBe(true);
    for (const address of outside) expect(list.has(address), address).toBe(false);
  });

  it.each(["10.0.0.0/33", "10.0.0", "host", "::1/129", "10.0.0.0/", "10.0.0.0/-1", "", "1.2.3.4/8/8"])(
    "has no %j",
    (range) => {
      expect(() => new AddressList([range])).toThrow(expect.objectContaining({ code: "EINVAL" }));
    },
  );
});

describe("a listener", () => {
  it("lets in the addresses it was told and says nothing to others", async () => {
    const made = server();
    made.addExport({ name: "disk", device: new MemoryDevice(DISK) });
    const open = await made.listen({ port: 0, allow: ["127.0.0.0/8"] });
    await (await openNbd(open.uri("disk"))).close();
    const closed = await made.listen({ port: 0, allow: ["10.0.0.0/8"] });
    const client = await RawClient.connect({ host: "127.0.0.1", port: closed.port as number });
    await client.closed;
    expect(client.buffered).toBe(0);
    expect(made.statistics().accepted).toBe(1);
  });

  it("gives its socket a mode and a group", async () => {
    const made = server();
    const path = join(await temporaryDirectory(), "s");
    const group = process.getgid?.() ?? 0;
    await made.listen({ path, mode: 0o660, group });
    expect(statSync(path).mode & 0o7777).toBe(0o660);
    expect(statSync(path).gid).toBe(group);
    expect(groupNumber("root")).toBe(0);
    expect(() => groupNumber("no such group")).toThrow(expect.objectContaining({ code: "EINVAL" }));
    for (const wrong of [
      { path, mode: 0o400 },
      { path, allow: ["10.0.0.0/8"] },
      { port: 0, mode: 0o660 },
    ]) {
      await expect(made.listen(wrong as never)).rejects.toMatchObject({ code: "EINVAL" });
    }
  });
});

describe("an export that is not for a client", () => {
  it("is not there for it, and one that is hidden is not listed", async () => {
    const made = server();
    const device = new MemoryDevice(DISK);
    made.addExport({ name: "local", device, allow: ["unix"] });
    made.addExport({ name: "net", device, allow: ["127.0.0.1"] });
    made.addExport({ name: "secret", device, hidden: true });
    made.addExport({ name: "named", device, identities: ["alice"] });
    const unix = await made.listen({ path: join(await temporaryDirectory(), "s") });
    const tcp = await made.listen({ port: 0 });
    const names = async (uri: string): Promise<string[]> =>
      (await listNbdExports(uri)).map(({ name }) => name);
    expect(await names(unix.uri())).toEqual(["local"]);
    expect(await names(tcp.uri())).toEqual(["net"]);
    expect((await nbdInfo(tcp.uri("secret"))).size).toBe(DISK);
    const only = server();
    only.addExport({ name: "secret", device, hidden: true });
    // To name none is not to know its name.
    await expect(nbdInfo((await only.listen({ port: 0 })).uri())).rejects.toMatchObject({ code: "ENOENT" });
    const client = await RawClient.connect({ host: "127.0.0.1", port: tcp.port as number });
    await client.greet();
    await client.negotiate(OPT.STRUCTURED_REPLY);
    const contexts = (exportName: string): Buffer =>
      encodeMetaContextRequest({ exportName, queries: ["base:allocation"] });
    // The same answers as for one that was never there; "" is the first one, which is not for it.
    for (const name of ["local", "named", "never", ""]) {
      const request = encodeInfoRequest({ name, requests: [] });
      for (const option of [OPT.GO, OPT.INFO]) {
        const [reply] = await client.option(option, request);
        expect(reply?.type).toBe(REP.ERR_UNKNOWN);
        expect(reply?.data.toString()).toBe(`there is no export named ${JSON.stringify(name)}`);
      }
      expect((await client.option(OPT.SET_META_CONTEXT, contexts(name)))[0]?.type).toBe(REP.ERR_UNKNOWN);
    }
    client.send(Buffer.from("49484156454f50540000000100000005", "hex"), Buffer.from("local"));
    await client.closed;
  });

  it("refuses words that are not right", () => {
    const made = new NbdServer();
    for (const wrong of [{ allow: ["x"] }, { identities: [""] }, { writers: "alice" }, { hidden: "yes" }]) {
      expect(() =>
        made.addExport({ name: "a", device: new MemoryDevice(DISK), ...(wrong as object) }),
      ).toThrow(expect.objectContaining({ code: "EINVAL" }));
    }
  });
});

/** Options of a client that has the key of `who`. */
const keyOf = (who: "alice" | "bob"): ConnectionOptions => ({
  ciphers: "TLS_AES_128_GCM_SHA256:PSK",
  pskCallback: () => ({
    identity: who,
    psk: Buffer.from(who === "bob" ? PSK.replaceAll("0", "f") : PSK, "hex"),
  }),
  checkServerIdentity: () => undefined,
});

describe.skipIf(!hasOpenssl)("identities", () => {
  let certificates: Certificates;
  let folder: string;
  beforeAll(() => {
    certificates = new Certificates();
    folder = certificates.issue("both", "server", "localhost");
    certificates.issue("both", "client", "alice");
  });
  afterAll(() => certificates.dispose());

  it("of certificates and keys open exports, and say who writes", async () => {
    const made = server();
    const device = new MemoryDevice(DISK);
    made.addExport({ name: "shared", device, writers: ["alice"] });
    made.addExport({ name: "alices", device, identities: ["alice", "carol"] });
    const folderOf = await temporaryDirectory();
    const [x509, psk, loose] = ["x", "k", "l"].map((name) => join(folderOf, name)) as [
      string,
      string,
      string,
    ];
    await made.listen({ path: x509, tls: { mode: "require", certificates: folder, verifyPeer: true } });
    await made.listen({ path: psk, tls: { mode: "on", psk: certificates.psk } });
    await made.listen({ path: loose, tls: { mode: "on", certificates: folder } });
    const withKey = (who: string, name: string): string =>
      `nbds+unix://${who}@/${name}?socket=${psk}&tls-psk-file=${certificates.psk}`;
    const withCertificate = (path: string, name: string): string =>
      `nbds+unix:///${name}?socket=${path}&tls-certificates=${folder}`;
    for (const [uri, alices, readOnly] of [
      [(name: string) => withCertificate(x509, name), true, false],
      [(name: string) => withKey("alice", name), true, false],
      [(name: string) => withKey("bob", name), false, true],
      // A certificate nobody asked for, and plain text, are nobody's.
      [(name: string) => withCertificate(loose, name), false, true],
      [(name: string) => `nbd+unix:///${name}?socket=${psk}`, false, true],
    ] as [(name: string) => string, boolean, boolean][]) {
      const listed = (await listNbdExports(uri(""))).map(({ name }) => name);
      expect(listed, uri("")).toEqual(alices ? ["shared", "alices"] : ["shared"]);
      expect((await nbdInfo(uri("shared"))).readOnly, uri("")).toBe(readOnly);
      const opened = openNbd(uri("alices")).then((one) => one.close());
      if (alices) await opened;
      // Without TLS it is told to begin with it.
      else
        await expect(opened).rejects.toMatchObject({ code: uri("").startsWith("nbds") ? "ENOENT" : "EPERM" });
    }
  });

  it("are asked for with TLS first where it is offered, and nobody learns without what there is", async () => {
    const made = server();
    made.addExport({ name: "alices", device: new MemoryDevice(DISK), identities: ["alice"], hidden: true });
    const path = join(await temporaryDirectory(), "s");
    await made.listen({ path, tls: { mode: "on", psk: certificates.psk } });
    const plain = await RawClient.connect({ path });
    await plain.greet();
    await plain.negotiate(OPT.STRUCTURED_REPLY);
    for (const name of ["alices", "never", ""]) {
      const request = encodeInfoRequest({ name, requests: [] });
      for (const option of [OPT.INFO, OPT.GO]) {
        const [reply] = await plain.option(option, request);
        expect([name, reply?.type]).toEqual([name, REP.ERR_TLS_REQD]);
        expect(reply?.data.toString()).toBe(`without TLS there is no export named ${JSON.stringify(name)}`);
      }
      // No other option may be answered so.
      const contexts = encodeMetaContextRequest({ exportName: name, queries: [] });
      for (const option of [OPT.LIST_META_CONTEXT, OPT.SET_META_CONTEXT])
        expect((await plain.option(option, contexts))[0]?.type).toBe(REP.ERR_UNKNOWN);
    }
    const bob = await secured((await plain.negotiate(OPT.STARTTLS), plain), keyOf("bob"));
    const [reply] = await bob.option(OPT.GO, encodeInfoRequest({ name: "alices", requests: [] }));
    expect(reply?.type).toBe(REP.ERR_UNKNOWN);
    bob.close();
  });

  it("say who may use, and write to, all that is behind one place", async () => {
    const made = server();
    const device = new MemoryDevice(DISK);
    made.addExport({ name: "disk", device });
    made.addExport({ name: "bobs", device, identities: ["bob"] });
    const folderOf = await temporaryDirectory();
    const [strict, shown] = ["strict", "shown"].map((name) => join(folderOf, name)) as [string, string];
    const tls = { mode: "on", psk: certificates.psk } as const;
    await made.listen({ path: strict, tls, identities: ["alice"] });
    await made.listen({ path: shown, tls, writers: ["alice"] });
    const withKey = (who: string, name: string, path: string): string =>
      `nbds+unix://${who}@/${name}?socket=${path}&tls-psk-file=${certificates.psk}`;
    const readOnly = async (uri: string): Promise<boolean> => (await nbdInfo(uri)).readOnly;
    expect(await readOnly(withKey("alice", "disk", strict))).toBe(false);
    expect(await readOnly(withKey("alice", "disk", shown))).toBe(false);
    expect(await readOnly(withKey("bob", "bobs", shown))).toBe(true);
    expect(await readOnly(`nbd+unix:///disk?socket=${shown}`)).toBe(true);
    // Neither says that the other may: it takes both.
    for (const [uri, code] of [
      [withKey("bob", "disk", strict), "ENOENT"],
      [withKey("bob", "bobs", strict), "ENOENT"],
      [withKey("alice", "bobs", strict), "ENOENT"],
      [`nbd+unix:///disk?socket=${strict}`, "EPERM"],
    ] as const)
      await expect(nbdInfo(uri), uri).rejects.toMatchObject({ code });
    for (const nobodyAsked of [{}, { tls: { mode: "on", certificates: folder } as const }]) {
      for (const names of [{ identities: ["alice"] }, { writers: ["alice"] }])
        await expect(made.listen({ port: 0, ...nobodyAsked, ...names })).rejects.toMatchObject({
          code: "EINVAL",
        });
    }
  });

  it("say who writes also where a client does not care what it was told", async () => {
    const made = server();
    const device = new MemoryDevice(DISK);
    made.addExport({ name: "shared", device, writers: ["alice"] });
    const path = join(await temporaryDirectory(), "s");
    await made.listen({ path, tls: { mode: "require", psk: certificates.psk } });
    const bob = await startTls(await RawClient.connect({ path }), keyOf("bob"));
    await bob.negotiate(OPT.GO, encodeInfoRequest({ name: "shared", requests: [] }));
    expect(await bob.write(0, pattern(512))).toBe(1);
    for (const type of [CMD.TRIM, CMD.WRITE_ZEROES]) expect(await bob.command({ type, length: 512 })).toBe(1);
    expect(await bob.command({ type: CMD.FLUSH })).toBe(0);
    expect((await bob.readBack(0, 512)).data.equals(Buffer.alloc(512))).toBe(true);
    bob.close();
  });
});
