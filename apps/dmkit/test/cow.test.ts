/** Copy-on-write stacks with real clients, and the commands that manage them. */
import { mkdirSync, existsSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openFile, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { CowDevice, openStack } from "@dmkit/cow";
import { type MetaContext, NbdServer } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { cleanUp, describeWith, run, serve, succeed, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;

let last: Promise<unknown> = Promise.resolve();

/** One after the other: each takes what is printed meanwhile for its own. */
async function cow(...args: string[]): Promise<string> {
  const running = last.then(() => cli("cow", ...args));
  last = running.catch(() => {});
  const { code, stdout, stderr } = await running;
  if (code !== 0) throw new Error(`cow ${args.join(" ")} ended with ${code}: ${stderr}`);
  return stdout;
}

function sparse(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

describe("dmkit cow", () => {
  it("creates, inspects, merges and checks layers", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    writeFileSync(at("base"), Buffer.alloc(8 * MIB, "base"));
    const before = (await cli("cow", "info", at("base"), at("a.map"), at("a.img"))).code;
    expect(before).toBe(1);
    await cow("create", at("a.map"), at("a.img"), "--base", at("base"));
    expect((await cli("cow", "create", at("a.map"), at("a.img"), "--base", at("base"))).code).toBe(1);
    const write = async (names: readonly string[], offset: number, byte: number): Promise<void> => {
      const words = names.map((name) => `${at(`${name}.map`)} ${at(`${name}.img`)} 0`).join(" ");
      const line = `0 ${(8 * MIB) / 512} cow ${at("base")} 0 ${words}`;
      const table = await openTable(parseTable(line, targets), { environment: realEnvironment });
      await table.write(offset, Buffer.alloc(4096, byte));
      await table.close();
    };
    const stack = (...names: string[]): string[] => [
      at("base"),
      ...names.flatMap((name) => [at(`${name}.map`), at(`${name}.img`)]),
    ];
    await write(["a"], 0, 1);
    await cow("create", at("b.map"), at("b.img"), "--on", at("a.map"));
    await write(["a", "b"], 4096, 2);
    await cow("create", at("c.map"), at("c.img"), "--on", at("b.map"));
    await write(["a", "b", "c"], MIB, 3);
    await cow("flatten", "-q", at("flat"), ...stack("a", "b", "c"));
    const info = JSON.parse(await cow("info", "--json", ...stack("a", "b", "c"))) as {
      layers: { allocated: number; frozen: boolean }[];
    };
    expect(info.layers.map(({ allocated, frozen }) => [allocated, frozen])).toEqual([
      [4096, true],
      [4096, true],
      [4096, false],
    ]);
    expect(await cow("diff", "1..3", ...stack("a", "b", "c"))).toBe(
      "0\t4096\t1\n4096\t4096\t2\n1048576\t4096\t3\n",
    );
    // An export takes no file for its own that somebody else has written.
    const taken = await cli("cow", "diff", "3..3", "--export", at("flat"), ...stack("a", "b", "c"));
    expect(taken).toMatchObject({ code: 1, stdout: "" });
    expect(taken.stderr).toMatch(/EFORMAT|EEXIST/);
    expect(taken.stderr).toContain("--force");
    const exported = "1048576\t4096\t3\n";
    const flat = readFileSync(at("flat"));
    writeFileSync(at("copy"), flat);
    expect(await cow("diff", "3..3", "--force", "--export", at("copy"), ...stack("a", "b", "c"))).toBe(
      exported,
    );
    expect(readFileSync(at("copy")).equals(flat)).toBe(true);
    await cow("squash", "-q", "1..2", ...stack("a", "b", "c"));
    expect((await cli("cow", "check", ...stack("a", "b", "c"))).code).toBe(1);
    expect(await cow("check", ...stack("b", "c"))).toBe("");
    await cow("commit", "-q", "--drop", ...stack("b", "c"));
    sparse(at("zero"), 8 * MIB);
    await cow("rebase", "-q", ...stack("b"), "--onto", at("zero"));
    await cow("flatten", "-q", at("again"), at("zero"), at("b.map"), at("b.img"));
    await succeed("cmp", [at("flat"), at("again")]);
  });
});

describe("offsets of a table", () => {
  const sectors = 2048;

  it("are said as the table says them, or known from the layer, and never guessed", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    // The base at sector 40, the data of the layer behind it, all on one disk.
    const data = 40 + sectors + 24;
    const disk = Buffer.alloc((data + sectors + 8) * 512, "outside");
    disk.fill("base", 40 * 512, (40 + sectors) * 512).fill(0, data * 512);
    writeFileSync(at("disk"), disk);
    sparse(at("map"), 256 * 1024);
    const line = `0 ${sectors} cow ${at("disk")} 40 ${at("map")} ${at("disk")} ${data}`;
    const write = async (): Promise<void> => {
      const table = await openTable(parseTable(line, targets), { environment: realEnvironment });
      await table.write(65_536, Buffer.alloc(4096, 7));
      await table.close();
    };
    await write();
    const wanted = Buffer.from(disk.subarray(40 * 512, (40 + sectors) * 512)).fill(7, 65_536, 69_632);
    const short = [at("disk"), at("map"), at("disk")];
    const full = [at("disk"), "40", at("map"), at("disk"), `${data}`];
    expect(await cow("check", ...short)).toBe("");
    await cow("flatten", "-q", at("short"), ...short);
    await cow("flatten", "-q", at("full"), ...full);
    for (const name of ["short", "full"]) expect(readFileSync(at(name)).equals(wanted), name).toBe(true);
    const before = readFileSync(at("disk"));
    for (const words of [
      [at("disk"), "41", at("map"), at("disk"), `${data}`],
      [at("disk"), "40", at("map"), at("disk"), `${data + 1}`],
      [at("disk"), "40", at("map"), `${data}`],
    ]) {
      expect((await cli("cow", "commit", "-q", ...words)).code).not.toBe(0);
    }
    expect(readFileSync(at("disk")).equals(before)).toBe(true);
    await cow("commit", "-q", ...short);
    const after = readFileSync(at("disk"));
    expect(after.subarray(40 * 512, (40 + sectors) * 512).equals(wanted)).toBe(true);
    expect(after.subarray(0, 40 * 512).equals(disk.subarray(0, 40 * 512))).toBe(true);
  });

  it("have to be said for a layer that does not know them", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    sparse(at("base"), (sectors + 40) * 512);
    await cow("create", at("map"), at("img"), "--size", `${sectors * 512}`, "--data-offset", "64");
    const words = [at("base"), at("map"), at("img")];
    const result = await cli("cow", "flatten", "-q", at("flat"), ...words);
    expect(result.code).toBe(2);
    expect(result.stderr).toContain("neither said nor recorded");
    await cow("flatten", "-q", at("flat"), at("base"), "40", ...words.slice(1));
  });
});

