/** Backups as versions of an image in a store: a chain against a model, what is refused, and as they are typed. */
import { createHash } from "node:crypto";
import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Bitmap, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { imageVersions } from "@dmkit/image";
import { openNbd } from "@dmkit/nbd";
import { S3TestServer } from "@dmkit/object-store/testing";
import { expect, it, vi } from "vitest";
import { PIECE } from "../src/backup/backup.ts";
import { type KeepRequest, backUpVersion, reading } from "../src/backup/kept.ts";
import { cli } from "./cli.ts";
import { cleanUp, serve, tempFolder } from "./support.ts";

const MIB = 2 ** 20;
const CHUNK = MIB / 2;
const SIZE = 4 * MIB + 512;

const everything = Array.from({ length: 65 }, (_, piece) => piece);

const environment = realEnvironment;
const seed = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);

function request(to: string, rest: Partial<KeepRequest> = {}): KeepRequest {
  const nothing = { changed: undefined, from: undefined, force: false, verify: false };
  const { signal } = new AbortController();
  const silent = { signal, progress: () => {}, comparing: () => {} };
  return { store: imageVersions, to, environment, ...nothing, ...silent, ...rest };
}

async function contents(version: string): Promise<Buffer> {
  return reading(imageVersions, version, environment, async (device) => {
    const bytes = Buffer.alloc(device.size);
    await device.read(0, bytes);
    return bytes;
  });
}

function bytesOf(device: MemoryDevice): Promise<Buffer> {
  const bytes = Buffer.alloc(device.size);
  return device.read(0, bytes).then(() => bytes);
}

/** Pieces of which all is different. */
async function change(device: MemoryDevice, pieces: readonly number[], word: string): Promise<Bitmap> {
  const changed = new Bitmap(Math.ceil(device.size / PIECE));
  for (const piece of pieces) {
    const length = Math.min(PIECE, device.size - piece * PIECE);
    if (word === "") await device.writeZeroes(piece * PIECE, length);
    else await device.write(piece * PIECE, Buffer.alloc(length, `${word} ${piece} `));
    changed.set(piece);
  }
  return changed;
}

it(`makes each version what the device was, whatever was cut short (DMKIT_SEED=${seed})`, async () => {
  const random = new SeededRandom(seed);
  const image = `image:${join(tempFolder(), "store")}/vm`;
  const device = new MemoryDevice(SIZE);
  await change(device, [0, 9, 10, 40, 64], "first");
  await backUpVersion(device, request(`${image}:v0`, { verify: true }));
  const versions = [await bytesOf(device)];
  for (let step = 1; step < 8; step += 1) {
    const pieces = Array.from({ length: random.below(5) }, () => random.below(65));
    const changed = await change(device, pieces, random.below(4) === 0 ? "" : `step ${step}`);
    const [to, from] = [`${image}:v${step}`, `${image}:v${step - 1}`];
    const cut = new AbortController();
    const limit = random.below(SIZE);
    const progress = (done: number): void => {
      if (done > limit) cut.abort(new Error("cut short"));
    };
    const isWhole = await backUpVersion(device, request(to, { changed, from, signal: cut.signal, progress }))
      .then(() => true)
      .catch(() => false);
    // What was cut short has no name; the same words finish it.
    expect((await imageVersions.find(to, environment)) !== undefined).toBe(isWhole);
    if (!isWhole) {
      const { read } = await backUpVersion(device, request(to, { changed, from, verify: true }));
      const chunks = new Set(pieces.map((piece) => Math.floor((piece * PIECE) / CHUNK)));
      expect(read).toBeLessThanOrEqual(chunks.size * CHUNK);
    }
    versions.push(await bytesOf(device));
  }
  for (const [index, bytes] of versions.entries())
    expect((await contents(`${image}:v${index}`)).equals(bytes)).toBe(true);
});

it("reads only chunks that have changed, and takes no other version for the one before", async () => {
  const image = `image:${join(tempFolder(), "store")}/vm`;
  const device = new MemoryDevice(SIZE);
  await change(device, everything, "first");
  await backUpVersion(device, request(`${image}:monday`));
  const none = await change(device, [], "");
  const changed = await change(device, [9, 10, 64], "second");
  const from = `${image}:monday`;
  // It says that nothing has changed where much has.
  const wrong = await change(device, [20, 21, 22, 23, 24, 25, 26, 27], "wrong");
  const expectRefusal = async (code: string, to: string, rest: Partial<KeepRequest>): Promise<void> => {
    await expect(backUpVersion(device, request(to, rest))).rejects.toMatchObject({ code });
    expect(await imageVersions.find(`${image}:tuesday`, environment)).toBeUndefined();
  };
  await expectRefusal("EINVAL", `${image}:tuesday`, { changed, from });
  for (const piece of [9, 10, 64]) wrong.set(piece);
  await expectRefusal("ENOENT", `${image}:tuesday`, { changed });
  await expectRefusal("ENOENT", `${image}:tuesday`, { changed: wrong, from: `${image}:sunday` });
  await expectRefusal("EEXIST", from, {});
  await expectRefusal("EEXIST", from, { changed: wrong, from });
  const other = `image:${join(tempFolder(), "other")}/vm:monday`;
  await backUpVersion(device, request(other));
  await expectRefusal("EINVAL", `${image}:tuesday`, { changed: none, from: other });
  const { read, uploaded } = await backUpVersion(
    device,
    request(`${image}:tuesday`, { changed: wrong, from }),
  );
  // Chunks 1, 2 and 3, and the last one of 512 bytes.
  expect(read).toBe(3 * CHUNK + 512);
  expect(uploaded).toBeGreaterThan(0);
  expect((await contents(`${image}:tuesday`)).equals(await bytesOf(device))).toBe(true);
  // Without --from the name itself goes on; with --force it is begun anew.
  await backUpVersion(device, request(from, { changed: wrong }));
  expect((await contents(from)).equals(await bytesOf(device))).toBe(true);
  await change(device, [3], "third");
  await backUpVersion(device, request(from, { force: true }));
  expect((await contents(from)).equals(await bytesOf(device))).toBe(true);
});

