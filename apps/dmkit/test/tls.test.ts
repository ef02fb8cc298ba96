/** TLS as a user asks for it: options, stack files, certificates that change; the protocol is tested in packages/nbd. */
import { copyFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it } from "vitest";
import { realEnvironment, silentLogger } from "@dmkit/block-io";
import { NbdServer, nbdInfo, openNbd } from "@dmkit/nbd";
import { Certificates } from "../../../packages/nbd/test/support/certificates.ts";
import { cli } from "./cli.ts";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { Stack } from "../src/serve/stack.ts";
import { readStackFile } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { cleanUp, describeWith, run, serve, succeed, tempFolder } from "./support.ts";

/** A server of a stack file, in this process. */
async function stackServer(file: string): Promise<Stack> {
  const environment = { ...realEnvironment, logger: silentLogger };
  const server = new NbdServer({ environment });
  const devices = new DeviceManager(environment, targets);
  const exports = new ExportManager(server, devices, environment);
  const usual = { unix: `${file}.sock` };
  const plan = readStackFile(file, targets);
  const stack = new Stack(plan, { devices, exports, server, environment, readOnly: false, usual });
  cleanUp(async () => {
    await server.close({ timeout: 0 });
    await devices.close();
  });
  await stack.open();
  await stack.listen();
  return stack;
}

