/**
 * Several stacks on one base and on shared layers, none of them open while another one changes what they lie on: each is
 * refused afterwards, or shows what it did. `DMKIT_SEED` repeats a run.
 */
import { createHash } from "node:crypto";
import { BlockIoError, SECTOR } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { StackDevices } from "../src/device/layer/stack-devices.ts";
import { readIdentity, writeIdentity } from "../src/device/layer/layer.ts";
import { commitLayer } from "../src/offline/chain/commit-layer.ts";
import { check } from "../src/offline/check.ts";
import { commitTop } from "../src/offline/commit.ts";
import { createLayer } from "../src/offline/create/create.ts";
import { dump, restore } from "../src/offline/dump.ts";
import { pair } from "../src/offline/pair.ts";
import { rebase } from "../src/offline/rebase.ts";
import { squash } from "../src/offline/squash.ts";
import { openStack } from "../src/open/open.ts";
import { baseImage, contents, layerOf, newLayer, quiet } from "./stacks.ts";

/** All of it is in the witness of a device of this size. */
const SECTORS = 1000;

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

async function shown(stack: StackDevices, readOnly = true): Promise<Buffer> {
  const device = await openStack(stack, { ...quiet, readOnly });
  try {
    return await contents(device);
  } finally {
    await device.close();
  }
}

async function write(stack: StackDevices, sector: number, byte: number, count = 8): Promise<void> {
  const device = await openStack(stack, quiet);
  await device.write(sector * SECTOR, Buffer.alloc(count * SECTOR, byte));
  await device.close();
}

/** The stack with a new layer on it, in which there is something. */
async function grown(stack: StackDevices, sector: number, byte: number): Promise<StackDevices> {
  const higher = { ...stack, layers: [...stack.layers, newLayer(SECTORS)] };
  await createLayer(layerOf(higher, higher.layers.length), {
    sectors: SECTORS,
    below: stack.layers.at(-1)?.bitmap,
  });
  await write(higher, sector, byte);
  return higher;
}

const only = (stack: StackDevices, ...numbers: number[]): StackDevices => ({
  ...stack,
  layers: numbers.map((number) => layerOf(stack, number)),
});

async function bare(): Promise<StackDevices> {
  return { base: await baseImage(SECTORS), baseOffset: 0, layers: [], sectors: SECTORS };
}

/** Two stacks on one layer, closed. */
async function twins(): Promise<{ shared: StackDevices; one: StackDevices; other: StackDevices }> {
  const shared = await grown(await bare(), 0, 1);
  return { shared, one: await grown(shared, 100, 2), other: await grown(shared, 200, 3) };
}

describe("a commit into a layer that two stacks share", () => {
  it.each([false, true])("refuses the other one, read-only as well; dropped: %s", async (drop) => {
    const { one, other } = await twins();
    const before = await shown(one);
    await commitTop(one, { drop });
    expect((await shown(drop ? only(one, 1) : one)).equals(before)).toBe(true);
    expect(await code(shown(other))).toBe("EFORMAT");
    expect(await code(shown(other, false))).toBe("EFORMAT");
    const found: string[] = [];
    for await (const { kind } of check(other)) found.push(kind);
    expect(found).toEqual(["changed-below"]);
  });

  it("of a layer in between is the same, and what lies on that layer shows what it did", async () => {
    const { shared, one, other } = await twins();
    const upper = await grown(one, 300, 4);
    const third = await grown(one, 400, 5);
    const [before, thirds] = [await shown(upper), await shown(third)];
    await commitLayer(upper, 2);
    expect((await shown(only(upper, 1, 3))).equals(before)).toBe(true);
    expect((await shown(third)).equals(thirds)).toBe(true);
    expect(await code(shown(other))).toBe("EFORMAT");
    // The layer does not have what comes from the next one.
    await commitTop(only(upper, 1, 3));
    expect(await code(shown(third))).toBe("EFORMAT");
    expect((await shown(only(upper, 1, 3))).equals(before)).toBe(true);
    expect(shared.layers).toHaveLength(1);
  });

  it("of a top that is empty refuses nobody, unless it is dropped: then the layer may be written", async () => {
    const { shared, other } = await twins();
    const empty = { ...shared, layers: [...shared.layers, newLayer(SECTORS)] };
    await createLayer(layerOf(empty, 2), { sectors: SECTORS, below: layerOf(shared, 1).bitmap });
    await commitTop(empty);
    const before = await shown(other);
    expect(before).toHaveLength(SECTORS * SECTOR);
    await commitTop(empty, { drop: true });
    await write(shared, 50, 9);
    expect(await code(shown(other))).toBe("EFORMAT");
  });

  it("is accepted by pair", async () => {
    const { one, other } = await twins();
    await commitTop(one);
    await pair(other);
    expect((await shown(other)).subarray(100 * SECTOR, 101 * SECTOR)).toEqual(Buffer.alloc(SECTOR, 2));
  });

  it("is known to a layer whose bitmap was dumped and restored", async () => {
    const { one, other } = await twins();
    const text: unknown = JSON.parse(JSON.stringify(await dump(layerOf(other, 2).bitmap, {})));
    await commitTop(one);
    await restore(layerOf(other, 2).bitmap, text, {});
    expect(await code(shown(other))).toBe("EFORMAT");
  });
});

