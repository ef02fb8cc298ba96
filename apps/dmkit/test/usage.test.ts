/** Words that cannot be understood: every command ends with the status of wrong usage, and what is out of range is told its range. */
import {
  linkSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlockIoError, parseOption, parseTable } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { afterAll, describe, expect, it } from "vitest";
import { besideServer } from "../src/commands/server/dm.ts";
import { Params } from "../src/control/params.ts";
import { parseStack } from "../src/stack-file/read/read.ts";
import { targets } from "../src/targets.ts";
import { exitCodeOf } from "../src/ui/terminal.ts";
import { cli } from "./cli.ts";
import { dmkit, main, run } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("the exit status", () => {
  it("is that of wrong usage for all commands alike", async () => {
    writeFileSync(join(folder, "stack.yaml"), "devices: 5\n");
    writeFileSync(join(folder, "a.img"), Buffer.alloc(2 ** 20));
    const at = (name: string): string => join(folder, name);
    const lines = [
      ["serve", "-t", "0 8 linear a.img"],
      ["serve", "-n", "x", at("a.img"), at("b.img")],
      ["serve", at("stack.yaml")],
      ["stack", "check", at("stack.yaml")],
      ["copy", "nbd://host:99999/x", at("b.img")],
      ["copy", "mem:1X", at("b.img")],
      ["info", "mem:1"],
      ["image", "record", "a", "b"],
      ["image", "ls", "s3://"],
      ["image", "info", "st/b@00"],
      ["cow", "check", at("a.img"), at("m")],
      ["publish", at("a.img"), "s3://"],
      ["pull", "s3://", at("b.img")],
      ["image", "info", "s3://"],
      ["info", "nbd://host?connections=many"],
      ["cow", "create", at("m"), at("d")],
      ["cow", "info", at("a.img"), "99999999999999999999"],
      ["replay", "--undo", at("u"), "--overlay", at("o"), at("a.img"), at("b.img")],
      ["bench", "peers", "-d", "tape"],
    ];
    for (const words of lines) {
      const { code, stderr } = await cli(...words);
      expect([words, code, stderr]).toEqual([words, 2, expect.stringMatching(/\S/)]);
    }
  });

  it("is another for what went wrong, and of its own for fsck", async () => {
    const error = (code: "EPARSE" | "EIO"): BlockIoError => new BlockIoError("x", { code });
    expect([error("EPARSE"), error("EIO"), new Error("x")].map((one) => exitCodeOf(one))).toEqual([2, 1, 1]);
    expect([error("EPARSE"), error("EIO")].map((one) => exitCodeOf(one, "fsck"))).toEqual([16, 8]);
    expect((await cli("copy", join(folder, "none"), join(folder, "new"))).code).toBe(1);
    expect((await cli("--help")).stdout).toContain("2 wrong usage");
    // The same in a process.
    expect((await dmkit(["serve", "--at", "1", join(folder, "a.img")])).code).toBe(2);
    // With what to do that this command can do.
    writeFileSync(join(folder, "b.img"), Buffer.alloc(2 ** 20));
    const past = await dmkit(["serve", "--at", "1", join(folder, "a.img"), join(folder, "b.img")]);
    expect([past.code, past.stderr]).toEqual([1, expect.stringContaining("give the cache first")]);
  });
});

