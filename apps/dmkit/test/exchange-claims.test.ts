/** While a table is exchanged nobody else is given what it stands on, although nothing of it is open. */
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type AnyTarget, MemoryDevice, TargetRegistry, linear, realEnvironment } from "@dmkit/block-io";
import { afterEach, beforeEach, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { targets } from "../src/targets.ts";
import { tempFolder } from "./support.ts";

const MIB = 2 ** 20;

let manager: DeviceManager;
let folder: string;

beforeEach(() => {
  manager = new DeviceManager(realEnvironment, new TargetRegistry([...targets.list(), slow]));
  folder = tempFolder();
});

afterEach(() => manager.close());

function file(name: string, size = 8 * MIB): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

/** A device that takes long to be opened, and then the exchange goes on. */
const slowOpen = {
  begun: () => {},
  letGo: Promise.resolve(),
};

const slow: AnyTarget = {
  ...(linear as AnyTarget),
  name: "slow",
  schemes: {
    slow: {
      absolute: (reference) => reference,
      open: async () => {
        slowOpen.begun();
        await slowOpen.letGo;
        return new MemoryDevice(MIB);
      },
    },
  },
};

/** Exchanges the table of `d`, whose first line is kept; `meanwhile` runs when nothing of it is open. */
async function whileExchanged(kept: string, meanwhile: () => Promise<unknown>, last?: string): Promise<void> {
  await manager.reload(
    "d",
    `0 2048 linear slow:1 0\n2048 2048 ${kept}${last === undefined ? "" : `\n${last}`}`,
  );
  const begun = new Promise<void>((resolve) => {
    slowOpen.begun = resolve;
  });
  let letGo = (): void => {};
  slowOpen.letGo = new Promise((resolve) => {
    letGo = resolve;
  });
  const exchanged = manager.resume("d");
  exchanged.catch(() => {});
  await begun;
  try {
    await meanwhile();
  } finally {
    letGo();
  }
  await exchanged;
}

const isBusy = { code: "EBUSY", message: expect.stringContaining("device d") as string };

it.each(["", "?no-lock"])("a file of the table is still its own%s", async (words) => {
  const disk = file("disk");
  await manager.create("d", `0 2048 linear ${disk}${words} 0`);
  await whileExchanged(`linear ${disk}${words} 0`, async () => {
    const table = `0 2048 cache ${disk}${words} ${file("other")} 2 8 64 64`;
    await expect(manager.create("e", table)).rejects.toMatchObject(isBusy);
    // What lies beside it is free, where there is no lock.
    if (words !== "") await manager.create("e", `0 2048 linear ${disk}${words} 8192`);
  });
  expect(manager.snapshotOf("d").state).toBe("live");
  // Nothing is kept for longer than that.
  await manager.remove("d");
  if (words === "") await manager.create("e", `0 2048 linear ${disk} 0`);
});

it("a partition of the table is still its own, and the others of the disk are free", async () => {
  const disk = file("disk");
  const mbr = Buffer.alloc(512);
  mbr.writeUInt16LE(0xaa55, 510);
  for (const [index, first] of [2048, 6144].entries()) {
    mbr[446 + 16 * index + 4] = 0x83;
    mbr.writeUInt32LE(first, 446 + 16 * index + 8);
    mbr.writeUInt32LE(4096, 446 + 16 * index + 12);
  }
  writeFileSync(disk, Buffer.concat([mbr], 8 * MIB));
  await manager.create("d", `0 2048 linear ${disk}?partition=1 0`);
  await whileExchanged(`linear ${disk}?partition=1 0`, async () => {
    for (const other of [disk, `${disk}?partition=1`])
      await expect(manager.create("e", `0 2048 linear ${other} 2048`)).rejects.toMatchObject({
        code: "EBUSY",
      });
    await manager.create("e", `0 2048 linear ${disk}?partition=2 0`);
  });
  expect(manager.snapshotOf("d").state).toBe("live");
});

it("what another device relies on through it is still that one's", async () => {
  const disk = `${file("disk")}?no-lock`;
  await manager.create("d", `0 2048 linear ${disk} 0\n2048 2048 linear ${disk} 8192`);
  await manager.create("above", `0 2048 cache dm:d ${file("cache")} 2 8 64 64`);
  await manager.reload("d", `0 2048 linear ${disk} 0\n2048 2048 linear slow:1 0`);
  await whileExchanged(
    `linear ${disk} 8192`,
    // Two of linear could share it, were it not for the cache.
    () => expect(manager.create("e", `0 2048 linear ${disk} 0`)).rejects.toMatchObject({ code: "EBUSY" }),
  ).catch(() => {});
  expect(manager.snapshotOf("d").state).toBe("live");
});

it("the old table gets it back where the new one cannot be opened", async () => {
  const disk = file("disk");
  await manager.create("d", `0 2048 linear ${disk} 0`);
  const exchanged = whileExchanged(
    `linear ${disk} 4096`,
    () => expect(manager.create("e", `0 2048 linear ${disk} 0`)).rejects.toMatchObject(isBusy),
    `4096 8 linear ${file("small")} 16384`,
  );
  await expect(exchanged).rejects.toThrow("the old table is in place again");
  expect(manager.snapshotOf("d").state).toBe("live");
});

it("a cache that goes is made worthless before anybody else may have it, with its plog", async () => {
  const [disk, cache] = [file("disk"), file("cache")];
  // The name of the second one has no place of its own.
  for (const plog of [file("plog", MIB + 4096), file("plog2", MIB)]) {
    const table = `0 2048 writeboost 1 ${disk} ${cache} ${plog} 2 segment_size_order 4`;
    const device = await manager.create("d", table);
    await device.write(0, Buffer.alloc(4096, 1));
    await device.flush();
    await whileExchanged(`linear ${disk} 0`, async () => {
      for (const path of [cache, plog])
        await expect(manager.create("e", `0 2048 linear ${path} 0`)).rejects.toMatchObject(isBusy);
    });
    // The first sector says that nothing counts; of the plog it may have the name besides.
    for (const [path, rest] of [
      [cache, 16],
      [plog, 512],
    ] as const) {
      const bytes = readFileSync(path).subarray(0, MIB);
      expect(bytes.toString("latin1", 0, 16)).toBe("dmkit formatting");
      expect(bytes.subarray(rest).every((byte) => byte === 0)).toBe(true);
    }
    await device.write(MIB, Buffer.alloc(4096, 2));
    await manager.remove("d");
    const again = await manager.create("d", table);
    const bytes = Buffer.alloc(4096);
    await again.read(0, bytes);
    expect(bytes.every((byte) => byte === 2)).toBe(true);
    await manager.remove("d");
    writeFileSync(cache, "");
    truncateSync(cache, 8 * MIB);
  }
});
