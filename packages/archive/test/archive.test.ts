/** A disk in a folder: written segment by segment, seen as of each of them, checkpointed, collected, taken over. */
import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MemoryDevice, codeOf, realEnvironment } from "@dmkit/block-io";
import { openStore } from "@dmkit/object-store";
import { describe, expect, it } from "vitest";
import {
  Archive,
  type AttachedArchive,
  type LogSegment,
  archiveInfo,
  claim,
  collectArchive,
  historyOf,
  keepMoment,
  listDisks,
  makeCheckpoint,
  openArchive,
  parseArchiveReference,
  randomToken,
  releaseMoment,
  replayOnto,
  withArchive,
} from "../src/index.ts";
import { pinnedReference } from "../src/open/reference.ts";
import { SIZE, TOKEN, attached, cleanUp, contents, localOf, segment, tempFolder } from "./support.ts";

function apply(disk: Buffer, { sectors, bits, data }: LogSegment): Buffer {
  const next = Buffer.from(disk);
  for (const [block, sector] of sectors.entries())
    for (let bit = 0; bit < 8; bit += 1)
      if (((bits[block] as number) & (1 << bit)) !== 0)
        data.copy(next, (sector + bit) * 512, block * 4096 + bit * 512, block * 4096 + (bit + 1) * 512);
  return next;
}

async function seen(reference: string): Promise<Buffer> {
  const view = await openArchive(reference);
  const bytes = await contents(view);
  await view.close();
  return bytes;
}

/** A disk with eight segments in four objects, and what it was like after each. */
async function written(folder: string): Promise<{ states: Buffer[]; archive: AttachedArchive }> {
  const backing = new MemoryDevice(SIZE);
  await backing.write(8192, Buffer.alloc(4096, 0xbb));
  const archive = await attached(folder, localOf(backing));
  const states = [await contents(backing)];
  for (let id = 1; id <= 8; id += 2) {
    const two = [
      segment(id * 1000, [id, 0xff, id], [2, 1 << (id % 8), 0x40 + id]),
      segment((id + 1) * 1000, [id, 0x0f, 0x80 + id]),
    ];
    await archive.write(id, two);
    for (const one of two) states.push(apply(states.at(-1) as Buffer, one));
  }
  return { states, archive };
}

