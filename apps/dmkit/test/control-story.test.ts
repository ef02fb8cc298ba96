/**
 * A server as it is operated, all by command line: started with a stack file, used by a real client, watched, tuned,
 * frozen, suspended under load, written back, moved to another disk, taken apart and started again.
 */
import { spawn } from "node:child_process";
import { copyFileSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { expect, it } from "vitest";
import { cliIn } from "./cli.ts";
import { cleanUp, describeWith, serve, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const SIZE = 32 * MIB;

const stack = (backing: string, layers: string): string => `
control: control.sock
listen:
  - unix: nbd.sock
devices:
  disk: ${backing}
  cached:
    target: writeboost
    backing: disk
    cache: { file: cache.img, create: 64M }
    segment_size_order: 7
  golden: { file: golden.img, create: 32M }
  vm:
    target: cow
    base: golden
    layers:
${layers}
exports:
  fast: { device: cached, description: "the cached disk" }
  vm: vm
`;
const layer = (name: string): string => `      - { bitmap: ${name}.bitmap, data: ${name}.data, offset: 0 }`;

/** A client that writes, reads back and verifies; its exit status. */
function fioVerify(folder: string, uri: string): Promise<number | null> {
  const child = spawn(
    "fio",
    [
      "--name=story",
      "--ioengine=nbd",
      `--uri=${uri}`,
      "--rw=randwrite",
      "--bs=4k",
      "--iodepth=16",
      `--size=${SIZE / 4}`,
      `--offset=${SIZE / 2}`,
      "--loops=3",
      "--verify=crc32c",
      "--do_verify=1",
      "--verify_fatal=1",
      "--verify_state_save=0",
      "--fsync=64",
      "--minimal",
    ],
    { cwd: folder, stdio: ["ignore", "ignore", "inherit"] },
  );
  cleanUp(() => void child.kill("SIGKILL"));
  return new Promise((resolve) => child.on("exit", resolve));
}

/** One client after the other until told to stop; how many there were, all of them content. */
async function verifying(folder: string, uri: string, signal: AbortSignal): Promise<number> {
  for (let count = 1; ; count += 1) {
    expect(await fioVerify(folder, uri)).toBe(0);
    if (signal.aborted) return count;
  }
}

describeWith(["fio"], "operating a server", () => {
  it("from a stack file to a restart, with clients that notice nothing", { timeout: 240_000 }, async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    const env = { ...process.env, DMKIT_CONTROL: at("control.sock") };
    const ok = async (...words: string[]): Promise<string> => {
      const { code, stdout, stderr } = await cliIn({ cwd: folder, env }, ...words);
      expect({ words, code, stderr }).toMatchObject({ words, code: 0 });
      return stdout;
    };
    const fields = async (device: string): Promise<Record<string, number>> => {
      const answer = await ok("status", "--json", device);
      const [{ segments }] = JSON.parse(answer) as [{ segments: [{ fields: Record<string, number> }] }];
      return segments[0].fields;
    };
    for (const name of ["disk.img", "moved.img", "golden.img"]) {
      writeFileSync(at(name), "");
      truncateSync(at(name), SIZE);
    }
    await ok("cow", "create", "one.bitmap", "one.data", "--base", "golden.img");
    await ok("cow", "create", "two.bitmap", "two.data", "--size", "32M", "--blank");
    writeFileSync(at("stack.yaml"), stack("disk.img", layer("one")));

    // Start, attach.
    const start = (): ReturnType<typeof serve> =>
      serve(["-U", at("nbd.sock"), "--log", "info", at("stack.yaml")], { cwd: folder });
    const first = await start();
    const uri = (name: string): string => `nbd+unix:///${name}?socket=${at("nbd.sock")}`;
    const mine = Buffer.alloc(MIB, "mine");
    const keep = await openNbd(uri("fast"), { environment: realEnvironment, reconnect: 0 });
    await keep.write(0, mine, { fua: true });
    const vm = await openNbd(uri("vm"), { environment: realEnvironment, reconnect: 0 });
    await vm.write(0, Buffer.alloc(4096, 1), { fua: true });
    const enough = new AbortController();
    const client = verifying(folder, uri("fast"), enough.signal);

    // Watch, tune.
    expect(await ok("ls", "--tree")).toMatch(/cached .*exported as "fast"[^]*└?├?─disk/);
    expect((await fields("cached"))["segments"]).toBeGreaterThan(0);
    await ok("message", "cached", "writeback_threshold", "40");
    expect((await fields("cached"))["writeback_threshold"]).toBe(40);
    expect(await ok("table", "cached")).toMatch(/writeback_threshold 40/);

    // Freeze the layer: what was written before stays below, what comes goes on top.
    await ok("message", "vm", "freeze", "./two.bitmap", "./two.data");
    const frozen = await ok("table", "vm");
    expect(frozen).toContain("one.data");
    expect(frozen).toContain("two.data");
    const below = readFileSync(at("one.data"));
    // Others may read it, while the server has it open.
    expect(await ok("info", "one.bitmap", "--data", "one.data")).toContain("frozen");
    await ok("copy", "-q", "one.data", "one.copy");
    expect(readFileSync(at("one.copy")).equals(below)).toBe(true);
    expect((await cliIn({ cwd: folder, env }, "copy", "one.copy", "one.data")).stderr).toMatch(/EBUSY/);
    await vm.write(4096, Buffer.alloc(4096, 2), { fua: true });
    expect(readFileSync(at("one.data")).equals(below)).toBe(true);

    // Suspend and resume under load, both devices of the stack, in every manner.
    for (let round = 0; round < 4; round += 1) {
      await ok("suspend", "cached", ...(round % 2 === 0 ? [] : ["--noflush"]));
      await ok("resume", "cached");
      await ok("suspend", "disk");
      await ok("resume", "disk");
    }

    // Write everything back, then move the disk: a copy made while nothing changes, put in place of the old one.
    await ok("message", "cached", "drop_caches");
    await ok("suspend", "cached");
    await ok("suspend", "disk");
    copyFileSync(at("disk.img"), at("moved.img"));
    await ok("reload", "disk", "--table", `0 ${SIZE / 512} linear moved.img 0`);
    await ok("resume", "disk");
    await ok("resume", "cached");
    const old = readFileSync(at("disk.img"));
    enough.abort();
    expect(await client).toBeGreaterThan(0);
    expect(await ok("export", "ls")).toMatch(/^fast +cached +32 MiB +1 /m);
    await ok("message", "cached", "drop_caches");
    expect((await fields("cached"))["dirty_blocks"]).toBe(0);
    expect(readFileSync(at("disk.img")).equals(old)).toBe(true);
    expect(readFileSync(at("moved.img")).subarray(0, MIB).equals(mine)).toBe(true);

    // Take apart what is not used any more, in order.
    await vm.close();
    await ok("export", "rm", "vm");
    expect((await cliIn({ cwd: folder, env }, "remove", "golden")).stderr).toMatch(/device vm.*EBUSY/);
    await ok("remove", "vm");
    await ok("remove", "golden");
    await keep.close();
    expect(await first.stop()).toBe(0);
    expect(first.stderr()).not.toMatch(/error/);

    // Start again with what `dmkit table` said: everything is still there.
    writeFileSync(at("stack.yaml"), stack("moved.img", `${layer("one")}\n${layer("two")}`));
    await start();
    const again = await openNbd(uri("fast"), { environment: realEnvironment, reconnect: 0 });
    const back = Buffer.alloc(MIB);
    await again.read(0, back);
    expect(back.equals(mine)).toBe(true);
    await again.close();
    const machine = await openNbd(uri("vm"), { environment: realEnvironment, reconnect: 0 });
    const both = Buffer.alloc(8192);
    await machine.read(0, both);
    expect([both[0], both[4096]]).toEqual([1, 2]);
    await machine.close();
  });
});
