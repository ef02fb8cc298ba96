/** RBD images as devices: references, what helps where something is missing, and one writer. */
import { chmodSync, existsSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it, vi } from "vitest";
import { absoluteRbd, parseRbd, specOf } from "../src/rbd/reference.ts";
import { cli } from "./cli.ts";
import { ceph } from "./real-store.ts";
import { type Server, cleanUp, dmkit, run, serve, succeed, tempFolder, until } from "./support.ts";

describe("a reference to an RBD image", () => {
  it("has names, parameters, and paths that can be made absolute", () => {
    const image = parseRbd("rbd:rbd/ns/disk@before?id=vm&conf=a/ceph.conf&reconnect=5");
    expect(image).toMatchObject({
      pool: "rbd",
      namespace: "ns",
      image: "disk",
      snapshot: "before",
      id: "vm",
      reconnect: 5,
    });
    expect(specOf(image)).toBe("rbd/ns/disk@before");
    expect(parseRbd("rbd:rbd/disk")).toMatchObject({
      namespace: undefined,
      snapshot: undefined,
      reconnect: 30,
    });
    expect(absoluteRbd("rbd:rbd/disk?id=vm&conf=ceph.conf", "/etc")).toBe(
      "rbd:rbd/disk?id=vm&conf=/etc/ceph.conf",
    );
    expect(absoluteRbd("rbd:rbd/disk", "/etc")).toBe("rbd:rbd/disk");
  });

  it.each([
    ["rbd:disk", "Write rbd:POOL/IMAGE"],
    ["rbd:rbd/-x", "Write rbd:POOL/IMAGE"],
    ["rbd:rbd/a,driver=file", "Write rbd:POOL/IMAGE"],
    ["rbd:rbd/disk?cache=1", "Known are conf, id, reconnect"],
    ["rbd:rbd/disk?id=a&id=b", "Known are conf, id, reconnect"],
    ["rbd:rbd/disk?id=--conf", "Users have letters"],
    ["rbd:rbd/disk?conf=", "conf takes text"],
    ["rbd:rbd/disk?reconnect=soon", "reconnect takes 0 … 1000000 s"],
  ])("is refused: %s", async (reference, text) => {
    const { code, stderr } = await cli("info", reference);
    expect([code, stderr]).toEqual([2, expect.stringContaining(text)]);
    expect(stderr.trim().split("\n")).toHaveLength(2);
  });
});

/** Programs in place of Ceph's: what `rbd info`, `lock ls` and `status` print, and what qemu-nbd does. */
function programs(answers: Readonly<Record<string, string>>): void {
  const folder = tempFolder();
  const add = (name: string, script: string): void => {
    writeFileSync(join(folder, name), `#!/bin/sh\n${script}\n`);
    chmodSync(join(folder, name), 0o755);
  };
  const { info = '{"features":["exclusive-lock"]}', lock = "[]", status = '{"watchers":[]}', qemu } = answers;
  const {
    rbd = `case "$1" in info) echo '${info}';; lock) echo '${lock}';; status) echo '${status}';; esac`,
  } = answers;
  if (rbd !== "") add("rbd", rbd);
  add("ceph", answers["ceph"] ?? "");
  if (qemu !== undefined) add("qemu-nbd", qemu);
  vi.stubEnv("PATH", folder);
  vi.stubEnv("TMPDIR", folder);
  cleanUp(() => void vi.unstubAllEnvs());
}

