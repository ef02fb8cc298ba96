/** Takeovers that do not come to their end: they say so, leave nothing, and can be done again; and what a full disk costs. */
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { S3TestServer, type ServerFault } from "@dmkit/object-store/testing";
import { expect, it, vi } from "vitest";
import { archivedDisk } from "./archived-disk.ts";
import { cli } from "./cli.ts";
import { cleanUp, describeWith, serve, succeed, tempFolder, until } from "./support.ts";

const ended = "whoever wrote the disk until now may have been ended by this";

async function bucket(): Promise<S3TestServer> {
  const server = new S3TestServer();
  const variables = {
    AWS_ACCESS_KEY_ID: "test",
    AWS_SECRET_ACCESS_KEY: "test",
    AWS_ENDPOINT_URL: await server.listen(),
    XDG_CACHE_HOME: tempFolder(),
  };
  for (const [name, value] of Object.entries(variables)) vi.stubEnv(name, value);
  cleanUp(async () => {
    vi.unstubAllEnvs();
    await server.close();
  });
  return server;
}

/** A disk of 8 MiB with a log of some objects. */
async function written(archive: string): Promise<void> {
  const server = await serve([archivedDisk(tempFolder(), archive, { disk: "8M", flush: "remote" })]);
  const writes = [1, 2, 3, 4, 5].flatMap((n) => ["-c", `write -P ${n} ${n}M 512k`, "-c", "flush"]);
  await succeed("qemu-io", ["-f", "raw", ...writes, server.uri]);
  expect(await server.stop()).toBe(0);
}

const takeOver = (folder: string): ReturnType<typeof cli> =>
  cli("archive", "takeover", "--cache-size", "8M", "s3://bucket/vm1", folder);

describeWith(["qemu-io"], "a takeover", () => {
  it("is interrupted wherever the store hangs, leaves an empty folder, and is done again", async () => {
    const server = await bucket();
    await written("s3://bucket/vm1");
    const folder = join(tempFolder(), "new");
    const logged = [...server.objects.keys()].filter((key) => key.includes("/log/")).length;
    const where: readonly (readonly [ServerFault["method"], number])[] = [
      ["LIST", 1],
      ["PUT", 1],
      ["PUT", 2],
      // The head of the last object, the first object, and what the new cache asks first.
      ["GET", 3],
      ["GET", 5],
      ["GET", 5 + logged],
    ];
    for (const [method, nth] of where) {
      let isHanging = false;
      const when = (count: number): boolean => (isHanging ||= count >= nth);
      server.fail({ method, kind: "hang", when });
      const taking = takeOver(folder);
      await until(() => isHanging, `${method} ${nth}`);
      process.emit("SIGINT");
      const { code, stderr } = await taking;
      expect([method, nth, code, stderr]).toEqual([
        method,
        nth,
        130,
        expect.stringContaining("takeover interrupted; run it again to finish"),
      ]);
      expect(stderr).toContain(ended);
      expect(readdirSync(folder)).toEqual([]);
    }
    server.fail(undefined);
    expect(await takeOver(folder)).toMatchObject({ code: 0 });
    expect(readdirSync(folder).toSorted()).toEqual(["cache.img", "disk.yaml", "layer.img", "layer.map"]);
  });

  it("that fails behind the fence says that the old writer is ended, and leaves an empty folder", async () => {
    const server = await bucket();
    await written("s3://bucket/vm1");
    const key =
      [...server.objects.keys()].findLast(
        (name) => name.includes("/log/") && (server.objects.get(name)?.body.length ?? 0) > 64,
      ) ?? "";
    const { body, modified } = server.objects.get(key) as { body: Buffer; modified: Date };
    const bad = Buffer.from(body);
    bad[bad.length - 9] = (bad.at(-9) as number) ^ 1;
    server.objects.set(key, { body: bad, modified });
    const folder = join(tempFolder(), "new");
    const { code, stderr } = await takeOver(folder);
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(new RegExp(`^dmkit: ${ended}\ndmkit: .*damaged.*\\(EIO\\)\n {2}Restore`)),
    ]);
    expect(readdirSync(folder)).toEqual([]);
    server.objects.set(key, { body, modified });
    expect(await takeOver(folder)).toMatchObject({ code: 0 });
  });
});

describeWith(["qemu-io", "mount"], "a disk that is full below the log of a view", () => {
  it("is one clear line, and nothing is restored", async () => {
    await bucket();
    await written("s3://bucket/vm1");
    const [temporary, to] = [tempFolder(), join(tempFolder(), "restored.img")];
    await succeed("mount", ["-t", "tmpfs", "-o", "size=1m", "none", temporary]);
    cleanUp(async () => {
      await succeed("umount", [temporary]);
    });
    vi.stubEnv("TMPDIR", temporary);
    const { code, stderr } = await cli("archive", "restore", "-q", "s3://bucket/vm1", to);
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^dmkit: .* has no room .*\(ENOSPC\)\n {2}Set TMPDIR .*\n$/),
    ]);
    expect(existsSync(to)).toBe(false);
  });
});
