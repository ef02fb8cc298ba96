/** What people type first, and what they are spared to work out. */
import {
  chmodSync,
  existsSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type BlockIoError, parseTable, realEnvironment } from "@dmkit/block-io";
import { NbdServer, nbdInfo, openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { type Credentials, becomeUser, lookUpUser } from "../src/serve/process/privileges.ts";
import { createFiles } from "../src/commands/own/cow/create.ts";
import { requireNewFile, withDestination } from "../src/destination.ts";
import { type Pair, makePair, pairOf } from "../src/serve/cached-disk.ts";
import { makeFiles } from "../src/stack-file/prepare.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { describeWith, dmkit, main, serve, tempFolder } from "./support.ts";

const verb = (...words: string[]): string => [process.execPath, main, ...words].join(" ");

function image(folder: string, name: string, size: number): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

describe("* for the length of a table's last line", () => {
  it("is what is left of the device below, for serve, create and reload", async () => {
    const folder = tempFolder();
    image(folder, "a*.img", 2 ** 20);
    image(folder, "b.img", 2 ** 20);
    const tables = ["-t", "0 8 linear a*.img 0", "-t", "'8 * linear b.img 1024'"];
    const script = [
      verb("table", "default"),
      verb("create", "c", "-t", "'0 * linear dm:default 16'"),
      verb("table", "c"),
      verb("reload", "c", "-t", "'0 * linear b.img 0'"),
      verb("table", "c", "--inactive"),
      verb("create", "z", "-t", "'0 * zero'"),
    ].join("; ");
    const given = tables.map((word) => word.replaceAll("'", ""));
    const { stdout, stderr, code } = await dmkit(["serve", "-r", ...given, "--run", script], { cwd: folder });
    expect(stdout.trim().split("\n")).toEqual([
      `0 8 linear ${folder}/a*.img 0`,
      `8 1024 linear ${folder}/b.img 1024`,
      "0 1016 linear dm:default 16",
      `0 2048 linear ${folder}/b.img 0`,
    ]);
    expect(stderr).toContain("zero needs a length");
    expect(code).toBe(2);
  });
});

describe("who mistypes a word is told which one was meant, for", () => {
  const hintOf = async (work: () => unknown): Promise<string | undefined> => {
    try {
      await work();
    } catch (error) {
      return (error as BlockIoError).hint;
    }
    return "nothing was thrown";
  };

  it.each([
    ["fsk", "fsck"],
    ["serve --redonly x.img", "--read-only"],
    ["targets writebost", "writeboost"],
    ["man sreve", "serve"],
    ["format comprssion x.img", "compression"],
    ["cow comit", "commit"],
    ["info nbd://127.0.0.1/x?reconect=5", "reconnect"],
  ])("the words of a command line: %s", async (line, meant) => {
    const { stderr } = await cli(...line.split(" "));
    expect(stderr).toMatch(new RegExp(`Did you mean "?${meant}`));
  });

  it.each([
    ["a target", "0 8 lineer a 0", "linear"],
    ["an option by name", "0 8 image a/b 2 cache_sise 1G", "cache_size"],
    ["a choice", "0 8 writeboost 0 a b 2 dialect clasic", "classic"],
  ])("%s of a table", async (_what, line, meant) => {
    expect(await hintOf(() => parseTable(line, targets))).toContain(`Did you mean "${meant}"?`);
  });

  it("messages, tunables, devices, exports and schemes", async () => {
    const manager = new DeviceManager(realEnvironment, targets);
    const server = new NbdServer({ environment: realEnvironment });
    const exports = new ExportManager(server, manager, realEnvironment);
    await manager.create("disk", "0 2048 writeboost 0 mem:1M mem:8M");
    exports.add({ name: "golden", device: "disk" });
    const listener = await server.listen({ host: "127.0.0.1", port: 0 });
    const uri = `nbd://127.0.0.1:${listener.port}/goldn`;
    const hints = [
      await hintOf(() => manager.message("disk", ["drop_cashes"])),
      await hintOf(() => manager.message("disk", ["set", "writeback_treshold", "5"])),
      await hintOf(() => manager.message("dsk", ["x"])),
      await hintOf(() => manager.create("x", "0 8 linear dm:dsk 0")),
      await hintOf(() => manager.create("x", "0 8 linear ndb://host 0")),
      await hintOf(() => exports.remove("goldn", "safe")),
      await hintOf(() => openNbd(uri, { environment: realEnvironment })),
      await hintOf(() => nbdInfo(uri, { environment: realEnvironment })),
    ];
    await server.close();
    await manager.close();
    expect(hints.map((hint) => /Did you mean "([^"]+)"\?/.exec(hint ?? "")?.[1])).toEqual([
      "drop_caches",
      "writeback_threshold",
      "disk",
      "disk",
      "nbd",
      "golden",
      "golden",
      "golden",
    ]);
  });

  it("keys of a stack file, and what stands beside them", () => {
    const text = `devces: {}
devices: { a: { target: linear, devise: mem:1M }, b: mem:1M, c: { file: x, creat: 1G }, d: { target: linear, device: ndb://x } }
exports: { a: { device: bb, hiden: true } }
listen: [{ prt: 1 }]
`;
    const { problems = [] } = parseStack({ text, file: "/s.yaml" });
    expect(problems.map(({ meant }) => meant).filter(Boolean)).toEqual([
      "devices",
      "device",
      "create",
      "nbd",
      "b",
      "hidden",
      "port",
    ]);
  });
});