describe("words that make no sense", () => {
  const at = (name: string): string => join(folder, name);

  it("are refused where they are empty, before anything is done", async () => {
    writeFileSync(at("e.img"), Buffer.alloc(2 ** 20));
    const before = readdirSync(folder);
    for (const words of [
      ["copy", at("e.img"), ""],
      ["copy", "", at("new")],
      ["pull", "s3://bucket/x", ""],
      ["cow", "flatten", "", at("e.img")],
      ["cow", "create", "", ""],
      ["recompress", at("e.img"), ""],
      ["dump", at("e.img"), "-o", ""],
      ["map", at("e.img"), "--png", ""],
      ["serve", at("e.img"), ""],
      ["serve", at("e.img"), "-C", ""],
      ["serve", at("e.img"), "--unix="],
      ["publish", at("e.img"), ""],
      ["image", "ls", ""],
      ["ls", "--control", ""],
    ]) {
      const { code, stderr } = await cli(...words);
      expect([words, code, stderr]).toEqual([words, 2, expect.stringContaining("cannot be empty")]);
    }
    expect((await cli("fsck", "")).code).toBe(16);
    expect(readdirSync(folder)).toEqual(before);
  });

  it("are refused where one of them would have no effect", async () => {
    writeFileSync(at("e.img"), Buffer.alloc(2 ** 20));
    const nobody = ["--control", at("nobody.sock")];
    for (const words of [
      ["info", "--list", at("e.img")],
      ["info", "--list", "--map", "nbd://localhost"],
      ["info", "--list", "nbd://localhost", "nbd://localhost"],
      ["reload", ...nobody, "r", "--clear", "-t", "0 8 zero"],
      ["reload", ...nobody, "r", "--clear", "--force"],
      ["map", at("e.img"), "--png", at("o"), "--html", `${folder}/./o`],
      ["serve", "-i", "0.0.0.0"],
      ["serve", at("e.img"), "-i", "0.0.0.0", "-U", at("s")],
      ["serve", at("e.img"), "--allow-remote", "--run", "true"],
      ["serve", at("e.img"), "--allow-remote"],
      ["serve", "-t", "0 8 zero", "--create", "1M"],
      ["serve", "-t", "0 8 zero", "--preallocate"],
      ["serve", "-t", "0 8 zero", "--data", at("d")],
      ["serve", "mem:1M", "--create", "1M"],
      ["serve", at("e.img"), "--data", at("d")],
      ["serve", at("stack.yaml"), "--data", at("d")],
      ["serve", at("new.img"), "-r", "--create", "1M"],
      ["serve", at("e.img"), "-r", "--preallocate"],
      ["serve", "--at", "1", at("e.img"), at("e.img"), "--preallocate"],
      ["remove", ...nobody, "x", "--timeout", "1"],
      ["top", ...nobody, "--once", "--count", "2"],
      ["info", "--list", "--type", "cow", "nbd://localhost"],
      ["info", "--list", "--backing", at("e.img"), "nbd://localhost"],
      ["cow", "create", at("m"), at("d"), "--on", at("b"), "--base", at("e.img")],
      ["cow", "create", at("m"), at("d"), "--on", at("b"), "--base-offset", "8"],
      ["cow", "diff", "1..1", at("e.img"), "--force"],
      ["serve", at("e.img"), "--single", "-p", "1"],
      ["serve", at("e.img"), "--single", "--run", "true"],
      ["serve", at("e.img"), "--single", "--print-uri"],
      ["bench", "peers", "-d", "memory", "-d", "nosuch"],
      ["bench", "foo"],
      ["targets", "foo"],
      ["cow", "diff", "0..1", at("e.img")],
      ["cow", "diff", "2..1", at("e.img")],
      ["cow", "squash", "1..1", at("e.img")],
    ]) {
      const { code, stderr } = await cli(...words);
      expect([words, code, stderr]).toEqual([words, 2, expect.stringMatching(/\S\n.*\S/)]);
    }
    expect((await cli("fsck", at("e.img"), "--undo", at("u"))).code).toBe(16);
  });

  it("are told apart from those of another process where source and destination are the same", async () => {
    writeFileSync(at("e.img"), Buffer.alloc(2 ** 20, 1));
    linkSync(at("e.img"), at("hard.img"));
    symlinkSync(at("e.img"), at("soft.img"));
    for (const words of [
      ["copy", at("e.img"), at("e.img")],
      ["copy", at("e.img"), at("hard.img")],
      ["copy", at("soft.img"), at("e.img")],
      ["copy", "nbd://nowhere/a", "nbd://nowhere/a"],
      ["cow", "flatten", "--force", at("hard.img"), at("e.img"), at("m"), at("d")],
      ["cow", "diff", "1..1", at("e.img"), at("m"), at("d"), "--export", at("soft.img"), "--force"],
    ]) {
      const { code, stderr } = await cli(...words);
      expect([words, code, stderr]).toEqual([words, 1, expect.stringContaining("are the same")]);
    }
    const { code, stderr } = await run("/bin/sh", [
      "-c",
      `exec "$0" "$@" >> "${at("e.img")}"`,
      process.execPath,
      main,
      "dump",
      at("hard.img"),
    ]);
    expect([code, stderr]).toEqual([1, expect.stringContaining("where standard output goes")]);
    expect(readFileSync(at("e.img")).equals(Buffer.alloc(2 ** 20, 1))).toBe(true);
  });

  it("are blamed themselves, and not what they lead to", async () => {
    writeFileSync(at("e.img"), Buffer.alloc(2 ** 20));
    writeFileSync(at("zero.img"), "");
    const base = ["--base", at("e.img"), "--base-offset", "2048"];
    for (const [words, text] of [
      [["copy", at("zero.img"), at("z2.img")], /zero\.img: .*is empty: there is nothing to copy/],
      [
        ["cow", "create", at("y.map"), at("y.img"), ...base],
        /e\.img: .*has 2048 sectors: none from sector 2048/,
      ],
      [["publish", at("e.img"), at("e.img/x")], /e\.img: .*is no folder/],
      [
        ["format", "compression", at("e.img"), "-o", "algorithm=foo"],
        /^[^\n]*no compression backend "foo" \(ENOENT\)\n {2}Choose one of: lz4, lzo, deflate, zstd, none\n$/,
      ],
    ] as const) {
      const { code, stderr } = await cli(...words);
      expect([code, stderr]).toEqual([1, expect.stringMatching(text)]);
      expect(stderr).toMatch(/\n {2}\S/);
    }
  });
});

