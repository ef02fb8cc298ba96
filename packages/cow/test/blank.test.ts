/** A new layer is made of blank devices only, unless somebody insists. */
import { type BlockDevice, ByteAccess, MemoryDevice, SECTOR, TableArguments, codeOf } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { cow, createLayer, openStack } from "../src/index.ts";
import { SECTORS, contents, newLayer, newStack, quiet } from "./stacks.ts";

const put = (device: BlockDevice, offset: number, bytes: string): Promise<void> =>
  new ByteAccess(device).write(offset, Buffer.from(bytes, "latin1"));

/** Ways to spoil a layer that has never been used. */
const spoilt: Record<string, (layer: ReturnType<typeof newLayer>) => Promise<void>> = {
  "ext4 on the data": ({ data }) => put(data, 1080, "\x53\xef"),
  "GPT at the end of the data": ({ data }) => put(data, data.size - 512, "EFI PART"),
  "unknown data": ({ data }) => put(data, 700_000, "x"),
  "swap on the bitmap": ({ bitmap }) => put(bitmap, 4086, "SWAPSPACE2"),
  "something where the identity belongs": ({ bitmap }) => put(bitmap, 98_304, "mail"),
  "a table behind the bitmap": ({ bitmap }) => put(bitmap, bitmap.size - 512, "EFI PART"),
};

async function attempt(work: Promise<unknown>): Promise<string> {
  return work.then(
    async (made) => {
      await (made as { close?: () => Promise<void> } | undefined)?.close?.();
      return "made";
    },
    (error: unknown) => codeOf(error),
  );
}

describe.each(Object.entries(spoilt))("%s", (_name, spoil) => {
  it("is refused when a stack is opened, when a layer is created, and when one is frozen", async () => {
    const stack = await newStack(1);
    const doors: [string, (layer: ReturnType<typeof newLayer>, force: boolean) => Promise<unknown>][] = [
      ["EFORMAT", (layer, force) => openStack({ ...stack, layers: [layer] }, { ...quiet, force })],
      [
        "EFORMAT",
        async (layer, force) => {
          const device = await openStack({ ...stack, layers: [newLayer()] }, quiet);
          try {
            await device.freeze({ ...layer, force });
          } finally {
            await device.close();
          }
        },
      ],
    ];
    for (const [code, open] of doors) {
      const layer = newLayer();
      await spoil(layer);
      const before = [await contents(layer.bitmap), await contents(layer.data)];
      expect([code, "EFORMAT", "EEXIST"]).toContain(await attempt(open(layer, false)));
      const after = [await contents(layer.bitmap), await contents(layer.data)];
      for (const [index, bytes] of after.entries()) expect(bytes.equals(before[index] as Buffer)).toBe(true);
      expect(await attempt(open(layer, true))).toBe("made");
    }
    const layer = newLayer();
    await spoil(layer);
    expect(["EEXIST", "EFORMAT"]).toContain(await attempt(createLayer(layer, { sectors: SECTORS })));
  });
});

describe("the word", () => {
  it("does nothing to a layer that is there", async () => {
    const stack = await newStack(1);
    const device = await openStack(stack, quiet);
    await device.write(0, Buffer.alloc(SECTOR, 7));
    await device.close();
    const again = await openStack(stack, { ...quiet, force: true });
    expect((await contents(again))[0]).toBe(7);
    await again.close();
    // Nor to one of another length.
    expect(await attempt(openStack({ ...stack, sectors: SECTORS - 4100 }, { ...quiet, force: true }))).toBe(
      "EFORMAT",
    );
  });

  it("is an option of tables", () => {
    const words = "base 0 map img 0 2 force 1".split(" ");
    const options = cow.parse(new TableArguments(words));
    expect(options.force).toBe(true);
    expect(cow.print(options)).toEqual(words);
  });

  it("is about the part of the data device that is used", async () => {
    const offset = 1024 * 1024;
    const data = new MemoryDevice(offset + SECTORS * SECTOR + 4096);
    await put(data, 1080, "\x53\xef");
    const { bitmap } = newLayer();
    const { base } = await newStack(1);
    const layers = [{ bitmap, data, offset }];
    expect(await attempt(openStack({ base, baseOffset: 0, layers, sectors: SECTORS }, quiet))).toBe("made");
  });
});
