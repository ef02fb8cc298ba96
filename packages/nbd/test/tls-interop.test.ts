/** TLS with other people's clients and servers. Those that are not installed are skipped. */
import { execFile } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { promisify } from "node:util";
import { MemoryDevice } from "@dmkit/block-io";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { nbdInfo, openNbd } from "../src/client/index.ts";
import { NbdServer } from "../src/server.ts";
import { describeWith, freshSocket, imageFile, startNbdkit, startQemuNbd } from "./client-servers.ts";
import { Certificates, hasOpenssl } from "./support/certificates.ts";
import { atEnd, pattern, temporaryDirectory } from "./support/serve.ts";

const run = promisify(execFile);
const MiB = 1024 * 1024;

describe.skipIf(!hasOpenssl)("TLS", () => {
  let certificates: Certificates;
  let folder: string;
  let empty: string;

  beforeAll(() => {
    certificates = new Certificates();
    folder = certificates.issue("both", "server", "localhost");
    certificates.issue("both", "client", "alice");
    empty = certificates.issue("empty", "server", "localhost");
  });
  afterAll(() => certificates.dispose());

  /** Two places of one server: certificates on both sides, and a pre-shared key. URIs without an end. */
  async function served(): Promise<{ device: MemoryDevice; uris: [string, string]; nobody: string }> {
    const server = new NbdServer();
    const device = new MemoryDevice(16 * MiB);
    server.addExport({ name: "disk", device });
    const socket = join(await temporaryDirectory(), "s");
    const { port } = await server.listen({
      port: 0,
      tls: { mode: "require", certificates: folder, verifyPeer: true },
    });
    await server.listen({ path: socket, tls: { mode: "require", psk: certificates.psk } });
    atEnd(() => server.close({ timeout: 100 }));
    return {
      device,
      uris: [
        `nbds://localhost:${port}/disk?tls-certificates=${folder}`,
        `nbds+unix://alice@/disk?socket=${socket}&tls-psk-file=${certificates.psk}`,
      ],
      nobody: `nbds://localhost:${port}/disk?tls-certificates=${empty}`,
    };
  }

  describeWith("nbdinfo", "nbdinfo", () => {
    it("sees an export with a certificate or a key, and nothing without", async () => {
      const { uris, nobody } = await served();
      for (const uri of uris) {
        const { stdout } = await run("nbdinfo", ["--json", uri]);
        expect(JSON.parse(stdout)).toMatchObject({ TLS: true, exports: [{ "export-size": 16 * MiB }] });
      }
      const [first] = uris;
      await expect(run("nbdinfo", [nobody])).rejects.toThrow();
      await expect(run("nbdinfo", [first.replace("nbds:", "nbd:").replace(/\?.*/, "")])).rejects.toThrow(
        "not supported",
      );
    });
  });

  describeWith("nbdcopy", "nbdcopy", () => {
    it("copies in over several connections, and out again", async () => {
      const { uris, device } = await served();
      const directory = await temporaryDirectory();
      for (const [index, uri] of uris.entries()) {
        const image = Buffer.alloc(16 * MiB);
        pattern(3 * MiB, index + 1).copy(image, MiB + 512);
        await writeFile(join(directory, "in"), image);
        await run("nbdcopy", ["--flush", "--connections=4", join(directory, "in"), uri]);
        const stored = Buffer.alloc(16 * MiB);
        await device.read(0, stored);
        expect(stored.equals(image)).toBe(true);
        await run("nbdcopy", [uri, join(directory, "out")]);
        expect((await readFile(join(directory, "out"))).equals(image)).toBe(true);
      }
    });
  });

  describeWith("qemu-io", "qemu", () => {
    it("writes and reads with a certificate", async () => {
      const { uris, device } = await served();
      const { port } = new URL(uris[0]);
      const image = `driver=raw,file.driver=nbd,file.server.type=inet,file.server.host=localhost,file.server.port=${port},file.export=disk,file.tls-creds=tls`;
      const credentials = `tls-creds-x509,id=tls,endpoint=client,dir=${folder}`;
      const commands = ["write -P 1 0 1M", "write -P 2 511 1000", "flush", "read -P 2 511 1000"];
      const { stdout } = await run("qemu-io", [
        "--object",
        credentials,
        "--image-opts",
        image,
        ...commands.flatMap((command) => ["-c", command]),
      ]);
      expect(stdout).not.toContain("failed");
      const stored = Buffer.alloc(MiB);
      await device.read(0, stored);
      expect(stored.equals(Buffer.alloc(MiB, 1).fill(2, 511, 1511))).toBe(true);
    });

    it("qemu-img copies with a pre-shared key", async () => {
      const { uris, device } = await served();
      await device.write(MiB, pattern(MiB));
      const socket = /socket=([^&]*)/.exec(uris[1])?.[1];
      const directory = await temporaryDirectory();
      // It wants the keys under a name of its own in a folder.
      await writeFile(join(directory, "keys.psk"), await readFile(certificates.psk));
      const image = `driver=nbd,server.type=unix,server.path=${socket},export=disk,tls-creds=tls`;
      const credentials = `tls-creds-psk,id=tls,endpoint=client,dir=${directory},username=alice`;
      const out = join(directory, "out");
      await run("qemu-img", ["convert", "--object", credentials, "--image-opts", image, "-O", "raw", out]);
      expect((await readFile(out)).subarray(MiB, 2 * MiB).equals(pattern(MiB))).toBe(true);
    });
  });

  describeWith("nbd-client", "nbd-client", () => {
    it("lists and enters an export with a certificate, and nothing without or for another host", async () => {
      const { uris } = await served();
      const { port } = new URL(uris[0]);
      const file = (name: string): string => join(folder, `${name}.pem`);
      const trust = ["-cacertfile", file("ca-cert"), "-tlshostname", "localhost"];
      const own = ["-certfile", file("client-cert"), "-keyfile", file("client-key")];
      const ask = (...options: string[]): Promise<{ stdout: string }> =>
        run("nbd-client", ["-l", "localhost", port, ...options]);
      expect((await ask("-enable-tls", ...own, ...trust)).stdout).toContain("disk");
      const entering = ["-name", "disk", "localhost", port, folder, "-enable-tls", ...own, ...trust];
      await expect(run("nbd-client", entering)).rejects.toMatchObject({
        stdout: expect.stringContaining("size = 16MB"),
      });
      await expect(ask("-enable-tls", ...trust)).rejects.toThrow();
      await expect(ask("-enable-tls", ...own, ...trust, "-tlshostname", "elsewhere")).rejects.toThrow();
      await expect(ask()).rejects.toMatchObject({ stderr: expect.stringContaining("speaks TLS only") });
    });
  });

  /** Our client with a server of other people. */
  async function used(uri: string): Promise<void> {
    expect((await nbdInfo(uri)).size).toBe(4 * MiB);
    const device = await openNbd(uri);
    await device.write(512, pattern(MiB));
    await device.flush();
    const back = Buffer.alloc(MiB);
    await device.read(512, back);
    expect(back.equals(pattern(MiB))).toBe(true);
    await device.close();
  }

  describeWith("nbdkit", "nbdkit as the server", () => {
    it("serves our client with certificates and keys", async () => {
      const place = `/?socket=`;
      const one = await startNbdkit([
        "--tls=require",
        `--tls-certificates=${folder}`,
        "--tls-verify-peer",
        "memory",
        "4M",
      ]);
      await used(`nbds+unix://${place}${one.socket}&tls-certificates=${folder}`);
      await expect(
        openNbd(`nbds+unix://${place}${one.socket}&tls-certificates=${empty}`),
      ).rejects.toMatchObject({
        code: "ENOTCONN",
      });
      await expect(openNbd(`nbd+unix://${place}${one.socket}`)).rejects.toMatchObject({ code: "EPERM" });
      await one.stop();
      const two = await startNbdkit(["--tls=require", `--tls-psk=${certificates.psk}`, "memory", "4M"]);
      await used(`nbds+unix://bob@${place}${two.socket}&tls-psk-file=${certificates.psk}`);
      await two.stop();
      const none = await startNbdkit(["memory", "4M"]);
      await expect(
        openNbd(`nbds+unix://${place}${none.socket}&tls-certificates=${folder}`),
      ).rejects.toMatchObject({
        code: expect.stringMatching(/ENOTSUP|EPERM/),
      });
      await none.stop();
    });
  });

  describeWith("qemu-nbd", "qemu-nbd as the server", () => {
    it("serves our client with certificates", async () => {
      const image = imageFile(4 * MiB);
      const object = ["--object", `tls-creds-x509,id=tls,endpoint=server,verify-peer=yes,dir=${folder}`];
      const server = await startQemuNbd(image, [...object, "--tls-creds", "tls"], freshSocket());
      await used(`nbds+unix:///?socket=${server.socket}&tls-certificates=${folder}&tls-hostname=localhost`);
      await server.stop();
    });
  });
});
