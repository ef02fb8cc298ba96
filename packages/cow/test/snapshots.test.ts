/** Snapshots: what they show against a model, in use and offline; what is refused; what is written of them. */
import { BlockIoError, SECTOR, portableCrc32c } from "@dmkit/block-io";
import { type BadSectors, SeededRandom } from "@dmkit/block-io/testing";
import { describe, expect, it } from "vitest";
import type { CowDevice } from "../src/device/device.ts";
import { readIdentity } from "../src/device/layer/layer.ts";
import type { StackDevices } from "../src/device/layer/stack-devices.ts";
import { BASE_UUID, type Identity, decodeIdentity, encodeIdentity } from "../src/format/identity.ts";
import { commitLayer } from "../src/offline/chain/commit-layer.ts";
import { deleteSnapshot, snapshotsOf, tableOf, upToSnapshot } from "../src/offline/chain/snapshots.ts";
import { check } from "../src/offline/check.ts";
import { commitTop } from "../src/offline/commit.ts";
import { dump, restore } from "../src/offline/dump.ts";
import { pair } from "../src/offline/pair.ts";
import { resizeLayer } from "../src/offline/resize.ts";
import { squash } from "../src/offline/squash.ts";
import { openStack } from "../src/open/open.ts";
import { SECTORS, contents, layerOf, newLayer, newStack, quiet } from "./stacks.ts";

/** Sectors where the whole is compared again and again; more than one page. */
const SMALL = 4500;

const code = (promise: Promise<unknown>): Promise<string> =>
  promise.then(
    () => "no error",
    (error: unknown) => (error instanceof BlockIoError ? error.code : `foreign ${String(error)}`),
  );

const names = (device: CowDevice): (string | undefined)[] => device.snapshots.map((one) => one?.name);

async function shownOf(device: CowDevice, name: string): Promise<Buffer> {
  const view = await device.openSnapshot(name);
  const bytes = await contents(view);
  await view.close();
  return bytes;
}

async function problems(stack: StackDevices): Promise<string[]> {
  const found: string[] = [];
  for await (const { text } of check(stack)) found.push(text);
  return found;
}

/** A stack in use, and what its layers are by now. */
class Running {
  stack: StackDevices;
  device: CowDevice;

  constructor(stack: StackDevices, device: CowDevice) {
    this.stack = stack;
    this.device = device;
  }

  static async open(stack: StackDevices): Promise<Running> {
    return new Running(stack, await openStack(stack, quiet));
  }

  async freeze(name?: string): Promise<void> {
    const layer = newLayer(this.stack.sectors);
    await this.device.freeze(layer, name);
    this.stack = { ...this.stack, layers: [...this.stack.layers, layer] };
  }

  leaveOut(layer: number): void {
    this.stack = { ...this.stack, layers: this.stack.layers.filter((_, index) => index !== layer - 1) };
  }

  async reopen(): Promise<void> {
    await this.device.close();
    expect(await problems(this.stack)).toEqual([]);
    this.device = await openStack(this.stack, quiet);
  }
}

/** Layers a, b and c, which are snapshots, and a top; something is in each. */
async function named(): Promise<{ running: Running; shown: Map<string, Buffer> }> {
  const running = await Running.open(await newStack());
  const shown = new Map<string, Buffer>();
  for (const [index, name] of ["a", "b", "c", ""].entries()) {
    await running.device.write(index * 64 * SECTOR, Buffer.alloc(200 * SECTOR, index + 1));
    await running.device.write(
      (SECTORS - index * 100 - 100) * SECTOR,
      Buffer.alloc(99 * SECTOR, 100 + index),
    );
    await running.device.writeZeroes(3000 * SECTOR + index * 512, 8 * SECTOR);
    shown.set(name, await contents(running.device));
    if (name !== "") await running.freeze(name);
  }
  return { running, shown };
}

