/** What is printed: commands that can be pasted, texts from elsewhere that reach no terminal raw, names and hints. */
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { GuardedDevice, MemoryDevice, plainLimits, printableLines } from "@dmkit/block-io";
import { NbdServer } from "@dmkit/nbd";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { readTable, resolvePaths, toDeviceName } from "../src/manager/references.ts";
import { attachHints } from "../src/serve/hints.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { cli } from "./cli.ts";
import { main, run } from "./support.ts";

const root = fileURLToPath(new URL("../../..", import.meta.url));

let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** The words a shell makes of a command. */
function words(command: string): string[] {
  const script = `printf '%s\\0' ${command}`;
  return execFileSync("/bin/sh", ["-c", script]).toString("utf8").split("\0").slice(0, -1);
}

describe("commands to be pasted", () => {
  const evil = "it's $(reboot) & x";

  it("make no file system where nothing can be written, and name the server", () => {
    const [device, description] = ["d", ""];
    const one = { name: "", device, description, size: 4096, readOnly: true, connections: 0, leaving: false };
    const snapshot = { ...one, maxConnections: undefined, statistics: {} as never };
    const uris = [{ address: { kind: "unix", path: "/tmp/s" }, exportName: "" }] as const;
    const control = { path: `/run/dmkit/${process.pid}.sock`, named: false };
    const text = attachHints(uris, [snapshot], control, undefined);
    expect(text).not.toMatch(/mkfs/);
    expect(text).toMatch(/mount -o ro,loop/);
    expect(text).toMatch(/readonly=on/);
    expect(text).toContain(`dmkit ls --tree -C ${process.pid}\n`);
  });

  it("attach a server whatever its socket and export are called", () => {
    const snapshot = {
      name: evil,
      device: "d",
      description: "a\u001b[2Jb",
      size: 4096,
      readOnly: false,
      connections: 0,
      maxConnections: undefined,
      leaving: false,
      statistics: {} as never,
    };
    const path = `/tmp/${evil}/s,1.sock`;
    const control = { path: `/tmp/${evil}/c`, named: true };
    const uris = [{ address: { kind: "unix", path }, exportName: evil }] as const;
    const text = attachHints(uris, [snapshot], control, undefined);
    expect(printableLines(text)).toBe(text);
    const line = (start: string): string =>
      text
        .split("\n")
        .map((one) => one.trim())
        .find((one) => one.startsWith(start))
        ?.slice(start.length) ?? "";
    const [info, uri = ""] = words(line("Look at it"));
    expect(info).toBe("nbdinfo");
    expect(new URL(uri).searchParams.get("socket")).toBe(path);
    expect(words(line("Virtual machine")).at(-1)).toBe(`file=${uri},format=raw,if=virtio`);
    const kernel = words(
      line("Kernel device")
        .trim()
        .replace(/^sudo /, ""),
    );
    expect(kernel).toEqual(["nbd-client", "-unix", path, "/dev/nbd0", "-N", evil]);
    expect(words(line("Operate it"))).toEqual(["dmkit", "ls", "--tree", "-C", `/tmp/${evil}/c`]);
  });
});

describe("texts of a server", () => {
  it("reach standard output and the log as what they are", async () => {
    const server = new NbdServer();
    const name = "a\u001b]0;x\u0007b\u202e";
    server.addExport({ name, device: new MemoryDevice(4096), description: "two\nlines\u009b2J" });
    const listener = await server.listen({ path: join(folder, "s.sock") });
    const uri = listener.uri("").replace("nbd+unix:////?", "nbd+unix:///?");
    const list = await cli("info", "--list", uri);
    expect(list.stdout).toBe("a\\x1b]0;x\\x07b\\u202e\ttwo\\nlines\\x9b2J\n");
    const json = await cli("info", "--list", "--json", uri);
    expect(printableLines(json.stdout)).toBe(json.stdout);
    expect(JSON.parse(json.stdout)).toEqual([{ name, description: "two\nlines\u009b2J" }]);
    const none = await cli("info", uri.replace("/?", "/no%1Bne?"));
    expect(none.code).toBe(1);
    expect(printableLines(none.stderr)).toBe(none.stderr);
    await server.close();
  });
});

