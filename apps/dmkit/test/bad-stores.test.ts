/** Stores that are not what they should be: one line says what is wrong, one what to do, and nothing wrong is served. */
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { S3TestServer, type S3TestServerOptions } from "@dmkit/object-store/testing";
import { describe, expect, it, vi } from "vitest";
import { cli } from "./cli.ts";
import { archivedDisk } from "./archived-disk.ts";
import { cleanUp, describeWith, dmkit, serve, succeed, tempFolder } from "./support.ts";

const MIB = 2 ** 20;

/** A server, and what a shell would have set for it. */
async function s3(options: S3TestServerOptions = {}): Promise<S3TestServer> {
  const server = new S3TestServer(options);
  setVariables({
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_ENDPOINT_URL: await server.listen(),
    XDG_CACHE_HOME: tempFolder(),
  });
  cleanUp(() => server.close());
  return server;
}

function setVariables(variables: Readonly<Record<string, string>>): void {
  for (const [name, value] of Object.entries(variables)) vi.stubEnv(name, value);
  cleanUp(() => void vi.unstubAllEnvs());
}

const small = { disk: "8M", cache: "8M" };

/** What an error looks like. */
function oneLine(stderr: string, code: string, hint: RegExp): void {
  const [what = "", todo = "", ...rest] = stderr.split("\n");
  expect([what, todo, rest]).toEqual([
    expect.stringMatching(new RegExp(`^dmkit: .*\\(${code}\\)$`)),
    expect.stringMatching(hint),
    [""],
  ]);
}

type Bad = readonly [
  code: string,
  hint: RegExp,
  options: S3TestServerOptions,
  variables: Readonly<Record<string, string>>,
];
const bad: Readonly<Record<string, Bad>> = {
  "wrong keys": ["EACCES", /access key/, {}, { AWS_ACCESS_KEY_ID: "other" }],
  "no such bucket": ["ENOENT", /Create the bucket/, { bucket: "another" }, {}],
  "a clock that is wrong": [
    "EACCES",
    /Set this machine's clock: the store's time is .*GMT/,
    { isSkewed: true },
    {},
  ],
};

describe.each(Object.entries(bad))("%s", (_name, [code, hint, options, variables]) => {
  it.each([
    ["an archive", ["archive", "info", "s3://bucket/vm1"]],
    ["disks", ["archive", "ls", "s3://bucket"]],
    ["a view", ["info", "archive:s3://bucket/vm1"]],
    ["an image", ["info", "image:s3://bucket/golden"]],
  ])("%s", async (_what, words) => {
    await s3(options);
    setVariables(variables);
    const { code: status, stderr } = await cli(...words);
    expect(status).toBe(1);
    oneLine(stderr, code, hint);
  });

  it("a takeover leaves nothing but an empty folder", async () => {
    await s3(options);
    setVariables(variables);
    const folder = join(tempFolder(), "new");
    const { code: status, stderr } = await cli("archive", "takeover", "-q", "s3://bucket/vm1", folder);
    expect(status).toBe(1);
    oneLine(stderr, code, hint);
  });

  it("a disk with an archive is not served", async () => {
    await s3(options);
    setVariables(variables);
    const { code: status, stderr } = await dmkit([
      "serve",
      "-q",
      archivedDisk(tempFolder(), "s3://bucket/vm1", small),
      "-U",
      join(tempFolder(), "s"),
    ]);
    expect(status).toBe(1);
    oneLine(stderr, code, hint);
  });
});

describe("a disk with an archive", () => {
  it("is not served while nobody answers, and is once somebody does", async () => {
    const server = await s3();
    const there = process.env["AWS_ENDPOINT_URL"] ?? "";
    const stack = archivedDisk(tempFolder(), "s3://bucket/vm1", small);
    setVariables({ AWS_ENDPOINT_URL: "http://127.0.0.1:9" });
    const { code, stderr } = await dmkit(["serve", "-q", stack, "-U", join(tempFolder(), "s")]);
    expect(code).toBe(1);
    oneLine(stderr, "ENOTCONN", /reachable/);
    setVariables({ AWS_ENDPOINT_URL: there });
    expect(await (await serve([stack])).stop()).toBe(0);
    expect([...server.objects.keys()].some((key) => key.startsWith("disks/vm1/epoch/"))).toBe(true);
  });

  it("is not served over a store that ignores conditions, and nothing is written there", async () => {
    const server = await s3({ ignoresConditions: true });
    const { code, stderr } = await dmkit([
      "serve",
      "-q",
      archivedDisk(tempFolder(), "s3://bucket/vm1", small),
      "-U",
      join(tempFolder(), "s"),
    ]);
    expect(code).toBe(1);
    oneLine(stderr, "ENOTSUP", /./);
    expect([...server.objects.keys()]).toEqual([]);
  });
});

