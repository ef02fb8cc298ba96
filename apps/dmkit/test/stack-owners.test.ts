/** `dmkit stack check` refuses what serving would refuse because two devices use the same bytes, and nothing else. */
import { linkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { codeOf, realEnvironment } from "@dmkit/block-io";
import { NbdServer } from "@dmkit/nbd";
import { expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { Stack } from "../src/serve/stack.ts";
import { findConflicts } from "../src/stack-file/owners.ts";
import { readStackFile } from "../src/stack-file/read/read.ts";
import { cli } from "./cli.ts";
import { cleanUp, makePartitioned, tempFolder } from "./support.ts";

const MIB = 2 ** 20;

const wb = (backing: string, cache: string): string =>
  `{ target: writeboost, backing: ${backing}, cache: ${cache}, segment_size_order: 4 }`;
const part = (of: string, offset: number, size = "4M"): string =>
  `{ target: linear, device: ${of}, offset: ${offset}, size: ${size} }`;

/** Devices, and which of them are refused. */
const stacks: Readonly<
  Record<string, readonly [devices: Record<string, string>, refused: readonly string[]]>
> = {
  "two caches over one log": [{ x: wb("./a", "./c"), y: wb("./b", "./c") }, ["y"]],
  "two caches over one log that has a name": [
    { ssd: "./c", x: wb("./a", "ssd"), y: wb("./b", "ssd") },
    ["y"],
  ],
  "two names of one file": [{ x: wb("./a", "./c"), y: wb("./b", "./link") }, ["y"]],
  "parts of one disk": [
    { ssd: "./c", p: part("ssd", 0), q: part("ssd", 8192), x: wb("./a", "p"), y: wb("./b", "q") },
    [],
  ],
  "parts of one disk that overlap": [
    { ssd: "./c", p: part("ssd", 0), q: part("ssd", 4096), x: wb("./a", "p"), y: wb("./b", "q") },
    ["x", "y"],
  ],
  "stripes that meet a log": [
    {
      ssd: "./c",
      s: "{ target: striped, chunk: 8, stripes: [{ device: ssd }, { device: ssd, offset: 8192 }], size: 8M }",
      x: wb("./a", "s"),
      y: wb("./b", "ssd"),
    },
    ["y"],
  ],
  "a part beside a cache's disk": [{ disk: "./a", x: wb("disk", "./c"), p: part("disk", 1024) }, ["p"]],
  "a file in two devices": [{ p: part("./a", 0), q: part("./a", 8192) }, ["q"]],
  "a file that two only read": [
    {
      p: "{ target: linear, device: ./a, size: 4M, read-only: true }",
      q: "{ target: linear, device: ./a, size: 4M, read-only: true }",
    },
    [],
  ],
  "RAM disks of one size": [{ x: wb("mem:8M", "mem:16M"), y: wb("mem:8M", "mem:16M") }, []],
  "layers on one base": [
    {
      base: "./a",
      x: "{ target: cow, base: base, layers: [{ bitmap: mem:1M, data: mem:16M }] }",
      y: "{ target: cow, base: base, layers: [{ bitmap: mem:1M, data: mem:16M }] }",
    },
    [],
  ],
  "partitions of one disk": [{ x: part('"./d?partition=1"', 0), y: part('"./e?partition=2"', 0) }, []],
  "partitions that overlap": [{ x: part('"./d?partition=1"', 0), y: part('"./e?partition=3"', 0) }, ["y"]],
  "partitions that overlap in one table": [{ x: wb('"./d?partition=1"', '"./e?partition=3"') }, ["x"]],
  "a partition by two names": [{ x: part('"./d?partition=1"', 0), y: part('"./e?partition=1"', 0) }, ["y"]],
  "a partition beside its disk": [{ x: part('"./d?partition=1"', 0), y: part("./e", 0) }, ["y"]],
  "a partition and a range of its disk": [
    { x: wb('"./d?partition=1"', "mem:16M"), y: part('"./e?no-lock"', 16_384, "1M") },
    ["y"],
  ],
  "a base that is written": [
    {
      base: "./a",
      x: "{ target: cow, base: base, layers: [{ bitmap: mem:1M, data: mem:16M }] }",
      y: wb("base", "mem:16M"),
    },
    ["y"],
  ],
};

function stackFile(devices: Readonly<Record<string, string>>): string {
  const folder = tempFolder();
  for (const name of ["a", "b", "c"]) {
    writeFileSync(join(folder, name), "");
    truncateSync(join(folder, name), 16 * MIB);
  }
  linkSync(join(folder, "c"), join(folder, "link"));
  makePartitioned(join(folder, "d"));
  linkSync(join(folder, "d"), join(folder, "e"));
  const path = join(folder, "stack.yaml");
  const lines = Object.entries(devices).map(([name, device]) => `  ${name}: ${device}\n`);
  writeFileSync(path, `devices:\n${lines.join("")}`);
  return path;
}

it.each(Object.entries(stacks))("%s", async (_name, [devices, refused]) => {
  const path = stackFile(devices);
  const plan = readStackFile(path);
  const conflicts = await findConflicts(plan);
  const names = Object.keys(devices);
  expect(conflicts.map(({ line }) => names[line - 2])).toEqual(refused);

  const manager = new DeviceManager(realEnvironment);
  cleanUp(() => manager.close());
  const server = new NbdServer({ environment: realEnvironment });
  cleanUp(() => server.close({ timeout: 0 }));
  const exports = new ExportManager(server, manager, realEnvironment);
  const context = { devices: manager, exports, server, environment: realEnvironment, readOnly: false };
  const opening = new Stack(plan, context).open().then(
    () => "opens",
    (error: unknown) => codeOf(error),
  );
  expect(await opening).toBe(refused.length > 0 ? "EBUSY" : "opens");
});

it("is told with the place in the file, and the status of a wrong file", async () => {
  const path = stackFile({ x: wb("./a", "./c"), y: wb("./b", "./c") });
  const { code, stderr } = await cli("stack", "check", path);
  expect(stderr).toMatch(/stack\.yaml:3:\d+: y: .*\/c is in use: device x \(writeboost\) owns it/);
  expect(code).toBe(2);
});

it("names a part of a disk that is not there as it is written", async () => {
  const folder = tempFolder();
  const [disk, file] = [join(folder, "disk.img"), join(folder, "stack.yaml")];
  writeFileSync(disk, "");
  truncateSync(disk, 8 * MIB);
  writeFileSync(file, `devices:\n  a: { target: linear, device: "${disk}?partition=1" }\n`);
  const { code, stderr } = await cli("serve", "-q", file, "-U", join(folder, "socket"));
  expect([code, stderr]).toEqual([1, expect.stringContaining(`${disk}?partition=1: open: has no partition`)]);
});
