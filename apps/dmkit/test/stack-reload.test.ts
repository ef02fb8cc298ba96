/** A stack file that is read again: what fails stays as it was, and nothing is offered that the file does not say. */
import { existsSync, readdirSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { realEnvironment, silentLogger } from "@dmkit/block-io";
import { NbdServer } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { Stack } from "../src/serve/stack.ts";
import { readStackFile } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { cleanUp, tempFolder } from "./support.ts";

interface Served {
  readonly devices: DeviceManager;
  /** Exports, each with its device. */
  readonly offered: () => readonly string[];
  /** Puts a file in the place of the one before. What the reload reports. */
  readonly reload: (text: string) => Promise<string>;
  /** Names of the sockets that are listened on. */
  readonly sockets: () => readonly string[];
  /** A file of its folder, if it is there. */
  readonly has: (name: string) => boolean;
}

interface How {
  readonly readOnly?: boolean;
  /** The command line says where to listen. */
  readonly isTold?: boolean;
}

async function served(text: string, { readOnly = false, isTold = false }: How = {}): Promise<Served> {
  const folder = tempFolder();
  const path = join(folder, "stack.yaml");
  for (const name of ["1.img", "2.img"]) {
    writeFileSync(join(folder, name), "");
    truncateSync(join(folder, name), 65_536);
  }
  writeFileSync(path, text);
  const environment = { ...realEnvironment, logger: silentLogger };
  const server = new NbdServer({ environment });
  const devices = new DeviceManager(environment, targets);
  const exports = new ExportManager(server, devices, environment);
  cleanUp(() => devices.close());
  cleanUp(() => server.close());
  const plan = readStackFile(path, targets);
  const usual = isTold ? undefined : { unix: join(folder, "usual.sock") };
  const stack = new Stack(plan, { devices, exports, server, environment, readOnly, usual });
  await stack.open();
  await stack.listen();
  return {
    devices,
    offered: () =>
      exports.snapshot().map(({ name, device, description }) => `${name}: ${device} ${description}`.trim()),
    async reload(next) {
      writeFileSync(path, next);
      return (await stack.reload()).join("\n");
    },
    sockets: () => readdirSync(folder).filter((name) => name.endsWith(".sock")),
    has: (name) => existsSync(join(folder, name)),
  };
}

const file = (devices: string, exports: string): string => `devices: ${devices}\nexports: ${exports}\n`;

describe("a reload", () => {
  const both = "{ a: { device: a }, c: { device: c } }";

  it("does not offer a device that failed to change, nor one that stands on it", async () => {
    const { offered, reload } = await served(file("{ a: ./1.img, c: ./2.img }", "{ a: { device: a } }"));
    const above = "top: { target: linear, device: c }";
    const next = file(
      `{ a: ./1.img, c: ./nope.img, ${above} }`,
      "{ a: { device: a }, c: { device: c, read-only: true }, top: { device: top } }",
    );
    const report = await reload(next);
    expect(report).toMatch(/failed: .*export "c" of c: .*ENOENT/);
    expect(report).toMatch(/failed: .*export "top" of top: /);
    expect(offered()).toEqual(["a: a"]);
    // It is what the file says, then.
    expect(await reload(file("{ a: ./1.img, c: ./2.img }", both))).not.toMatch(/failed/);
    expect(offered()).toEqual(["a: a", "c: c"]);
  });

  it("leaves alone a device that is suspended, and changes it when it goes on", async () => {
    const slow = (read: number): string =>
      file(`{ a: { target: delay, device: ./1.img, read: ${read} } }`, "{ a: { device: a } }");
    const { devices, reload } = await served(slow(0));
    await devices.suspend("a");
    expect(await reload(slow(1))).toMatch(/^failed: .*device a reloaded: .*suspended.*EBUSY/);
    expect(devices.snapshotOf("a")).toMatchObject({ state: "suspended", inactiveTable: undefined });
    await devices.resume("a");
    expect(await reload(slow(1))).toBe("device a reloaded");
  });

  it("puts back an export of a device that failed to change", async () => {
    const { offered, reload } = await served(file("{ a: ./1.img, c: ./2.img }", both));
    const next = "{ a: { device: a }, c: { device: c, description: new } }";
    expect(await reload(file("{ a: ./1.img, c: ./nope.img }", next))).toMatch(/failed: .*export "c"/);
    expect(offered()).toEqual(["a: a", "c: c"]);
    expect(await reload(file("{ a: ./1.img, c: ./2.img }", next))).not.toMatch(/failed/);
    expect(offered()).toEqual(["a: a", "c: c new"]);
  });

  it("puts back an export whose new device cannot be offered", async () => {
    const devicesOf = "{ a: ./1.img, c: ./2.img }";
    const { devices, offered, reload } = await served(file(devicesOf, "{ a: { device: a } }"));
    await devices.create("top", "0 128 linear dm:c 0");
    const next = file(devicesOf, "{ a: { device: c } }");
    expect(await reload(next)).toMatch(/failed: .*export "a" of c/);
    expect(offered()).toEqual(["a: a"]);
    await devices.remove("top");
    expect(await reload(next)).not.toMatch(/failed/);
    expect(offered()).toEqual(["a: c"]);
  });

  it("listens where it did if it cannot where the file says", async () => {
    const { sockets, reload } = await served("listen: [{ unix: a.sock }, { unix: b.sock }]");
    const next = "listen: [{ unix: nope/c.sock }, { unix: b.sock }]";
    expect(await reload(next)).toMatch(/failed: listening at .*c.sock/);
    expect(sockets()).toEqual(["a.sock", "b.sock"]);
    // It tries again, and leaves the old place when it can.
    expect(await reload(next)).toMatch(/failed: listening at .*c.sock/);
    expect(await reload("listen: [{ unix: c.sock }, { unix: b.sock }]")).not.toMatch(/failed/);
    expect(sockets()).toEqual(["b.sock", "c.sock"]);
  });

  it("listens where is usual as long as the file says nothing", async () => {
    const { sockets, reload } = await served("devices: {}");
    expect(sockets()).toEqual(["usual.sock"]);
    await reload("listen: { unix: a.sock }");
    expect(sockets()).toEqual(["a.sock"]);
    await reload("devices: {}");
    expect(sockets()).toEqual(["usual.sock"]);
  });

  it("listens nowhere that the file says if the command line does", async () => {
    const { sockets, reload } = await served("listen: { unix: a.sock }", { isTold: true });
    await reload("listen: { unix: b.sock }");
    await reload("devices: {}");
    expect(sockets()).toEqual([]);
  });

  it("gives a device that was renamed by hand the name of the file again", async () => {
    const { devices, offered, reload } = await served(file("{ a: ./1.img }", "{ a: { device: a } }"));
    await devices.rename("a", "z");
    const next = file("{ a: { file: 1.img, size: 64k } }", "{ a: { device: a, description: new } }");
    expect(await reload(next)).not.toMatch(/failed/);
    expect(devices.names).toEqual(["a"]);
    expect(offered()).toEqual(["a: a new"]);
  });

  it("removes a device that was renamed by hand, and no other of its name", async () => {
    const { devices, reload } = await served(file("{ a: ./1.img, c: ./2.img }", "{}"));
    await devices.rename("a", "z");
    await reload(file("{ c: ./2.img }", "{}"));
    expect(devices.names).toEqual(["c"]);
    await devices.rename("c", "y");
    await devices.create("c", "0 8 zero");
    await reload("devices: {}");
    expect(devices.names).toEqual(["c"]);
  });

  it("follows a file that has followed a renaming", async () => {
    const { devices, reload } = await served(file("{ a: ./1.img }", "{}"));
    await devices.rename("a", "z");
    expect(await reload(file("{ z: ./1.img }", "{}"))).toBe("");
    expect(devices.names).toEqual(["z"]);
  });

  it("makes no files for a server that only reads", async () => {
    const files = "files: [{ file: new.img, create: 1M }]";
    const { has, reload } = await served(files, { readOnly: true });
    await reload(`${files}\ndevices: { a: { file: newer.img, create: 1M } }`);
    expect([has("new.img"), has("newer.img")]).toEqual([false, false]);
  });
});
