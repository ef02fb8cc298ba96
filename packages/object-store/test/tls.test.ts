/** A store behind https: certificates are those that Node trusts, or those of the file that is given, and no others. */
import { readFileSync } from "node:fs";
import { request } from "node:http";
import { type Server, createServer } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Certificates, hasOpenssl } from "../../nbd/test/support/certificates.ts";
import { openStore } from "../src/index.ts";
import { S3TestServer } from "../src/testing/index.ts";

const credentials = () => Promise.resolve({ accessKeyId: "test", secretAccessKey: "test" });
const policy = { attempts: 2, delay: 1, longestDelay: 2 };

describe.skipIf(!hasOpenssl)(hasOpenssl ? "https" : "https (not installed: openssl)", () => {
  const behind = new S3TestServer();
  let certificates: Certificates;
  let server: Server;
  let location = "";

  beforeAll(async () => {
    certificates = new Certificates();
    const folder = certificates.issue("server", "server", "store.example");
    const read = (name: string): Buffer => readFileSync(join(folder, name));
    const { port: inner } = new URL(await behind.listen());
    server = createServer({ cert: read("server-cert.pem"), key: read("server-key.pem") }, (from, to) => {
      const { method, url, headers } = from;
      const passed = request({ host: "127.0.0.1", port: inner, method, path: url, headers }, (answer) => {
        to.writeHead(answer.statusCode ?? 0, answer.headers);
        answer.pipe(to);
      });
      from.pipe(passed);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    location = `s3://bucket?endpoint=https://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(async () => {
    server.close();
    server.closeAllConnections();
    await behind.close();
    certificates.dispose();
  });

  test("is spoken with the certificates of the file that is given", async () => {
    const ca = encodeURIComponent(join(certificates.folder, "ca-cert.pem"));
    const store = await openStore(`${location}&ca=${ca}`, { credentials, policy });
    expect(await store.create("a/b", Buffer.from("one"))).toBe(true);
    expect((await store.get("a/b")).toString()).toBe("one");
    await store.close();
  });

  test("is refused without them, and with a file that cannot be read, before anything is sent", async () => {
    const { GET } = behind.counts;
    const strange = await openStore(location, { credentials, policy });
    await expect(strange.get("a/b")).rejects.toMatchObject({
      reason: expect.stringContaining("certificate"),
      hint: expect.stringContaining("?ca="),
    });
    expect(strange.facts().store_gets).toBe(1);
    const missing = await openStore(`${location}&ca=/nowhere/ca.pem`, { credentials, policy });
    await expect(missing.get("a/b")).rejects.toMatchObject({
      code: "ENOENT",
      hint: expect.stringContaining("PEM certificates"),
    });
    expect(behind.counts.GET).toBe(GET);
    for (const store of [strange, missing]) await store.close();
  });
});