describe("an RBD image that cannot be opened: one line, and what to do", () => {
  it.each([
    ["no rbd", { rbd: "" }, "ENOENT", "Install ceph-common"],
    [
      "no such image",
      { rbd: "echo 'rbd: error opening image: (2) No such file' >&2; exit 2" },
      "ENOENT",
      "rbd create",
    ],
    [
      "wrong keys",
      { rbd: "echo 'rbd: could not connect: (13) Permission denied' >&2; exit 13" },
      "EACCES",
      "Try it: rbd info",
    ],
    [
      "no cluster",
      {
        rbd: `printf "2026-01-01T00:00:00.1+0000 7f -1 monclient: x\\nrbd: couldn't connect to the cluster!2026-01-01T00:00:00.1+0000 7f -1 monclient: y\\n" >&2; exit 2`,
      },
      "ENOTCONN",
      "?conf=FILE",
    ],
    ["no qemu-nbd", {}, "ENOENT", "Install qemu-utils and qemu-block-extra"],
    [
      "no driver",
      { qemu: "echo \"qemu-nbd: Unknown driver 'rbd'\" >&2; exit 1" },
      "ENOTSUP",
      "Install qemu-block-extra",
    ],
    [
      "no exclusive lock",
      { info: '{"features":["layering"]}' },
      "ENOTSUP",
      "rbd feature enable rbd/disk exclusive-lock",
    ],
    [
      "another writer",
      { status: '{"watchers":[{"address":"10.0.0.7:0/123"}]}' },
      "EBUSY",
      "Stop it first. One that is dead is let go of after 30 seconds, or at once: ceph osd blocklist add 10.0.0.7:0/123",
    ],
    [
      "a lock by hand",
      { lock: '[{"id":"mine","locker":"client.1","address":"10.0.0.7:0/123"}]' },
      "EBUSY",
      "rbd lock rm rbd/disk mine client.1",
    ],
    [
      "a dead writer that cannot be fenced",
      {
        lock: '[{"id":"auto 1","locker":"client.1","address":"10.0.0.7:0/1"}]',
        ceph: "echo 'Error EACCES: access denied' >&2; exit 13",
      },
      "EACCES",
      "Try it: ceph osd blocklist add 10.0.0.7:0/1",
    ],
  ])("%s", async (_what, answers, errno, text) => {
    programs(answers);
    const disk = join(tempFolder(), "disk.img");
    writeFileSync(disk, Buffer.alloc(4096));
    const { code, stderr } = await cli("copy", "-q", disk, "rbd:rbd/disk");
    expect(stderr).not.toContain("monclient");
    expect([code, stderr]).toEqual([1, expect.stringContaining(text)]);
    expect(stderr).toMatch(new RegExp(`^dmkit: rbd:rbd/disk: .*\\(${errno}\\)\\n {2}.*\\n$`));
    expect(readdirSync(process.env["TMPDIR"] ?? "").filter((name) => name.startsWith("dmkit-rbd-"))).toEqual(
      [],
    );
  });

  it("what to type names the cluster's ceph.conf and the user", async () => {
    programs({ rbd: "exit 13" });
    const { stderr } = await cli("info", "rbd:rbd/disk?conf=/a b.conf&id=vm");
    expect(stderr).toContain("Try it: rbd --conf '/a b.conf' --id vm info rbd/disk");
  });
});

let images = 0;
/** A new image of 16 MiB; its reference. */
async function newImage(): Promise<{ readonly spec: string; readonly reference: string }> {
  vi.stubEnv("CEPH_CONF", ceph?.conf);
  // A server that is killed leaves the folder of its qemu-nbd.
  vi.stubEnv("TMPDIR", tempFolder());
  cleanUp(() => void vi.unstubAllEnvs());
  const spec = `rbd/test-${process.pid}-${(images += 1)}`;
  await succeed("rbd", ["create", "--size", "16M", spec]);
  return { spec, reference: `rbd:${spec}` };
}

/** The qemu-nbd of a server. */
function captiveOf({ process: { pid } }: Server): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim().split(" ").map(Number);
  const found = children.find((child) => readFileSync(`/proc/${child}/comm`, "latin1") === "qemu-nbd\n");
  if (found === undefined) throw new Error("there is no qemu-nbd");
  return found;
}

const isAlive = (pid: number): boolean => existsSync(`/proc/${pid}`);
const qemuIo = (uri: string, ...commands: string[]): Promise<string> =>
  succeed("qemu-io", ["-f", "raw", ...commands.flatMap((command) => ["-c", command]), uri]);

