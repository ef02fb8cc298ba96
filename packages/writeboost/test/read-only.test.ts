/** Read-only: everything that an opening for writing would show, and not a byte written. */
import { type BlockDevice, MemoryOverlay, withCapabilities } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { altered, everything } from "./support/hand.ts";
import { MIB, Rig, type Shape, filled } from "./support/rig.ts";

/** A device that is really read-only: whoever tries to write is found out. */
function sealed(disk: BlockDevice): BlockDevice {
  const refuse = (): Promise<void> => Promise.reject(new Error("written to"));
  return altered(disk, {
    limits: withCapabilities(disk.limits, { readOnly: true }),
    write: refuse,
    flush: refuse,
    discard: refuse,
    writeZeroes: refuse,
  });
}

const bytesOf = (rig: Rig): string[] =>
  [rig.backing, rig.cache, rig.plog].map((disk) =>
    disk === undefined ? "" : disk.visible.toString("latin1"),
  );

const contents = async (rig: Rig, blocks: number): Promise<number[][]> => {
  const found: number[][] = [];
  for (let block = 0; block < blocks; block += 1) found.push(await rig.read(block));
  return found;
};

describe.each<[string, Shape]>([
  ["type 0", { order: 4, slots: 9 }],
  ["type 0, a full ring", { order: 4, slots: 4 }],
  ["type 1", { order: 5, slots: 9, plog: 9 * 512 * 9 * 3 }],
])("%s", (_name, shape) => {
  it.each(["clean", "crashed"])("%s: shows what is flushed, and writes nothing", async (state) => {
    const rig = new Rig(shape);
    const device = await rig.open();
    for (let block = 0; block < 20; block += 1) await rig.segment(block % 13, block + 1);
    await rig.writeSectors(3, 2, 3, 0x77);
    await device.flush();
    if (state === "clean") await device.close();
    else await rig.write(9, 0x99);
    await rig.crash();
    const before = bytesOf(rig);
    const wrap = rig.wrap;
    rig.wrap = sealed;
    const view = await rig.open({
      tunables: { allow_writeback: 1, sync_interval: 1, update_record_interval: 1 },
    });
    expect(view.limits.capabilities.readOnly).toBe(true);
    const shown = await contents(rig, 20);
    await rig.clock.pass(60_000);
    expect(await contents(rig, 20)).toEqual(shown);
    await expect(rig.write(1, 1)).rejects.toMatchObject({ code: "EROFS" });
    await expect(view.message(["drop_caches"])).rejects.toMatchObject({ code: "EROFS" });
    await expect(view.message(["allow_writeback", "1"])).rejects.toMatchObject({ code: "EROFS" });
    await view.flush();
    await view.suspend();
    await view.resume();
    await view.close();
    expect(rig.clock.pending).toBe(0);
    expect(bytesOf(rig)).toEqual(before);
    // The same as when it is opened for writing.
    rig.wrap = wrap;
    await rig.open();
    expect(await contents(rig, 20)).toEqual(shown);
    expect(shown[3]).toEqual([17, 17, 0x77, 0x77, 0x77, 17, 17, 17]);
  });
});

it("recovers in memory what a crash has torn", async () => {
  const rig = new Rig({ order: 4, slots: 9 });
  const device = await rig.open();
  for (let block = 0; block < 5; block += 1) await rig.segment(block, block + 1);
  rig.cache.hold = ({ op }) => op === "flush";
  await rig.write(6, 0x66);
  device.flush().catch(() => {});
  await rig.crash((write, sector) => write.offset < MIB || sector % 2 === 0);
  rig.wrap = sealed;
  await rig.open();
  expect(await rig.read(4)).toEqual(filled(5));
  expect(await rig.read(6)).toEqual(filled(0));
});

it("is what it is where one device is writable", async () => {
  const rig = new Rig({ slots: 9 });
  const device = await rig.open();
  await rig.segment(1, 0x11);
  await device.close();
  await rig.crash(everything);
  rig.wrap = (disk, name) => (name === "backing" ? sealed(disk) : disk);
  const view = await rig.open();
  const before = bytesOf(rig);
  expect(await rig.read(1)).toEqual(filled(0x11));
  await view.close();
  expect(bytesOf(rig)).toEqual(before);
});

it("makes no cache where there is none", async () => {
  const rig = new Rig();
  rig.wrap = sealed;
  await expect(rig.open()).rejects.toMatchObject({ code: "EROFS" });
});

it("an overlay shows the newest of both, and has its bound", async () => {
  const disk = new Rig().backing;
  await disk.write(0, Buffer.alloc(4096, 1));
  const overlay = new MemoryOverlay(sealed(disk), 1024);
  await overlay.write(512, Buffer.alloc(1024, 2));
  const into = Buffer.alloc(2048);
  await overlay.read(0, into);
  expect([into[0], into[512], into[1535], into[1536]]).toEqual([1, 2, 2, 1]);
  await overlay.write(512, Buffer.alloc(512, 3));
  await expect(overlay.write(4096, Buffer.alloc(512))).rejects.toMatchObject({ code: "ENOMEM" });
  expect([...overlay.changes()].map(({ offset, bytes }) => [offset, bytes[0]])).toEqual([
    [512, 3],
    [1024, 2],
  ]);
  // Zeroes need no memory, and hide what is below.
  await overlay.writeZeroes(0, 1024);
  await overlay.write(0, Buffer.alloc(512, 4));
  await overlay.read(0, into);
  expect([into[0], into[512], into[1024], into[1536]]).toEqual([4, 0, 2, 1]);
  const changes = Buffer.alloc(2048, 9);
  for (const { offset, bytes } of overlay.changes()) bytes.copy(changes, offset);
  expect([changes[0], changes[512], changes[1024], changes[1536]]).toEqual([4, 0, 2, 9]);
  await overlay.flush();
  await overlay.close();
});
