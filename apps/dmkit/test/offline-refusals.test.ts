/**
 * Every offline command on every kind of file: one clear line, the right exit code, and nothing written. Also where
 * a command succeeds: none of those here has leave to write to what it is given.
 */
import { createHash } from "node:crypto";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { openFile } from "@dmkit/block-io";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { cli } from "./cli.ts";
import { tempFolder } from "./support.ts";

const MIB = 2 ** 20;

/** What the images are made of, made once. */
const source = mkdtempSync(join(tmpdir(), "dmkit-images-"));
const at = (name: string): string => join(source, name);
afterAll(() => rmSync(source, { recursive: true, force: true }));

function sparse(path: string, size: number): string {
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

async function made(...args: string[]): Promise<void> {
  const { code, stderr } = await cli(...args);
  if (code !== 0) throw new Error(`${args.join(" ")}: ${stderr}`);
}

beforeAll(async () => {
  sparse(at("backing"), 3 * MIB);
  for (const [name, size] of Object.entries({ writeboost: 4, cache: 5, compression: 8, bitmap: 1 })) {
    sparse(at(name), size * MIB);
  }
  sparse(at("data"), 3 * MIB);
  await made("format", "writeboost", at("writeboost"), "-o", "segment_size_order=7", "--undo", at("undo"));
  await made("format", "cache", at("cache"), "--source", at("backing"));
  await made("format", "compression", at("compression"));
  await made("format", "cow", at("bitmap"), "--data", at("data"), "--base", at("backing"));
  for (const name of ["writeboost", "cache", "compression", "bitmap"]) {
    await made("dump", at(name), "-o", at(`${name}.json`));
  }
  writeFileSync(at("empty"), "");
  writeFileSync(at("ten"), "ten bytes.");
  writeFileSync(at("text"), "no image at all\n".repeat(256));
  writeFileSync(at("noise"), createHash("sha512").update("noise").digest().toString("hex").repeat(512));
  const foreign = Buffer.alloc(MIB);
  foreign.write("QFI\xfb", 0, "latin1");
  writeFileSync(at("qcow2"), foreign);
  const disk = Buffer.alloc(MIB);
  disk.writeUInt16LE(0xef53, 1080);
  writeFileSync(at("ext4"), disk);
});

const images = ["writeboost", "cache", "compression", "bitmap"] as const;
const strangers = [
  "empty",
  "ten",
  "text",
  "noise",
  "qcow2",
  "ext4",
  "directory",
  "missing",
  "served",
  "backing",
  "data",
  "undo",
];

/** A copy of a kind of file in a folder of its own. */
function place(kind: string): { folder: string; path: string } {
  const folder = tempFolder();
  const path = join(folder, "subject");
  if (kind === "directory") mkdirSync(path);
  else if (kind !== "missing") writeFileSync(path, readFileSync(at(kind === "served" ? "writeboost" : kind)));
  return { folder, path };
}

function state(folder: string): string[] {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .sort()
    .map((name) => {
      const path = join(folder, name);
      const { mtimeMs, size } = statSync(path);
      const hash = statSync(path).isDirectory()
        ? ""
        : createHash("sha256").update(readFileSync(path)).digest("hex");
      return `${name} ${size} ${mtimeMs} ${hash}`;
    });
}

interface Case {
  readonly args: (path: string) => string[];
  /** Kinds for which it succeeds. */
  readonly takes: readonly string[];
  /** Exit code of a failure. */
  readonly fails: number;
  /** It makes something beside the subject. */
  readonly leaves?: (path: string) => string;
  /** Kinds it is not tried on: it may write there. */
  readonly except?: readonly string[];
}

const readable = strangers.filter((kind) => !["directory", "missing", "served", "ten"].includes(kind));
const sized = ["text", "noise", "data", "backing"];

const commands: Record<string, Case> = {
  info: { args: (path) => ["info", path], takes: [...images, ...readable], fails: 1 },
  fsck: { args: (path) => ["fsck", path], takes: images, fails: 8 },
  "fsck --repair": {
    args: (path) => ["fsck", path, "--repair", "--undo", `${path}.undo`],
    takes: images,
    fails: 8,
  },
  "fsck --json": { args: (path) => ["fsck", "--json", path], takes: images, fails: 8 },
  replay: {
    args: (path) => ["replay", path, at("backing"), "--overlay", `${path}-o`],
    takes: [],
    fails: 1,
    except: ["writeboost", "cache"],
  },
  "replay --undo": {
    args: (path) => ["replay", path, at("backing"), "--undo", `${path}.undo`],
    takes: [],
    fails: 1,
    except: ["writeboost", "cache"],
  },
  dump: { args: (path) => ["dump", path], takes: images, fails: 1 },
  "dump -o": {
    args: (path) => ["dump", path, "-o", `${path}.json`],
    takes: images,
    fails: 1,
    leaves: (path) => `${path}.json`,
  },
  "restore of it": { args: (path) => ["restore", path, at("writeboost")], takes: [], fails: 1 },
  ...Object.fromEntries(
    images.map((name) => [
      `restore ${name} to it`,
      { args: (path: string) => ["restore", at(`${name}.json`), path], takes: [], fails: 1, except: images },
    ]),
  ),
  map: { args: (path) => ["map", path], takes: images, fails: 1 },
  "map --png": {
    args: (path) => ["map", path, "--png", `${path}.png`],
    takes: images,
    fails: 1,
    leaves: (path) => `${path}.png`,
  },
  ...Object.fromEntries(
    ["writeboost", "cache", "compression", "cow"].map((type) => [
      `format ${type}`,
      { args: (path: string) => ["format", type, path], takes: [], fails: 1, except: sized },
    ]),
  ),
  "format with a wrong option": {
    args: (path) => ["format", "compression", path, "-o", "algorithm=none", "-o", "nothing=1"],
    takes: [],
    fails: 2,
    except: strangers.filter((kind) => !sized.includes(kind)),
  },
  "undo of it": { args: (path) => ["undo", path], takes: [], fails: 1, except: ["undo"] },
  "undo to it": { args: (path) => ["undo", at("undo"), path], takes: [], fails: 1, except: ["writeboost"] },
  recompress: {
    args: (path) => ["recompress", path, `${path}.new`],
    takes: ["compression"],
    fails: 1,
    leaves: (path) => `${path}.new`,
  },
};

async function attempt(command: string, kind: string): Promise<void> {
  const { args, takes, fails, leaves } = commands[command] as Case;
  const { folder, path } = place(kind);
  const lock = kind === "served" ? await openFile(path) : undefined;
  try {
    const before = state(folder);
    const { code, stdout, stderr } = await cli(...args(path));
    const what = `${command} on ${kind}: ${stdout}${stderr}`;
    const takesIt = takes.includes(kind);
    expect(code, what).toBe(takesIt ? 0 : fails);
    if (takesIt) {
      const made = leaves?.(path);
      if (made !== undefined) {
        expect(existsSync(made), what).toBe(true);
        rmSync(made);
      }
    } else {
      const lines = stderr
        .replace(/^dmkit: warning: a file is a qcow2 image.*\n(?: {2}.*\n){4}/, "")
        .trim()
        .split("\n");
      expect(lines[0], what).toMatch(/^dmkit: .*\([A-Z]+\)$/);
      // Below it at most one that says what to do.
      expect(lines.length, what).toBeLessThanOrEqual(2);
      expect(stderr, what).not.toContain("fault in dmkit");
    }
    expect(state(folder), what).toEqual(before);
  } finally {
    await lock?.close();
  }
}

describe("nothing is written", () => {
  for (const [command, { except = [] }] of Object.entries(commands)) {
    it(`by ${command}`, async () => {
      const kinds = [...strangers, ...images].filter((kind) => !except.includes(kind));
      for (const kind of kinds) await attempt(command, kind);
      expect(kinds.length).toBeGreaterThan(3);
    });
  }

  it("to a file that cannot be written", async () => {
    const folder = tempFolder();
    chmodSync(folder, 0o777);
    const path = join(folder, "image");
    writeFileSync(path, readFileSync(at("compression")));
    chmodSync(path, 0o444);
    chmodSync(source, 0o755);
    // As root everything can be written.
    const user = process.geteuid?.();
    if (user === 0) process.seteuid?.(65_534);
    try {
      const before = state(folder);
      const force: string[][] = [
        ["format", "compression", "--force", path],
        ["restore", at("compression.json"), path],
        ["recompress", at("compression"), path, "--force"],
      ];
      for (const args of force) {
        const { code, stderr } = await cli(...args);
        expect(stderr).toMatch(/^dmkit: .*\(EACCES\)/);
        expect(code).toBe(1);
      }
      for (const args of [["fsck"], ["fsck", "--repair"], ["info"], ["dump"], ["map"]]) {
        expect((await cli(...args, path)).code).toBe(0);
      }
      expect(state(folder)).toEqual(before);
    } finally {
      if (user === 0) process.seteuid?.(0);
    }
  });
});

describe("info", () => {
  it.each([...images, "ext4"])(
    "of %s: names of facts are words for people, one shape for programs",
    async (name) => {
      const { stdout } = await cli("info", at(name), "--json");
      const { contents } = JSON.parse(stdout) as { contents: { facts?: object } };
      for (const fact of Object.keys(contents.facts ?? {})) expect(fact).toMatch(/^[a-z0-9]+(_[a-z0-9]+)*$/);
      const lines = (await cli("info", at(name))).stdout.trimEnd().split("\n").slice(1);
      expect(lines.length).toBeGreaterThan(4);
      for (const line of lines) expect(line).toMatch(/^ {2}[a-z0-9]+( [a-z0-9]+)*: /);
    },
  );
});

describe("usage", () => {
  for (const name of ["fsck", "replay", "dump", "restore", "map", "format", "undo", "recompress", "info"]) {
    it(`${name}: --help shows examples, and what is missing is wrong usage`, async () => {
      const help = await cli(name, "--help");
      expect(help.code).toBe(0);
      expect(help.stdout).toContain("Examples:");
      expect(help.stdout).toContain("--json");
      expect(help.stdout).toContain("--quiet");
      expect((await cli(name)).code).toBe(name === "fsck" ? 16 : 2);
      expect((await cli(name, "--no-such-option")).code).toBe(name === "fsck" ? 16 : 2);
    });
  }
});