it("gives no name to what is damaged in the store, with --verify", async () => {
  const store = join(tempFolder(), "store");
  const image = `image:${store}/vm`;
  const device = new MemoryDevice(SIZE);
  await change(device, everything, "first");
  await backUpVersion(device, request(`${image}:monday`, { verify: true }));
  const changed = await change(device, [0], "second");
  const chunk = (await bytesOf(device)).subarray(5 * CHUNK, 6 * CHUNK);
  const name = createHash("sha256").update(chunk).digest("hex");
  const path = join(store, "blobs", name.slice(0, 2), name);
  const bytes = readFileSync(path);
  // When the samples have been compared.
  const progress = (): void => {
    writeFileSync(path, Buffer.concat([bytes.subarray(0, -1), Buffer.from([(bytes.at(-1) ?? 0) ^ 1])]));
  };
  const rest = { changed, from: `${image}:monday`, verify: true };
  await expect(
    backUpVersion(device, request(`${image}:tuesday`, { ...rest, progress })),
  ).rejects.toMatchObject({ code: "EIO" });
  expect(await imageVersions.find(`${image}:tuesday`, environment)).toBeUndefined();
  writeFileSync(path, bytes);
  await backUpVersion(device, request(`${image}:tuesday`, rest));
  expect((await contents(`${image}:tuesday`)).equals(await bytesOf(device))).toBe(true);
});

it("backs up a running disk into a bucket, all of it and what has changed", async () => {
  const bucket = new S3TestServer();
  vi.stubEnv("AWS_ENDPOINT_URL", await bucket.listen());
  cleanUp(() => bucket.close());
  vi.stubEnv("AWS_ACCESS_KEY_ID", "test");
  vi.stubEnv("AWS_SECRET_ACCESS_KEY", "test");
  const folder = tempFolder();
  const at = (name: string): string => join(folder, name);
  vi.stubEnv("DMKIT_CONTROL", at("c.sock"));
  cleanUp(() => void vi.unstubAllEnvs());
  writeFileSync(at("disk.img"), Buffer.alloc(2 * MIB, "data"));
  for (const [name, size] of [
    ["disk.img", 8 * MIB],
    ["disk.map", MIB],
  ] as const) {
    writeFileSync(at(name), "", { flag: "a" });
    truncateSync(at(name), size);
  }
  const table = `0 ${(8 * MIB) / 512} tracked disk.img disk.map`;
  const server = await serve(["-U", at("s.sock"), "--control", at("c.sock"), "--name", "vm", "-t", table], {
    cwd: folder,
  });
  const client = await openNbd(`nbd+unix:///vm?socket=${at("s.sock")}`, { environment });
  const vm = "s3://bucket/backups/vm";
  type Told = { version: string; read: number; uploaded: number; verified: boolean };
  const ok = async (...words: string[]): Promise<Told> => {
    const { code, stdout, stderr } = await cli("backup", "--json", "--verify", "dm:vm", ...words);
    expect([words, code, stderr]).toEqual([words, 0, ""]);
    return JSON.parse(stdout) as Told;
  };
  const refused = async (code: number, text: string, ...words: string[]): Promise<void> => {
    const result = await cli("backup", "dm:vm", ...words);
    expect([result.code, result.stderr]).toEqual([code, expect.stringContaining(text)]);
  };
  const first = await ok(`${vm}:monday`, "--begin", "monday");
  expect(first).toMatchObject({ read: 2 * MIB, verified: true });
  await client.write(5 * MIB, Buffer.alloc(4096, 1), { fua: true });
  await refused(1, "EEXIST", `${vm}:monday`, "--begin", "x");
  await refused(1, "ENOENT", `${vm}:tuesday`, "--since", "monday");
  await refused(2, "s3://", "s3://bucket", "--begin", "x");
  await refused(1, "EEXIST", first.version, "--begin", "x");
  await refused(2, "where a tag is meant", first.version, "--force", "--begin", "x");
  const words = ["--since", "monday", "--from", `${vm}:monday`, "--begin", "tuesday"];
  // Nothing but what has changed, and that is one chunk.
  expect(await ok(`${vm}:tuesday`, ...words)).toMatchObject({ read: CHUNK, verified: true });
  const shown = await cli("backup", "dm:vm", `${vm}:again`, "--since", "monday", "--from", first.version);
  expect(shown.stderr).toMatch(/read 512 KiB.*uploaded/);
  // A version by itself says nothing of when it was made; one with a tag does.
  expect(shown.stderr).toContain("nothing shows");
  await refused(1, "was made before", `${vm}:n`, "--since", "tuesday", "--from", `${vm}:monday`);
  await refused(1, "was made before", `${vm}:monday`, "--since", "tuesday");
  expect((await cli("pull", "-q", `${vm}:tuesday`, at("back.img"))).code).toBe(0);
  const whole = Buffer.alloc(8 * MIB);
  await client.read(0, whole);
  expect(readFileSync(at("back.img")).equals(whole)).toBe(true);
  expect((await cli("image", "verify", `${vm}:tuesday`)).stdout).toContain("whole");
  await client.close();
  expect(await server.stop()).toBe(0);
});
