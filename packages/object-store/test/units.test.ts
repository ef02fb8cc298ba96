/** URIs, credentials, XML, the window, and unclear outcomes under a simulated clock. */
import fc from "fast-check";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { codeOf, realEnvironment } from "@dmkit/block-io";
import { ManualClock, SeededRandom, settle } from "@dmkit/block-io/testing";
import { RetryingStore, defaultCredentials, openStore, parseS3Uri } from "../src/index.ts";
import { kept } from "../src/s3/credentials.ts";
import { parseError, parseListing } from "../src/s3/listing.ts";
import { SimulatedBucket, SimulatedTransport } from "../src/testing/index.ts";
import { RequestWindow } from "../src/window.ts";

describe("S3 URIs", () => {
  test("Amazon's endpoint of the region, the bucket in the host name", () => {
    expect(parseS3Uri("s3://disks/golden/", { AWS_REGION: "eu-central-1" })).toMatchObject({
      bucket: "disks",
      prefix: "golden/",
      region: "eu-central-1",
      pathStyle: false,
      endpoint: new URL("https://s3.eu-central-1.amazonaws.com"),
    });
  });

  test("an endpoint of one's own: the bucket in the path, from the URI before the environment", () => {
    const variables = { AWS_ENDPOINT_URL: "http://127.0.0.1:1", AWS_CA_BUNDLE: "/ca.pem" };
    expect(parseS3Uri("s3://disks", variables)).toMatchObject({ pathStyle: true, prefix: "", ca: "/ca.pem" });
    const said = parseS3Uri("s3://disks/a/b?endpoint=https://host:7480&path-style=0&region=x", variables);
    expect(said).toMatchObject({ pathStyle: false, prefix: "a/b/", region: "x" });
    expect(said.endpoint.host).toBe("host:7480");
    expect(parseS3Uri("s3://with.dots", {}).pathStyle).toBe(true);
  });

  test.each([
    "s3:/bucket",
    "s3://",
    "s3://ab",
    "s3://buc ket",
    "s3://bucket/../x",
    "s3://bucket/a//b",
    "s3://bucket?endpoint=ftp://h",
    "s3://bucket?endpoint=http://h/path",
    "s3://bucket?endpoint=http://user:pw@h",
    "s3://bucket?path-style=yes",
    "s3://bucket?region=a%20b",
    "s3://bucket?speed=1",
    "s3://bucket?region=a&region=b",
  ])("%s is refused", (uri) => {
    expect(() => parseS3Uri(uri, {})).toThrowError(
      expect.objectContaining({ code: expect.stringMatching(/EPARSE|EINVAL/) }),
    );
  });
});

test("credentials come from the environment without loading anything", async () => {
  const variables = { AWS_ACCESS_KEY_ID: "id", AWS_SECRET_ACCESS_KEY: "secret", AWS_SESSION_TOKEN: "token" };
  expect(await defaultCredentials(variables)()).toMatchObject({ accessKeyId: "id", sessionToken: "token" });
});

test("credentials are asked for once, and again before they end or after a failure", async () => {
  const clock = new ManualClock();
  let asked = 0;
  const provider = kept(() => {
    asked += 1;
    if (asked === 1) return Promise.reject(new Error("not yet"));
    const expiration = new Date(clock.wallTime() + 600_000);
    return Promise.resolve({ accessKeyId: String(asked), secretAccessKey: "", expiration });
  }, clock);
  await expect(provider()).rejects.toThrow("not yet");
  expect((await provider()).accessKeyId).toBe("2");
  expect((await provider()).accessKeyId).toBe("2");
  clock.advance(500_000);
  expect((await provider()).accessKeyId).toBe("3");
});

test("a file where a folder should be is told, and is no store", async () => {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-store-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  writeFileSync(join(folder, "file"), "");
  for (const path of ["file", "file/below"]) {
    const store = await openStore(join(folder, path));
    await expect(store.create("a/b", Buffer.from("x"))).rejects.toMatchObject({
      code: "ENOENT",
      reason: expect.stringContaining("is no folder"),
      hint: expect.stringContaining("A store is a folder"),
    });
    await store.close();
  }
});