describe("dmkit targets NAME", () => {
  it("has options and messages in columns of their own, and says what * is", async () => {
    const { stdout } = await cli("targets", "writeboost");
    expect(stdout).toContain("or in the last line of a table *");
    const lines = stdout.split("\n").filter((line) => line.startsWith("  ") && !line.startsWith("  <"));
    const shown = lines.slice(1).map((line) => /^ {2}(?:\S.{25}| {26}) {2}\S/.test(line));
    expect(shown).toEqual(shown.map(() => true));
    expect(stdout).toMatch(/Messages:\n[^]*\n {2}drop_caches \[stop\] +writes back/);
  });
});

describe("what is said behind a path", () => {
  const qcow2 = (folder: string): string => {
    const path = join(folder, "vm disk.qcow2");
    writeFileSync(path, Buffer.concat([Buffer.from("514649fb", "hex"), Buffer.alloc(2 ** 20 - 4)]));
    return path;
  };

  it("a qcow2 image is warned of with what to type, in serve, tables, stack files and commands; ?raw is quiet", async () => {
    const folder = tempFolder();
    const path = qcow2(folder);
    const table = `0 * linear "${path}" 0`;
    writeFileSync(join(folder, "s.yaml"), `devices: { d: "${path}" }\n`);
    // Opened again, as after a client has written that: what was served goes on.
    const again = `${verb("reload", "default", "-t", `'${table}'`)} && ${verb("resume", "default")}`;
    for (const words of [
      ["serve", path, "--run", "true"],
      ["serve", "-t", table, "--run", again],
      ["serve", join(folder, "s.yaml"), "--run", "true"],
      ["copy", "-q", path, join(folder, "x")],
      ["info", path],
    ]) {
      const { code, stderr } = await dmkit(words);
      expect(code, `${words.join(" ")}: ${stderr}`).toBe(0);
      expect(stderr.match(/is a qcow2 image, and its bytes are not those of the disk in it/g)).toHaveLength(
        1,
      );
      expect(stderr).toContain(`qemu-nbd -t -f qcow2 -k '${path}.sock' '${path}'`);
      expect(stderr).toContain(`'nbd+unix:///?socket=${encodeURI(path)}.sock'`);
      expect(stderr).toContain(`'${path}?raw'`);
    }
    expect((await cli("copy", "-q", `${path}?raw`, join(folder, "y"))).stderr).toBe("");
    const served = await serve([`${path}?raw`]);
    expect(await served.stop()).toBe(0);
    expect(served.stderr()).not.toContain("qcow2");
  });

  it("?partition: two partitions of one file are used at once, in tables and as images", async () => {
    const folder = tempFolder();
    const disk = Buffer.alloc(2 ** 20);
    for (const [index, first] of [64, 1024].entries()) {
      disk.writeUInt8(0x83, 446 + 16 * index + 4);
      disk.writeUInt32LE(first, 446 + 16 * index + 8);
      disk.writeUInt32LE(512, 446 + 16 * index + 12);
    }
    disk.writeUInt16LE(0xaa55, 510);
    writeFileSync(join(folder, "d.img"), disk);
    writeFileSync(
      join(folder, "s.yaml"),
      `devices:
  one: { target: writeboost, backing: "d.img?partition=1", cache: mem:8M }
  two: d.img?partition=2
exports: [two]
`,
    );
    const { stderr, code } = await cli("stack", "check", "-q", join(folder, "s.yaml"));
    expect([stderr, code]).toEqual(["", 0]);
    const script = `${verb("table")}; ${verb("create", "three", "-t", "'0 * linear d.img?partition=1 0'")}`;
    const shown = await dmkit(["serve", "s.yaml", "--run", script], { cwd: folder });
    expect(shown.stdout).toContain(`0 512 writeboost 0 ${folder}/d.img?partition=1 mem:8M`);
    expect(shown.stdout).toContain(`0 512 linear ${folder}/d.img?partition=2 0`);
    expect(shown.stderr).toContain("is in use by device one of this server");
    const served = await serve(["d.img?partition=1", "d.img?partition=2"], { cwd: folder });
    const device = await openNbd(served.uri.replace("///", "///d.img-2").replace("d.img-1", ""), {
      environment: realEnvironment,
    });
    await device.write(0, Buffer.alloc(512, 9), { fua: true });
    await device.close();
    expect(await served.stop()).toBe(0);
    expect(readFileSync(join(folder, "d.img"))[1024 * 512]).toBe(9);
    const part = `${join(folder, "d.img")}?partition=1`;
    expect((await cli("copy", "-q", "null:256K", part)).code).toBe(0);
    expect((await cli("copy", "-q", "null:256K", join(folder, "new.img?raw"))).code).toBe(0);
    expect(readdirSync(folder).toSorted()).toEqual(["d.img", "new.img", "s.yaml"]);
    expect(readFileSync(join(folder, "d.img")).length).toBe(2 ** 20);
  });

  it("words behind ? never become part of a new file's name", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    const environment = realEnvironment;
    const copy = (to: string): Promise<unknown> =>
      withDestination(to, { size: 8192, environment, overwrite: true }, async () => {});
    const layer = (bitmap: string, data: string): Promise<void> =>
      createFiles({ bitmap: at(bitmap), data: at(data) }, { size: 2 ** 20, blank: false });
    const pair = { readOnly: false, preallocate: false, createSize: 2 ** 20, cacheSize: 2 ** 26, data: "" };
    const cached = pairOf(at("no.img?partition=1"), { ...pair, cache: at("no.cache") });
    const stack = (file: string): ReturnType<typeof parseStack> =>
      parseStack({ text: `devices: { a: { file: "${file}", create: 1M } }`, file: at("s.yaml") });
    for (const refused of [
      () => copy(at("no.img?partition=1")),
      () => layer("no.map?partition=1", "no.dat"),
      () => layer("no.map", "no.dat?no-lock&partition=2"),
      () => makePair(cached as Pair, pair, environment),
      async () => requireNewFile(at("no.html?raw")),
    ])
      await expect(refused()).rejects.toMatchObject({ code: "EINVAL", hint: expect.stringMatching(/no\./) });
    expect(stack("no.img?partition=1").problems).toMatchObject([
      { allowed: expect.stringMatching(/no\.img/) },
    ]);
    expect(readdirSync(folder)).toEqual([]);
    await copy(at("a.img?no-lock&raw"));
    await layer("b.map?no-lock", "b.dat?no-lock");
    await makeFiles(stack("c.img?no-lock").plan?.files ?? [], environment);
    expect(readdirSync(folder).toSorted()).toEqual(["a.img", "b.dat", "b.map", "c.img"]);
  });

  it("?no-lock, or --no-lock: files are written to where the lock's package is not installed", async () => {
    const folder = tempFolder();
    image(folder, "d.img", 2 ** 20);
    const hook = join(folder, "hook.cjs");
    writeFileSync(
      hook,
      `const { Module } = require("node:module");
const load = Module._load;
Module._load = (name, ...rest) => {
  if (name === "koffi") throw Object.assign(new Error("no koffi"), { code: "MODULE_NOT_FOUND" });
  return load(name, ...rest);
};
`,
    );
    const options = { cwd: folder, env: { ...process.env, NODE_OPTIONS: `--require ${hook}` } };
    const { code, stderr } = await dmkit(["serve", "d.img"], options);
    expect([code, stderr]).toEqual([1, expect.stringContaining("npm install koffi")]);
    expect(stderr).toContain("d.img?no-lock");
    expect((await dmkit(["serve", "--no-lock", "-t", "0 8 linear d.img 0"], options)).stderr).toContain(
      "FILE?no-lock",
    );
    const served = await serve(["--no-lock", "d.img"], options);
    const device = await openNbd(served.uri, { environment: realEnvironment });
    await device.write(0, Buffer.alloc(512, 9), { fua: true });
    await device.close();
    expect(await served.stop()).toBe(0);
    expect(served.stderr()).toContain("without a lock");
    expect(readFileSync(join(folder, "d.img"))[0]).toBe(9);
  });
});

