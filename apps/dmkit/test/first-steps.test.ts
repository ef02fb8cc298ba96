/** What people type first, and what they are spared to work out. */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type BlockIoError, parseTable, realEnvironment } from "@dmkit/block-io";
import { NbdServer, nbdInfo, openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { dmkit, main, tempFolder } from "./support.ts";

const verb = (...words: string[]): string => [process.execPath, main, ...words].join(" ");

function image(folder: string, name: string, size: number): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

describe("* for the length of a table's last line", () => {
  it("is what is left of the device below, for serve, create and reload", async () => {
    const folder = tempFolder();
    image(folder, "a*.img", 2 ** 20);
    image(folder, "b.img", 2 ** 20);
    const tables = ["-t", "0 8 linear a*.img 0", "-t", "'8 * linear b.img 1024'"];
    const script = [
      verb("table", "default"),
      verb("create", "c", "-t", "'0 * linear dm:default 16'"),
      verb("table", "c"),
      verb("reload", "c", "-t", "'0 * linear b.img 0'"),
      verb("table", "c", "--inactive"),
      verb("create", "z", "-t", "'0 * zero'"),
    ].join("; ");
    const given = tables.map((word) => word.replaceAll("'", ""));
    const { stdout, stderr, code } = await dmkit(["serve", "-r", ...given, "--run", script], { cwd: folder });
    expect(stdout.trim().split("\n")).toEqual([
      `0 8 linear ${folder}/a*.img 0`,
      `8 1024 linear ${folder}/b.img 1024`,
      "0 1016 linear dm:default 16",
      `0 2048 linear ${folder}/b.img 0`,
    ]);
    expect(stderr).toContain("zero needs a length");
    expect(code).toBe(2);
  });
});

describe("who mistypes a word is told which one was meant, for", () => {
  const hintOf = async (work: () => unknown): Promise<string | undefined> => {
    try {
      await work();
    } catch (error) {
      return (error as BlockIoError).hint;
    }
    return "nothing was thrown";
  };

  it.each([
    ["fsk", "fsck"],
    ["serve --redonly x.img", "--read-only"],
    ["targets writebost", "writeboost"],
    ["man sreve", "serve"],
    ["format comprssion x.img", "compression"],
    ["cow comit", "commit"],
    ["info nbd://127.0.0.1/x?reconect=5", "reconnect"],
  ])("the words of a command line: %s", async (line, meant) => {
    const { stderr } = await cli(...line.split(" "));
    expect(stderr).toMatch(new RegExp(`Did you mean "?${meant}`));
  });

  it.each([
    ["a target", "0 8 lineer a 0", "linear"],
    ["an option by name", "0 8 image a/b 2 cache_sise 1G", "cache_size"],
    ["a choice", "0 8 writeboost 0 a b 2 dialect clasic", "classic"],
  ])("%s of a table", async (_what, line, meant) => {
    expect(await hintOf(() => parseTable(line, targets))).toContain(`Did you mean "${meant}"?`);
  });

  it("messages, tunables, devices, exports and schemes", async () => {
    const manager = new DeviceManager(realEnvironment, targets);
    const server = new NbdServer({ environment: realEnvironment });
    const exports = new ExportManager(server, manager, realEnvironment);
    await manager.create("disk", "0 2048 writeboost 0 mem:1M mem:8M");
    exports.add({ name: "golden", device: "disk" });
    const listener = await server.listen({ host: "127.0.0.1", port: 0 });
    const uri = `nbd://127.0.0.1:${listener.port}/goldn`;
    const hints = [
      await hintOf(() => manager.message("disk", ["drop_cashes"])),
      await hintOf(() => manager.message("disk", ["set", "writeback_treshold", "5"])),
      await hintOf(() => manager.message("dsk", ["x"])),
      await hintOf(() => manager.create("x", "0 8 linear dm:dsk 0")),
      await hintOf(() => manager.create("x", "0 8 linear ndb://host 0")),
      await hintOf(() => exports.remove("goldn", "safe")),
      await hintOf(() => openNbd(uri, { environment: realEnvironment })),
      await hintOf(() => nbdInfo(uri, { environment: realEnvironment })),
    ];
    await server.close();
    await manager.close();
    expect(hints.map((hint) => /Did you mean "([^"]+)"\?/.exec(hint ?? "")?.[1])).toEqual([
      "drop_caches",
      "writeback_threshold",
      "disk",
      "disk",
      "nbd",
      "golden",
      "golden",
      "golden",
    ]);
  });

  it("keys of a stack file, and what stands beside them", () => {
    const text = `devces: {}
devices: { a: { target: linear, devise: mem:1M }, b: mem:1M, c: { file: x, creat: 1G }, d: { target: linear, device: ndb://x } }
exports: { a: { device: bb, hiden: true } }
listen: [{ prt: 1 }]
`;
    const { problems = [] } = parseStack({ text, file: "/s.yaml" });
    expect(problems.map(({ meant }) => meant).filter(Boolean)).toEqual([
      "devices",
      "device",
      "create",
      "nbd",
      "b",
      "hidden",
      "port",
    ]);
  });
});

describe("dmkit targets NAME", () => {
  it("has options and messages in columns of their own, and says what * is", async () => {
    const { stdout } = await cli("targets", "writeboost");
    expect(stdout).toContain("or in the last line of a table *");
    const lines = stdout.split("\n").filter((line) => line.startsWith("  ") && !line.startsWith("  <"));
    const shown = lines.slice(1).map((line) => /^ {2}(?:\S.{25}| {26}) {2}\S/.test(line));
    expect(shown).toEqual(shown.map(() => true));
    expect(stdout).toMatch(/Messages:\n[^]*\n {2}drop_caches \[stop\] +writes back/);
  });
});