describe("XML of a store", () => {
  test("a listing", () => {
    const xml =
      "<ListBucketResult><IsTruncated>true</IsTruncated><Contents><Key>007</Key><Size>12</Size>" +
      "<LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents></ListBucketResult>";
    expect(parseListing(xml)).toEqual({
      more: true,
      entries: [{ key: "007", size: 12, modified: Date.UTC(2026, 0, 2, 3, 4, 5) }],
    });
    expect(parseListing("<ListBucketResult></ListBucketResult>")).toBeUndefined();
    expect(
      parseListing("<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>")?.entries,
    ).toEqual([]);
  });

  test("an error's text cannot reach a terminal raw", () => {
    expect(parseError("<Error><Code>No\u001b[2J</Code><Message>m</Message></Error>").code).toBe("No?[2J");
  });

  test("anything at all is a listing, or is not", () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc
            .array(
              fc.constantFrom("<", ">", "/", "Contents", "Key", "Size", "a", "&lt;", "ListBucketResult"),
              { maxLength: 40 },
            )
            .map((parts) => parts.join("")),
        ),
        (text) => {
          const listing = parseListing(text);
          expect(listing === undefined || Array.isArray(listing.entries)).toBe(true);
          expect(parseError(text).code.length).toBeLessThanOrEqual(200);
        },
      ),
      { numRuns: 500 },
    );
  });
});

test("the window lets in as many as it has places, in order, and never fewer than one", async () => {
  const window = new RequestWindow({ first: 2, most: 4 });
  const entered: number[] = [];
  const enter = (n: number): Promise<void> => window.enter().then(() => void entered.push(n));
  const all = [1, 2, 3, 4, 5, 6].map(enter);
  await settle();
  expect(entered).toEqual([1, 2]);
  window.leave("slower");
  expect(window.size).toBe(1);
  await settle();
  expect(entered).toEqual([1, 2]);
  window.leave("slower");
  await settle();
  expect(entered).toEqual([1, 2, 3]);
  for (let n = 0; n < 4; n += 1) window.leave("success");
  await Promise.all(all);
  expect(window.size).toBe(4);
  expect(entered).toEqual([1, 2, 3, 4, 5, 6]);
});

test("whatever is lost, late or refused: at most one writer is told that it created a key, and it is right", async () => {
  await fc.assert(
    fc.asyncProperty(fc.integer({ min: 0, max: 2 ** 31 }), async (seed) => {
      const clock = new ManualClock();
      const environment = { ...realEnvironment, clock, random: new SeededRandom(seed) };
      const bucket = new SimulatedBucket();
      const faults = {
        environment,
        latency: 50,
        refused: 0.1,
        lostAnswer: 0.2,
        landsLate: 0.2,
        late: 20_000,
      };
      const policy = { attempts: 4, delay: 100, longestDelay: 1000, smallTimeout: 40, largeTimeout: 40 };
      const told = new Map<string, boolean | "unknown">();
      const writers = ["a", "b", "c", "d"].map(async (name) => {
        const store = new RetryingStore(new SimulatedTransport(bucket, faults), { environment, policy });
        told.set(name, await store.create("k", Buffer.from(name)).catch(() => "unknown" as const));
      });
      const done = Promise.all(writers);
      const state = { over: false };
      void done.then(() => (state.over = true));
      // What becomes ready runs between the timers.
      while (!state.over) await clock.pass(500);
      await clock.pass(60_000);
      const winners = [...told].filter(([, value]) => value === true).map(([name]) => name);
      expect(winners.length).toBeLessThanOrEqual(1);
      if (winners[0] !== undefined) expect(bucket.objects.get("k")?.toString()).toBe(winners[0]);
      for (const [name, value] of told)
        if (value === false) expect(bucket.objects.get("k")?.toString()).not.toBe(name);
    }),
    { numRuns: 100 },
  );
});

describe("options of a store", () => {
  const bucket = new SimulatedBucket();
  const code = async (work: () => unknown): Promise<unknown> => {
    try {
      await work();
      return "";
    } catch (error) {
      return codeOf(error);
    }
  };

  test.each([
    { requests: 0 },
    { requests: Number.NaN },
    { requests: 1.5 },
    { policy: { attempts: 0 } },
    { policy: { attempts: Number.POSITIVE_INFINITY } },
    { policy: { smallTimeout: 0 } },
    { policy: { delay: -1 } },
    { policy: { delay: 2000, longestDelay: 1000 } },
    { policy: { atempts: 3 } as never },
  ])("are refused that cannot be: %o", async (options) => {
    expect(
      await code(
        () =>
          new RetryingStore(
            new SimulatedTransport(bucket, { environment: realEnvironment, latency: 0 }),
            options,
          ),
      ),
    ).toBe("EINVAL");
  });

  test("may be left out, and undefined", async () => {
    const policy = { attempts: undefined } as never;
    const store = new RetryingStore(
      new SimulatedTransport(bucket, { environment: realEnvironment, latency: 0 }),
      { policy, requests: undefined },
    );
    await store.put("a", Buffer.from("abc"));
    for (const range of [
      { offset: -1, length: 1 },
      { offset: 0, length: 0 },
      { offset: 0.5, length: 1 },
    ])
      expect(await code(() => store.get("a", { range }))).toBe("EINVAL");
    expect(await code(() => store.get("a", { most: Number.NaN }))).toBe("EINVAL");
    expect((await store.get("a")).toString()).toBe("abc");
    await store.close();
  });
});