describe("who may connect, and who the server is", () => {
  it("--allow, --socket-mode and --socket-group are the words of stack files", async () => {
    const folder = tempFolder();
    const socket = join(folder, "s");
    const served = await serve(["-U", socket, "--socket-mode", "660", "--socket-group", "0", "mem:1M"]);
    expect([statSync(socket).mode & 0o777, statSync(socket).gid]).toEqual([0o660, 0]);
    await served.stop();
    const closed = await serve(["-p", "0", "--allow", "10.0.0.0/8,fd00::/8", "mem:1M"]);
    await expect(
      openNbd(`${closed.uri}?connect-timeout=5`, { environment: realEnvironment }),
    ).rejects.toThrow();
    await closed.stop();
    for (const [words, told] of [
      [["--socket-mode", "660", "mem:1M"], "--socket-mode does nothing without --unix"],
      [["-U", "s", "--socket-mode", "999", "mem:1M"], "three octal digits"],
      [["-U", "s", "--allow", "10.0.0.1", "mem:1M"], "--allow is for a TCP port"],
      [["--allow", "ten", "-p", "0", "mem:1M"], "neither an address"],
      [["--group", "daemon", "mem:1M"], "--group does nothing without --user"],
    ] as const) {
      expect((await cli("serve", ...words)).stderr).toContain(told);
    }
  });

  const files = (): { passwd: string; group: string } => {
    const folder = tempFolder();
    writeFileSync(join(folder, "passwd"), "root:x:0:0::/:\nnbd:x:970:971::/:\n");
    writeFileSync(join(folder, "group"), "root:x:0:\ndisk:x:6:nbd\n");
    return { passwd: join(folder, "passwd"), group: join(folder, "group") };
  };
  const root = { geteuid: () => 0 };

  it("--user is looked up before anything is opened, and refused for who is not root", () => {
    const known = files();
    expect(lookUpUser("nbd", undefined, root, known)).toEqual({ uid: 970, gid: 971, name: "nbd" });
    expect(lookUpUser("970", "disk", root, known)).toEqual({ uid: 970, gid: 6, name: "nbd" });
    expect(lookUpUser("12345", "7", root, known)).toEqual({ uid: 12345, gid: 7, name: undefined });
    const code = (...[user, group, who]: [string, string?, number?]): unknown => {
      try {
        return lookUpUser(user, group, { geteuid: () => who ?? 0 }, known);
      } catch (error) {
        const { code: found, hint = "" } = error as BlockIoError;
        return `${found} ${/Did you mean "(\w+)"/.exec(hint)?.[1] ?? ""}`.trim();
      }
    };
    expect(code("nbd", undefined, 1000)).toBe("EPERM");
    expect(code("nbdd")).toBe("ENOENT nbd");
    expect(code("nbd", "dsk")).toBe("ENOENT disk");
    expect(code("12345")).toBe("ENOENT");
    for (const user of ["root", "0"]) expect(code(user)).toBe("EINVAL");
  });

  it("groups go before the user, and a way back ends the server", () => {
    const system = (changes: Partial<Credentials> = {}): { calls: string[]; credentials: Credentials } => {
      const calls: string[] = [];
      const now = { uid: 0, gid: 0 };
      const credentials: Credentials = {
        getuid: () => now.uid,
        geteuid: () => now.uid,
        getgid: () => now.gid,
        getegid: () => now.gid,
        setgroups: (groups) => void calls.push(`setgroups ${groups.join()}`),
        initgroups: (name, gid) => void calls.push(`initgroups ${name} ${gid}`),
        setgid: (gid) => {
          calls.push(`setgid ${gid}`);
          now.gid = gid;
        },
        setuid: (uid) => {
          if (now.uid !== 0) throw new Error("EPERM");
          calls.push(`setuid ${uid}`);
          now.uid = uid;
        },
        ...changes,
      };
      return { calls, credentials };
    };
    const [named, numbered] = [system(), system()];
    becomeUser({ uid: 970, gid: 971, name: "nbd" }, named.credentials);
    expect(named.calls).toEqual(["initgroups nbd 971", "setgid 971", "setuid 970"]);
    becomeUser({ uid: 970, gid: 971, name: undefined }, numbered.credentials);
    expect(numbered.calls).toEqual(["setgroups 971", "setgid 971", "setuid 970"]);
    for (const changes of [{ setuid: () => {} }, { getegid: () => 0 }, { setgid: () => {} }]) {
      const { credentials } = system(changes);
      expect(() => becomeUser({ uid: 970, gid: 971, name: "nbd" }, credentials)).toThrow(
        expect.objectContaining({ code: "EPERM" }),
      );
    }
    // The saved ids may differ from the others: the way back is open.
    let uid = 0;
    const reversible = { getuid: () => uid, geteuid: () => uid, setuid: (to: number) => void (uid = to) };
    expect(() => becomeUser({ uid: 970, gid: 971, name: "nbd" }, system(reversible).credentials)).toThrow(
      /root again/,
    );
  });

  it("--user: what was opened by root is served by somebody else", async () => {
    const folder = tempFolder();
    const path = image(folder, "d.img", 2 ** 20);
    const words = [
      "-U",
      join(folder, "s"),
      "--user",
      "65534",
      "--group",
      "65534",
      "-C",
      join(folder, "c"),
      path,
    ];
    if (process.getuid?.() !== 0) {
      expect((await dmkit(["serve", ...words])).stderr).toContain("only root can become another user");
      return;
    }
    const served = await serve(words);
    const status = readFileSync(`/proc/${served.process.pid}/status`, "utf8");
    expect(/^Uid:\t(.*)$/m.exec(status)?.[1]).toBe("65534\t65534\t65534\t65534");
    expect(/^Gid:\t(.*)$/m.exec(status)?.[1]).toBe("65534\t65534\t65534\t65534");
    expect(/^Groups:\t(.*)$/m.exec(status)?.[1]?.trim()).toBe("65534");
    expect(/^CapEff:\t(.*)$/m.exec(status)?.[1]).toMatch(/^0+$/);
    const device = await openNbd(served.uri, { environment: realEnvironment });
    await device.write(0, Buffer.alloc(4096, 9), { fua: true });
    await device.flush();
    const control = ["-C", join(folder, "c")];
    expect((await cli("ls", ...control)).stdout).toContain("default");
    // What could not be opened again is not closed.
    chmodSync(path, 0o600);
    expect((await cli("reload", "default", "--table", `0 2048 linear ${path} 0`, ...control)).code).toBe(0);
    const { code, stderr } = await cli("resume", "default", ...control);
    expect([code, stderr]).toEqual([1, expect.stringContaining("the old table stays in place (EACCES)")]);
    await device.write(0, Buffer.alloc(4096, 9), { fua: true });
    chmodSync(folder, 0o755);
    chmodSync(path, 0o666);
    await cli("reload", "default", "--table", `0 2048 linear ${path} 0`, ...control);
    expect((await cli("resume", "default", ...control)).code).toBe(0);
    await device.close();
    expect(await served.stop()).toBe(0);
    expect(readFileSync(path)[0]).toBe(9);
  });
});

