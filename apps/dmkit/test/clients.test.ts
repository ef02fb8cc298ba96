/** Real clients against a served 1 GiB sparse file. */
import { createHash } from "node:crypto";
import {
  closeSync,
  createReadStream,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  readdirSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { cleanUp, describeWith, run, serve, succeed, tempFolder, until } from "./support.ts";

const GIB = 2 ** 30;

function sparseFile(folder: string, name = "disk.img", size = GIB): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

function checksum(path: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const hash = createHash("sha1");
    createReadStream(path, { highWaterMark: 1 << 20 })
      .on("data", (chunk) => hash.update(chunk))
      .on("end", () => resolve(hash.digest("hex")))
      .on("error", reject);
  });
}

/** Bytes of {@link patchwork}, and of the disks it is copied to and read from whole. */
const COPIED = GIB / 4;

/** Some 40 MiB of data, at the start, in the middle and at the very end, and holes between. */
function patchwork(folder: string): string {
  const path = sparseFile(folder, "patchwork.img", COPIED);
  const data = Buffer.alloc(8 * 2 ** 20);
  for (let at = 0; at < data.length; at += 4)
    data.writeUInt32LE((Math.imul(at, 2654435761) ^ (at >>> 3)) >>> 0, at);
  const fd = openSync(path, "r+");
  for (const offset of [0, 60 * 2 ** 20 + 4096, 120 * 2 ** 20, COPIED - 16 * 2 ** 20, COPIED - data.length]) {
    writeSync(fd, data, 0, data.length, offset);
  }
  closeSync(fd);
  return path;
}

describeWith(["nbdinfo"], "nbdinfo", () => {
  it("sees size, flags and block sizes of a served file", async () => {
    const { uri } = await serve([sparseFile(tempFolder())]);
    const { exports, protocol } = JSON.parse(await succeed("nbdinfo", ["--json", uri])) as {
      protocol: string;
      exports: Record<string, unknown>[];
    };
    expect(protocol).toBe("newstyle-fixed");
    expect(exports[0]).toMatchObject({
      "export-size": GIB,
      is_read_only: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_fast_zero: true,
      can_multi_conn: true,
      can_cache: true,
      can_df: true,
      block_size_minimum: 1,
      contexts: ["base:allocation"],
    });
  });

  it("maps data and holes of a sparse file", async () => {
    const path = sparseFile(tempFolder());
    const fd = openSync(path, "r+");
    writeSync(fd, Buffer.alloc(65_536, 1), 0, 65_536, 2 ** 20);
    closeSync(fd);
    const { uri } = await serve([path]);
    const map = JSON.parse(await succeed("nbdinfo", ["--map", "--json", uri])) as Record<string, number>[];
    expect(map).toEqual([
      { offset: 0, length: 2 ** 20, type: 3, description: "hole,zero" },
      { offset: 2 ** 20, length: 65_536, type: 0, description: "data" },
      { offset: 2 ** 20 + 65_536, length: GIB - 2 ** 20 - 65_536, type: 3, description: "hole,zero" },
    ]);
  });

  it("lists several exports by name", async () => {
    const folder = tempFolder();
    const { uri } = await serve([sparseFile(folder, "a.img"), sparseFile(folder, "b.img", 2 ** 20)]);
    const base = uri.replace("/a.img", "/");
    const list = JSON.parse(await succeed("nbdinfo", ["--list", "--json", base])) as {
      exports: { "export-name": string; "export-size": number }[];
    };
    expect(list.exports.map((one) => [one["export-name"], one["export-size"]])).toEqual([
      ["a.img", GIB],
      ["b.img", 2 ** 20],
    ]);
  });
});

describeWith(["nbdcopy"], "nbdcopy", () => {
  it("copies in and out with equal checksums, and holes stay holes", async () => {
    const folder = tempFolder();
    const source = patchwork(folder);
    const disk = sparseFile(folder, "disk.img", COPIED);
    const { uri } = await serve([disk]);
    await succeed("nbdcopy", [source, uri]);
    const back = join(folder, "back.img");
    await succeed("nbdcopy", [uri, back]);
    expect(await checksum(back)).toBe(await checksum(source));
    expect(statSync(disk).blocks * 512).toBeLessThan(64 * 2 ** 20);
  });

  it("copies an empty image of 100 GiB with 1024 requests at a time", async () => {
    const folder = tempFolder();
    const { uri } = await serve([sparseFile(folder, "disk.img", 100 * GIB)]);
    const empty = sparseFile(folder, "empty.img", 100 * GIB);
    await succeed("nbdcopy", ["--requests=1024", empty, uri]);
  });
});