describeWith(["openssl", "nbdinfo"], "serve with TLS", () => {
  let certificates: Certificates;
  let folder: string;

  beforeAll(() => {
    certificates = new Certificates();
    folder = certificates.issue("both", "server", "localhost");
    certificates.issue("both", "client", "alice");
  });
  afterAll(() => certificates.dispose());

  it("prints a URI that clients here can use, and lets in nobody else", async () => {
    const required = ["--tls", "require", "--tls-certificates", folder, "--tls-verify-peer"];
    const server = await serve([...required, "mem:1M"]);
    expect(server.uri).toMatch(/^nbds\+unix:.*tls-certificates=/);
    expect(await succeed("nbdinfo", ["--size", server.uri])).toBe("1048576\n");
    const plain = server.uri.replace("nbds", "nbd").replace(/&.*/, "");
    expect((await run("nbdinfo", [plain])).code).not.toBe(0);
    expect(await server.stop()).toBe(0);
    const keys = await serve([
      "--tls=require",
      "--tls-psk",
      certificates.psk,
      "-p",
      "0",
      "-i",
      "0.0.0.0",
      "mem:1M",
    ]);
    expect(keys.uri).toMatch(/^nbds:\/\/alice@/);
    expect(await succeed("nbdinfo", ["--size", keys.uri])).toBe("1048576\n");
    expect(await keys.stop()).toBe(0);
  });

  it("says on the command line and in a stack file what does not go together", async () => {
    for (const [hint = "", ...args] of [
      ["--tls-psk", "--tls", "require"],
      ["require", "--tls", "sometimes", "--tls-psk", certificates.psk],
      ["Set --tls to on or require, or leave out --tls-verify-peer", "--tls-verify-peer"],
      ["--tls-certificates", "--tls", "on", "--tls-psk", certificates.psk, "--tls-certificates", folder],
    ]) {
      const { code, stderr } = await cli("serve", "mem:1M", ...args);
      expect([code, stderr]).toEqual([2, expect.stringContaining(hint)]);
    }
    const file = join(tempFolder(), "stack.yaml");
    const check = async (listen: string): Promise<string> => {
      writeFileSync(file, `listen: ${listen}\n`);
      const { code, stderr } = await cli("stack", "check", file);
      return code === 0 ? "" : stderr;
    };
    const remote = "port: 1, host: 0.0.0.0";
    expect(await check(`{ ${remote}, tls: require, tls-psk: k }`)).toBe("");
    expect(await check(`{ unix: s, tls: on, tls-certificates: c, tls-verify-peer: true }`)).toBe("");
    for (const wrong of [
      `{ ${remote}, tls: on, tls-psk: k }`,
      `{ unix: s, tls: require }`,
      `{ unix: s, tls-psk: k }`,
      `{ unix: s, tls: required, tls-psk: k }`,
      `{ unix: s, tls: on, tls-psk: k, tls-verify-peer: true }`,
    ]) {
      const told = await check(wrong);
      expect(told, wrong).toMatch(/stack\.yaml:1:/);
      // The words are those of the file.
      expect(told, wrong).not.toMatch(/--tls|verifyPeer|\bpsk\b(?<!tls-psk)/);
    }
    writeFileSync(file, "metrics: { port: 9, tls: require, tls-psk: k }\n");
    expect((await cli("stack", "check", file)).stderr).toContain('has no "tls"; keys: unix,');
    writeFileSync(file, `listen: { unix: s }\n`);
    const beside = await cli("serve", file, "--tls", "require", "--tls-psk", certificates.psk);
    expect([beside.code, beside.stderr]).toEqual([2, expect.stringContaining("--tls")]);
  });

  it("says in a stack file who may come, and does as it says", async () => {
    const home = tempFolder();
    const file = join(home, "stack.yaml");
    const text = (listen: string, more: string): string =>
      `devices: { disk: { table: 0 2048 linear mem:1M 0 } }\nlisten: ${listen}\nexports: { disk: { ${more} } }\n`;
    for (const [listen, more] of [
      ["{ unix: s, allow: [10.0.0.0/8] }", ""],
      ["{ port: 1, mode: 660 }", ""],
      ["{ unix: s, mode: 888 }", ""],
      ["{ port: 1, allow: [10.0.0.0/99] }", ""],
      ["{ port: 1 }", "allow: nowhere"],
      ["{ port: 1 }", "identities: [[a]]"],
      ["{ unix: s, identities: alice }", ""],
      [`{ unix: s, writers: [], tls: on, tls-psk: ${certificates.psk} }`, ""],
    ] as const) {
      writeFileSync(file, text(listen, more));
      expect((await cli("stack", "check", file)).code, `${listen} ${more}`).toBe(2);
    }
    const tls = `tls: require, tls-psk: ${certificates.psk}`;
    writeFileSync(file, text(`{ unix: s, mode: 660, ${tls} }`, "writers: alice, identities: [alice, bob]"));
    const server = await stackServer(file);
    expect(statSync(join(home, "s")).mode & 0o777).toBe(0o660);
    const uri = (who: string): string =>
      `nbds+unix://${who}@/disk?socket=${join(home, "s")}&tls-psk-file=${certificates.psk}`;
    expect(await nbdInfo(uri("alice"))).toMatchObject({ readOnly: false });
    expect(await nbdInfo(uri("bob"))).toMatchObject({ readOnly: true });
    writeFileSync(file, text(`{ unix: s, mode: 660, ${tls} }`, "identities: alice"));
    expect(await server.reload()).toHaveLength(2);
    await expect(nbdInfo(uri("bob"))).rejects.toMatchObject({ code: "ENOENT" });
    // The same of a place, beside what is said of an export.
    writeFileSync(file, text(`{ unix: s, mode: 660, ${tls}, writers: bob }`, "identities: [alice, bob]"));
    expect((await cli("stack", "check", file)).stdout).toContain("TLS required, written to by bob only");
    expect(await server.reload()).toHaveLength(4);
    expect(await nbdInfo(uri("alice"))).toMatchObject({ readOnly: true });
    expect(await nbdInfo(uri("bob"))).toMatchObject({ readOnly: false });
  });

  it("says on the command line and with the verb who may come, who may write and what is not listed", async () => {
    const home = tempFolder();
    const [socket, control] = [join(home, "s"), join(home, "c")];
    const keys = ["--tls", "require", "--tls-psk", certificates.psk];
    const named = ["--identities", "alice, bob", "--writers", "alice", "-n", "disk", "--hidden"];
    await serve([...keys, ...named, "-U", socket, "-C", control, "mem:1M"]);
    const uri = (who: string, name: string): string =>
      `nbds+unix://${who}@/${name}?socket=${socket}&tls-psk-file=${certificates.psk}`;
    const readOnly = async (who: string, name: string): Promise<boolean> => {
      const facts = JSON.parse(await succeed("nbdinfo", ["--json", uri(who, name)])) as {
        exports: { is_read_only: boolean }[];
      };
      return facts.exports[0]?.is_read_only === true;
    };
    expect([await readOnly("alice", "disk"), await readOnly("bob", "disk")]).toEqual([false, true]);
    const listed = async (): Promise<string> => succeed("nbdinfo", ["--list", "--json", uri("alice", "")]);
    expect(JSON.parse(await listed())).toMatchObject({ exports: [] });
    // Who names none does not get what is hidden.
    expect((await run("nbdinfo", [uri("alice", "")])).code).not.toBe(0);
    const more = ["export", "add", "more", "disk", "--identities", "bob", "--allow", "unix", "-C", control];
    expect((await cli(...more)).code).toBe(0);
    expect([(await run("nbdinfo", [uri("alice", "more")])).code, await readOnly("bob", "more")]).toEqual([
      1,
      true,
    ]);
    for (const [hint, ...words] of [
      ["tls-verify-peer", "--writers", "alice"],
      ["tls-verify-peer", "--identities", "alice", "--tls", "require", "--tls-certificates", folder],
      ["beside --read-only", ...keys, "--writers", "alice", "--read-only"],
      ["--name NAME", "--hidden"],
    ] as const) {
      const { code, stderr } = await cli("serve", "mem:1M", ...words);
      expect([code, stderr]).toEqual([2, expect.stringContaining(hint)]);
    }
  });

  it("goes on with its clients when certificates change, and says on a reload if they are of no use", async () => {
    const home = tempFolder();
    const own = certificates.issue("changing", "server", "localhost");
    const file = join(home, "stack.yaml");
    writeFileSync(
      file,
      `devices: { disk: { table: 0 2048 linear mem:1M 0 } }
exports: [disk]
listen: { unix: s, tls: require, tls-certificates: ${own} }
`,
    );
    const stack = await stackServer(file);
    const uri = `nbds+unix:///disk?socket=${join(home, "s")}&tls-certificates=${folder}`;
    const device = await openNbd(uri, { reconnect: "off" });
    copyFileSync(join(folder, "server-key.pem"), join(own, "server-key.pem"));
    expect((await stack.reload()).join()).toMatch(/^failed: TLS goes on with/);
    await (await openNbd(uri)).close();
    copyFileSync(join(folder, "server-cert.pem"), join(own, "server-cert.pem"));
    expect(await stack.reload()).toEqual([]);
    await (await openNbd(uri)).close();
    await device.write(0, Buffer.alloc(512, 7), { fua: true });
    await device.close();
  });
});
