/**
 * The story of a golden image and of a disk that outlives its machine, by the command line, with what the README names:
 * in a bucket of Ceph's gateway where there is one, else in a folder.
 */
import { spawn } from "node:child_process";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { describeSize } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { type Attached, attach, mount } from "./mounts.ts";
import { realStore, where } from "./real-store.ts";
import { cli } from "./cli.ts";
import {
  type Server,
  cleanUp,
  complaints,
  describeWith,
  dmkit,
  run,
  serve,
  succeed,
  tempFolder,
  until,
} from "./support.ts";

/** Node's installation, as far as it has npm in it: the beginning of a large program, and 2,000 small files. */
async function installTree(folder: string): Promise<string> {
  const node = realpathSync(process.execPath);
  const npm = join(dirname(dirname(node)), "lib/node_modules/npm");
  mkdirSync(join(folder, "bin"), { recursive: true });
  await succeed("cp", [node, join(folder, "bin/node")]);
  truncateSync(join(folder, "bin/node"), 48 * 2 ** 20);
  if (existsSync(npm)) await succeed("cp", ["-a", npm, folder]);
  writeFileSync(join(folder, "notice"), notice);
  return folder;
}

const notice = "what everybody reads ".repeat(20_000);

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await cli(...args);
  expect([args, code, complaints(stderr)]).toEqual([args, 0, ""]);
  return stdout;
}

const json = async <T>(...args: string[]): Promise<T> => JSON.parse(await ok(...args, "--json")) as T;

/** For who reads the test's output. */
const tell = (text: string): void => console.log(text);

async function expectClean(file: string): Promise<void> {
  await succeed("e2fsck", ["-fn", file]);
}

/** The contents of a file in the file system that a device or an image of it has. */
async function contentOf(path: string, disk: string): Promise<string> {
  const out = join(tempFolder(), basename(path));
  await succeed("debugfs", ["-R", `dump "${path}" ${out}`, disk]);
  return readFileSync(out, "latin1");
}

