/** What every store promises: tests for any kind of it. */
import { expect, test } from "vitest";
import { type ObjectStore, probeConditionalCreate } from "../src/index.ts";

export async function keys(store: ObjectStore, prefix: string, after?: string): Promise<string[]> {
  const found: string[] = [];
  for await (const { key } of store.list(prefix, after)) found.push(key);
  return found;
}

/** @param open opens the same empty place never twice. */
export function promises(open: () => Promise<ObjectStore>): void {
  test("an object is what was created, and is created once", async () => {
    const store = await open();
    expect(await store.create("a/b", Buffer.from("one"))).toBe(true);
    expect(await store.create("a/b", Buffer.from("two"))).toBe(false);
    expect((await store.get("a/b")).toString()).toBe("one");
    const before = Date.now();
    await store.put("a/b", Buffer.from("three"));
    const head = await store.head("a/b");
    expect(head).toMatchObject({ key: "a/b", size: 5 });
    // S3 tells whole seconds; the clock of a store need not be ours.
    expect(head?.modified).toBeGreaterThan(before - 3_600_000);
    expect(await store.head("a/c")).toBeUndefined();
    expect((await store.get("a/b")).toString()).toBe("three");
    await store.remove("a/b");
    await store.remove("a/b");
    await expect(store.get("a/b")).rejects.toMatchObject({ code: "ENOENT" });
    expect(await store.create("a/b", Buffer.alloc(0))).toBe(true);
    expect(await store.get("a/b")).toHaveLength(0);
    await store.close();
  });

  test("a body comes into the memory that is given for it, or into other", async () => {
    const store = await open();
    const body = Buffer.from(Array.from({ length: 300_000 }, (_, at) => at % 251));
    await store.put("m", body);
    const taken: Buffer[] = [];
    const memory = {
      take: (length: number): Buffer => {
        taken.push(Buffer.alloc(length));
        return taken.at(-1) as Buffer;
      },
      give: () => expect.fail("nothing has failed"),
    };
    for (let n = 0; n < 3; n += 1) expect((await store.get("m", { memory })).equals(body)).toBe(true);
    const part = await store.get("m", { memory, range: { offset: 299_990, length: 100 } });
    expect(part.equals(body.subarray(299_990))).toBe(true);
    await expect(store.get("n", { memory })).rejects.toMatchObject({ code: "ENOENT" });
    expect(taken.every(({ length }) => length === 300_000 || length === 10)).toBe(true);
    await store.close();
  });

  test("of many writers exactly one creates a key", async () => {
    const store = await open();
    const won = await Promise.all(
      Array.from({ length: 16 }, (_, n) => store.create("k", Buffer.from(`writer ${n}`))),
    );
    expect(won.filter(Boolean)).toHaveLength(1);
    expect((await store.get("k")).toString()).toBe(`writer ${won.indexOf(true)}`);
    await store.close();
  });

  test("ranges are what they say, also past the end", async () => {
    const store = await open();
    const body = Buffer.from(Array.from({ length: 1000 }, (_, n) => n & 255));
    await store.create("r", body);
    const part = (offset: number, length: number) => store.get("r", { range: { offset, length } });
    expect(await part(10, 5)).toEqual(body.subarray(10, 15));
    expect(await part(990, 50)).toEqual(body.subarray(990));
    expect(await part(1000, 1)).toHaveLength(0);
    expect(await part(5000, 10)).toHaveLength(0);
    await store.close();
  });

  test("a listing has every key once, in byte order, also over several pages", async () => {
    const store = await open();
    const wanted = ["a-b", "a/b", "a/b0", "a0", "b/x.y", ...Array.from({ length: 1005 }, (_, n) => `n/${n}`)];
    await Promise.all(wanted.map((key) => store.create(key, Buffer.from(key))));
    const sorted = wanted.toSorted();
    expect(await keys(store, "")).toEqual(sorted);
    expect(await keys(store, "a/")).toEqual(["a/b", "a/b0"]);
    expect(await keys(store, "n/10")).toEqual(sorted.filter((key) => key.startsWith("n/10")));
    expect(await keys(store, "", "n/998")).toEqual(["n/999"]);
    expect(await keys(store, "n/", "n/42")).toEqual(
      sorted.filter((key) => key.startsWith("n/") && key > "n/42"),
    );
    expect(await keys(store, "z")).toEqual([]);
    await store.close();
  });

  test("a body above the reader's bound is refused", async () => {
    const store = await open();
    await store.create("large", Buffer.alloc(3 << 20));
    await expect(store.get("large", { most: 2 << 20 })).rejects.toMatchObject({ code: "EOVERFLOW" });
    await store.close();
  });

  test.each(["", "/a", "a/", "a//b", "../x", "a/./b", ".a", "a.", "a b", "ä", "a".repeat(513)])(
    "%j is no key",
    async (key) => {
      const store = await open();
      await expect(store.create(key, Buffer.alloc(1))).rejects.toMatchObject({ code: "EINVAL" });
      await expect(store.get(key)).rejects.toMatchObject({ code: "EINVAL" });
      await store.close();
    },
  );

  test("conditions are honoured, and the probe leaves nothing", async () => {
    const store = await open();
    await probeConditionalCreate(store, "0123456789abcdef");
    expect(await keys(store, "")).toEqual([]);
    await store.close();
  });

  test("a closed store refuses", async () => {
    const store = await open();
    await store.close();
    await store.close();
    await expect(store.get("k")).rejects.toMatchObject({ code: "ESHUTDOWN" });
  });
}