describe("names", () => {
  it.each([
    ["диск.img", "img"],
    [".h.img", "h.img"],
    ["диск", "default"],
    ["a b.img", "a_b.img"],
    ["-x", "x"],
    ["", "default"],
    ["é".repeat(300), "default"],
  ])("of devices are made of any file's: %s", (file, name) => {
    expect(toDeviceName(file)).toBe(name);
  });

  it("of sockets in a table start where the paths do", () => {
    const table = readTable("0 8 linear nbd+unix:///e?socket=s.sock&reconnect=5 0");
    const [segment] = resolvePaths(table, "/folder");
    expect(segment?.options).toMatchObject({ device: "nbd+unix:///e?socket=/folder/s.sock&reconnect=5" });
  });

  it("of devices that are misspelt in a stack file are not taken for files", () => {
    const read = (text: string): readonly string[] => {
      const { problems = [] } = parseStack({ text, file: join(folder, "s.yaml") }) as {
        problems?: readonly { what: string; meant?: string }[];
      };
      return problems.map(({ what, meant }) => `${what}|${meant ?? ""}`);
    };
    const stack = (base: string): string =>
      `devices:\n  golden: mem:1M\n  vm: { target: cow, base: ${base}, layers: [{ bitmap: ./a, data: ./b }] }\n`;
    expect(read(stack("goldne"))).toEqual(['there is no device "goldne", and no such file|golden']);
    expect(read(stack("golden"))).toEqual([]);
    expect(read(stack("./goldne"))).toEqual([]);
    expect(read(stack("something.img"))).toEqual([]);
    writeFileSync(join(folder, "goldne"), "");
    expect(read(stack("goldne"))).toEqual([]);
    expect(read(`files: [{ file: golden2, create: 1M }]\n${stack("golden2")}`)).toEqual([]);
  });
});

describe("a size of 2^53 bytes", () => {
  it("is too large, not odd", () => {
    class Large extends GuardedDevice {
      constructor() {
        super("large", 2 ** 53, plainLimits);
      }
      protected override doRead = (): Promise<void> => Promise.resolve();
      protected override doWrite = (): Promise<void> => Promise.resolve();
      protected override doFlush = (): Promise<void> => Promise.resolve();
    }
    expect(() => new Large()).toThrow(/are not from 0 to 2\^53 - 1/);
  });
});

describe("hints", () => {
  const sources = (at: string): string[] =>
    readdirSync(at, { withFileTypes: true, recursive: true })
      .filter((one) => one.isFile() && one.name.endsWith(".ts"))
      .map((one) => join(one.parentPath, one.name));

  it("name what can be typed beside what can be called", () => {
    const library = ["wholeBlocks", "writeThrough", "replayBuffer", "allowRemote", "connectTimeout"];
    const typed = ["whole-blocks", "write-through", "replay-buffer", "allow-remote", "connect-timeout"];
    const packages = readdirSync(join(root, "packages")).map((name) => join(root, "packages", name, "src"));
    for (const file of [...packages, join(root, "apps/dmkit/src")].flatMap(sources)) {
      for (const [, text = ""] of readFileSync(file, "utf8").matchAll(/hint:\s*((?:"[^"\n]*"|`[^`\n]*`))/g)) {
        for (const [index, option] of library.entries()) {
          if (text.includes(option)) expect(text, file).toContain(typed[index]);
        }
      }
    }
  });
});

describe("the program", () => {
  it("tells its version without loading a command", async () => {
    const script = `
      const { register } = await import("node:module");
      const hooks = "export async function load(url, context, next) { if (/commands\\\\/(?!(own\\\\/)?all)/.test(url)) process.stdout.write(url + '\\\\n'); return next(url, context); }";
      register("data:text/javascript," + encodeURIComponent(hooks));
      process.argv[2] = process.argv[1];
      process.argv[1] = ${JSON.stringify(main)};
      await import(${JSON.stringify(main)});`;
    const { stdout } = await run(process.execPath, ["--input-type=module", "-e", script, "--", "--version"]);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it("is a file of the clone's first folder", async () => {
    const { stdout } = await run(join(root, "dmkit"), ["--version"]);
    expect(stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });

  it("is documented with commands that are there after npm start: no pnpm, no npx, and scripts that exist", () => {
    const files = [
      "README.md",
      ...readdirSync(join(root, "packages")).map((name) => `packages/${name}/README.md`),
    ];
    for (const file of files) {
      const text = readFileSync(join(root, file), "utf8");
      expect(text, file).not.toMatch(/\b(pnpm|npx) [a-z]/);
      const folderOf = join(root, file, "..");
      const { scripts = {} } = JSON.parse(readFileSync(join(folderOf, "package.json"), "utf8")) as {
        scripts?: Record<string, string>;
      };
      for (const [, name = ""] of text.matchAll(/npm run ([\w:]+)/g))
        expect(scripts, file).toHaveProperty(name);
    }
  });
});