describeWith(["nbdfuse", "fusermount3", "mkfs.ext4", "mount", "losetup"], "a golden image of 2 GiB", () => {
  it("serves three clients at once, each file system is clean, and layers stay thin", async () => {
    const folder = tempFolder();
    const base = sparse(join(folder, "base.img"), 2048 * MIB);
    await succeed("mkfs.ext4", ["-q", "-F", base]);
    const sectors = (2048 * MIB) / 512;

    const client = async (name: string, byte: number): Promise<void> => {
      const [map, data] = [join(folder, `${name}.map`), join(folder, `${name}.img`)];
      await cow("create", map, data, "--base", base);
      const server = await serve(["--table", `0 ${sectors} cow ${base} 0 ${map} ${data} 0`]);
      const [fuse, mount] = [join(folder, `${name}.fuse`), join(folder, `${name}.mount`)];
      mkdirSync(fuse);
      mkdirSync(mount);
      const nbdfuse = run("nbdfuse", [fuse, server.uri]);
      cleanUp(async () => {
        await run("umount", [mount]);
        await run("fusermount3", ["-u", fuse]);
        await nbdfuse;
      });
      await until(() => existsSync(join(fuse, "nbd")), "nbdfuse");
      await succeed("mount", ["-o", "loop", join(fuse, "nbd"), mount]);
      for (let file = 0; file < 40; file += 1) {
        writeFileSync(join(mount, `file${file}`), Buffer.alloc(file * 20_000, byte));
      }
      await succeed("umount", [mount]);
      await succeed("fusermount3", ["-u", fuse]);
      expect(await server.stop()).toBe(0);
      const raw = join(folder, `${name}.raw`);
      await cow("flatten", "-q", raw, base, map, data);
      await succeed("fsck.ext4", ["-f", "-n", raw]);
      const { layers } = JSON.parse(await cow("info", "--json", base, map, data)) as {
        layers: { allocated: number }[];
      };
      const held = layers[0]?.allocated ?? 0;
      expect(held).toBeGreaterThan(15 * MIB);
      // Blocks of the file system below are 4 KiB: everything here is written in whole ones.
      expect(statSync(data).blocks * 512).toBeLessThanOrEqual(held * 1.05);
    };
    await Promise.all([client("one", 1), client("two", 2), client("three", 3)]);
    await succeed("fsck.ext4", ["-f", "-n", base]);
  });
});

/** What a program sees of a stack, served by this process. */
async function served(device: CowDevice, metaContexts: readonly MetaContext[]): Promise<string> {
  const server = new NbdServer();
  server.addExport({ name: "", device, metaContexts });
  const path = join(tempFolder(), "nbd.sock");
  await server.listen({ path });
  cleanUp(async () => {
    await server.close();
    await device.close();
  });
  return `nbd+unix:///?socket=${path}`;
}

const layerDepth: MetaContext = {
  name: "dmkit:layer",
  async *describe(device, offset, length) {
    if (!(device instanceof CowDevice)) throw new Error("not a stack");
    for await (const extent of device.depths(offset, length)) {
      yield { length: extent.length, status: extent.depth };
    }
  },
};