const name = "an RBD image of a real cluster";
describe.skipIf(ceph === undefined)(ceph === undefined ? `${name} (DMKIT_CEPH is not set)` : name, () => {
  it("is served below a cache, over a qemu-nbd that is started again, and ends with us", {
    timeout: 180_000,
  }, async () => {
    const { reference } = await newImage();
    const folder = tempFolder();
    const table = `0 32768 writeboost 0 ${reference} ${join(folder, "cache.img")} 0`;
    await succeed("truncate", ["-s", "16M", join(folder, "cache.img")]);
    const server = await serve(["-t", table, "--control", join(folder, "control")]);
    await qemuIo(server.uri, "write -P 1 0 8M", "flush");
    const first = captiveOf(server);
    process.kill(first, "SIGKILL");
    await qemuIo(server.uri, "write -P 2 8M 8M", "flush");
    expect((await cli("message", "-q", "-C", join(folder, "control"), "default", "drop_caches")).code).toBe(
      0,
    );
    const second = captiveOf(server);
    expect(second).not.toBe(first);
    expect(await server.stop()).toBe(0);
    expect(isAlive(second)).toBe(false);
    const seen = await serve(["--read-only", reference]);
    await succeed("qemu-io", ["-r", "-f", "raw", "-c", "read -P 1 0 8M", "-c", "read -P 2 8M 8M", seen.uri]);
    // A server that is killed takes it along.
    const last = captiveOf(seen);
    await seen.stop("SIGKILL");
    await until(() => !isAlive(last), "the end of qemu-nbd");
  });

  it("has one writer: a second one is refused, and a dead one is fenced", { timeout: 180_000 }, async () => {
    const { spec, reference } = await newImage();
    const server = await serve([reference]);
    await qemuIo(server.uri, "write -P 1 0 1M", "flush");
    const second = await dmkit(["serve", reference, "-U", join(tempFolder(), "s")]);
    expect([second.code, second.stderr]).toEqual([
      1,
      expect.stringMatching(/is open for writing at .*\(EBUSY\)/),
    ]);
    // Reading it is allowed.
    expect((await cli("info", reference)).code).toBe(0);
    // The machine is gone, with both of them.
    const captive = captiveOf(server);
    process.kill(captive, "SIGSTOP");
    cleanUp(() => void (isAlive(captive) && process.kill(captive, "SIGKILL")));
    await server.stop("SIGKILL");
    const refused = await dmkit(["serve", reference, "-U", join(tempFolder(), "s")]);
    const [, address = ""] = /ceph osd blocklist add (\S+)/.exec(refused.stderr) ?? [];
    await succeed("ceph", ["osd", "blocklist", "add", address]);
    const next = await serve([reference]);
    await qemuIo(next.uri, "read -P 1 0 1M", "write -P 2 0 1M", "flush");
    // It comes back, and ends without having written.
    process.kill(captive, "SIGCONT");
    await until(() => !isAlive(captive), "the end of the one that was lost");
    await qemuIo(next.uri, "read -P 2 0 1M");
    expect(await next.stop()).toBe(0);
    expect(JSON.parse(await succeed("rbd", ["status", spec, "--format", "json"]))).toEqual({ watchers: [] });
  });

  it("says so where somebody has fenced it, and does not wait for what will not come", {
    timeout: 180_000,
  }, async () => {
    const { spec, reference } = await newImage();
    const control = join(tempFolder(), "control.sock");
    const server = await serve(["--control", control, reference]);
    await qemuIo(server.uri, "write -P 1 0 1M", "flush");
    const { watchers } = JSON.parse(await succeed("rbd", ["status", spec, "--format", "json"])) as {
      readonly watchers: readonly { readonly address: string }[];
    };
    await succeed("ceph", ["osd", "blocklist", "add", watchers[0]?.address ?? ""]);
    const refused = await run("qemu-io", ["-f", "raw", "-c", "write -P 2 0 1M", "-c", "flush", server.uri]);
    expect(refused.code).not.toBe(0);
    const { stderr } = await cli("status", "--control", control);
    expect(stderr).toMatch(/^default is failed since .*on the cluster's blocklist.*\n {2}End this server\./);
    await server.stop();
    // Nobody else has it: so it is served again.
    const next = await serve([reference]);
    await qemuIo(next.uri, "read -P 1 0 1M");
    expect(await next.stop()).toBe(0);
  });

  it("two that open it at the same moment do not both have it", { timeout: 180_000 }, async () => {
    const { reference } = await newImage();
    const both = await Promise.all(
      ["a", "b"].map(() => serve([reference]).catch((error: unknown) => String(error))),
    );
    const refused = both.filter((one) => typeof one === "string");
    expect(refused.length).toBeGreaterThan(0);
    for (const text of refused) expect(text).toContain("(EBUSY)");
  });

  it("a snapshot is read-only", { timeout: 180_000 }, async () => {
    const { spec, reference } = await newImage();
    await succeed("rbd", ["snap", "create", `${spec}@before`, "--no-progress"]);
    const server = await serve([`${reference}@before`]);
    expect((await run("qemu-io", ["-f", "raw", "-c", "write 0 4k", server.uri])).code).not.toBe(0);
    await succeed("qemu-io", ["-r", "-f", "raw", "-c", "read -P 0 0 4k", server.uri]);
    expect(await server.stop()).toBe(0);
  });
});
