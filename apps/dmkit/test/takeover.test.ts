/**
 * The writer of a disk with an archive is killed under load, and a second process goes on from the store alone; or two do
 * at the same moment. After each the disk is what it was after one of the writes, in the order in which they were
 * acknowledged, and nothing is missing that was in the store, or was flushed where flushes wait for it.
 *
 * DMKIT_TAKEOVERS sets how often each is done. `npm run deep` does it 50 times, on Ceph's gateway.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openArchive } from "@dmkit/archive";
import { type BlockDevice, realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { expect, it } from "vitest";
import { cli } from "./cli.ts";
import { realStore, where } from "./real-store.ts";
import { archivedDisk } from "./archived-disk.ts";
import { type Server, cleanUp, describeWith, dmkit, serve, tempFolder, until } from "./support.ts";

const rounds = Number(process.env["DMKIT_TAKEOVERS"] ?? 2);
const TIMEOUT = 180_000 + 60_000 * rounds;
const BLOCK = 4096;
/** Blocks with numbers: the first half of the disk. The second one is fio's. */
const SLOTS = 512;
const FIO = { offset: "16m", size: "16m" };

type Flush = "local" | "remote";
// Every other round has flushes that wait for the store.
const flushOf = (round: number): Flush => (round % 2 === 1 ? "remote" : "local");

function flushing(stack: string, flush: Flush): string {
  const text = readFileSync(stack, "utf8").replaceAll(/\n *archive_flush: .*/g, "");
  writeFileSync(stack, text.replace(/\n( *)archive: .*/, `$&\n$1archive_flush: ${flush}`));
  return stack;
}

/** Writes numbered blocks, one after the other, and flushes now and then, until it is refused. */
class Load {
  /** The last number that was asked for; the one before it was acknowledged. */
  asked: number;
  /** The last number a flush was answered for. */
  flushed: number;
  readonly ended: Promise<void>;
  readonly #fio: ChildProcess;

  constructor(server: Server, disk: BlockDevice, last: number) {
    this.asked = last;
    this.flushed = last;
    const job = [
      "--name=load",
      // In one process: what ends it leaves no part of it behind.
      "--thread",
      "--ioengine=nbd",
      `--uri=${server.uri}`,
      "--rw=randwrite",
      "--bs=4k",
      "--iodepth=8",
    ];
    const rest = [
      `--offset=${FIO.offset}`,
      `--size=${FIO.size}`,
      "--time_based",
      "--runtime=600",
      "--fsync=64",
    ];
    this.#fio = spawn("fio", [...job, ...rest], { stdio: "ignore" });
    cleanUp(() => void this.#fio.kill("SIGKILL"));
    this.ended = this.#run(disk).catch(() => {});
  }

  async #run(disk: BlockDevice): Promise<void> {
    for (;;) {
      this.asked += 1;
      await disk.write((this.asked % SLOTS) * BLOCK, numbered(this.asked));
      if (this.asked % 16 !== 0) continue;
      await disk.flush();
      this.flushed = this.asked;
    }
  }

  async stop(): Promise<void> {
    this.#fio.kill("SIGKILL");
    await this.ended;
  }
}

function numbered(number: number): Buffer {
  return Buffer.alloc(BLOCK, `${number} `);
}

/** The number up to which a disk has the writes; it has all of them, in whole blocks, and none behind it. */
async function lastNumber(disk: BlockDevice): Promise<number> {
  const bytes = Buffer.alloc(SLOTS * BLOCK);
  await disk.read(0, bytes);
  const found = Array.from({ length: SLOTS }, (_, slot) => {
    const block = bytes.subarray(slot * BLOCK, (slot + 1) * BLOCK);
    const number = Number.parseInt(block.toString("latin1", 0, 16), 10) || 0;
    expect(block.equals(number === 0 ? Buffer.alloc(BLOCK) : numbered(number)), `slot ${slot}`).toBe(true);
    return number;
  });
  const last = Math.max(...found);
  for (const [slot, number] of found.entries()) {
    const newest = last - ((last - slot + SLOTS) % SLOTS);
    expect([slot, number]).toEqual([slot, newest > 0 ? newest : 0]);
  }
  return last;
}

async function client(server: Server): Promise<BlockDevice> {
  const device = await openNbd(`${server.uri}${server.uri.includes("?") ? "&" : "?"}reconnect=off`, {
    environment: realEnvironment,
  });
  cleanUp(() => device.close().catch(() => {}));
  return device;
}

interface Taken {
  readonly id: number;
  readonly stack: string;
}

/** Undefined where somebody else took it over later. */
async function takeOver(archive: string, folder: string): Promise<Taken | undefined> {
  const { code, stdout, stderr } = await dmkit([
    "archive",
    "takeover",
    "--json",
    "--cache-size",
    "16M",
    archive,
    folder,
  ]);
  if (code === 0) return JSON.parse(stdout) as Taken;
  expect(stderr).toMatch(/taken over by .* \(epoch \d+\).*\(ESHUTDOWN\)/);
  return undefined;
}