async function fileStack(
  folder: string,
  size: number,
): Promise<{ device: CowDevice; layer: (name: string) => Promise<Parameters<CowDevice["freeze"]>[0]> }> {
  const environment = realEnvironment;
  const sectors = size / 512;
  const files: { close(): Promise<void> }[] = [];
  // Registered first, so it runs last: when the stack is closed.
  cleanUp(async () => {
    for (const file of files) await file.close();
  });
  const open = async (name: string, bytes: number, readOnly = false): ReturnType<typeof openFile> => {
    if (!readOnly) sparse(join(folder, name), bytes);
    const file = await openFile(join(folder, name), { readOnly, environment });
    files.push(file);
    return file;
  };
  const layer = async (name: string): Promise<Parameters<CowDevice["freeze"]>[0]> => ({
    bitmap: await open(`${name}.map`, 2 * MIB),
    data: await open(`${name}.img`, size),
    offset: 0,
  });
  sparse(join(folder, "base.img"), size);
  const base = await open("base.img", size, true);
  const device = await openStack({ base, baseOffset: 0, layers: [await layer("first")], sectors });
  return { device, layer };
}

describeWith(["nbdinfo", "qemu-io"], "dmkit serve", () => {
  it("offers dmkit:layer and qemu:allocation-depth for a stack in a table", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    sparse(at("base"), 8 * MIB);
    await cow("create", at("a.map"), at("a.img"), "--base", at("base"));
    const line = `0 ${(8 * MIB) / 512} cow ${at("base")} 0 ${at("a.map")} ${at("a.img")} 0`;
    const first = await serve(["-t", line]);
    await succeed("qemu-io", ["-f", "raw", "-c", "write -P 7 1M 64k", first.uri]);
    await first.stop();
    const { uri } = await serve(["-t", line, "-t", `${(8 * MIB) / 512} 2048 zero`]);
    const map = JSON.parse(await succeed("nbdinfo", ["--json", "--map=dmkit:layer", uri])) as unknown[];
    const depths = await succeed("nbdinfo", ["--json", "--map=qemu:allocation-depth", uri]);
    expect((JSON.parse(depths) as { type: number }[]).map(({ type }) => type)).toEqual([2, 1, 2, 1]);
    expect(map).toMatchObject([
      { offset: 0, length: MIB, type: 1 },
      { offset: MIB, length: 65_536, type: 0 },
      { offset: MIB + 65_536, length: 8 * MIB - MIB - 65_536, type: 1 },
      { offset: 8 * MIB, length: MIB, type: 0 },
    ]);
  });
});

describeWith(["nbdinfo", "nbdcopy"], "libnbd", () => {
  it("maps the merged allocation and the depth, and copies only what is allocated", async () => {
    const size = 256 * MIB;
    const folder = tempFolder();
    const { device, layer } = await fileStack(folder, size);
    await device.write(MIB, Buffer.alloc(MIB, 1));
    await device.freeze(await layer("second"));
    await device.write(1.5 * MIB, Buffer.alloc(MIB, 2));
    const uri = await served(device, [layerDepth]);
    const map = async (context: string): Promise<unknown[]> =>
      (
        JSON.parse(await succeed("nbdinfo", ["--json", `--map=${context}`, uri])) as {
          offset: number;
          length: number;
          type: number;
        }[]
      ).map(({ offset, length, type }) => [offset / MIB, length / MIB, type]);
    expect(await map("base:allocation")).toEqual([
      [0, 1, 3],
      [1, 1.5, 0],
      [2.5, 253.5, 3],
    ]);
    expect(await map("dmkit:layer")).toEqual([
      [0, 1, 2],
      [1, 0.5, 1],
      [1.5, 1, 0],
      [2.5, 253.5, 2],
    ]);
    const copy = join(folder, "copy");
    await succeed("nbdcopy", [uri, copy]);
    expect(statSync(copy).blocks * 512).toBeLessThanOrEqual(2 * MIB);
  });
});

describeWith(["fio"], "freezing while fio verifies", () => {
  it("goes unnoticed", async () => {
    const { device, layer } = await fileStack(tempFolder(), 64 * MIB);
    const uri = await served(device, []);
    const fio = succeed("fio", [
      "--name=freeze",
      "--ioengine=nbd",
      `--uri=${uri}`,
      "--rw=randwrite",
      "--bs=4k",
      "--size=24M",
      "--iodepth=16",
      "--verify=crc32c",
      "--do_verify=1",
      "--verify_state_save=0",
      "--fsync=100",
      "--randseed=7",
    ]);
    const running = fio.then(
      () => "ended",
      (error: unknown) => String(error),
    );
    let freezes = 0;
    let end: unknown;
    while (end === undefined && freezes < 10) {
      await device.freeze(await layer(`layer${freezes}`));
      freezes += 1;
      end = await Promise.race([running, new Promise((resolve) => setTimeout(resolve, 200))]);
    }
    expect(await running).toBe("ended");
    expect(device.layers).toBe(freezes + 1);
  });
});
