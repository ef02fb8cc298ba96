/**
 * The recovery story, by command line alone: a server with a file system on it is killed while somebody writes;
 * nobody starts it again. What it leaves is looked at, checked, tried out, and written back: then the device below
 * passes a check of the file system by itself, and has every file that was synced.
 */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { attach, mount } from "./mounts.ts";
import { cli } from "./cli.ts";
import { cleanUp, complaints, describeWith, run, serve, succeed, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;
const FILES = 80;

function sparse(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

const hash = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
const state = (...paths: string[]): string[] =>
  paths.map((path) => `${hash(path)} ${statSync(path).mtimeMs}`);

const hashOnly = (words: string): string => words.replace(/ .*/, "");

const nameOf = (index: number): string => join(`dir${index % 7}`, `file${index}`);
const contentOf = (index: number): Buffer => Buffer.alloc(1 + 900 * index, `content of file ${index}. `);

/** Succeeds without a word of complaint; what it prints. */
async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await cli(...args);
  expect(`${complaints(stderr)}${code}`, args.join(" ")).toBe("0");
  return stdout;
}

/** Puts ext4 on what `table` makes, syncs files, and kills the server while others are being written. */
async function killedUnderLoad(table: string): Promise<void> {
  const server = await serve(["--table", table]);
  const attached = await attach(server.uri);
  await succeed("mkfs.ext4", ["-q", "-E", "nodiscard", attached.file]);
  const { folder: mounted, away } = await mount(attached);
  for (let index = 0; index < FILES; index += 1) {
    mkdirSync(join(mounted, `dir${index % 7}`), { recursive: true });
    writeFileSync(join(mounted, nameOf(index)), contentOf(index));
  }
  await succeed("sync", ["-f", mounted]);
  const fd = openSync(join(mounted, nameOf(FILES)), "w");
  writeSync(fd, contentOf(FILES));
  fsyncSync(fd);
  closeSync(fd);
  const script = `i=0; while head -c 100000 /dev/urandom > "$1/load$((i % 40))"; do [ $((i % 5)) = 0 ] && sync -f "$1"; i=$((i + 1)); done`;
  const load = spawn("/bin/sh", ["-c", script, "sh", mounted], { stdio: "ignore" });
  cleanUp(() => void load.kill("SIGKILL"));
  await until(() => existsSync(join(mounted, "load25")), "load");
  await server.stop("SIGKILL");
  load.kill("SIGKILL");
  await away();
  await attached.away();
}

/** A file system that was left behind by a crash: its journal is played, then nothing may be wrong with it. */
async function expectWhole(disk: string): Promise<void> {
  const { code, stdout } = await run("fsck.ext4", ["-p", disk]);
  expect([0, 1], stdout).toContain(code);
  await succeed("fsck.ext4", ["-f", "-n", disk]);
  const folder = tempFolder();
  const copyOf = (index: number): string => join(folder, String(index));
  const indices = Array.from({ length: FILES + 1 }, (_, index) => index);
  // All by one process: it says what is missing, and ends well all the same.
  const commands = join(folder, "commands");
  writeFileSync(commands, indices.map((index) => `dump ${nameOf(index)} ${copyOf(index)}\n`).join(""));
  await succeed("debugfs", ["-f", commands, disk]);
  for (const index of indices)
    expect([index, readFileSync(copyOf(index)).equals(contentOf(index))]).toEqual([index, true]);
}

/** What a stack shows, as one file. */
async function lookAt(table: string, into: string): Promise<string> {
  const server = await serve(["--read-only", "--table", table]);
  await ok("copy", "-q", server.uri, into);
  expect(await server.stop()).toBe(0);
  return into;
}

interface Info {
  readonly contents: { readonly format: string; readonly facts: Readonly<Record<string, unknown>> };
}

const programs = ["nbdfuse", "fusermount3", "mkfs.ext4", "fsck.ext4", "mount", "debugfs"];

describeWith(programs, "after SIGKILL, without any server", () => {
  it("writeboost type 1: info, fsck, replay --until into an overlay, replay", async () => {
    const folder = tempFolder();
    const size = 48 * MIB;
    const backing = sparse(join(folder, "backing"), size);
    const cache = sparse(join(folder, "cache"), 17 * MIB);
    const plog = sparse(join(folder, "plog"), 8 * 9 * 512 * 15 + 512);
    const devices = [cache, "--backing", backing, "--plog", plog];
    const options = "segment_size_order 7 4 allow_writeback 1 nr_max_batched_writeback 8";
    await killedUnderLoad(`0 ${size / 512} writeboost 1 ${backing} ${cache} ${plog} 2 ${options}`);

    const before = state(cache, backing, plog);
    const { contents } = JSON.parse(await ok("info", "--json", ...devices)) as Info;
    expect(contents.format).toBe("writeboost");
    await ok("fsck", "-q", ...devices);
    const last = Number(contents.facts["last_segment"]);
    const writtenBack = Number(contents.facts["last_segment_written_back"]);
    expect(last).toBeGreaterThan(writtenBack);

    const overlay = join(folder, "try");
    const middle = writtenBack + Math.ceil((last - writtenBack) / 2);
    await ok("replay", "-q", cache, backing, "--until", String(middle), "--overlay", overlay);
    expect(state(cache, backing, plog)).toEqual(before);
    // A log is a sequence of writes: wherever it ends, the file system is as a crash would have left it.
    const table = `0 ${size / 512} cow ${backing} 0 ${overlay}.map ${overlay}.img 0`;
    const seen = await lookAt(table, join(folder, "seen"));
    const { code } = await run("fsck.ext4", ["-p", seen]);
    expect([0, 1]).toContain(code);
    await succeed("fsck.ext4", ["-f", "-n", seen]);
    expect(state(cache, backing, plog)).toEqual(before);

    // With the plog, but not on the device itself: all of it is there.
    const whole = join(folder, "whole");
    await ok("replay", "-q", cache, backing, "--plog", plog, "--overlay", whole);
    expect(state(cache, backing, plog)).toEqual(before);
    await expectWhole(
      await lookAt(`0 ${size / 512} cow ${backing} 0 ${whole}.map ${whole}.img 0`, join(folder, "shown")),
    );

    // Without the plog the end of the log would be lost.
    expect((await cli("replay", "-q", cache, backing)).code).toBe(1);
    expect(state(cache, backing, plog).map(hashOnly)).toEqual(before.map(hashOnly));
    await ok("replay", "-q", cache, backing, "--plog", plog);
    await ok("fsck", "-q", ...devices);
    await expectWhole(backing);
  });

  it("assoc-cache, write-back: info, fsck, replay into an overlay, replay", async () => {
    const folder = tempFolder();
    const size = 48 * MIB;
    const source = sparse(join(folder, "source"), size);
    const cache = sparse(join(folder, "cache"), 40 * MIB);
    await killedUnderLoad(`0 ${size / 512} cache ${source} ${cache} 0 8 8192 64 1`);

    const before = state(cache, source);
    const { contents } = JSON.parse(await ok("info", "--json", cache, "--source", source)) as Info;
    expect(contents.format).toBe("cache");
    await ok("fsck", "-q", cache, "--source", source);
    const overlay = join(folder, "try");
    await ok("replay", "-q", cache, source, "--overlay", overlay);
    expect(state(cache, source)).toEqual(before);
    await expectWhole(
      await lookAt(`0 ${size / 512} cow ${source} 0 ${overlay}.map ${overlay}.img 0`, join(folder, "seen")),
    );
    await ok("replay", "-q", cache, source);
    // There was something to lose.
    expect(state(source)).not.toEqual(before.slice(1));
    await ok("fsck", "-q", cache, "--source", source);
    await expectWhole(source);
  });

  it("compression, format 2: info, fsck, fsck --repair, and copied to a plain disk", async () => {
    const folder = tempFolder();
    const device = sparse(join(folder, "device"), 64 * MIB);
    const table = `0 ${(48 * MIB) / 512} compression ${device} writeback 5`;
    await killedUnderLoad(table);

    const before = state(device);
    const { contents } = JSON.parse(await ok("info", "--json", device)) as Info;
    expect(contents).toMatchObject({ format: "compression", facts: { format: "v2" } });
    await ok("fsck", "-q", device);
    expect(state(device)).toEqual(before);
    await ok("fsck", "-q", "--repair", device, "--undo", join(folder, "undo"));
    const { contents: after } = JSON.parse(await ok("info", "--json", device)) as Info;
    expect(after.facts).toMatchObject({ closed: true, journal_records_to_replay: 0 });
    await expectWhole(await lookAt(table, join(folder, "plain")));
    // Not repaired, but opened: the same.
    if (existsSync(join(folder, "undo"))) await ok("undo", "-q", join(folder, "undo"));
    expect(state(device).map(hashOnly)).toEqual(before.map(hashOnly));
    const server = await serve(["--table", table]);
    await ok("copy", "-q", server.uri, join(folder, "again"));
    expect(await server.stop()).toBe(0);
    await expectWhole(join(folder, "again"));
  });
});