describe("a commit into the base", () => {
  it("refuses other layers on it, and none of the stack itself", async () => {
    const base = await bare();
    const [one, other] = [await grown(base, 100, 2), await grown(base, 200, 3)];
    const upper = await grown(one, 300, 4);
    const [before, ones] = [await shown(upper), await shown(one)];
    await commitLayer(upper, 1);
    expect((await shown(only(upper, 2))).equals(before)).toBe(true);
    expect((await shown(one)).equals(ones)).toBe(true);
    expect(await code(shown(other))).toBe("EFORMAT");
    await pair(other);
    expect((await shown(other)).subarray(100 * SECTOR, 101 * SECTOR)).toEqual(Buffer.alloc(SECTOR, 2));
    await commitTop(only(upper, 2));
    expect((await shown(only(upper, 2))).equals(before)).toBe(true);
    expect(await code(shown(other))).toBe("EFORMAT");
  });

  it("and what else writes to it is found by those who lie on it; what it cannot give says nothing", async () => {
    const one = await grown(await bare(), 100, 2);
    const bytes = Buffer.alloc(SECTOR);
    await one.base.read(500 * SECTOR, bytes);
    await one.base.write(500 * SECTOR, Buffer.alloc(SECTOR, 9));
    expect(await code(shown(one))).toBe("EFORMAT");
    await one.base.write(500 * SECTOR, bytes);
    expect(await code(shown(one))).toBe("no error");
  });
});

describe("a layer of another stack, named in between", () => {
  it("is not taken for one that was committed or squashed before", async () => {
    const { one, other } = await twins();
    const upper = await grown(one, 300, 4);
    await squash(upper, 2, 3);
    expect(await squash(upper, 2, 3)).toBe(0);
    const wrong = { ...upper, layers: [layerOf(other, 1), layerOf(other, 2), layerOf(upper, 3)] };
    expect(await code(commitLayer(wrong, 2))).toBe("EFORMAT");
    expect(await code(squash(wrong, 2, 3))).toBe("EFORMAT");
    expect(await commitLayer(only(upper, 1, 3), 1)).toBeGreaterThan(0);
  });
});

it("any of them, in any order, leaves each stack with what it showed, or refused", async () => {
  const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
  for (let round = 0; round < 12; round += 1) {
    const random = new SeededRandom(seed + round);
    const base = await bare();
    const stacks: { stack: StackDevices; bytes: Buffer }[] = [];
    const add = async (stack: StackDevices): Promise<void> => {
      stacks.push({ stack, bytes: await shown(stack) });
    };
    await add(await grown(base, random.below(900), 1));
    for (let step = 0; step < 12; step += 1) {
      const at = random.below(stacks.length);
      const one = stacks[at] as (typeof stacks)[number];
      const { layers } = one.stack;
      const number = 1 + random.below(layers.length);
      const drop = (which: number): StackDevices => ({
        ...one.stack,
        layers: layers.filter((_, index) => index !== which - 1),
      });
      const act = async (): Promise<void> => {
        switch (random.below(7)) {
          case 0:
            return write(one.stack, random.below(900), 10 + step);
          case 1:
            // On the top it goes on as the same stack, further down it is one more.
            if (number < layers.length)
              return add(
                await grown({ ...one.stack, layers: layers.slice(0, number) }, random.below(900), 30 + step),
              );
            one.stack = await grown(one.stack, random.below(900), 30 + step);
            return;
          case 2:
            return add(await grown(base, random.below(900), 50 + step));
          case 3:
            await commitTop(one.stack, { drop: layers.length > 1 && random.chance(0.5) });
            if ((await readIdentity(layerOf(one.stack, layers.length).bitmap, SECTORS)).kind === "new")
              one.stack = drop(layers.length);
            return;
          case 4:
            await commitLayer(one.stack, number);
            one.stack = drop(number);
            return;
          case 5:
            await squash(one.stack, 1, layers.length);
            one.stack = only(one.stack, layers.length);
            return;
          default:
            await rebase(one.stack, base);
            one.stack = only(one.stack, layers.length);
        }
      };
      const wrote = await code(act());
      expect(["no error", "EFORMAT", "EROFS", "EINVAL"], `seed ${seed + round}, step ${step}`).toContain(
        wrote,
      );
      for (const { stack, bytes } of stacks) {
        const now = await shown(stack).catch((error: unknown) => {
          expect((error as BlockIoError).code, `seed ${seed + round}, step ${step}`).toBe("EFORMAT");
        });
        // What was written to this one it may show.
        if (stack === one.stack && now !== undefined) now.copy(bytes);
        else if (now !== undefined)
          expect(now.equals(bytes), `seed ${seed + round}, step ${step}: a stack shows something else`).toBe(
            true,
          );
      }
    }
  }
});

