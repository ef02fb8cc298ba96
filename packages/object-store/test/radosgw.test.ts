/** The promises of a store on Ceph's gateway: a real engine, which verifies signatures. */
import { request } from "node:http";
import aws4 from "aws4";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStore } from "../src/index.ts";
import { type Ceph, hasCeph, startCeph } from "./ceph.ts";
import { promises } from "./promises.ts";

const name = "Ceph's gateway";
describe.skipIf(!hasCeph())(hasCeph() ? name : `${name} (not installed: radosgw)`, () => {
  let ceph: Ceph;
  let places = 0;
  const bucket = `test-${process.pid}`;

  beforeAll(async () => {
    ceph = startCeph();
    await createBucket(ceph, bucket);
  }, 120_000);
  afterAll(() => ceph?.stop());

  const openAs = (secretAccessKey: string, place: string, key = ceph.accessKey) => {
    const location = `s3://${place}/${(places += 1)}?endpoint=${ceph.endpoint}`;
    return openStore(location, { credentials: () => Promise.resolve({ accessKeyId: key, secretAccessKey }) });
  };

  promises(() => openAs(ceph.secretKey, bucket));

  test("a wrong secret, a wrong key and a wrong bucket are told apart, and not asked again", async () => {
    const body = Buffer.from("x");
    const wrongSecret = await openAs("wrong", bucket);
    await expect(wrongSecret.create("a", body)).rejects.toMatchObject({ code: "EACCES" });
    expect(wrongSecret.statistics.puts).toBe(1);
    const wrongKey = await openAs(ceph.secretKey, bucket, "nobody");
    await expect(wrongKey.create("a", body)).rejects.toMatchObject({ code: "EACCES" });
    const wrongBucket = await openAs(ceph.secretKey, `${bucket}-other`);
    await expect(wrongBucket.create("a", body)).rejects.toMatchObject({ code: "ENOENT" });
  });
});

async function createBucket({ endpoint, accessKey, secretKey }: Ceph, bucket: string): Promise<void> {
  const { host, hostname, port } = new URL(endpoint);
  const signed = aws4.sign(
    { service: "s3", region: "us-east-1", host, method: "PUT", path: `/${bucket}` },
    { accessKeyId: accessKey, secretAccessKey: secretKey },
  );
  const status = await new Promise((resolve, reject) => {
    request(
      {
        hostname,
        port,
        method: "PUT",
        path: `/${bucket}`,
        headers: signed.headers as Record<string, string>,
      },
      (response) => {
        response.resume();
        response.on("end", () => resolve(response.statusCode));
      },
    )
      .on("error", reject)
      .end();
  });
  if (status !== 200) throw new Error(`creating the bucket was answered ${String(status)}`);
}
