/** Views: what they cost, what they stand on, and what they leave; and collections and checkpoints beside each other. */
import { readdirSync } from "node:fs";
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { conformance } from "@dmkit/block-io/testing";
import { publish, readTag, removeTag } from "@dmkit/image";
import { describe, expect, it, vi } from "vitest";
import {
  type Archive,
  type ArchiveView,
  collectArchive,
  createCheckpoint,
  makeCheckpoint,
  openArchive,
  withArchive,
} from "../src/index.ts";
import { checkpointPrefix, checkpointTag, logKey } from "../src/format/keys.ts";
import { SIZE, attached, cleanUp, contents, localOf, segment, tempFolder } from "./support.ts";

const BLOCKS = SIZE / 4096;

/** A disk that has been written over, block by block in no order, one object for each. */
async function scattered(folder: string, rounds: number): Promise<{ disk: Buffer; objects: number }> {
  const archive = await attached(folder, localOf(new MemoryDevice(SIZE)));
  const disk = Buffer.alloc(SIZE);
  let id = 0;
  for (let round = 1; round <= rounds; round += 1) {
    for (let step = 0; step < BLOCKS; step += 1) {
      const block = (step * 7) % BLOCKS;
      id += 1;
      await archive.write(id, [segment(id, [block, 0xff, id % 256])]);
      disk.fill(id % 256, block * 4096, (block + 1) * 4096);
    }
  }
  return { disk, objects: id };
}

const gets = (view: ArchiveView): number => Number(view.facts()["store_gets"]);
const vm1 = (folder: string) => ({ store: folder, disk: "vm1" });

describe("a view", () => {
  it("fetches each object of the log once, in whatever order it is read, and needs none of them any more", async () => {
    const folder = tempFolder();
    const { disk, objects } = await scattered(folder, 2);
    const view = await openArchive(`${folder}/vm1`);
    cleanUp(() => view.close());
    const opened = gets(view);
    expect(opened).toBeLessThan(objects + 10);
    expect(view.status()).toBe(`id ${objects} checkpoint_id 0 log_objects ${objects} log_blocks ${BLOCKS}`);
    for (let pass = 0; pass < 3; pass += 1) expect((await contents(view)).equals(disk)).toBe(true);
    expect(gets(view)).toBe(opened);
    await withArchive(vm1(folder), (archive) => makeCheckpoint(archive, folder));
    expect(await withArchive(vm1(folder), (archive) => collectArchive(archive))).toMatchObject({ objects });
    expect((await contents(view)).equals(disk)).toBe(true);
  });

  it("leaves nothing in the folder for temporary files, also where it cannot be opened", async () => {
    const [folder, temporary] = [tempFolder(), tempFolder()];
    await scattered(folder, 1);
    vi.stubEnv("TMPDIR", temporary);
    cleanUp(() => vi.unstubAllEnvs());
    const view = await openArchive(`${folder}/vm1`);
    expect(readdirSync(temporary)).toEqual([]);
    await view.close();
    await expect(openArchive(`${folder}/vm1@9999`)).rejects.toMatchObject({ code: "EINVAL" });
    expect(readdirSync(temporary)).toEqual([]);
    vi.stubEnv("TMPDIR", `${temporary}/nowhere`);
    await expect(openArchive(`${folder}/vm1`)).rejects.toMatchObject({
      code: "ENOENT",
      hint: expect.stringContaining("TMPDIR"),
    });
  });

  it("tells how far fetching its log is, and ends when it is told to", async () => {
    const folder = tempFolder();
    await scattered(folder, 1);
    const told: number[] = [];
    const ending = new AbortController();
    const progress = ({ done, total }: { done: number; total: number }): void => {
      expect(total).toBe(BLOCKS);
      told.push(done);
      if (done === 5) ending.abort(new Error("enough"));
    };
    const opening = openArchive(`${folder}/vm1`, realEnvironment, "vm1", { progress, signal: ending.signal });
    await expect(opening).rejects.toThrow("enough");
    expect(told).toEqual([1, 2, 3, 4, 5]);
  });
});

conformance(
  "a view of an archive",
  async () => {
    const folder = tempFolder();
    const size = 1024 * 1024 + 512;
    const backing = new MemoryDevice(size);
    await backing.write(0, Buffer.alloc(8192, 0xbb));
    const archive = await attached(folder, localOf(backing, { size }));
    await archive.write(1, [segment(1, [1, 0x0f, 1], [5, 0xff, 5]), segment(2, [9, 0x81, 9], [256, 1, 7])]);
    const open = (): Promise<ArchiveView> => openArchive(`${folder}/vm1`);
    return { device: await open(), reopen: open };
  },
  { describe, it },
);

describe("a collection", () => {
  it("asks the store once for a thousand objects, however many epochs they are of, and not for what grows", async () => {
    const folder = tempFolder();
    await scattered(folder, 1);
    await withArchive(vm1(folder), async (archive) => {
      const { store } = archive;
      // As of a disk that was opened fifty times.
      const record = await archive.checkpoint({ epoch: 0, n: 0 });
      for (let epoch = 2; epoch <= 50; epoch += 1)
        await store.create(logKey("vm1", { epoch, n: 0 }), Buffer.alloc(64, epoch));
      const position = { epoch: 50, n: 1 };
      await createCheckpoint(archive, { ...record, position, id: BLOCKS });
      await publishAs(archive, checkpointTag(position));
      const lists = Number(store.facts?.().store_lists);
      expect(await collectArchive(archive)).toMatchObject({ objects: BLOCKS });
      expect(Number(store.facts?.().store_lists) - lists).toBeLessThan(10);
    });
  });

  it("and a checkpoint see to it that the image of the record has the tag, whoever else has moved it", async () => {
    const folder = tempFolder();
    await scattered(folder, 1);
    await withArchive(vm1(folder), async (archive) => {
      // Somebody was faster with the record, and has published the same over something else.
      const { end } = await archive.walk(1);
      const other = await publishAs(archive, "other", 7);
      await createCheckpoint(archive, { ...end, digest: other });
      const said = async (): Promise<string | undefined> =>
        (await readTag(archive.store, "vm1", checkpointTag(end.position))).record?.digest;
      // It is taken for the newest, and nothing came behind it.
      expect(await makeCheckpoint(archive, folder)).toMatchObject({ digest: other });
      expect(await said()).toBe(other);
      await publishAs(archive, checkpointTag(end.position), 8);
      expect(await said()).not.toBe(other);
      await collectArchive(archive);
      expect(await said()).toBe(other);
      await removeTag(archive.store, "vm1", checkpointTag(end.position));
      await collectArchive(archive);
      expect(await said()).toBe(other);
    });
  });
});

async function publishAs(archive: Archive, tag: string, fill = 0): Promise<string> {
  const disk = new MemoryDevice(SIZE);
  await disk.write(0, Buffer.alloc(4096, fill));
  return (await publish(disk, archive.store, { name: "vm1", tag })).digest;
}

it("a key of somebody else beside the checkpoints is none", async () => {
  const folder = tempFolder();
  const { disk } = await scattered(folder, 1);
  await withArchive(vm1(folder), async (archive) => {
    const key = `${checkpointPrefix("vm1")}${"1".padStart(16, "0")}-${"5".padStart(16, "0")}-copy`;
    await archive.store.create(key, Buffer.from("a copy"));
    expect(await archive.newestCheckpoint()).toEqual({ epoch: 0, n: 0 });
  });
  const view = await openArchive(`${folder}/vm1`);
  expect((await contents(view)).equals(disk)).toBe(true);
  await view.close();
});