describeWith(["nbdinfo"], "serve --user --run", () => {
  it.runIf(process.getuid?.() === 0)("connects as that user, gives the status, leaves nothing", async () => {
    const folder = tempFolder();
    chmodSync(folder, 0o1777);
    const path = image(folder, "d.img", 2 ** 20);
    const who = ["--user", "65534", "--group", "65534"];
    const env = { ...process.env, TMPDIR: folder };
    for (const where of [[], ["-U", join(folder, "s")]]) {
      const words = ["serve", "-q", ...who, ...where, path, "--run", 'nbdinfo --size "$uri"; exit 7'];
      const { code, stdout } = await dmkit(words, { env });
      expect([where, code, stdout]).toEqual([where, 7, `${2 ** 20}\n`]);
    }
    // The folder of control sockets, dmkit-0, stays root's.
    expect(readdirSync(folder).filter((name) => /^dmkit-.{6}$/.test(name))).toEqual([]);
  });
});

describe("serve --cache FAST SLOW", () => {
  it("makes what is asked for, and what is there is not written over", async () => {
    const folder = tempFolder();
    image(folder, "slow.img", 2 ** 20);
    writeFileSync(join(folder, "photos.tar"), Buffer.alloc(2 ** 20, 7));
    const told = async (...words: string[]): Promise<string> => {
      const { code, stderr } = await dmkit(["serve", ...words, "--run", "true"], { cwd: folder });
      return code === 0 ? "" : stderr;
    };
    expect(await told("--cache", "fast.img", "slow.img")).toContain("--cache-size 1G");
    expect(await told("--cache", "photos.tar", "slow.img")).toContain("holds something already");
    expect(readFileSync(join(folder, "photos.tar"))[0]).toBe(7);
    expect(await told("--cache", "fast.img", "--cache-size", "64M", "slow.img")).toBe("");
    expect(statSync(join(folder, "fast.img")).size).toBe(64 * 2 ** 20);
    // A disk that is lost is not made anew beside the cache that goes with it.
    expect(await told("--cache", "fast.img", "--create", "1G", "gone.img")).toContain("Nothing was made");
    expect(existsSync(join(folder, "gone.img"))).toBe(false);
    expect(await told("--cache", "f2.img", "--create", "1G", "s2.img")).toBe("");
    expect([statSync(join(folder, "s2.img")).size, statSync(join(folder, "f2.img")).size]).toEqual([
      2 ** 30,
      103 * 2 ** 20,
    ]);
    const script = verb("table");
    const { stdout } = await dmkit(["serve", "--cache", "f2.img", "s2.img", "--run", script], {
      cwd: folder,
    });
    expect(stdout).toMatch(/: 0 2097152 writeboost 0 \S+\/s2.img \S+\/f2.img/);
  });

  it.each([
    [["--cache", "fast.img"], "--cache FAST SLOW"],
    [["--cache", "f", "a", "b"], "--cache FAST SLOW"],
    [["--cache-size", "1G", "a"], "does nothing without --cache"],
    [["--snapshot"], "--snapshot IMAGE"],
    [["--snapshot", "-r", "a"], "does nothing beside --read-only"],
    [["--snapshot", "-t", "0 8 zero"], "--snapshot IMAGE"],
  ])("%j is refused with what to type", async (words, told) => {
    expect((await cli("serve", ...words)).stderr).toContain(told);
  });
});

describe("serve --snapshot FILE", () => {
  it("takes writes, forgets them, says so, and opens the file read-only", async () => {
    const folder = tempFolder();
    const path = join(folder, "d.img");
    writeFileSync(path, Buffer.alloc(2 ** 20, 1));
    chmodSync(path, 0o400);
    const [served, other] = [await serve(["--snapshot", path]), await serve(["--snapshot", path])];
    const device = await openNbd(served.uri, { environment: realEnvironment });
    await device.write(4096, Buffer.alloc(4096, 9), { fua: true });
    await device.writeZeroes(8192, 4096);
    await device.flush();
    const read = async (at: number, from = device): Promise<number | undefined> => {
      const into = Buffer.alloc(4096);
      await from.read(at, into);
      return into[0];
    };
    expect([await read(0), await read(4096), await read(8192)]).toEqual([1, 9, 0]);
    await device.close();
    const beside = await openNbd(other.uri, { environment: realEnvironment });
    expect(await read(4096, beside)).toBe(1);
    await beside.close();
    expect([await served.stop(), await other.stop()]).toEqual([0, 0]);
    expect(served.stderr()).toContain("gone when the server ends");
    expect(readFileSync(path).every((byte) => byte === 1)).toBe(true);
  });
});
