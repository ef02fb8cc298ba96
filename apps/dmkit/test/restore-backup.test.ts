/** Backups put back: from wherever they are, onto what may be written over, and never a dump in place of a disk. */
import { existsSync, readFileSync, readdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { MemoryDevice, identityOf, realEnvironment } from "@dmkit/block-io";
import { PowerCut, SeededRandom } from "@dmkit/block-io/testing";
import { NbdServer } from "@dmkit/nbd";
import { expect, it } from "vitest";
import { backUpAll, isUnfinished } from "../src/backup/backup.ts";
import { isDump, restoreBackup } from "../src/backup/restore.ts";
import { cli } from "./cli.ts";
import { cleanUp, tempFolder } from "./support.ts";

const MIB = 2 ** 20;

function place(): { at: (name: string) => string; disk: Buffer } {
  const folder = tempFolder();
  const disk = Buffer.alloc(3 * MIB + 512);
  for (const offset of [0, MIB, 3 * MIB]) disk.fill(`disk ${offset} `, offset, offset + 512);
  const at = (name: string): string => join(folder, name);
  writeFileSync(at("backup.img"), disk);
  return { at, disk };
}

async function ok(...words: string[]): Promise<string> {
  const { code, stdout, stderr } = await cli("restore", ...words);
  expect([words, code, stderr]).toEqual([words, 0, expect.not.stringContaining("dmkit:")]);
  return stdout;
}

async function refused(code: number, text: string, ...words: string[]): Promise<void> {
  const result = await cli("restore", ...words);
  expect([result.code, result.stderr]).toEqual([code, expect.stringContaining(text)]);
}

it("comes from a file, an export or an image in a store, and is compared", async () => {
  const { at, disk } = place();
  await ok(at("backup.img"), at("new.img"));
  expect(readFileSync(at("new.img")).equals(disk)).toBe(true);
  // Onto a disk that is there and blank, and larger.
  writeFileSync(at("disk.img"), "");
  truncateSync(at("disk.img"), 4 * MIB);
  expect(JSON.parse(await ok("--json", at("backup.img"), at("disk.img")))).toMatchObject({ verified: true });
  expect(readFileSync(at("disk.img")).subarray(0, disk.length).equals(disk)).toBe(true);
  const image = `image:${at("store")}/vm:monday`;
  expect((await cli("backup", at("backup.img"), image)).code).toBe(0);
  await ok(image, at("image.img"));
  expect(readFileSync(at("image.img")).equals(disk)).toBe(true);
  const server = new NbdServer({ environment: realEnvironment });
  cleanUp(() => server.close());
  const device = new MemoryDevice(disk.length);
  await device.write(0, disk);
  server.addExport({ name: "", device, readOnly: true });
  const uri = (await server.listen({ path: at("s") })).uri();
  await ok(uri, at("export.img"));
  expect(readFileSync(at("export.img")).equals(disk)).toBe(true);
});

it("writes over nothing unasked, and over what it was cut short on itself", async () => {
  const { at, disk } = place();
  const other = Buffer.alloc(disk.length, "other");
  writeFileSync(at("other.img"), other);
  await refused(1, "--force", at("backup.img"), at("other.img"));
  expect(readFileSync(at("other.img")).equals(other)).toBe(true);
  writeFileSync(at("small.img"), Buffer.alloc(MIB));
  await refused(1, "ENOSPC", at("backup.img"), at("small.img"));
  expect(readFileSync(at("small.img")).equals(Buffer.alloc(MIB))).toBe(true);
  await refused(1, "EROFS", at("backup.img"), "s3://bucket/vm");
  await refused(1, "EROFS", at("backup.img"), `image:${at("store")}/vm`);
  await refused(1, "the same", at("other.img"), at("other.img"), "--force");
  await ok(at("backup.img"), at("other.img"), "--force");
  expect(readFileSync(at("other.img")).equals(disk)).toBe(true);
  // Wherever it is cut short the same words finish it; others do not.
  const note = { restore: identityOf(at("backup.img")) };
  const source = new MemoryDevice(disk.length);
  await source.write(0, disk);
  const random = new SeededRandom(3);
  let isCut = true;
  for (let limit = 2; isCut; limit += 1) {
    const cut = new PowerCut(other, limit);
    isCut = await backUpAll(source, cut, false, {}, note).then(
      () => false,
      () => true,
    );
    if (!isCut) break;
    const left = cut.survivor(random);
    const bytes = Buffer.alloc(disk.length);
    await left.read(0, bytes);
    if (!(await isUnfinished(left, note))) continue;
    writeFileSync(at("cut.img"), bytes);
    writeFileSync(at("backup2.img"), disk);
    await refused(1, "--force", at("backup2.img"), at("cut.img"));
    await refused(1, "no whole disk", at("cut.img"), at("never.img"));
    await ok(at("backup.img"), at("cut.img"));
    expect(readFileSync(at("cut.img")).equals(disk)).toBe(true);
  }
  const { signal } = new AbortController();
  const ended = new AbortController();
  ended.abort(new Error("told to stop"));
  const request = { from: at("backup.img"), force: false, isQuiet: true };
  await expect(restoreBackup({ ...request, to: at("x.img"), signal: ended.signal })).rejects.toThrow("told");
  expect(readdirSync(at(".")).filter((name) => name.startsWith("x.img"))).toEqual([]);
  await restoreBackup({ ...request, to: at("x.img"), signal });
  expect(existsSync(at("x.img"))).toBe(true);
});

it("is told from a dump, and takes no word that is for dumps", async () => {
  const { at } = place();
  const padded = (text: string): string => text.padEnd(4096, " ");
  for (const [text, is] of [
    ["", true],
    ["no whole sector", true],
    [padded('{"dmkit":"dump"}'), true],
    [padded(' \n\t{ "version": 1, "dmkit": "dump" }'), true],
    [padded("\0{"), false],
    [padded("no dump"), false],
  ] as const) {
    writeFileSync(at("some"), text);
    expect([text.slice(0, 20), isDump(at("some"))]).toEqual([text.slice(0, 20), is]);
  }
  expect(isDump(at("missing"))).toBe(true);
  expect(isDump(at("."))).toBe(true);
  expect(isDump("nbd://host/x")).toBe(false);
  // One that is no more whole is not put onto a disk.
  writeFileSync(at("some"), padded('{"dmkit":"dump","version":1,'));
  await refused(1, "EFORMAT", at("some"), at("never.img"));
  await refused(2, "--undo is for metadata", at("backup.img"), at("never.img"), "--undo", at("u"));
  await refused(2, "--type is for metadata", at("backup.img"), at("never.img"), "--type", "cow");
  await refused(2, "one device", at("backup.img"), at("never.img"), at("more.img"));
  expect(existsSync(at("never.img"))).toBe(false);
});

it("takes no archive, compressed file or image of another program for a disk, unless its bytes are meant", async () => {
  const { at } = place();
  const head = (bytes: string | Buffer, offset = 0): Buffer => {
    const file = Buffer.alloc(MIB, 7);
    (typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes).copy(file, offset);
    return file;
  };
  const files: Record<string, Buffer> = {
    tar: head("ustar\0", 257),
    zip: head("PK\x03\x04"),
    gzip: head(gzipSync(Buffer.alloc(1000, "text"))),
    bzip2: head("BZh9\x31\x41\x59\x26\x53\x59"),
    xz: head("\xfd7zXZ\0"),
    zstd: head("\x28\xb5\x2f\xfd"),
    qcow2: head("QFI\xfb"),
  };
  for (const [name, bytes] of Object.entries(files)) {
    writeFileSync(at(name), bytes);
    await refused(1, name, at(name), at("disk.img"));
    await refused(1, "(EINVAL)", at(name), at("disk.img"), "--force");
    expect(existsSync(at("disk.img"))).toBe(false);
  }
  await ok(`${at("tar")}?raw`, at("disk.img"));
  expect(readFileSync(at("disk.img")).equals(files["tar"] as Buffer)).toBe(true);
  // Two bytes of a name are no name.
  writeFileSync(at("almost"), head("BZh but no block"));
  await ok(at("almost"), at("almost.img"));
});
