/** The promises of a store on Ceph's gateway: a real engine, which verifies signatures. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { openStore } from "../src/index.ts";
import { type Ceph, createBucket, hasCeph, startCeph } from "./ceph.ts";
import { promises } from "./promises.ts";

const name = "Ceph's gateway";
describe.skipIf(!hasCeph())(hasCeph() ? name : `${name} (not installed: radosgw)`, () => {
  let ceph: Ceph;
  let places = 0;
  const bucket = `test-${process.pid}`;

  beforeAll(async () => {
    ceph = startCeph();
    await createBucket(ceph, bucket);
  });
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
    expect(wrongSecret.facts().store_puts).toBe(1);
    const wrongKey = await openAs(ceph.secretKey, bucket, "nobody");
    await expect(wrongKey.create("a", body)).rejects.toMatchObject({ code: "EACCES" });
    const wrongBucket = await openAs(ceph.secretKey, `${bucket}-other`);
    await expect(wrongBucket.create("a", body)).rejects.toMatchObject({ code: "ENOENT" });
  });
});