describe("a disk in a folder", () => {
  it("is seen as of each segment, and each time", async () => {
    const folder = tempFolder();
    const { states } = await written(folder);
    for (const [id, state] of states.entries()) {
      expect((await seen(`${folder}/vm1@${id}`)).equals(state), `segment ${id}`).toBe(true);
      if (id === 0) continue;
      // Times before the disk itself are refused: it began now.
    }
    expect((await seen(`${folder}/vm1`)).equals(states[8] as Buffer)).toBe(true);
    expect(await openStore(folder).then(listDisks)).toEqual(["vm1"]);
    for (const [moment, code] of [
      ["9", "EINVAL"],
      ["1970-01-01T00:00:03Z", "EINVAL"],
    ])
      await expect(openArchive(`${folder}/vm1@${moment}`)).rejects.toMatchObject({ code });
    await expect(openArchive(`${folder}/vm2`)).rejects.toMatchObject({ code: "ENOENT" });
  });

  it("is pinned where it was opened without a moment: the disk goes on, and that stays", async () => {
    const folder = tempFolder();
    const { states, archive } = await written(folder);
    const view = await openArchive(`archive:${folder}/vm1`);
    cleanUp(() => view.close());
    expect(view.pinned).toBe(`archive:${folder}/vm1@8`);
    await archive.write(9, [segment(9000, [20, 0xff, 9])]);
    expect((await seen(`${folder}/vm1`)).equals(states[8] as Buffer)).toBe(false);
    expect((await seen(view.pinned)).equals(states[8] as Buffer)).toBe(true);
    const parsed = parseArchiveReference(pinnedReference("s3://bucket/a?endpoint=http://h/", "vm1", 0));
    expect(parsed).toEqual({ store: "s3://bucket/a?endpoint=http://h/", disk: "vm1", when: { id: 0 } });
    expect(parseArchiveReference(pinnedReference("/", "vm1", 7))).toMatchObject({ store: "/", disk: "vm1" });
  });

  it("has holes where neither the image nor the log has anything", async () => {
    const folder = tempFolder();
    await written(folder);
    const view = await openArchive(`${folder}/vm1`);
    cleanUp(() => view.close());
    let at = 0;
    for await (const { offset, length, kind } of view.extents(0, SIZE)) {
      expect(offset).toBe(at);
      at += length;
      const bytes = Buffer.alloc(length);
      await view.read(offset, bytes);
      if (kind === "hole") expect(bytes.every((byte) => byte === 0)).toBe(true);
    }
    expect(at).toBe(SIZE);
  });

  it("is checkpointed, kept, collected", async () => {
    const folder = tempFolder();
    const { states, archive } = await written(folder);
    const reference = { store: folder, disk: "vm1" };
    const first = await withArchive(reference, (one) => makeCheckpoint(one, folder));
    expect(first).toMatchObject({ id: 8, position: { epoch: 1, n: 3 } });
    // Nothing new: the same again.
    expect(await withArchive(reference, (one) => makeCheckpoint(one, folder))).toMatchObject({
      digest: first.digest,
    });
    const more = segment(9000, [20, 0xff, 9]);
    await archive.write(9, [more]);
    states.push(apply(states[8] as Buffer, more));
    for (const [id, state] of states.entries())
      expect((await seen(`${folder}/vm1@${id}`)).equals(state), `segment ${id}`).toBe(true);
    await withArchive(reference, (one) => keepMoment(one, "before", { id: 3 }));
    await expect(withArchive(reference, (one) => keepMoment(one, "before", { id: 4 }))).rejects.toMatchObject(
      {
        code: "EEXIST",
      },
    );
    expect(await withArchive(reference, collectArchive)).toMatchObject({ objects: 2, checkpoints: 0 });
    for (const id of [0, 1, 2, 3, 4, 8, 9])
      expect((await seen(`${folder}/vm1@${id}`)).equals(states[id] as Buffer), `segment ${id}`).toBe(true);
    await expect(openArchive(`${folder}/vm1@6`)).rejects.toMatchObject({ code: "ENOENT" });
    expect(await withArchive(reference, (one) => releaseMoment(one, "before"))).toBe(true);
    expect(await withArchive(reference, (one) => releaseMoment(one, "before"))).toBe(false);
    expect(await withArchive(reference, collectArchive)).toMatchObject({ objects: 2, checkpoints: 1 });
    expect(await withArchive(reference, collectArchive)).toMatchObject({ objects: 0, checkpoints: 0 });
    expect((await seen(`${folder}/vm1`)).equals(states[9] as Buffer)).toBe(true);
    await expect(openArchive(`${folder}/vm1@3`)).rejects.toMatchObject({ code: "ENOENT" });
    const { last, checkpoints, objects } = await withArchive(reference, archiveInfo);
    expect({ last: last.id, checkpoints: checkpoints.at(-1)?.id, objects }).toEqual({
      last: 9,
      checkpoints: 8,
      objects: 1,
    });
  });

  it.each([undefined, 3])(
    "what was collected is not shown as what was before, with nothing behind the checkpoint; kept: %s",
    async (kept) => {
      const folder = tempFolder();
      const { states } = await written(folder);
      const reference = { store: folder, disk: "vm1" };
      await withArchive(reference, (one) => makeCheckpoint(one, folder));
      if (kept !== undefined) await withArchive(reference, (one) => keepMoment(one, "before", { id: kept }));
      await withArchive(reference, collectArchive);
      const shown = [0, ...(kept === undefined ? [] : [kept]), 8];
      for (const id of shown)
        expect((await seen(`${folder}/vm1@${id}`)).equals(states[id] as Buffer), `segment ${id}`).toBe(true);
      for (const id of [5, 6, 7]) {
        await expect(openArchive(`${folder}/vm1@${id}`)).rejects.toMatchObject({ code: "ENOENT" });
        await expect(withArchive(reference, (one) => keepMoment(one, "late", { id }))).rejects.toMatchObject({
          code: "ENOENT",
        });
      }
    },
  );

  it("is taken over; who wrote before is told by whom, and does not come back", async () => {
    const folder = tempFolder();
    const { states, archive: old } = await written(folder);
    const token = randomToken(realEnvironment);
    const backing = new MemoryDevice(SIZE);
    const slower = randomToken(realEnvironment);
    await withArchive({ store: folder, disk: "vm1" }, async (archive) => {
      await claim(archive, { token: slower, host: "there", environment: realEnvironment });
      const { before } = await claim(archive, { token, host: "there", environment: realEnvironment });
      await backing.write(8192, Buffer.alloc(4096, 0xbb));
      expect(await replayOnto(archive, before, backing)).toBe(8);
    });
    expect((await contents(backing)).equals(states[8] as Buffer)).toBe(true);
    const refused = await old.write(9, [segment(9000, [1, 0xff, 1])]).catch((error: unknown) => error);
    expect(refused).toMatchObject({ code: "ESHUTDOWN" });
    expect(String(refused)).toContain("taken over by there at");
    await expect(old.write(9, [segment(9000)])).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await expect(attached(folder, localOf(backing, { last: 8 }))).rejects.toMatchObject({
      code: "ESHUTDOWN",
    });
    await expect(
      attached(folder, localOf(backing, { token: TOKEN.replace("0", "1") })),
    ).rejects.toMatchObject({
      code: "EEXIST",
    });
    // One that was on its way to take it over, too, and was slower: it has written nothing yet.
    await expect(attached(folder, localOf(backing, { token: slower }))).rejects.toMatchObject({
      code: "ESHUTDOWN",
    });
    const next = await attached(folder, localOf(backing, { token }));
    expect(next).toMatchObject({ shipped: 0, offset: 8 });
    await next.write(1, [segment(9000, [1, 0xff, 0x99])]);
    expect((await seen(`${folder}/vm1@9`)).subarray(4096, 8192).every((byte) => byte === 0x99)).toBe(true);
    await next.close();
    // The same cache again: it goes on behind what is there.
    expect(await attached(folder, localOf(backing, { token, last: 3 }))).toMatchObject({
      shipped: 1,
      offset: 8,
    });
  });

  it("refuses a cache that has lost what is there, has gone on without it, or was used before", async () => {
    const folder = tempFolder();
    const { archive } = await written(folder);
    await archive.close();
    const backing = new MemoryDevice(SIZE);
    await expect(attached(folder, localOf(backing, { last: 7 }))).rejects.toMatchObject({ code: "EFORMAT" });
    await expect(attached(folder, localOf(backing, { last: 20, first: 10 }))).rejects.toMatchObject({
      code: "EFORMAT",
    });
    await expect(attached(folder, localOf(backing, { last: 8, size: 4096 }))).rejects.toMatchObject({
      code: "EINVAL",
    });
    await expect(attached(tempFolder(), localOf(backing, { last: 8 }))).rejects.toMatchObject({
      code: "ENOENT",
    });
  });

  it("serves nothing that is damaged, missing or in another's place", async () => {
    const folder = tempFolder();
    const { states } = await written(folder);
    const log = join(folder, "disks/vm1/log/0000000000000001");
    const names = readdirSync(log).toSorted();
    const [, second = "", third = ""] = names.map((name) => join(log, name));
    const good = readFileSync(second);
    for (let at = 0; at < good.length; at += 7) {
      const bad = Buffer.from(good);
      bad[at] = (bad[at] as number) ^ (1 << (at % 8));
      writeFileSync(second, bad);
      const error = await openArchive(`${folder}/vm1`).then(
        (view) => view.close(),
        (reason: unknown) => reason,
      );
      expect(["EIO", "EFORMAT"], `byte ${at}`).toContain(codeOf(error));
    }
    // Moments before it can be read.
    expect((await seen(`${folder}/vm1@2`)).equals(states[2] as Buffer)).toBe(true);
    writeFileSync(second, readFileSync(third));
    await expect(openArchive(`${folder}/vm1`)).rejects.toMatchObject({ code: "EFORMAT" });
    rmSync(second);
    await expect(openArchive(`${folder}/vm1`)).rejects.toMatchObject({ code: "EIO" });
    await withArchive({ store: folder, disk: "vm1" }, async (archive) => {
      const claimant = { token: TOKEN, host: "there", environment: realEnvironment };
      await expect(claim(archive, claimant)).rejects.toMatchObject({ code: "EIO" });
    });
    // Nothing was put in its place.
    expect(readdirSync(log).toSorted()).toEqual(names.filter((_, index) => index !== 1));
  });
});

it("a history does not go past an epoch that may still grow", async () => {
  const folder = tempFolder();
  const { archive } = await written(folder);
  await withArchive({ store: folder, disk: "vm1" }, async (reading: Archive) => {
    // Whoever takes it over is gone before any fence.
    const stub = new Archive(reading.store, "vm1");
    await claim(stub, { token: TOKEN, host: "a", environment: realEnvironment, check: async () => {} });
    const { objects } = await historyOf(reading, "newest");
    expect(objects).toHaveLength(4);
  });
  await expect(archive.write(9, [segment(9000)])).rejects.toMatchObject({ code: "ESHUTDOWN" });
});
