/** A writable disk that survives its machine, by the command line and a folder as the store. */
import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BlockDevice, realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { cli } from "./cli.ts";
import { archivedDisk } from "./archived-disk.ts";
import { type Server, cleanUp, dmkit, serve, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;
const SIZE = 32 * MIB;

async function printed<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await cli(...args, "--json");
  if (code !== 0) throw new Error(`${args.join(" ")} ended with ${code}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

async function client(server: Server): Promise<BlockDevice> {
  const device = await openNbd(server.uri, { environment: realEnvironment });
  cleanUp(() => device.close().catch(() => {}));
  return device;
}

const block = (text: string): Buffer => Buffer.alloc(4096, `${text} `);

async function at(server: Server, offset: number): Promise<string> {
  const device = await client(server);
  const bytes = Buffer.alloc(4096);
  await device.read(offset, bytes);
  return bytes.toString("latin1", 0, bytes.indexOf(" ") < 0 ? 0 : bytes.indexOf(" "));
}

describe("a disk whose log is in a folder", () => {
  it("is killed under load, lost, taken over; the old one is refused; earlier moments are served", async () => {
    const folder = tempFolder();
    const store = join(folder, "store");
    const old = join(folder, "old");
    const server = await serve([archivedDisk(old, `${store}/vm1`, { flush: "remote" })]);
    const disk = await client(server);
    const ids: number[] = [];
    const times: string[] = [];
    for (const word of ["first", "second", "third"]) {
      await disk.write(0, block(word));
      await disk.write(8 * MIB, block(word));
      await disk.flush();
      ids.push((await printed<{ last_id: number }>("archive", "info", join(store, "vm1"))).last_id);
      await new Promise((resolve) => setTimeout(resolve, 20));
      times.push(new Date().toISOString());
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    // Under load, with flushes: what was flushed last must be there.
    let flushed = 0;
    const load = (async () => {
      for (let number = 1; ; number += 1) {
        await disk.write(16 * MIB + (number % 512) * 4096, block(`load-${number}`));
        if (number % 16 !== 0) continue;
        await disk.flush();
        flushed = number;
      }
    })().catch(() => {});
    await until(() => flushed >= 64, "the load");
    await server.stop("SIGKILL");
    await load;
    const lost = join(folder, "lost");
    cpSync(old, lost, { recursive: true });
    rmSync(old, { recursive: true });

    const fresh = join(folder, "fresh");
    const taken = await printed<{ epoch: number; stack: string }>(
      "archive",
      "takeover",
      join(store, "vm1"),
      fresh,
    );
    expect(taken).toMatchObject({ epoch: 2, stack: join(fresh, "disk.yaml") });
    const next = await serve([taken.stack]);
    expect(await at(next, 0)).toBe("third");
    for (let number = Math.max(1, flushed - 400); number <= flushed; number += 1) {
      const found = await at(next, 16 * MIB + (number % 512) * 4096);
      expect(Number(found.slice("load-".length))).toBeGreaterThanOrEqual(number);
      if (number % 97 !== 0) number += 40;
    }
    await (await client(next)).write(8 * MIB, block("fourth"));
    await (await client(next)).flush();

    // The old machine comes back, with all it had.
    cpSync(lost, old, { recursive: true });
    const refused = await dmkit(["serve", join(old, "stack.yaml"), "-U", join(folder, "old.sock")]);
    expect(refused.code).not.toBe(0);
    expect(refused.stderr).toMatch(/taken over by .* \(epoch \d+\).*\(ESHUTDOWN\)/);
    // Nor does it without its archive: that would be another disk.
    const stack = readFileSync(join(old, "stack.yaml"), "utf8").replace(/.*archive.*\n/g, "");
    writeFileSync(join(old, "without.yaml"), stack);
    const without = await dmkit(["serve", join(old, "without.yaml"), "-U", join(folder, "old.sock")]);
    expect(without.stderr).toContain("the log of this cache is archived");
    // Nor is the folder of another disk written over.
    expect((await cli("archive", "takeover", join(store, "vm1"), fresh)).stderr).toContain("(EEXIST)");

    for (const [index, word] of ["first", "second", "third"].entries()) {
      const reference = `archive:${join(store, "vm1")}`;
      const ways = [
        [`${reference}@${ids[index]}`],
        ["--at", times[index] ?? "", reference],
        ["--at", String(ids[index]), reference],
      ];
      // One way, and all of them for the moment between the others.
      for (const args of index === 1 ? ways : ways.slice(index / 2, index / 2 + 1)) {
        const view = await serve(args);
        expect([await at(view, 0), await at(view, 8 * MIB)]).toEqual([word, word]);
        await view.stop();
      }
    }
    expect(await next.stop()).toBe(0);
    // It went on where it was taken over, and its last flush is there.
    const restored = join(folder, "restored.img");
    expect((await cli("archive", "restore", "-q", join(store, "vm1"), restored)).code).toBe(0);
    const bytes = readFileSync(restored);
    expect([bytes.length, bytes.toString("latin1", 8 * MIB, 8 * MIB + 6)]).toEqual([SIZE, "fourth"]);
  });

  it("whoever is alive and was replaced stops with its next flush, and says by whom", async () => {
    const folder = tempFolder();
    const store = join(folder, "store");
    const server = await serve([archivedDisk(join(folder, "old"), `${store}/vm1`, { flush: "remote" })]);
    const disk = await client(server);
    await disk.write(0, block("first"));
    await disk.flush();
    const fresh = join(folder, "a new");
    const { stderr } = await cli("archive", "takeover", join(store, "vm1"), fresh);
    expect(stderr).toContain(`dmkit serve '${join(fresh, "disk.yaml")}'`);
    await disk.write(0, block("lost"));
    await expect(disk.flush()).rejects.toThrow();
    await server.stop();
    expect(server.stderr()).toContain("taken over");
    const next = await serve([join(fresh, "disk.yaml")]);
    expect(await at(next, 0)).toBe("first");
    await next.stop();
  });

  it("is checkpointed, kept, collected; listed and told of", async () => {
    const folder = tempFolder();
    const store = join(folder, "store");
    const name = join(store, "vm1");
    const server = await serve([archivedDisk(join(folder, "old"), `${store}/vm1`, { flush: "local" })]);
    const disk = await client(server);
    for (let number = 1; number <= 4; number += 1) {
      await disk.write(number * MIB, block(`number-${number}`));
      await disk.flush();
    }
    await server.stop();
    expect(await printed("archive", "ls", store)).toEqual(["vm1"]);
    const { last_id: last } = await printed<{ last_id: number }>("archive", "info", name);
    expect(last).toBeGreaterThan(0);
    expect(await printed("archive", "keep", `${name}@1`, "begin")).toMatchObject({ name: "begin", id: 1 });
    expect(await printed("archive", "checkpoint", name)).toMatchObject({ id: last });
    await printed("archive", "gc", name);
    const info = await cli("archive", "info", name);
    expect(info.stdout).toMatch(/^checkpoint {2}segment \d+/m);
    expect(info.stdout).toMatch(/^kept .*begin$/m);
    const view = await serve([`archive:${name}`]);
    expect(await at(view, 4 * MIB)).toBe("number-4");
    await view.stop();
    // The same cache goes on, over what was collected.
    const again = await serve([join(folder, "old/stack.yaml")]);
    await (await client(again)).write(0, block("again"));
    await (await client(again)).flush();
    await again.stop();
    const restored = join(folder, "restored.img");
    expect((await cli("archive", "restore", "-q", name, restored)).code).toBe(0);
    expect(readFileSync(restored).toString("latin1", 0, 5)).toBe("again");
    expect((await cli("archive", "unkeep", name, "begin")).code).toBe(0);
    expect((await cli("archive", "unkeep", name, "begin")).code).toBe(1);
    expect((await cli("archive", "info", join(store, "vm2"))).stderr).toContain("(ENOENT)");
    expect((await cli("archive", "restore", "-q", `${name}@yesterday`, restored)).code).toBe(2);
    expect(existsSync(restored)).toBe(true);
  });
});