describe("the hint about the folder of the server", () => {
  it("is for a file that the message named, and for nothing else that is missing", () => {
    const hint = "There are: disk.";
    const missing = (device: string): BlockIoError => new BlockIoError("x", { code: "ENOENT", device, hint });
    const hinted = (device: string, folder: string): string | undefined =>
      (besideServer(missing(device), ["freeze", "n.map", "n.img"], folder) as BlockIoError).hint;
    for (const device of ["n.map", "/srv/n.img"]) expect(hinted(device, "/srv")).toContain("/srv");
    for (const device of ["disk2", "/other/n.img"]) expect(hinted(device, "/srv")).toBe(hint);
    expect(hinted("n.map", process.cwd())).toBe(hint);
  });
});

describe("what is out of range is told the range, and what was given", () => {
  it.each([
    ["serve --create", "16P", "from 512 to 9007199254740480"],
    ["serve --create", "1000", "a multiple of 512"],
    ["serve --port", "99999", "from 0 to 65535"],
    ["serve --max-connections", "0", "from 1 to 1927"],
    ["serve --shutdown-timeout", "3601", "from 0 to 3600"],
    ["serve --at", "9007199254740992", "from 0 to 9007199254740991"],
    ["copy --requests", "1025", "from 1 to 1024"],
    ["copy --request-size", "64M", "from 4K to 32M"],
    ["publish --chunk-size", "8M", "from 64K to 4M"],
    ["publish --chunk-size", "192K", "a power of two"],
    ["bench --span", "2G", "from 1M to 1G"],
    ["top --interval", "0", "from 1 to 3600"],
    ["cow create --size", "99999999P", "from 512 to 9007199254740480"],
    ["remove --timeout", "-1", "from 0 to 3600"],
  ])("%s %s", async (words, value, range) => {
    const { code, stderr } = await cli(...words.split(" "), value);
    expect(code).toBe(2);
    expect(stderr).toContain(`'${value}'`);
    expect(stderr).toContain(range);
  });

  const hinted = (work: () => unknown): string => {
    try {
      work();
    } catch (error) {
      return `${(error as Error).message} ${(error as BlockIoError).hint}`;
    }
    return "nothing was thrown";
  };

  it.each([
    ["99999999999999999999 8 zero", "99999999999999999999", "0 … 17592186044415"],
    ["0 17592186044416 zero", "17592186044416", "0 … 17592186044415"],
    ["0 8 linear a 99999999999999999999", "99999999999999999999", "0 … 17592186044415"],
    ["0 8 image a/b 2 cache_size 9P", '"9P"', "16777216 … 9007199254740991"],
  ])("in the table %s", (line, value, range) => {
    const told = hinted(() => parseTable(line, targets));
    expect(told).toContain(value);
    expect(told).toContain(range);
  });

  it("in a stack file", () => {
    const text =
      "devices:\n  a: { file: a.img, create: 16P }\nshutdown-timeout: 9999\nlisten: [{ port: 70000 }]\n";
    const { problems = [] } = parseStack({ text, file: join(folder, "s.yaml") });
    const told = problems.map(({ what, allowed }) => `${what} ${allowed}`);
    expect(told).toEqual([
      expect.stringMatching(/"16P".* 512 … 9007199254740480 bytes/),
      expect.stringMatching(/9999 .*0 … 3600/),
      expect.stringMatching(/70000 .*0 … 65535/),
    ]);
  });

  it("in a size, a reference, a request and a URI", async () => {
    expect(hinted(() => parseOption("n", { type: "size", min: 1, max: 8, help: "" }, "16P"))).toContain(
      "1 … 8",
    );
    expect(hinted(() => new Params({ timeout: 9999 }).integer("timeout", 0, 3600))).toContain(
      "to 3600, not 9999",
    );
    await expect(openNbd("nbd://h?reconnect=9999999999", {})).rejects.toMatchObject({
      hint: expect.stringContaining("0 … 1000000"),
    });
    await expect(openNbd("nbd://h?connections=17", {})).rejects.toMatchObject({
      message: expect.stringContaining("17"),
      hint: expect.stringContaining("1 to 16"),
    });
  });
});
