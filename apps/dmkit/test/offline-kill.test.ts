/** The offline commands as processes of their own: killed in the middle, interrupted, and beside a server. */
import { type ChildProcess, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { MemoryDevice, openFile, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, isDeep } from "@dmkit/block-io/testing";
import { NbdServer } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { cleanUp, complaints, dmkit, main, serve, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const ROUNDS = Number(process.env["DMKIT_KILL_ROUNDS"] ?? (isDeep ? 10 : 2));

const hash = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");

function sparse(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

/** A cache with more than a thousand scattered dirty blocks, as a server that was killed leaves it. */
async function dirtyCache(folder: string): Promise<{ cache: string; backing: string }> {
  const live = {
    cache: sparse(join(folder, "live.ssd"), 48 * MIB),
    backing: sparse(join(folder, "live"), 64 * MIB),
  };
  const line = `0 ${(64 * MIB) / 512} writeboost 0 ${live.backing} ${live.cache} 2 segment_size_order 7`;
  const device = await openTable(parseTable(line, targets), { environment: realEnvironment });
  const random = new SeededRandom(5);
  for (let write = 0; write < 1500; write += 1) {
    await device.write(random.below(16_000) * 4096, random.fill(Buffer.alloc(4096)));
  }
  await device.flush();
  const copies = { cache: join(folder, "ssd"), backing: join(folder, "disk") };
  writeFileSync(copies.cache, readFileSync(live.cache));
  writeFileSync(copies.backing, readFileSync(live.backing));
  await device.close();
  return copies;
}

/** Starts `dmkit`, and kills it when `condition` holds, if it has not ended before. */
async function killedWhen(args: readonly string[], condition: () => boolean): Promise<void> {
  const child: ChildProcess = spawn(process.execPath, [main, ...args], { stdio: "ignore" });
  cleanUp(() => void child.kill("SIGKILL"));
  const ended = new Promise((resolve) => child.on("close", resolve));
  const timer = setInterval(() => {
    if (condition()) child.kill("SIGKILL");
  }, 1);
  await ended;
  clearInterval(timer);
}

describe("undo after SIGKILL", () => {
  it("restores byte for byte, also when undo itself was killed", async () => {
    const folder = tempFolder();
    const { cache, backing } = await dirtyCache(folder);
    const before = [hash(cache), hash(backing)];
    const seed = Number(process.env["DMKIT_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
    const random = new SeededRandom(seed);
    for (let round = 0; round < ROUNDS; round += 1) {
      const undo = join(folder, `${round}.undo`);
      const bytes = 4096 + random.below(600 * 1024);
      const large = (): boolean => existsSync(undo) && statSync(undo).size > bytes;
      await killedWhen(["replay", "-q", cache, backing, "--undo", undo], large);
      const mtime = statSync(backing).mtimeMs;
      // As soon as it has begun to write.
      await killedWhen(["undo", "-q", undo], () => round % 2 === 1 && statSync(backing).mtimeMs !== mtime);
      const { code, stderr } = await dmkit(["undo", "-q", undo]);
      expect(`${complaints(stderr)}${code}`, `DMKIT_SEED=${seed} round ${round}`).toBe("0");
      expect([hash(cache), hash(backing)], `DMKIT_SEED=${seed} round ${round}`).toEqual(before);
    }
  });
});

describe("beside others", () => {
  it("a served image is refused, and an image in work is refused by the server", async () => {
    const folder = tempFolder();
    const path = sparse(join(folder, "image"), 16 * MIB);
    expect((await cli("format", "compression", path)).code).toBe(0);
    const server = await serve([path]);
    const state = `${hash(path)} ${statSync(path).mtimeMs}`;
    for (const [args, code] of [
      [["fsck", path], 8],
      [["fsck", "--repair", path], 8],
      [["info", path], 1],
      [["dump", path], 1],
      [["map", path], 1],
      [["format", "compression", "--force", path], 1],
    ] as const) {
      const result = await cli(...args);
      expect(result.stderr.split("\n")[0]).toMatch(/EBUSY/);
      expect(result.code).toBe(code);
    }
    expect(`${hash(path)} ${statSync(path).mtimeMs}`).toBe(state);
    await server.stop();
    const reading = await openFile(path, { readOnly: true });
    const refused = await dmkit(["serve", "-q", "-U", join(folder, "sock"), path]);
    await reading.close();
    expect(refused.stderr).toMatch(/EBUSY/);
    expect(refused.code).toBe(1);
  });

  it("an interrupt ends a replay with 130, and the next one finishes it", async () => {
    /** A disk that interrupts who writes to it, once. */
    class Interrupting extends MemoryDevice {
      #writes = 0;

      protected override doWrite(offset: number, from: Buffer): Promise<void> {
        this.#writes += 1;
        if (this.#writes === 3) process.emit("SIGINT");
        return super.doWrite(offset, from);
      }
    }
    const folder = tempFolder();
    const { cache, backing } = await dirtyCache(folder);
    const disk = new Interrupting(64 * MIB);
    await disk.write(0, readFileSync(backing));
    const server = new NbdServer();
    server.addExport({ name: "", device: disk });
    const uri = (await server.listen({ path: join(folder, "sock") })).uri();
    cleanUp(() => server.close({ timeout: 0 }));
    expect((await cli("replay", "-q", cache, uri)).code).toBe(130);
    expect((await cli("replay", "-q", cache, uri)).code).toBe(0);
    expect((await cli("fsck", cache, uri)).code).toBe(0);
  });
});
