/** Backups of a running disk: what they hold, what is left of one that is cut short, and as they are typed. */
import {
  copyFileSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { PowerCut, SeededRandom } from "@dmkit/block-io/testing";
import { openNbd } from "@dmkit/nbd";
import { afterEach, expect, it } from "vitest";
import {
  PIECE,
  backUpAll,
  backUpChanges,
  changedPieces,
  refuseUnfinished,
  verify,
} from "../src/backup/backup.ts";
import { cli } from "./cli.ts";
import { describeWith, serve, succeed, tempFolder } from "./support.ts";

const SIZE = 10 * PIECE;
const MIB = 2 ** 20;

async function* ranges(...pieces: number[]): AsyncGenerator<{ offset: number; length: number }> {
  for (const piece of pieces) yield { offset: piece * PIECE + 512, length: 512 };
}

async function disk(fill: (piece: number) => number): Promise<MemoryDevice> {
  const device = new MemoryDevice(SIZE);
  for (let piece = 0; piece < 10; piece += 1)
    await device.write(piece * PIECE, Buffer.alloc(PIECE, fill(piece)));
  return device;
}

async function bytesOf(device: MemoryDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  await device.read(0, bytes);
  return bytes;
}

it("is not taken for whole wherever it is cut short, and finished when it is run again", async () => {
  const source = await disk((piece) => piece + 20);
  const [now, before] = [
    await bytesOf(source),
    await bytesOf(await disk((piece) => piece + (piece < 3 ? 1 : 20))),
  ];
  const changed = await changedPieces(SIZE, ranges(0, 1, 2));
  const random = new SeededRandom(7);
  for (const isFull of [true, false]) {
    const run = (to: MemoryDevice | PowerCut): Promise<unknown> =>
      isFull
        ? backUpAll(source, to, false, {})
        : backUpChanges(source, to, changed, { since: "monday" }, false, {});
    let done = false;
    for (let limit = 1; !done; limit += 1) {
      const cut = new PowerCut(before, limit);
      done = await run(cut).then(
        () => true,
        () => false,
      );
      const left = cut.survivor(random);
      const [held, head] = [await bytesOf(left), now.subarray(0, PIECE)];
      // Without the mark it is whole: as it was, or as it is to be.
      if (held.subarray(0, PIECE).equals(head)) expect(held.equals(now)).toBe(true);
      const isTaken = await refuseUnfinished(left).then(
        () => true,
        () => false,
      );
      if (isTaken) expect(held.equals(now) || held.equals(before)).toBe(true);
      await run(left);
      expect((await bytesOf(left)).equals(now)).toBe(true);
    }
  }
});

it("takes nothing for what was before that is not, and no other one that was cut short", async () => {
  const source = await disk((piece) => piece + 20);
  const changed = await changedPieces(SIZE, ranges(1));
  const other = await disk((piece) => piece + (piece === 8 ? 1 : 20));
  await expect(backUpChanges(source, other, changed, { since: "monday" }, true, {})).rejects.toMatchObject({
    code: "EINVAL",
  });
  const cut = new PowerCut(await bytesOf(source), 2);
  await expect(backUpChanges(source, cut, changed, { since: "monday" }, false, {})).rejects.toThrow("power");
  const left = cut.survivor(new SeededRandom(1));
  await expect(backUpChanges(source, left, changed, { since: "tuesday" }, false, {})).rejects.toMatchObject({
    code: "EINVAL",
  });
  await expect(refuseUnfinished(left)).rejects.toMatchObject({ code: "EINVAL" });
  await refuseUnfinished(source);
  await expect(verify(source, left, {})).rejects.toMatchObject({ code: "EIO" });
  await expect(backUpAll(source, new MemoryDevice(SIZE - 512), false, {})).rejects.toMatchObject({
    code: "ENOSPC",
  });
});

it("takes no disk of somebody else for the one before: not where the source has holes, nor where all has changed", async () => {
  const foreign = await disk((piece) => piece + 1);
  const held = await bytesOf(foreign);
  const sparse = new MemoryDevice(SIZE);
  await sparse.write(PIECE, Buffer.alloc(PIECE, 7));
  const few = await changedPieces(SIZE, ranges(1));
  const all = await changedPieces(SIZE, ranges(...Array(10).keys()));
  for (const changed of [few, all]) {
    const given = backUpChanges(sparse, foreign, changed, { since: "monday" }, false, {});
    await expect(given).rejects.toMatchObject({ code: "EINVAL" });
    expect((await bytesOf(foreign)).equals(held)).toBe(true);
  }
  const from = backUpChanges(sparse, foreign, few, { since: "monday" }, true, {});
  await expect(from).rejects.toMatchObject({ code: "EINVAL" });
  await backUpChanges(sparse, foreign, all, { since: "monday" }, false, {}, true);
  expect((await bytesOf(foreign)).equals(await bytesOf(sparse))).toBe(true);
});

it("takes no sparse disk of somebody else either, where nothing that has not changed shows whose it is", async () => {
  const source = new MemoryDevice(SIZE);
  await source.write(0, Buffer.alloc(PIECE, 7));
  const foreign = new MemoryDevice(SIZE);
  await foreign.write(0, Buffer.alloc(PIECE, 9));
  const changed = await changedPieces(SIZE, ranges(0));
  const run = (force: boolean): Promise<unknown> =>
    backUpChanges(source, foreign, changed, { since: "monday" }, false, {}, force);
  await expect(run(false)).rejects.toMatchObject({ code: "EINVAL" });
  await run(true);
  // It is a backup now, but this shows nothing.
  expect((await bytesOf(foreign)).equals(await bytesOf(source))).toBe(true);
});

it("leaves holes on the copy where the source was discarded", async () => {
  const source = new MemoryDevice(SIZE);
  await source.write(0, Buffer.alloc(PIECE, 7));
  const copy = await disk(() => 7);
  const changed = await changedPieces(SIZE, ranges(...Array(10).keys()));
  const done = await backUpChanges(source, copy, changed, { since: "monday" }, false, {}, true);
  expect(done).toEqual({ copied: PIECE, zeroed: 9 * PIECE, skipped: 0 });
  const kinds: string[] = [];
  for await (const { kind } of copy.extents(PIECE, SIZE - PIECE)) kinds.push(kind);
  expect(kinds).toEqual(["hole"]);
});

it("goes onto a device of larger blocks, whose last one it does not fill", async () => {
  for (const length of [SIZE - 512, 3 * 512]) {
    const source = new MemoryDevice(length);
    await source.write(0, Buffer.alloc(length, 7));
    const to = new MemoryDevice(SIZE, { logicalBlockSize: 4096 });
    await to.write(0, Buffer.alloc(SIZE, 9));
    await backUpAll(source, to, false, {});
    await verify(source, to, {});
    const bytes = await bytesOf(to);
    expect(bytes.subarray(0, length).equals(Buffer.alloc(length, 7))).toBe(true);
    expect(bytes.subarray(length).equals(Buffer.alloc(SIZE - length, 9))).toBe(true);
  }
});

const { DMKIT_CONTROL: outside } = process.env;
afterEach(() => {
  if (outside === undefined) delete process.env["DMKIT_CONTROL"];
  else process.env["DMKIT_CONTROL"] = outside;
});

it("backs up a running disk, all of it and what has changed", async () => {
  const folder = tempFolder();
  const at = (name: string): string => join(folder, name);
  writeFileSync(at("disk.img"), Buffer.alloc(2 * MIB, "data"));
  for (const [name, size] of [
    ["disk.img", 8 * MIB],
    ["disk.map", MIB],
  ] as const) {
    writeFileSync(at(name), "", { flag: "a" });
    truncateSync(at(name), size);
  }
  process.env["DMKIT_CONTROL"] = at("c.sock");
  const table = `0 ${(8 * MIB) / 512} tracked disk.img disk.map`;
  const server = await serve(["-U", at("s.sock"), "--control", at("c.sock"), "--name", "vm", "-t", table], {
    cwd: folder,
  });
  const client = await openNbd(`nbd+unix:///vm?socket=${at("s.sock")}`, { environment: realEnvironment });
  const whole = async (): Promise<Buffer> => {
    const bytes = Buffer.alloc(8 * MIB);
    await client.read(0, bytes);
    return bytes;
  };
  const ok = async (...words: string[]): Promise<{ copied: number }> => {
    const { code, stdout, stderr } = await cli("backup", "--json", "--verify", ...words);
    expect([words, code, stderr]).toEqual([words, 0, ""]);
    return JSON.parse(stdout) as { copied: number };
  };
  const refused = async (code: number, text: string, ...words: string[]): Promise<void> => {
    const result = await cli("backup", ...words);
    expect([result.code, result.stderr]).toEqual([code, expect.stringContaining(text)]);
  };

  await ok("dm:vm", at("monday.img"), "--begin", "monday");
  copyFileSync(at("monday.img"), at("older.img"));
  copyFileSync(at("monday.img.dmkit-backup"), at("older.img.dmkit-backup"));
  const monday = await whole();
  expect(readFileSync(at("monday.img")).equals(monday)).toBe(true);
  await client.write(MIB, Buffer.alloc(4096, 1), { fua: true });
  await client.write(7 * MIB, Buffer.alloc(4096, 2), { fua: true });
  // A client that writes all the time changes nothing of what is backed up, and sees no error.
  const before = await whole();
  let writing = true;
  const writes = (async (): Promise<number> => {
    for (let count = 1; ; count += 1) {
      if (!writing) return count;
      await client.write(5 * MIB + (count % 8) * 4096, Buffer.alloc(4096, 7));
      await client.writeZeroes(5 * MIB + (count % 8) * 4096, 4096);
    }
  })();
  const words = ["--since", "monday", "--from", at("monday.img"), "--begin", "tuesday"];
  const { copied } = await ok("dm:vm", at("tuesday.img"), ...words);
  writing = false;
  expect(await writes).toBeGreaterThan(0);
  expect(copied).toBeLessThan(MIB);
  const tuesday = readFileSync(at("tuesday.img"));
  // What it was about to write is either there or not, and nothing else.
  for (const bytes of [tuesday, before]) bytes.fill(0, 5 * MIB, 5 * MIB + 8 * 4096);
  expect(tuesday.equals(before)).toBe(true);
  expect(readFileSync(at("monday.img")).equals(monday)).toBe(true);
  await client.flush();
  await ok("dm:vm", at("monday.img"), "--since", "monday");
  expect(readFileSync(at("monday.img")).equals(await whole())).toBe(true);

  await client.write(3 * MIB, Buffer.alloc(4096, 3), { fua: true });
  writeFileSync(at("other.img"), Buffer.alloc(8 * MIB, "other"));
  await refused(
    1,
    "does not hold what the device was",
    "dm:vm",
    at("n"),
    "--since",
    "tuesday",
    "--from",
    at("other.img"),
  );
  // Where they were looked at, they are the same: only what was noted shows that something would be missing.
  await refused(1, "was made before", "dm:vm", at("n"), "--since", "tuesday", "--from", at("older.img"));
  await refused(1, "was made before", "dm:vm", at("older.img"), "--since", "tuesday");
  // Nor does a backup that is refused for another reason make that forgotten.
  writeFileSync(at("larger.img"), Buffer.alloc(9 * MIB, "larger"));
  await refused(1, "the source", at("larger.img"), at("older.img"), "--force");
  await refused(1, "was made before", "dm:vm", at("older.img"), "--since", "tuesday");
  const older = readFileSync(at("older.img"));
  writeFileSync(at("older.img"), Buffer.alloc(4096, "mounted"), { flag: "r+" });
  await refused(
    1,
    "has been changed since",
    "dm:vm",
    at("n"),
    "--since",
    "monday",
    "--from",
    at("older.img"),
  );
  writeFileSync(at("older.img"), older);
  await ok("dm:vm", at("n"), "--since", "monday", "--from", at("older.img"));
  rmSync(at("n"));
  // Of one that is found without it, nobody knows; and what was there under the name of a new one says nothing of that.
  renameSync(at("older.img.dmkit-backup"), at("n.dmkit-backup"));
  const unshown = await cli("backup", "dm:vm", at("n"), "--since", "monday", "--from", at("older.img"));
  expect([unshown.code, unshown.stderr]).toEqual([0, expect.stringContaining("nothing shows")]);
  await ok("dm:vm", at("m"), "--since", "tuesday", "--from", at("n"));
  for (const name of ["n", "m"]) rmSync(at(name));
  // The same name, begun anew.
  await cli("message", "vm", "drop", "tuesday");
  await cli("message", "vm", "begin", "tuesday");
  await refused(1, "was made before", "dm:vm", at("n"), "--since", "tuesday", "--from", at("tuesday.img"));
  await refused(1, "ENOENT", "dm:vm", at("n"), "--since", "sunday", "--from", at("monday.img"));
  await refused(1, "--force", "dm:vm", at("other.img"), "--begin", "wednesday");
  // What a failed one has begun is not there: it can be begun again.
  await ok("dm:vm", at("other.img"), "--begin", "wednesday", "--force");
  await refused(1, "ENOENT", "dm:none", at("n"));
  await refused(2, "--since", at("disk.img"), at("n"), "--since", "monday");
  await refused(2, "--from does nothing without --since", "dm:vm", at("n"), "--from", at("monday.img"));
  await refused(2, "does not exist", "dm:vm", at("n"), "--since", "monday");
  await refused(
    2,
    "exists already",
    "dm:vm",
    at("monday.img"),
    "--since",
    "monday",
    "--from",
    at("tuesday.img"),
  );
  expect(readdirSync(folder).filter((name) => name.includes("part") || name === "n")).toEqual([]);
  await client.close();
  // Back onto another disk; and one that was cut short is neither copied nor gone on from.
  const back = await cli("copy", "-q", "--verify", at("tuesday.img"), at("back.img"));
  expect([back.code, readFileSync(at("back.img")).length]).toEqual([0, 8 * MIB]);
  writeFileSync(at("cut.img"), "dmkit backup, under way or cut short: this is no whole disk\n{}\n");
  truncateSync(at("cut.img"), 8 * MIB);
  for (const words of [
    ["copy", at("cut.img"), at("n")],
    ["backup", at("cut.img"), at("n")],
    ["publish", at("cut.img"), at("store")],
  ])
    expect((await cli(...words)).stderr).toContain("no whole disk");
  expect((await cli("info", at("cut.img"))).stdout).toContain("cut short");
  await refused(1, "no whole disk", "dm:vm", at("n"), "--since", "tuesday", "--from", at("cut.img"));
  expect(await server.stop()).toBe(0);
});

it("is written to no export of the disk itself, nor of what shares its bytes, by whatever server", async () => {
  const folder = tempFolder();
  const at = (name: string): string => join(folder, name);
  for (const name of ["vm.img", "else.img"]) writeFileSync(at(name), Buffer.alloc(MIB, 1));
  writeFileSync(
    at("stack.yaml"),
    `devices:
  vm: { target: linear, device: vm.img, offset: 0 }
  over: { target: linear, device: dm:vm, offset: 0 }
  else: { target: linear, device: else.img, offset: 0 }
exports: { over: over, else: else }
`,
  );
  process.env["DMKIT_CONTROL"] = at("c.sock");
  const server = await serve(["-U", at("s.sock"), "stack.yaml", "--control", at("c.sock")], { cwd: folder });
  // Of that it has, by another program, the file: without a lock.
  const other = await serve([
    "-U",
    at("t.sock"),
    "--name",
    "vm",
    "--control",
    at("d.sock"),
    `${at("vm.img")}?no-lock`,
  ]);
  const uri = (socket: string, name: string): string => `nbd+unix:///${name}?socket=${at(socket)}`;
  for (const to of [uri("s.sock", "over"), uri("t.sock", "vm")])
    for (const words of [
      ["backup", "-q", "dm:vm", to, "--force"],
      ["copy", "-q", "dm:vm", to],
    ]) {
      const { code, stderr } = await cli(...words);
      expect([words, code, stderr]).toEqual([words, 1, expect.stringContaining("would be written over")]);
    }
  expect((await cli("backup", "-q", "dm:vm", uri("s.sock", "else"), "--force")).code).toBe(0);
  expect(await Promise.all([server.stop(), other.stop()])).toEqual([0, 0]);
});

describeWith(["losetup"], "a disk that a server has open", () => {
  it("is written to by no command, through a loop device either", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    for (const [name, size] of [
      ["disk.img", 8 * MIB],
      ["disk.map", MIB],
      ["other.img", 8 * MIB],
    ] as const)
      writeFileSync(at(name), Buffer.alloc(size));
    writeFileSync(at("disk.img"), "disk", { flag: "r+" });
    const table = `0 ${(8 * MIB) / 512} tracked disk.img disk.map`;
    process.env["DMKIT_CONTROL"] = at("c.sock");
    const server = await serve(["-U", at("s.sock"), "--control", at("c.sock"), "--name", "vm", "-t", table], {
      cwd: folder,
    });
    const loop = (await succeed("losetup", ["--find", "--show", at("disk.img")])).trim();
    try {
      const before = readFileSync(at("disk.img"));
      for (const words of [
        ["backup", "dm:vm", loop, "--force"],
        ["backup", "dm:vm", at("disk.img"), "--force"],
        ["backup", at("other.img"), loop, "--force"],
        ["copy", "-q", at("other.img"), loop],
        ["restore", "-q", at("other.img"), loop, "--force"],
        ["format", "tracked", loop, "--device", at("other.img"), "--force"],
        ["serve", "-U", at("t.sock"), "-t", `0 2048 linear ${loop} 0`],
      ]) {
        const { code, stderr } = await cli(...words);
        expect([words, code, stderr]).toEqual([words, 1, expect.stringContaining("(EBUSY)")]);
        expect(readFileSync(at("disk.img")).equals(before)).toBe(true);
      }
    } finally {
      await succeed("losetup", ["-d", loop]);
    }
    expect(await server.stop()).toBe(0);
  });
});
