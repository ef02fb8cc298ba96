/** Every fault of the test server × GET, PUT, LIST, DELETE × the first, each third, always. */
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { type ObjectStore, openStore, probeConditionalCreate } from "../src/index.ts";
import { S3TestServer, type ServerFault } from "../src/testing/index.ts";

const server = new S3TestServer();
const careless = new S3TestServer({ ignoresConditions: true });
const credentials = () => Promise.resolve({ accessKeyId: "test", secretAccessKey: "test" });
// Time limits count only where a request hangs; there they are short.
const policy = { delay: 1, longestDelay: 2, attempts: 5 };
const hasty = { ...policy, smallTimeout: 60, largeTimeout: 60, attempts: 3 };
let endpoint = "";

beforeAll(async () => {
  endpoint = await server.listen();
});
afterAll(async () => {
  await server.close();
  await careless.close();
});

let stores = 0;

/** Two clients of one new place in the bucket: one that is under test, one that prepares and looks. */
async function open(kind: ServerFault["kind"]): Promise<{ store: ObjectStore; observer: ObjectStore }> {
  const location = `s3://bucket/f${(stores += 1)}?endpoint=${endpoint}`;
  return {
    store: await openStore(location, { credentials, policy: kind.startsWith("hang") ? hasty : policy }),
    observer: await openStore(location, { credentials }),
  };
}

const kinds: ServerFault["kind"][] = [
  "409",
  "500",
  "503",
  "500 done",
  "lost",
  "dropped",
  "hang",
  "hang done",
  "truncated",
];
const times: Record<string, ServerFault["when"]> = {
  first: (count) => count === 1,
  "each third": (count) => count % 3 === 0,
  always: () => true,
};

async function outcome<T>(promise: Promise<T>): Promise<T | string> {
  return promise.catch((error: { code: string }) => error.code);
}

describe.each(kinds)("%s", (kind) => {
  test.each(Object.entries(times))("PUT, %s: no writer is told what is not so", async (_, when) => {
    const { store, observer } = await open(kind);
    server.fail({ method: "PUT", when, kind });
    const told = await Promise.all(
      [1, 2, 3, 4].map((writer) => outcome(store.create("k", Buffer.from(`w${writer}`)))),
    );
    server.fail(undefined);
    const there = await outcome(observer.get("k"));
    const winners = told.flatMap((value, index) => (value === true ? [`w${index + 1}`] : []));
    expect(winners.length).toBeLessThanOrEqual(1);
    if (winners.length === 1) expect(String(there)).toBe(winners[0]);
    if (told.includes(false)) expect(there).toBeInstanceOf(Buffer);
  });

  test.each(Object.entries(times))("GET, %s: the body or an error", async (_, when) => {
    const { store, observer } = await open(kind);
    const body = Buffer.alloc(5000, "x");
    await observer.create("k", body);
    server.fail({ method: "GET", when, kind });
    // Also into memory of the reader's, which is another way.
    const memory = { take: (length: number) => Buffer.alloc(length), give: () => {} };
    const ways = [{}, { memory }, {}, { memory }];
    const results = await Promise.all(ways.map((way) => outcome(store.get("k", way))));
    server.fail(undefined);
    for (const result of results) {
      if (typeof result === "string") expect(["EIO", "EBUSY", "ETIMEDOUT", "ENOTCONN"]).toContain(result);
      else expect(result).toEqual(body);
    }
  });

  test.each(Object.entries(times))("LIST and DELETE, %s", async (_, when) => {
    const { store, observer } = await open(kind);
    await observer.create("a", Buffer.from("a"));
    const list = async (from: ObjectStore): Promise<string[]> => {
      const keys: string[] = [];
      for await (const { key } of from.list("")) keys.push(key);
      return keys;
    };
    server.fail({ method: "LIST", when, kind });
    const listed = await outcome(list(store));
    if (typeof listed !== "string") expect(listed).toEqual(["a"]);
    server.fail({ method: "DELETE", when, kind });
    const removed = await outcome(store.remove("a"));
    server.fail(undefined);
    if (removed === undefined) expect(await list(observer)).toEqual([]);
  });
});

test("a store that ignores conditions is found out, also when the first answer is lost", async () => {
  const url = await careless.listen();
  const store = await openStore(`s3://bucket?endpoint=${url}`, { credentials, policy });
  await expect(probeConditionalCreate(store, "0123456789abcdef")).rejects.toMatchObject({ code: "ENOTSUP" });
  careless.fail({ method: "PUT", when: (count) => count === 1, kind: "lost" });
  await expect(probeConditionalCreate(store, "0123456789abcdee")).rejects.toMatchObject({ code: "ENOTSUP" });
  expect([...careless.objects.keys()]).toEqual([]);
});

test("a wrong key, a wrong bucket, an endpoint that is down: one clear error each", async () => {
  const wrong = () => Promise.resolve({ accessKeyId: "other", secretAccessKey: "test" });
  const puts = server.counts.PUT;
  const store = await openStore(`s3://bucket?endpoint=${endpoint}`, { credentials: wrong, policy });
  await expect(store.create("a/b", Buffer.from("a"))).rejects.toMatchObject({
    code: "EACCES",
    reason: expect.stringMatching(/^a\/b: the store answered 403, InvalidAccessKeyId/),
    hint: "Check the access key, and that it may write a/b in s3://bucket.",
  });
  // Asking again would not help, and locks accounts.
  expect(server.counts.PUT - puts).toBe(1);
  const elsewhere = await openStore(`s3://nothing-here?endpoint=${endpoint}`, { credentials, policy });
  await expect(elsewhere.create("a", Buffer.from("a"))).rejects.toMatchObject({ code: "ENOENT" });
  const closed = new S3TestServer();
  const gone = await closed.listen();
  await closed.close();
  const down = await openStore(`s3://bucket?endpoint=${gone}`, { credentials, policy });
  await expect(down.get("a")).rejects.toMatchObject({ code: "ENOTCONN" });
});

test("409 of two at once is no answer: it is tried again until there is one", async () => {
  const { store } = await open("409");
  server.fail({ method: "PUT", when: (count) => count <= 3, kind: "409" });
  const won = await Promise.all([1, 2, 3].map((writer) => store.create("k", Buffer.from(`w${writer}`))));
  server.fail(undefined);
  expect(won.filter(Boolean)).toHaveLength(1);
  expect((await store.get("k")).toString()).toBe(`w${won.indexOf(true) + 1}`);
});

test("503 halves the requests under way; successes bring them back", async () => {
  const { store } = await open("503");
  server.fail({ method: "PUT", when: (count) => count <= 8, kind: "503" });
  const all = await Promise.all(
    Array.from({ length: 40 }, (_, n) => store.create(`k/${n}`, Buffer.from(`${n}`))),
  );
  server.fail(undefined);
  expect(all.every(Boolean)).toBe(true);
});