/** Serves what was taken over; undefined if it is refused because somebody else has taken it over since. */
async function served({ stack }: Taken, flush: Flush): Promise<Server | undefined> {
  return serve([flushing(stack, flush)]).catch((error: unknown) => {
    expect(String(error)).toMatch(/taken over by .* \(epoch \d+\).*\(ESHUTDOWN\)/);
    return undefined;
  });
}

/** What is in the store at this moment: the last number, and the segment it is known by. */
async function shipped(archive: string): Promise<{ readonly id: number; readonly number: number }> {
  const view = await openArchive(`archive:${archive}`);
  try {
    return { id: view.id, number: await lastNumber(view) };
  } finally {
    await view.close();
  }
}

/** The log does not grow for ever; whoever takes over next begins at the checkpoint. */
async function checkpoint(round: number, archive: string): Promise<void> {
  if (round % 4 !== 3) return;
  for (const verb of ["checkpoint", "gc"]) {
    const { code, stderr } = await cli("archive", verb, "-q", archive);
    expect([verb, code, stderr]).toEqual([verb, 0, ""]);
  }
}

describeWith(["fio"], `a writer that is lost, its log in ${where}`, () => {
  it(`is killed under fio, and another process goes on, ${rounds} times`, { timeout: TIMEOUT }, async () => {
    const [folder, store] = [tempFolder(), await realStore()];
    const archive = `${store}/vm1`;
    let server = await serve([flushing(archivedDisk(folder, archive, { name: "disk.yaml" }), flushOf(0))]);
    let last = 0;
    for (let round = 0; round < rounds; round += 1) {
      const load = new Load(server, await client(server), last);
      const before = last;
      await until(() => load.flushed >= before + 16 * (2 + (round % 5)), "the load");
      await server.stop("SIGKILL");
      await load.stop();
      const stored = await shipped(archive);
      const taken = await takeOver(archive, join(folder, `machine-${round}`));
      if (taken === undefined) throw new Error("nobody else was there");
      expect(taken.id).toBeGreaterThanOrEqual(stored.id);
      const next = await served(taken, flushOf(round + 1));
      if (next === undefined) throw new Error("nobody else was there");
      server = next;
      const disk = await client(server);
      last = await lastNumber(disk);
      expect(last).toBeLessThanOrEqual(load.asked);
      expect(last).toBeGreaterThanOrEqual(flushOf(round) === "remote" ? load.flushed : stored.number);
      await disk.close();
      await checkpoint(round, archive);
      rmSync(join(folder, `machine-${round - 1}`), { recursive: true, force: true });
    }
    expect(await server.stop()).toBe(0);
  });

  it(`is replaced by two at the same moment, of which one goes on, ${rounds} times`, {
    timeout: TIMEOUT,
  }, async () => {
    const [folder, store] = [tempFolder(), await realStore()];
    const archive = `${store}/vm1`;
    let server = await serve([flushing(archivedDisk(folder, archive, { name: "disk.yaml" }), flushOf(0))]);
    let last = 0;
    for (let round = 0; round < rounds; round += 1) {
      const flush = flushOf(round);
      const load = new Load(server, await client(server), last);
      const before = last;
      await until(() => load.flushed >= before + 32, "the load");
      // The old one is dead already, or writes on until it is refused.
      const isKilled = (round + (round >> 1)) % 2 === 0;
      if (isKilled) await server.stop("SIGKILL");
      const stored = await shipped(archive);
      const both = await Promise.all(
        ["a", "b"].map((name) => takeOver(archive, join(folder, `machine-${round}-${name}`))),
      );
      const servers: Server[] = [];
      for (const taken of both) {
        if (taken === undefined) continue;
        expect(taken.id).toBeGreaterThanOrEqual(stored.id);
        const one = await served(taken, flushOf(round + 1));
        if (one !== undefined) servers.push(one);
      }
      if (!isKilled && flush === "remote") {
        await load.ended;
        expect(server.stderr()).toContain("taken over");
      }
      await server.stop("SIGKILL");
      await load.stop();
      expect(servers).toHaveLength(1);
      server = servers[0] as Server;
      const disk = await client(server);
      last = await lastNumber(disk);
      expect(last).toBeLessThanOrEqual(load.asked);
      expect(last).toBeGreaterThanOrEqual(flush === "remote" ? load.flushed : stored.number);
      await disk.close();
      await checkpoint(round, archive);
      for (const name of ["a", "b"])
        rmSync(join(folder, `machine-${round - 1}-${name}`), { recursive: true, force: true });
    }
    expect(await server.stop()).toBe(0);
  });
});