describeWith(["qemu-img"], "qemu-img", () => {
  it("converts onto an export and compares equal", async () => {
    const folder = tempFolder();
    const source = patchwork(folder);
    const { uri } = await serve([sparseFile(folder, "disk.img", COPIED)]);
    await succeed("qemu-img", ["convert", "-n", "-f", "raw", "-O", "raw", source, uri]);
    expect(await succeed("qemu-img", ["compare", "-f", "raw", "-F", "raw", source, uri])).toContain(
      "identical",
    );
    await succeed("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", uri, join(folder, "out.qcow2")]);
    expect(await succeed("qemu-img", ["compare", source, join(folder, "out.qcow2")])).toContain("identical");
  });
});

describeWith(["qemu-io"], "qemu-io", () => {
  it("writes patterns, zeroes and discards, aligned or not", async () => {
    const { uri } = await serve([sparseFile(tempFolder())]);
    const commands = [
      "write -P 0xa1 0 64k",
      "write -P 0xb2 4097 1000",
      "read -P 0xa1 0 4097",
      "read -P 0xb2 4097 1000",
      "read -P 0xa1 5097 60439",
      "write -f -P 0xc3 1M 128k",
      "write -z 1M 4k",
      "write -z -u 1052672 8k",
      "read -P 0 1M 12k",
      "read -P 0xc3 1060864 100k",
      "discard 0 64k",
      "read -P 0 0 64k",
      "flush",
      "write -P 0xd4 1073741312 512",
      "read -P 0xd4 1073741312 512",
      "aio_write -P 0xe5 2M 1M",
      "aio_write -P 0xe6 4M 1M",
      "aio_flush",
      "read -P 0xe5 2M 1M",
      "read -P 0xe6 4M 1M",
    ];
    const { code, stdout } = await run("qemu-io", [
      "-f",
      "raw",
      ...commands.flatMap((command) => ["-c", command]),
      uri,
    ]);
    expect(stdout).not.toMatch(/verification failed|error|failed/i);
    expect(code).toBe(0);
  });
});

describeWith(["fio"], "fio", () => {
  it("verifies mixed 512-byte-aligned sizes at depth 32", async () => {
    const { uri } = await serve([sparseFile(tempFolder())]);
    await succeed("fio", [
      "--name=verify",
      "--ioengine=nbd",
      `--uri=${uri}`,
      "--rw=randwrite",
      "--bsrange=512-128k",
      "--bs_unaligned=0",
      "--blockalign=512",
      "--iodepth=32",
      "--size=32m",
      "--verify=crc32c",
      "--verify_fatal=1",
      "--verify_state_save=0",
      "--do_verify=1",
      "--randseed=7",
    ]);
  });
});

describeWith(["nbdfuse", "fusermount3", "mkfs.ext4", "mount", "losetup"], "nbdfuse", () => {
  it("carries an ext4 file system that is clean and complete after unmounting", async () => {
    const folder = tempFolder();
    const disk = sparseFile(folder);
    const server = await serve([disk]);
    const fuse = join(folder, "fuse");
    const mount = join(folder, "mount");
    const attach = async (): Promise<void> => {
      mkdirSync(fuse, { recursive: true });
      mkdirSync(mount, { recursive: true });
      const nbdfuse = run("nbdfuse", [fuse, server.uri]);
      cleanUp(async () => {
        await run("umount", [mount]);
        await run("fusermount3", ["-u", fuse]);
        await nbdfuse;
      });
      await until(() => existsSync(join(fuse, "nbd")), "nbdfuse");
    };
    const detach = async (): Promise<void> => {
      await succeed("umount", [mount]);
      await succeed("fusermount3", ["-u", fuse]);
    };

    await attach();
    await succeed("mkfs.ext4", ["-q", join(fuse, "nbd")]);
    await succeed("mount", ["-o", "loop", join(fuse, "nbd"), mount]);
    for (let index = 0; index < 200; index += 1) {
      mkdirSync(join(mount, `dir${index % 10}`), { recursive: true });
      writeFileSync(join(mount, `dir${index % 10}`, `file${index}`), Buffer.alloc(1000 * index, index));
    }
    await detach();
    expect(await server.stop()).toBe(0);

    await succeed("fsck.ext4", ["-f", "-n", disk]);
    await succeed("mount", ["-o", "loop,ro", disk, mount]);
    cleanUp(async () => {
      await run("umount", [mount]);
    });
    for (let index = 0; index < 200; index += 1) {
      const content = readFileSync(join(mount, `dir${index % 10}`, `file${index}`));
      expect(content.equals(Buffer.alloc(1000 * index, index))).toBe(true);
    }
    expect(readdirSync(mount).length).toBe(11);
    await succeed("umount", [mount]);
  });
});
