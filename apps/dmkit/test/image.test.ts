/** Images in an object store, by the command line: published, served lazily below private layers, published again. */
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { S3TestServer } from "@dmkit/object-store/testing";
import { describe, expect, it, vi } from "vitest";
import { cli, cliIn } from "./cli.ts";
import { cleanUp, describeWith, dmkit, serve, succeed, tempFolder } from "./support.ts";

const MIB = 2 ** 20;

interface Bucket {
  readonly server: S3TestServer;
  readonly options: { readonly env: NodeJS.ProcessEnv };
  /** A location in the bucket. */
  readonly at: (name: string) => string;
}

/** A bucket on the small test server, and what a shell would have set for it. */
async function bucket(): Promise<Bucket> {
  const server = new S3TestServer();
  const endpoint = await server.listen();
  cleanUp(() => server.close());
  const env = {
    ...process.env,
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_ENDPOINT_URL: endpoint,
    XDG_CACHE_HOME: tempFolder(),
  };
  return { server, options: { env }, at: (name) => `s3://bucket/${name}` };
}

async function json<T>(args: readonly string[], options: { env?: NodeJS.ProcessEnv }): Promise<T> {
  const { code, stdout, stderr } = await cliIn(options, ...args, "--json");
  if (code !== 0) throw new Error(`${args.join(" ")} ended with ${code}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

/** As `json`, in this process. */
async function printed<T>(...args: string[]): Promise<T> {
  const { code, stdout, stderr } = await cli(...args, "--json");
  if (code !== 0) throw new Error(`${args.join(" ")} ended with ${code}: ${stderr}`);
  return JSON.parse(stdout) as T;
}

/** An image of 8 MiB with text in some chunks. */
function makeImage(path: string, word = "golden"): Buffer {
  const contents = Buffer.alloc(8 * MIB);
  for (const chunk of [0, 3, 7, 15])
    contents.fill(`${word} ${chunk} `, chunk * (MIB / 2), chunk * (MIB / 2) + 300_000);
  writeFileSync(path, contents);
  return contents;
}

describe("dmkit publish, pull, image", () => {
  it("publish, list, verify, tag, pull, collect", async () => {
    const { options, at, server } = await bucket();
    for (const [name, value] of Object.entries(options.env)) vi.stubEnv(name, value);
    cleanUp(() => void vi.unstubAllEnvs());
    const folder = tempFolder();
    const contents = makeImage(join(folder, "golden.img"));
    const first = await printed<{ digest: string; blobs: number }>(
      "publish",
      join(folder, "golden.img"),
      at("p/golden"),
    );
    expect(first.blobs).toBe(5);
    expect((await cli("image", "verify", at("p/golden"))).stdout).toContain("whole");
    makeImage(join(folder, "golden.img"), "silver");
    const second = await printed<{ digest: string }>(
      "publish",
      join(folder, "golden.img"),
      at("p/golden:v2"),
    );
    const list = await printed<{ digest: string; tags: string[] }[]>("image", "ls", at("p"));
    expect(list.map(({ digest, tags }) => [digest, tags])).toEqual([
      [first.digest, ["latest"]],
      [second.digest, ["v2"]],
    ]);
    expect((await cli("image", "tag", at("p/golden:v2"), "stable")).code).toBe(0);
    expect((await printed<{ digest: string }>("image", "info", at("p/golden:stable"))).digest).toBe(
      second.digest,
    );
    const pulled = join(folder, "pulled.img");
    expect((await cli("pull", "-q", at(`p/golden@${first.digest}`), pulled)).code).toBe(0);
    expect(readFileSync(pulled).equals(contents)).toBe(true);
    expect((await cli("pull", "-q", at("p/golden:v2"), pulled)).stderr).toContain("(EFORMAT)");
    expect(readFileSync(pulled).equals(contents)).toBe(true);
    expect((await cli("pull", "-q", "--force", at("p/golden:v2"), pulled)).code).toBe(0);
    expect(readFileSync(pulled).equals(readFileSync(join(folder, "golden.img")))).toBe(true);
    // All of it is young.
    expect(await printed("image", "gc", at("p"))).toMatchObject({ blobs: 0, manifests: 0 });
    expect((await cli("image", "untag", at("p/golden:stable"))).code).toBe(0);
    expect((await cli("image", "info", at("p/golden:stable"))).stderr).toContain(
      "\n  Its tags: latest, v2.\n",
    );
    const key = [...server.objects.keys()].find((name) => name.startsWith("p/blobs/")) ?? "";
    server.objects.delete(key);
    const verified = await cli("image", "verify", "-q", at("p/golden"));
    const other = await cli("image", "verify", "-q", at("p/golden:v2"));
    expect([verified.code, other.code].toSorted((a, b) => Number(a) - Number(b))).toEqual([0, 1]);
    expect(verified.stdout + other.stdout).toContain(`missing: blob ${key.slice(-64)}`);
  });

  it("what verify finds is mended by what it advises", async () => {
    const folder = tempFolder();
    const [source, store] = [join(folder, "golden.img"), join(folder, "store")];
    makeImage(source);
    const image = join(store, "golden");
    await printed("publish", source, image);
    const blobs = (): string[] =>
      readdirSync(join(store, "blobs"), { recursive: true, encoding: "utf8" })
        .filter((name) => name.length > 64)
        .map((name) => join(store, "blobs", name));
    const lost = blobs();
    rmSync(lost[0] as string);
    for (const path of lost.slice(1)) writeFileSync(path, "damaged");
    const verified = await cli("image", "verify", image);
    expect([verified.code, verified.stdout]).toEqual([1, expect.stringContaining("dmkit publish --verify")]);
    expect((await cli("publish", "--verify", source, image)).stderr).toMatch(
      /in 5 blobs\n[45] of these were missing or damaged/,
    );
    expect((await cli("image", "verify", image)).stdout).toContain("whole");
    for (const path of blobs()) rmSync(path);
    expect(await printed("publish", source, image)).toMatchObject({ blobs: lost.length });
    expect((await cli("image", "verify", image)).stdout).toContain("whole");
  });

  it("what cannot be read is named, and the rest done; nothing is published of nothing", async () => {
    const folder = tempFolder();
    const [source, empty, store] = ["golden.img", "empty.img", "store"].map((name) => join(folder, name)) as [
      string,
      string,
      string,
    ];
    makeImage(source);
    writeFileSync(empty, "");
    const refused = await cli("publish", empty, join(store, "golden"));
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining("is empty")]);
    expect(existsSync(join(store, "images"))).toBe(false);
    for (const name of ["golden", "silver"]) await printed("publish", source, join(store, name));
    writeFileSync(join(store, "tags/golden/latest/0000000000000001"), "damaged");
    const list = await cli("image", "ls", store);
    expect([list.code, list.stderr]).toEqual([
      1,
      expect.stringMatching(/^dmkit: golden:latest: .*damaged.*\n {2}.*dmkit image tag/),
    ]);
    expect(list.stdout).toMatch(/^golden@.* \nsilver@.* latest\n$/);
    const collected = await cli("image", "gc", store);
    expect([collected.code, collected.stdout]).toEqual([1, expect.stringContaining("removed 0 blobs")]);
    expect(collected.stderr).toMatch(/^dmkit: golden:latest: .*damaged/);
  });

  it("a digest is not taken for a tag, and no tag goes that was not said", async () => {
    const folder = tempFolder();
    const source = join(folder, "golden.img");
    makeImage(source);
    const image = join(folder, "store/golden");
    const { digest } = await printed<{ digest: string }>("publish", source, image);
    const socket = join(folder, "nobody.sock");
    for (const words of [
      ["image", "untag", `${image}@${digest}`],
      ["image", "untag", image],
      ["publish", source, `${image}@${digest}`],
      ["image", "record", "--control", socket, "golden", `${image}@${digest}`],
    ]) {
      const { code, stderr } = await cli(...words);
      expect([words, code, stderr]).toEqual([words, 2, expect.stringContaining("Write STORE/NAME:TAG")]);
    }
    const unknown = await cli("image", "untag", `${image}:nosuch`);
    expect([unknown.code, unknown.stderr]).toEqual([1, expect.stringContaining("Its tags: latest.")]);
    const versions = await printed<{ tags: string[] }[]>("image", "ls", join(folder, "store"));
    expect(versions.map(({ tags }) => tags)).toEqual([["latest"]]);
    expect((await cli("image", "untag", `${image}:latest`)).code).toBe(0);
    const untagged = await cli("image", "info", image);
    expect([untagged.code, untagged.stderr]).toEqual([
      1,
      expect.stringMatching(/golden has no tag latest, and no other.*\(ENOENT\)\n.*versions are there/s),
    ]);
    const version = await cli("image", "info", `${image}@${"0".repeat(64)}`);
    expect(version.stderr).toContain("golden has no version 0000");
  });

  it.each([
    ["wrong keys", { AWS_ACCESS_KEY_ID: "other" }, /EACCES.*\n.*access key/],
    ["no such bucket", {}, /ENOENT.*\n.*Create the bucket/],
    ["nobody there", { AWS_ENDPOINT_URL: "http://127.0.0.1:9" }, /ENOTCONN.*\n.*reachable/],
  ])("%s: one clear error", async (what, env, text) => {
    const { options, at } = await bucket();
    const image = join(tempFolder(), "a.img");
    writeFileSync(image, Buffer.alloc(MIB, 1));
    const location = what === "no such bucket" ? "s3://elsewhere/golden" : at("golden");
    const { code, stderr } = await dmkit(["publish", "-q", image, location], {
      env: { ...options.env, ...env },
    });
    expect(code).toBe(1);
    expect(stderr).toMatch(text);
    expect(stderr).not.toContain("    at ");
  });

  it("a store that is not there is not an empty one, and gc makes none", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "file"), "x");
    for (const verb of ["ls", "gc"]) {
      for (const name of ["nothing", "file"]) {
        expect((await cli("image", verb, join(folder, name))).stderr).toContain("(ENOENT)");
      }
      expect((await cli("image", verb, "s3:/bucket")).code).toBe(2);
    }
    expect(readdirSync(folder)).toEqual(["file"]);
  });

  it("a store that ignores conditions is refused", async () => {
    const server = new S3TestServer({ ignoresConditions: true });
    const endpoint = await server.listen();
    cleanUp(() => server.close());
    const { options, at } = await bucket();
    const image = join(tempFolder(), "a.img");
    writeFileSync(image, Buffer.alloc(MIB, 1));
    const result = await dmkit(["publish", "-q", image, at("golden")], {
      env: { ...options.env, AWS_ENDPOINT_URL: endpoint },
    });
    expect(result.code).toBe(1);
    expect(result.stderr).toContain("ENOTSUP");
    expect(server.objects.size).toBe(0);
  });

  it("a stack file stands on images, relative ones beginning at the file", async () => {
    const { options } = await bucket();
    const folder = tempFolder();
    makeImage(join(folder, "golden.img"));
    mkdirSync(join(folder, "store"));
    expect(
      (await cliIn(options, "publish", "-q", join(folder, "golden.img"), join(folder, "store/golden"))).code,
    ).toBe(0);
    writeFileSync(
      join(folder, "stack.yaml"),
      `devices:
  golden: { target: image, image: ${join(folder, "store/golden")} }
  half: { target: linear, device: "image:./store/golden", offset: 4M, size: 4M, read-only: true }
  there: { target: image, image: store/golden, cache: blobs }
  line: { table: "0 16384 image store/golden 2 cache none" }
exports:
  golden: golden
  half: half
`,
    );
    const check = await cliIn(options, "stack", "check", join(folder, "stack.yaml"));
    expect([check.code, check.stderr]).toEqual([0, ""]);
    const { stdout } = await cliIn(options, "stack", "check", join(folder, "stack.yaml"));
    expect(stdout).toContain(`image ${folder}/store/golden 2 cache ${folder}/blobs`);
    expect(stdout).toContain(`image ${folder}/store/golden 2 cache none`);
    writeFileSync(join(folder, "bad.yaml"), "devices: { bad: { target: image, image: nowhere } }\n");
    const bad = await cliIn(options, "stack", "check", join(folder, "bad.yaml"));
    expect([bad.code, bad.stderr]).toEqual([2, expect.stringContaining("names no image in a store")]);
  });
});

describeWith(
  ["mkfs.ext4", "e2fsck", "nbdcopy", "nbdinfo", "debugfs"],
  "a golden image and many nodes",
  () => {
    it("is served lazily to three layers at once, changed, and published again", async () => {
      const { options, at, server } = await bucket();
      const folder = tempFolder();
      const golden = join(folder, "golden.img");
      const tree = join(folder, "tree");
      mkdirSync(tree);
      for (let n = 0; n < 40; n += 1)
        writeFileSync(join(tree, `file-${n}`), Buffer.alloc(100_000 + n, `file ${n} `));
      writeFileSync(golden, "");
      truncateSync(golden, 64 * MIB);
      await succeed("mkfs.ext4", ["-q", "-F", "-d", tree, golden]);
      const first = await json<{ digest: string; uploaded: number }>(
        ["publish", golden, at("golden")],
        options,
      );
      unlinkSync(golden);

      // Three nodes: each has a private layer and a socket of its own; the cache is shared.
      const nodes = await Promise.all(
        [1, 2, 3].map(async (n) => {
          const [map, data] = [join(folder, `${n}.map`), join(folder, `${n}.img`)];
          const made = await dmkit(["cow", "create", map, data, "--size", "64M"], options);
          expect(made).toMatchObject({ code: 0 });
          const table = `0 ${(64 * MIB) / 512} cow image:${at("golden")} 0 ${map} ${data} 0`;
          return { table, server: await serve(["-t", table], options) };
        }),
      );
      const gets = server.counts.GET;
      await Promise.all(
        nodes.map(async ({ server: node }, index) => {
          const copy = join(folder, `copy-${index}.img`);
          await succeed("nbdcopy", [node.uri, copy]);
          await succeed("e2fsck", ["-fn", copy]);
          const name = `file-${index * 7}`;
          const out = join(folder, `out-${index}`);
          await succeed("debugfs", ["-R", `dump ${name} ${out}`, copy]);
          expect(readFileSync(out).equals(readFileSync(join(tree, name)))).toBe(true);
          rmSync(copy);
        }),
      );
      // Not three times the blobs: at the worst some were asked for by two nodes at the same moment.
      const blobs = [...server.objects.keys()].filter((key) => key.startsWith("blobs/")).length;
      expect(server.counts.GET - gets).toBeLessThanOrEqual(3 * blobs);

      // One node changes a little; the layer is published as a version of its own.
      const [node] = nodes;
      const changed = join(folder, "changed");
      writeFileSync(changed, Buffer.alloc(64 * 1024, "changed on a node "));
      await succeed("nbdsh", [
        "-u",
        node?.server.uri ?? "",
        "-c",
        `h.pwrite(open("${changed}", "rb").read(), 48 << 20)`,
        "-c",
        "h.flush()",
      ]).catch(async () =>
        succeed("qemu-io", [
          "-f",
          "raw",
          "-c",
          "write -P 0x5a 48M 64k",
          "-c",
          "flush",
          node?.server.uri ?? "",
        ]),
      );
      const second = await json<{ digest: string; uploaded: number; blobs: number; tagged: boolean }>(
        ["publish", node?.server.uri ?? "", at("golden:node-1")],
        options,
      );
      // The chunk that changed, and the page that names it.
      expect(second).toMatchObject({ blobs: 2, tagged: true });
      expect(second.uploaded).toBeLessThan(first.uploaded / 4);
      for (const { server: running } of nodes) expect(await running.stop()).toBe(0);

      // Another machine: nothing is there but the bucket.
      const elsewhere = { env: { ...options.env, XDG_CACHE_HOME: tempFolder() } };
      const fresh = await serve(["--read-only", `image:${at("golden:node-1")}`], elsewhere);
      const copy = join(folder, "fresh.img");
      await succeed("nbdcopy", [fresh.uri, copy]);
      expect(
        readFileSync(copy)
          .subarray(48 * MIB, 48 * MIB + 4)
          .toString("latin1"),
      ).toMatch(/^(chan|ZZZZ)$/);
      await fresh.stop();
      const old = await serve(["--read-only", `image:${at(`golden@${first.digest}`)}`], elsewhere);
      expect(JSON.parse(await succeed("nbdinfo", ["--json", old.uri]))).toMatchObject({
        exports: [{ is_read_only: true, "export-size": 64 * MIB }],
      });
      await old.stop();
    });

    it("what a boot read first is fetched first from then on", async () => {
      const { options, at } = await bucket();
      const folder = tempFolder();
      makeImage(join(folder, "golden.img"));
      const published = await json<{ digest: string }>(
        ["publish", join(folder, "golden.img"), at("golden")],
        options,
      );
      const control = join(folder, "control");
      const table = `0 ${(8 * MIB) / 512} image ${at("golden")} 2 readahead 0`;
      const server = await serve(["-t", table, "--control", control], options);
      await succeed("qemu-io", ["-r", "-f", "raw", "-c", "read 3584k 4k", "-c", "read 1536k 4k", server.uri]);
      const [name = ""] = (await cliIn(options, "ls", "-C", control)).stdout.split(/\s+/);
      const recorded = await cliIn(options, "image", "record", "-C", control, name, at("golden"));
      expect(recorded.code, recorded.stderr).toBe(0);
      await server.stop();
      const info = await json<{ hot_chunks: number; parent: string }>(
        ["image", "info", at("golden")],
        options,
      );
      expect(info).toMatchObject({ parent: published.digest });
      expect(info.hot_chunks).toBeGreaterThanOrEqual(2);
      expect(readdirSync(folder)).toContain("golden.img");
    });
  },
);