it("show what they did, whatever is written, frozen, committed, deleted or opened again since", async () => {
  const seed = Number(process.env["DMKIT_SEED"] ?? process.pid);
  const random = new SeededRandom(seed);
  const running = await Running.open(await newStack(1, SMALL));
  const model = await contents(running.device);
  const kept = new Map<string, Buffer>();
  const step = async (number: number): Promise<void> => {
    const { device } = running;
    const chance = random.below(10);
    const all = [...kept.keys()];
    const some = all[random.below(Math.max(1, all.length))];
    if (chance < 4) {
      const at = random.below(SMALL - 300) * SECTOR;
      const bytes = Buffer.alloc((1 + random.below(300)) * SECTOR, random.chance(0.2) ? 0 : number);
      if (bytes[0] === 0) await device.writeZeroes(at, bytes.length);
      else await device.write(at, bytes);
      bytes.copy(model, at);
    } else if (chance < 6 && device.layers < 8) {
      const name = random.chance(0.7) ? `s${number}` : undefined;
      await running.freeze(name);
      if (name !== undefined) kept.set(name, Buffer.from(model));
    } else if (chance < 8 && some !== undefined) {
      const layer = names(device).indexOf(some) + 1;
      await device.deleteSnapshot(some);
      running.leaveOut(layer);
      kept.delete(some);
    } else if (chance === 8 && device.layers > 1) {
      const layer = 1 + random.below(device.layers - 1);
      const isFree = [layer, layer - 1].every((one) => device.snapshots[one - 1] === undefined);
      expect(await code(device.merge(layer))).toBe(isFree ? "no error" : "EBUSY");
      if (isFree) running.leaveOut(layer);
    } else if (chance === 9) await running.reopen();
  };
  for (let number = 1; number <= 60; number += 1) {
    await step(number);
    const { device } = running;
    expect((await contents(device)).equals(model), `step ${number}, DMKIT_SEED=${seed}`).toBe(true);
    expect(names(device).filter((one) => one !== undefined)).toEqual([...kept.keys()]);
    for (const [name, bytes] of kept)
      expect((await shownOf(device, name)).equals(bytes), `${name}, step ${number}, DMKIT_SEED=${seed}`).toBe(
        true,
      );
  }
  await running.device.close();
});