/** A folder with a disk of 8 MiB in it, its checkpoint, and a log behind that. */
async function writtenDisk(): Promise<string> {
  const store = join(tempFolder(), "store");
  const stack = archivedDisk(tempFolder(), `${store}/vm1`, small);
  for (const number of [1, 2]) {
    const server = await serve([stack]);
    await succeed("qemu-io", ["-f", "raw", "-c", `write -P ${number} 0 64k`, "-c", "flush", server.uri]);
    expect(await server.stop()).toBe(0);
    if (number === 1) expect((await cli("archive", "checkpoint", "-q", `${store}/vm1`)).code).toBe(0);
  }
  return store;
}

// What it is, and what can be done where something can.
const damage = /^dmkit: .*\((EIO|EFORMAT)\)\n( {2}.*\n)?$/;

describeWith(["qemu-io"], "an archive with damage", () => {
  it("is not restored, and the error names what it is in", async () => {
    cleanUp(() => void vi.unstubAllEnvs());
    const store = await writtenDisk();
    const parts = ["disks/vm1/log", "disks/vm1/disk", "disks/vm1/epoch", "disks/vm1/base", "images", "blobs"];
    const files = readdirSync(store, { recursive: true, encoding: "utf8", withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map(({ parentPath, name }) => join(parentPath, name));
    for (const part of parts) {
      const paths = files.filter((file) => file.startsWith(join(store, part)));
      expect(paths, part).not.toEqual([]);
      const before = paths.map((path) => readFileSync(path));
      for (const [index, path] of paths.entries()) {
        const bytes = Buffer.from(before[index] as Buffer);
        bytes[bytes.length >> 1] = (bytes[bytes.length >> 1] ?? 0) ^ 4;
        writeFileSync(path, bytes);
      }
      // What the node's cache has needs no store.
      vi.stubEnv("XDG_CACHE_HOME", tempFolder());
      const restored = join(tempFolder(), "restored.img");
      const { code, stderr } = await cli("archive", "restore", "-q", `${store}/vm1`, restored);
      expect([part, code, stderr]).toEqual([part, 1, expect.stringMatching(damage)]);
      expect(
        paths.some((path) => stderr.includes(basename(path))),
        stderr,
      ).toBe(true);
      for (const [index, path] of paths.entries()) writeFileSync(path, before[index] as Buffer);
    }
    const restored = join(tempFolder(), "restored.img");
    expect((await cli("archive", "restore", "-q", `${store}/vm1`, restored)).code).toBe(0);
  });
});

describeWith(["mount"], "a full disk below the node's cache", () => {
  it("costs fetches, not reads, and what was half written goes", async () => {
    const folder = tempFolder();
    const [source, store, cache] = [join(folder, "golden.img"), join(folder, "store"), join(folder, "cache")];
    const contents = Buffer.alloc(4 * MIB);
    for (let at = 0; at < contents.length; at += 4096) contents.writeUInt32LE((at * 2_654_435_761) >>> 0, at);
    writeFileSync(source, contents);
    expect((await cli("publish", "-q", "--codec", "none", source, `${store}/golden`)).code).toBe(0);
    mkdirSync(cache);
    await succeed("mount", ["-t", "tmpfs", "-o", "size=1m", "none", cache]);
    cleanUp(async () => {
      await succeed("umount", [cache]);
    });
    setVariables({ XDG_CACHE_HOME: cache });
    const copy = join(folder, "copy.img");
    expect(await cli("copy", "-q", `image:${store}/golden`, copy)).toMatchObject({ code: 0 });
    expect(readFileSync(copy).equals(contents)).toBe(true);
    const kept = readdirSync(cache, { recursive: true, encoding: "utf8" }).map(
      (path) => path.split("/").at(-1) ?? "",
    );
    expect(kept.filter((name) => name.startsWith("."))).toEqual([]);
  });
});
