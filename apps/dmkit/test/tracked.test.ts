/** Bitmaps of changes as clients see them: nbdinfo reads what qemu-io has written, while the server goes on. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { cli } from "./cli.ts";
import { describeWith, serve, succeed, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const KIB = 1024;

function sparse(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

describeWith(["nbdinfo", "qemu-io"], "dmkit serve", () => {
  it("offers what has changed since each epoch as a dirty bitmap of qemu", async () => {
    const folder = tempFolder();
    const [disk, bits] = [sparse(join(folder, "disk"), 8 * MIB), sparse(join(folder, "bits"), MIB)];
    const control = join(folder, "control");
    const table = [
      "-t",
      `0 ${(8 * MIB) / 512} tracked ${disk} ${bits}`,
      "-t",
      `${(8 * MIB) / 512} 2048 zero`,
    ];
    const server = await serve(["--control", control, "--name", "disk", ...table]);
    const { uri } = server;
    const message = async (
      ...words: string[]
    ): Promise<{ code: number | null; stdout: string; stderr: string }> =>
      cli("message", "-C", control, "disk", "@0", ...words);
    const write = (place: string): Promise<string> =>
      succeed("qemu-io", ["-f", "raw", "-c", `write -P 7 ${place}`, uri]);
    const map = async (epoch: string): Promise<unknown[]> =>
      (
        JSON.parse(await succeed("nbdinfo", ["--json", `--map=qemu:dirty-bitmap:${epoch}`, uri])) as {
          offset: number;
          length: number;
          type: number;
        }[]
      ).flatMap(({ offset, length, type }) => (type === 1 ? [[offset / KIB, length / KIB]] : []));
    // Of a line that tracks nothing all is changed, as far as anybody knows.
    const rest = [8 * KIB, KIB];
    await write("0 4k");
    expect(await message("begin", "monday")).toMatchObject({ stderr: "", code: 0 });
    await write("1M 64k");
    expect(await message("begin", "tuesday")).toMatchObject({ code: 0 });
    await write("3M 4k");
    expect(await map("monday")).toEqual([[KIB, 64], [3 * KIB, 64], rest]);
    expect(await map("tuesday")).toEqual([[3 * KIB, 64], rest]);
    const info = JSON.parse(await succeed("nbdinfo", ["--json", uri])) as {
      exports: { contexts: string[] }[];
    };
    expect(info.exports[0]?.contexts).toEqual([
      "base:allocation",
      "qemu:dirty-bitmap:monday",
      "qemu:dirty-bitmap:tuesday",
    ]);
    expect((await message("list")).stdout).toMatch(
      /^monday \S+ 131072\/8388608\ntuesday \S+ 65536\/8388608\n$/,
    );
    expect(await message("merge", "monday", "tuesday")).toMatchObject({ code: 0 });
    expect(await map("tuesday")).toEqual([[KIB, 64], [3 * KIB, 64], rest]);
    const gone = await message("drop", "monday");
    expect(gone.code).toBe(1);
    expect(gone.stderr).toContain("ENOENT");
    expect(await message("drop", "tuesday")).toMatchObject({ code: 0 });
    expect(await message("begin", "wednesday")).toMatchObject({ code: 0 });
    await write("4M 4k");
    await server.stop();
    const again = await serve(table);
    const after = JSON.parse(
      await succeed("nbdinfo", ["--json", "--map=qemu:dirty-bitmap:wednesday", again.uri]),
    ) as unknown[];
    expect(after).toMatchObject([
      { offset: 0, length: 4 * MIB, type: 0 },
      { offset: 4 * MIB, length: 64 * KIB, type: 1 },
      { offset: 4 * MIB + 64 * KIB, type: 0 },
      { offset: 8 * MIB, length: MIB, type: 1 },
    ]);
    await again.stop();
  });
});

describe("dmkit fsck", () => {
  it("mends a superblock of bitmaps", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    sparse(at("disk"), 8 * MIB);
    sparse(at("bits"), MIB);
    const made = await cli("format", "tracked", at("bits"), "--device", at("disk"), "-o", "granularity=4K");
    expect(made).toMatchObject({ stderr: "", code: 0 });
    writeFileSync(at("bits"), Buffer.alloc(512), { flag: "r+" });
    // As fsck: 1 is "repaired".
    expect(await cli("fsck", "--repair", "--undo", at("undo"), at("bits"))).toMatchObject({ code: 1 });
    const { stdout } = await cli("info", "--json", at("bits"), "--device", at("disk"));
    expect(JSON.parse(stdout)).toMatchObject({
      contents: { format: "tracked", facts: { granularity_bytes: 4096, state: "closed cleanly" } },
    });
  });
});