it("goes up into the top while clients write there, and nothing they wrote is lost", async () => {
  const seed = Number(process.env["DMKIT_SEED"] ?? process.pid);
  const random = new SeededRandom(seed);
  const { running, shown } = await named();
  const { device } = running;
  const model = shown.get("") as Buffer;
  const load = { stops: false };
  const work = async (part: number): Promise<void> => {
    const [from, size] = [part * 2500, 2500];
    for (let count = 0; !load.stops; count += 1) {
      const at = (from + random.below(size - 40)) * SECTOR;
      const bytes = Buffer.alloc((1 + random.below(40)) * SECTOR, random.chance(0.2) ? 0 : count);
      if (random.chance(0.6)) {
        if (bytes[0] === 0) await device.writeZeroes(at, bytes.length);
        else await device.write(at, bytes, { fua: random.chance(0.1) });
        bytes.copy(model, at);
      } else {
        await device.read(at, bytes);
        expect(bytes.equals(model.subarray(at, at + bytes.length)), `DMKIT_SEED=${seed}`).toBe(true);
      }
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  const working = Promise.all([0, 1, 2, 3].map(work));
  await device.deleteSnapshot("c");
  expect((await shownOf(device, "b")).equals(shown.get("b") as Buffer)).toBe(true);
  await device.deleteSnapshot("a");
  await device.suspend();
  await device.resume();
  await device.deleteSnapshot("b");
  load.stops = true;
  await working;
  expect((await contents(device)).equals(model), `DMKIT_SEED=${seed}`).toBe(true);
  await device.close();
  const top = { ...running.stack, layers: running.stack.layers.slice(-1) };
  expect(await problems(top)).toEqual([]);
  const again = await openStack(top, quiet);
  expect((await contents(again)).equals(model), `DMKIT_SEED=${seed}`).toBe(true);
  await again.close();
});

it("is as it was wherever deleting is ended, and all is done the next time", async () => {
  const { running, shown } = await named();
  const { device } = running;
  const reason = new BlockIoError("told to stop", { code: "ESHUTDOWN" });
  for (const name of ["b", "c"]) {
    const ending = new AbortController();
    const progress = (): void => ending.abort(reason);
    expect(await code(device.deleteSnapshot(name, { signal: AbortSignal.abort(reason) }))).toBe("ESHUTDOWN");
    await device.deleteSnapshot(name, { signal: ending.signal, progress }).catch(() => {});
  }
  const left = names(device).flatMap((name) => name ?? []);
  for (const name of left) expect((await shownOf(device, name)).equals(shown.get(name) as Buffer)).toBe(true);
  expect((await contents(device)).equals(shown.get("") as Buffer)).toBe(true);
  const deleting = device.deleteSnapshot("a");
  const closing = device.close();
  expect(await code(deleting)).toBe("ESHUTDOWN");
  await closing;
});

it("stays as it is where something cannot be read", async () => {
  const { running, shown } = await named();
  const { device, stack } = running;
  for (const [name, layer] of [
    ["b", 2],
    ["c", 3],
  ] as const) {
    const { bad } = layerOf(stack, layer).data as BadSectors;
    const [sector = 0] = await firstOf(device, layer);
    bad.add(sector);
    expect(await code(device.deleteSnapshot(name))).toBe("EIO");
    bad.clear();
  }
  expect(names(device)).toEqual(["a", "b", "c", undefined]);
  for (const [name, bytes] of shown)
    if (name !== "") expect((await shownOf(device, name)).equals(bytes)).toBe(true);
  await device.close();
});

/** Sectors that the stack reads from a layer. */
async function firstOf(device: CowDevice, layer: number): Promise<number[]> {
  const found: number[] = [];
  let at = 0;
  for await (const { length, depth } of device.depths(0, device.size)) {
    if (depth === device.layers - layer) found.push(at / SECTOR);
    at += length;
  }
  return found;
}

describe("refused", () => {
  it("is one more when there are as many layers as there can be; the top is still written", async () => {
    const running = await Running.open(await newStack(1, 8));
    const { device } = running;
    while (device.layers < 250) await running.freeze(`s${device.layers}`);
    expect(await code(device.freeze(newLayer(8), "more"))).toBe("EINVAL");
    await device.write(0, Buffer.alloc(SECTOR, 1), { fua: true });
    await device.deleteSnapshot("s100");
    running.leaveOut(100);
    await running.freeze("more");
    await device.close();
    expect(await problems(running.stack)).toEqual([]);
  });

  it("are names that cannot be, or there are, and ones there are not", async () => {
    const { running } = await named();
    const { device } = running;
    for (const name of ["", "x".repeat(64), "a b", "a,b", "a@b", "a\nb", "\u202e", "\ud800"])
      expect([name, await code(device.freeze(newLayer(), name))]).toEqual([name, "EINVAL"]);
    expect(await code(device.freeze(newLayer(), "b"))).toBe("EEXIST");
    expect(await code(device.deleteSnapshot("d"))).toBe("ENOENT");
    expect(await code(device.openSnapshot("d"))).toBe("ENOENT");
    for (const words of [["snapshot"], ["snapshot", "x"], ["snapshot-delete"], ["snapshot-delete", "a", "b"]])
      expect([words, await code(device.message(words))]).toEqual([words, "EINVAL"]);
    expect(device.layers).toBe(4);
    await device.close();
  });

  it("are a commit of a snapshot or into one, a squash over one, and all that while one is read", async () => {
    const { running, shown } = await named();
    const { device, stack } = running;
    for (const layer of [1, 2, 3]) expect(await code(device.merge(layer))).toBe("EBUSY");
    const view = await device.openSnapshot("b");
    expect(await code(device.deleteSnapshot("a"))).toBe("EBUSY");
    expect(await code(view.write(0, Buffer.alloc(SECTOR)))).toBe("EROFS");
    await running.freeze();
    expect((await contents(view)).equals(shown.get("b") as Buffer)).toBe(true);
    await view.close();
    await device.deleteSnapshot("a");
    // 1: b, 2: c, 3: frozen, 4: the top.
    expect(await code(device.merge(3))).toBe("EBUSY");
    await running.freeze();
    await device.merge(4);
    const open = await device.openSnapshot("c");
    await device.close();
    expect(await code(open.read(0, Buffer.alloc(SECTOR)))).toBe("ESHUTDOWN");
    const layers = stack.layers.slice(1, 4);
    const rest = { ...stack, layers };
    expect(await code(commitLayer(rest, 1))).toBe("EBUSY");
    expect(await code(squash(rest, 1, 3))).toBe("EBUSY");
    expect(await code(commitTop({ ...rest, layers: layers.slice(0, 3) }))).not.toBe("no error");
  });
});

it("is deleted offline as in use, wherever it lies", async () => {
  for (const name of ["a", "b", "c"]) {
    const { running, shown } = await named();
    await running.device.close();
    const { stack } = running;
    const { layer } = await deleteSnapshot(stack, name);
    expect(await deleteSnapshot(stack, name)).toEqual({ layer, bytes: 0 });
    running.leaveOut(layer);
    const device = await openStack(running.stack, quiet);
    expect((await contents(device)).equals(shown.get("") as Buffer)).toBe(true);
    for (const left of ["a", "b", "c"].filter((one) => one !== name))
      expect((await shownOf(device, left)).equals(shown.get(left) as Buffer)).toBe(true);
    await device.close();
    expect((await snapshotsOf(running.stack)).length).toBe(3);
    expect(tableOf(await upToSnapshot(running.stack, name === "a" ? "b" : "a")).length).toBe(5);
    // What lies on the deleted layer beside shows what it did.
    const beside = await openStack(
      { ...stack, layers: stack.layers.slice(0, layer) },
      { ...quiet, readOnly: true },
    );
    expect((await contents(beside)).equals(shown.get(name) as Buffer)).toBe(true);
    await beside.close();
  }
});

it("keeps its name when it is paired anew, or gets another length", async () => {
  const { running, shown } = await named();
  await running.device.close();
  const { stack } = running;
  const before = await snapshotsOf(stack);
  await pair(stack);
  expect(await snapshotsOf(stack)).toEqual(before);
  const longer = { ...newLayer(SECTORS), data: layerOf(stack, 2).data };
  const { snapshot } = await resizeLayer(layerOf(stack, 2), longer.bitmap, SECTORS - 7, { shrink: true });
  expect(snapshot).toEqual(before[1]);
  expect((await openedOf(stack)).equals(shown.get("") as Buffer)).toBe(true);
});

async function openedOf(stack: StackDevices): Promise<Buffer> {
  const device = await openStack(stack, { ...quiet, readOnly: true });
  const bytes = await contents(device);
  await device.close();
  return bytes;
}

describe("the identity of a snapshot", () => {
  const identity: Identity = {
    uuid: "01020304-0506-4708-890a-0b0c0d0e0f10",
    parent: BASE_UUID,
    sectors: 8,
    frozen: true,
    snapshot: { name: "grün", made: 1_700_000_000_000 },
  };

  /** Byte by byte. */
  function golden(): Buffer {
    const sector = Buffer.alloc(512);
    sector.write("11bebaaa0ebeba000100000000000000", "hex");
    sector.write("dmkitcow", 16, "latin1");
    sector.set([4, 0, 0, 0, 1, 0, 0, 0], 24);
    sector.write("0102030405064708890a0b0c0d0e0f10", 32, "hex");
    sector.set([8], 64);
    // 1700000000000 = 0x18BCFE56800
    sector.set([0x00, 0x68, 0xe5, 0xcf, 0x8b, 0x01, 0, 0, 5, 0x67, 0x72, 0xc3, 0xbc, 0x6e], 416);
    return sealed(sector);
  }

  function sealed(sector: Buffer): Buffer {
    sector.writeUInt32LE(portableCrc32c(sector.subarray(0, 508)) >>> 0, 508);
    return sector;
  }

  it("is encoded as the table says", () => {
    expect(encodeIdentity(identity).toString("hex")).toBe(golden().toString("hex"));
    expect(decodeIdentity(golden())).toEqual({ kind: "layer", identity });
    expect(() => encodeIdentity({ ...identity, frozen: false })).toThrow();
  });

  it.each([
    ["is not frozen", 28, [0]],
    ["has no name", 424, [0, 0, 0, 0, 0, 0]],
    ["has a name longer than there is room", 424, [64]],
    ["has something behind its name", 424, [4]],
    ["has a name that is no UTF-8", 427, [0xff]],
    ["has a name with an @", 425, [0x40]],
    ["was made when there are no dates", 420, [0xff, 0xff, 0x1f, 0]],
    ["was made when nobody can say", 416, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]],
    ["is of a later version", 24, [5]],
  ] as const)("is refused where it %s", (_what, at, bytes) => {
    const sector = golden();
    sector.set(bytes, at);
    expect(decodeIdentity(sealed(sector)).kind).toBe("damaged");
  });

  it("is in a dump, and comes back from it; a name that cannot be does not", async () => {
    const { running } = await named();
    await running.device.close();
    const { bitmap } = layerOf(running.stack, 2);
    const before = await readIdentity(bitmap, SECTORS);
    const dumped = JSON.parse(JSON.stringify(await dump(bitmap, {}))) as { identity: { snapshot: object } };
    const copy = newLayer().bitmap;
    await restore(copy, dumped, {});
    const { samples: _, ...rest } = (before as Extract<typeof before, { kind: "layer" }>).identity;
    expect(await readIdentity(copy, SECTORS)).toEqual({ kind: "layer", identity: rest });
    for (const snapshot of [
      { name: "b" },
      { name: "a b", made: 0 },
      { name: 1, made: 0 },
      7,
      { name: "b", made: 9e15 },
    ])
      expect(await code(restore(copy, { ...dumped, identity: { ...dumped.identity, snapshot } }, {}))).toBe(
        "EINVAL",
      );
    const unfrozen = { ...dumped, identity: { ...dumped.identity, frozen: false } };
    expect(await code(restore(copy, unfrozen, {}))).toBe("EINVAL");
  });
});
