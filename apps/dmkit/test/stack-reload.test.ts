/** A stack file that is read again: what fails stays as it was, and nothing is offered that the file does not say. */
import { truncateSync, writeFileSync } from "node:fs";
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
}

async function served(text: string): Promise<Served> {
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
  const plan = readStackFile(path, targets);
  const stack = new Stack(plan, { devices, exports, server, environment, readOnly: false });
  await stack.open();
  return {
    devices,
    offered: () =>
      exports.snapshot().map(({ name, device, description }) => `${name}: ${device} ${description}`.trim()),
    async reload(next) {
      writeFileSync(path, next);
      return (await stack.reload()).join("\n");
    },
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
});
