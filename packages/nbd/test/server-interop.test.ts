/** Other people's clients against our server. Those that are not installed are skipped. */
import { execFile, spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { describeWith } from "./client-servers.ts";
import { type Served, pattern, serve, temporaryDirectory } from "./support/serve.ts";

const run = promisify(execFile);
const installed = (program: string): boolean => spawnSync("which", [program]).status === 0;
const MiB = 1024 * 1024;

async function served(): Promise<Served & { uri: string }> {
  const all = await serve({ device: new MemoryDevice(16 * MiB), export: { description: "interop" } });
  return { ...all, uri: `nbd+unix:///disk?socket=${all.path}` };
}

describe.skipIf(!installed("nbdinfo"))("nbdinfo", () => {
  it("sees what is exported", async () => {
    const { uri } = await served();
    const { stdout } = await run("nbdinfo", ["--json", uri]);
    const [info] = (JSON.parse(stdout) as { exports: Record<string, unknown>[] }).exports;
    expect(info).toMatchObject({
      "export-name": "disk",
      description: "interop",
      "export-size": 16 * MiB,
      contexts: ["base:allocation"],
      can_df: true,
      can_fast_zero: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      is_read_only: false,
      block_size_minimum: 1,
      block_size_preferred: 4096,
      block_size_maximum: 32 * MiB,
    });
  });

  it("sees what is allocated", async () => {
    const { uri, device } = await served();
    await device.write(MiB, pattern(MiB));
    const { stdout } = await run("nbdinfo", ["--map", "--json", uri]);
    const map = JSON.parse(stdout) as { offset: number; length: number; type: number }[];
    expect(map.map(({ offset, length, type }) => [offset, length, type])).toEqual([
      [0, MiB, 3],
      [MiB, MiB, 0],
      [2 * MiB, 14 * MiB, 3],
    ]);
  });

  it("lists several exports", async () => {
    const { server, uri } = await served();
    server.addExport({ name: "second/ü", device: new MemoryDevice(MiB) });
    const { stdout } = await run("nbdinfo", ["--list", "--json", uri]);
    const { exports } = JSON.parse(stdout) as { exports: { "export-name": string }[] };
    expect(exports.map((one) => one["export-name"])).toEqual(["disk", "second/ü"]);
  });
});

describe.skipIf(!installed("nbdcopy"))("nbdcopy", () => {
  it("copies in over several connections, and out again", async () => {
    const { uri, device, server } = await served();
    const directory = await temporaryDirectory();
    const image = Buffer.alloc(16 * MiB);
    pattern(3 * MiB).copy(image, MiB + 512);
    await writeFile(join(directory, "in"), image);
    await run("nbdcopy", ["--flush", "--connections=4", join(directory, "in"), uri]);
    const stored = Buffer.alloc(16 * MiB);
    await device.read(0, stored);
    expect(stored.equals(image)).toBe(true);
    await run("nbdcopy", [uri, join(directory, "out")]);
    expect((await readFile(join(directory, "out"))).equals(image)).toBe(true);
    // Holes were not read as data.
    expect(server.statistics().exports.get("disk")?.read.bytes).toBeLessThan(8 * MiB);
  });
});

describe.skipIf(!installed("qemu-io"))("qemu", () => {
  it("qemu-io writes and reads, aligned and not", async () => {
    const { uri, device } = await served();
    const commands = [
      "write -P 1 0 1M",
      "write -P 2 511 1000",
      "write -P 3 -f 3M 4k",
      "write -z 8k 8k",
      "write -z -u 32k 8k",
      "discard 64k 64k",
      "flush",
      "read -P 2 511 1000",
      "read -P 3 3M 4k",
      "read -P 0 8k 8k",
    ];
    const { stdout } = await run("qemu-io", [
      "-f",
      "raw",
      ...commands.flatMap((command) => ["-c", command]),
      uri,
    ]);
    expect(stdout).not.toContain("failed");
    const model = Buffer.alloc(4 * MiB);
    model
      .fill(1, 0, MiB)
      .fill(2, 511, 1511)
      .fill(3, 3 * MiB, 3 * MiB + 4096);
    model.fill(0, 8192, 16_384).fill(0, 32_768, 40_960).fill(0, 65_536, 131_072);
    const stored = Buffer.alloc(4 * MiB);
    await device.read(0, stored);
    expect(stored.equals(model)).toBe(true);
  });

  it("qemu-img converts and compares", async () => {
    const { uri } = await served();
    const directory = await temporaryDirectory();
    const raw = join(directory, "raw");
    await writeFile(raw, Buffer.concat([pattern(5 * MiB), Buffer.alloc(11 * MiB)]));
    await run("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", raw, uri]);
    const { stdout } = await run("qemu-img", ["compare", "-f", "raw", "-F", "raw", raw, uri]);
    expect(stdout).toContain("identical");
  });
});