it("a layer from before there were such names is one that was never changed", async () => {
  const { shared, one } = await twins();
  const block = await readIdentity(layerOf(one, 2).bitmap, SECTORS);
  expect(block.kind === "layer" && block.identity.contentsBelow).toBe(undefined);
  const below = await readIdentity(layerOf(shared, 1).bitmap, SECTORS);
  if (below.kind !== "layer") throw new Error("no layer");
  const { baseWitness, ...identity } = below.identity;
  expect(baseWitness).toMatch(/^[0-9a-f]{32}$/);
  await writeIdentity(layerOf(shared, 1).bitmap, identity);
  expect(await code(shown(one))).toBe("no error");
});

describe("a base that is pinned", () => {
  const DIGEST = "0123456789abcdef".repeat(4);
  const MOVED = `image:s3://bucket/images/golden@${"f".repeat(64)}`;

  /** What moves that much at once is not hashed. */
  async function pinnedBase(pinned: string): Promise<StackDevices> {
    const stack = await bare();
    const limits = { ...stack.base.limits, optimalTransfer: 512 * 1024 };
    return { ...stack, base: Object.assign(stack.base, { pinned, limits }) };
  }

  it.each([
    ["an image", `image:/store/golden@${DIGEST}`, MOVED],
    [
      "an archive",
      "archive:s3://bucket/vm1@18?endpoint=http://h:1/x",
      "archive:s3://bucket/vm1@19?endpoint=http://h:1/x",
    ],
  ])("%s: a layer is refused over another one, and its identity says by what", async (_what, pin, other) => {
    const first = await pinnedBase(pin);
    const layer = await grown(first, 8, 1);
    const before = await shown(layer);
    const block = await readIdentity(layerOf(layer, 1).bitmap, SECTORS);
    const name = pin.startsWith("image") ? `golden@${DIGEST}` : "vm1@18";
    const sum = createHash("sha256").update(name).digest("hex");
    expect(block).toMatchObject({ identity: { baseWitness: `00000000${sum.slice(0, 24)}` } });
    expect(await code(shown({ ...layer, base: (await pinnedBase(other)).base }))).toBe("EFORMAT");
    // The same from another place is the same, and of a copy in a file nothing is known.
    const elsewhere = (await pinnedBase(`image:s3://mirror/${name}`)).base;
    expect((await shown({ ...layer, base: elsewhere })).equals(before)).toBe(true);
    expect((await shown({ ...layer, base: (await bare()).base })).equals(before)).toBe(true);
    await pair({ ...layer, base: (await pinnedBase(other)).base });
    expect((await shown({ ...layer, base: (await pinnedBase(other)).base })).equals(before)).toBe(true);
    expect(await code(shown(layer))).toBe("EFORMAT");
  });

  it("is the only one of which contents are not looked at, whatever its preferred requests", async () => {
    const large = await pinnedBase("no reference that pins it");
    const layer = await grown(large, 8, 1);
    expect((await shown(layer)).length).toBe(SECTORS * SECTOR);
    await large.base.write(0, Buffer.alloc(4096, 9));
    expect(await code(shown(layer))).toBe("EFORMAT");
  });

  it("was not recorded by an earlier version: the next opening for writing does", async () => {
    const layer = await grown(await pinnedBase(`image:/store/golden@${DIGEST}`), 8, 1);
    const { bitmap } = layerOf(layer, 1);
    const block = await readIdentity(bitmap, SECTORS);
    if (block.kind !== "layer") throw new Error("no layer");
    await writeIdentity(bitmap, { ...block.identity, baseWitness: undefined });
    const moved = { ...layer, base: (await pinnedBase(MOVED)).base };
    expect(await code(shown(moved))).toBe("no error");
    await write(layer, 16, 2);
    expect(await code(shown(moved))).toBe("EFORMAT");
  });
});