const programs = ["mke2fs", "e2fsck", "debugfs", "nbdfuse", "fusermount3", "mount", "fio"];
describeWith(programs, `the story, its store ${where}`, () => {
  it("one golden image, three machines, and a layer that is published as a version of its own", {
    timeout: 300_000,
  }, async () => {
    const [folder, store] = [tempFolder(), await realStore()];
    const at = (name: string): string => join(folder, name);
    const tree = await installTree(at("tree"));
    await succeed("mke2fs", ["-q", "-t", "ext4", "-d", tree, at("golden.img"), "128M"]);
    const golden = await json<Published>("publish", "-q", at("golden.img"), `${store}/golden`);
    tell(`golden: ${describeSize(golden.uploaded)} uploaded`);

    const homes = [1, 2, 3].map((number) => at(`machine-${number}`));
    for (const home of homes) {
      mkdirSync(home);
      await ok("cow", "create", join(home, "vm.map"), join(home, "vm.img"), "--size", "128M");
    }
    const machines = await Promise.all(
      homes.map(async (home) => {
        writeFileSync(join(home, "stack.yaml"), machine(`${store}/golden@${golden.digest}`));
        const server = await serve([join(home, "stack.yaml"), "--control", join(home, "control")]);
        return { home, server, attached: await attach(server.uri) };
      }),
    );
    await Promise.all(machines.map(({ attached }) => expectClean(attached.file)));
    for (const { home } of machines) {
      const { fetched_bytes: fetched } = await statusOf(join(home, "control"), "golden");
      tell(`checked: ${describeSize(fetched)} fetched`);
      expect(fetched).toBeLessThan(golden.uploaded / 2);
    }
    const [first] = machines as [Machine];
    expect(await contentOf("notice", first.attached.file)).toBe(notice);

    // One of them changes something; what it has changed becomes a version, while it goes on with a new layer.
    const local = join(folder, "local");
    writeFileSync(local, Buffer.alloc(300_000, "only here "));
    await succeed("debugfs", ["-w", "-R", `write ${local} local`, first.attached.file]);
    await expectClean(first.attached.file);
    const control = ["-C", join(first.home, "control")];
    await ok(
      "cow",
      "create",
      "--blank",
      join(first.home, "new.map"),
      join(first.home, "new.img"),
      "--size",
      "128M",
    );
    const frozen = [join(first.home, "new.map"), join(first.home, "new.img")];
    await ok("message", "-q", ...control, "vm", "freeze", ...frozen);
    const changed = await json<Published>("publish", "-q", first.server.uri, `${store}/golden:changed`);
    tell(`changed: ${describeSize(changed.uploaded)} uploaded in ${changed.blobs} blobs`);
    // The chunks that it has written, and the page of the manifest that names them.
    expect(changed.uploaded).toBeLessThan(golden.uploaded / 4);
    for (const { attached, server } of machines) {
      await attached.away();
      expect(await server.stop()).toBe(0);
    }

    const fresh = await serve(["--read-only", `image:${store}/golden:changed`]);
    const view = await attach(fresh.uri);
    await expectClean(view.file);
    expect(await contentOf("local", view.file)).toBe(readFileSync(local, "latin1"));
    await view.away();
    expect(await fresh.stop()).toBe(0);
  });

  it("a disk is lost under fio, goes on from the store, and is looked at as of three moments", {
    timeout: 300_000,
  }, async () => {
    const [folder, store] = [tempFolder(), await realStore()];
    const archive = `${store}/vm1`;
    const old = join(folder, "old");
    mkdirSync(old);
    writeFileSync(join(old, "stack.yaml"), archived(archive));
    const server = await serve([join(old, "stack.yaml")]);
    const attached = await attach(server.uri);
    await succeed("mkfs.ext4", ["-q", "-E", "nodiscard", attached.file]);
    const { folder: mounted, away } = await mount(attached);

    const moments: number[] = [];
    for (const word of ["first", "second", "third"]) {
      writeSynced(join(mounted, "state"), word);
      await succeed("sync", ["-f", mounted]);
      moments.push((await json<{ last_id: number }>("archive", "info", archive)).last_id);
    }
    const job = [
      "--name=load",
      `--directory=${mounted}`,
      "--ioengine=psync",
      "--rw=randwrite",
      "--bs=4k",
      "--size=16m",
    ];
    const fio = spawn("fio", [...job, "--fsync=32", "--time_based", "--runtime=600"], { stdio: "ignore" });
    cleanUp(() => void fio.kill("SIGKILL"));
    await until(() => existsSync(join(mounted, "load.0.0")), "fio");
    // Flushes wait for the store: what is synced is shipped.
    const synced: string[] = [];
    for (let number = 0; number < 8; number += 1) {
      writeSynced(join(mounted, `synced-${number}`), `contents ${number}`);
      synced.push(`contents ${number}`);
    }
    await succeed("sync", ["-f", mounted]);
    await server.stop("SIGKILL");
    fio.kill("SIGKILL");
    await away();
    await attached.away();
    // Its files are gone, for now.
    renameSync(old, join(folder, "lost"));

    const next = join(folder, "next");
    await ok("archive", "takeover", "-q", "--cache-size", "64M", archive, next);
    const there = await serve([join(next, "disk.yaml")]);
    const disk = await attach(there.uri);
    await expectRecovered(disk);
    expect(await contentOf("state", disk.file)).toBe("third");
    for (const [number, contents] of synced.entries())
      expect(await contentOf(`synced-${number}`, disk.file)).toBe(contents);

    renameSync(join(folder, "lost"), old);
    const refused = await dmkit(["serve", "-q", join(old, "stack.yaml"), "-U", join(folder, "old.sock")]);
    expect([refused.code, refused.stderr]).toEqual([
      1,
      expect.stringMatching(/taken over by .*\(ESHUTDOWN\)/),
    ]);
    await disk.away();
    expect(await there.stop()).toBe(0);

    for (const [index, word] of ["first", "second", "third"].entries()) {
      const view = await serve(["--at", String(moments[index]), `archive:${archive}`]);
      // A crash at that moment would have left it so: its journal is played first, in a copy.
      const copy = join(folder, word);
      await ok("copy", "-q", view.uri, copy);
      expect(await view.stop()).toBe(0);
      await expectRecovered({ file: copy });
      expect(await contentOf("state", copy)).toBe(word);
    }
  });
});

interface Published {
  readonly digest: string;
  readonly uploaded: number;
  readonly blobs: number;
}

interface Machine {
  readonly home: string;
  readonly server: Server;
  readonly attached: Attached;
}

async function statusOf(control: string, device: string): Promise<{ readonly fetched_bytes: number }> {
  const [status] = await json<
    [{ readonly segments: readonly [{ readonly fields: { readonly fetched_bytes: number } }] }]
  >("status", "-C", control, device);
  return status.segments[0].fields;
}

const machine = (image: string): string => `devices:
  golden: { target: image, image: "${image}", cache: none }
  vm: { target: cow, base: golden, layers: [{ bitmap: vm.map, data: vm.img }] }
exports: [vm]
`;

const archived = (archive: string): string => `devices:
  vm1:
    target: writeboost
    backing: { file: vm1.img, create: 64M }
    cache: { file: vm1.cache, create: 64M }
    archive: ${archive}
    archive_flush: remote
exports: [vm1]
`;

function writeSynced(path: string, contents: string): void {
  writeFileSync(path, contents);
  const file = openSync(path, "r");
  fsyncSync(file);
  closeSync(file);
}

/** A file system that was mounted: its journal is played, and then nothing is wrong with it. */
async function expectRecovered({ file }: Pick<Attached, "file">): Promise<void> {
  const { code, stdout } = await run("e2fsck", ["-p", file]);
  expect([0, 1], stdout).toContain(code);
  await expectClean(file);
}