// Without the kernel's module it goes as far as the size of an export, and tells it.
describeWith("nbd-client", "nbd-client", () => {
  it("lists exports over TCP and a unix socket, and enters one", async () => {
    const { server, path } = await served();
    server.addExport({ name: "second/ü", device: new MemoryDevice(MiB) });
    server.addExport({ name: "secret", device: new MemoryDevice(MiB), hidden: true });
    const { port } = await server.listen({ port: 0 });
    for (const where of [
      ["127.0.0.1", String(port)],
      ["-unix", path],
    ]) {
      const { stdout } = await run("nbd-client", ["-l", ...where]);
      expect(stdout.split("\n").slice(1)).toEqual(["disk: interop", "second/ü", ""]);
    }
    const attempt = run("nbd-client", ["-name", "disk", "127.0.0.1", String(port), path]);
    await expect(attempt).rejects.toMatchObject({ stdout: expect.stringContaining("size = 16MB") });
    await expect(run("nbd-client", ["-name", "none", "127.0.0.1", String(port), path])).rejects.toMatchObject(
      {
        stderr: expect.stringContaining('no export named "none"'),
      },
    );
  });
});

// Its Python module belongs to the system's Python, whatever else comes first in the search path.
const system = { env: { ...process.env, PATH: "/usr/bin:/bin" } };

describe.skipIf(spawnSync("nbdsh", ["-c", "pass"], system).status !== 0)("nbdsh", () => {
  it("libnbd finds nothing to complain about", async () => {
    const { uri } = await served();
    // Strict mode is off, so that wrong requests are sent, and answered by the server.
    const program = `
h.set_strict_mode(0)
h.add_meta_context("base:allocation")
h.connect_uri("${uri}")
h.pwrite(b"x" * 100000, 12345)
assert h.pread(100000, 12345) == b"x" * 100000
assert h.pread(65536, 0, nbd.CMD_FLAG_DF)[:10] == bytes(10)
seen = []
def chunk(data, offset, status, error): seen.append((offset, len(data), status))
h.pread_structured(1 << 20, 0, chunk)
assert sum(length for _, length, _ in seen) == 1 << 20
extents = []
h.block_status(1 << 24, 0, lambda *all: extents.extend(all[2]))
assert extents[-1] == 3 and sum(extents[::2]) == 1 << 24
h.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)
h.trim(65536, 1 << 20, nbd.CMD_FLAG_FUA)
h.cache(65536, 0)
h.flush()
def fails(errno, call, *arguments):
    try: call(*arguments)
    except nbd.Error as error: assert error.errno == errno, (error.errno, errno)
    else: assert False, arguments
fails("EINVAL", h.pread, 512, 1 << 24)
fails("ENOSPC", h.pwrite, b"y" * 512, 1 << 24)
fails("EINVAL", h.trim, 512, 1 << 24)
fails("ENOTSUP", h.zero, 100, 5, nbd.CMD_FLAG_FAST_ZERO)
fails("EINVAL", h.pread, 512, 0, 1 << 9)
assert h.pread(4, 12345 + 70000) == b"xxxx"
h.shutdown()
`;
    await run("nbdsh", ["-c", program], system);
  });
});
