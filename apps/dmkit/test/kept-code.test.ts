/** What was compiled is kept for the next start, and believed only where it is whole and of the same source. */
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { describe, expect, it } from "vitest";
import { type Kept, readKept, writeKept } from "../src/start/kept-code.ts";
import { Modules } from "../src/start/modules.ts";
import { main, run, tempFolder } from "./support.ts";

/** Of a folder of modules: the files of kept code. */
function keptFiles(folder: string): string[] {
  const compiled = join(folder, "compiled");
  if (!existsSync(compiled)) return [];
  return readdirSync(compiled, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .toSorted();
}

const code = (text: string): Kept => ({ of: text.length, code: Buffer.from(text) });

describe("a file of kept code", () => {
  it("has the bytes that its comment says", () => {
    const folder = tempFolder();
    const path = join(folder, "new/serve");
    writeKept(folder, path, new Map([["a.js", code("twelve bytes")]]));
    const json = '[{"name":"a.js","of":12,"at":0,"length":12}]';
    const body = `twelve bytes\0\0\0\0${json}`;
    expect(readFileSync(path, "latin1")).toBe(`${body}4e46aed600000044`);
    expect(readdirSync(dirname(path))).toEqual(["serve"]);
    expect(statSync(path).mode & 0o022).toBe(0);
  });

  it("is read as it was written", () => {
    const folder = tempFolder();
    const kept = new Map([
      ["a.js", code("abc")],
      ["b.js", code("")],
      ["c.js", code("x".repeat(1000))],
    ]);
    writeKept(folder, join(folder, "x"), kept);
    expect(readKept(join(folder, "x"))).toEqual(kept);
  });

  it("is none if any byte of it is another, or missing", () => {
    const folder = tempFolder();
    const path = join(folder, "x");
    writeKept(folder, path, new Map([["a.js", code("abc")]]));
    const whole = readFileSync(path);
    for (let at = 0; at < whole.length; at += 1) {
      const damaged = Buffer.from(whole);
      damaged[at] = (damaged[at] ?? 0) ^ 1;
      writeFileSync(path, damaged);
      expect(readKept(path), `byte ${at}`).toEqual(new Map());
      writeFileSync(path, whole.subarray(0, at));
      expect(readKept(path), `${at} bytes`).toEqual(new Map());
    }
    expect(readKept(join(folder, "missing"))).toEqual(new Map());
  });
});

describe("modules", () => {
  const require = createRequire(import.meta.url);
  /** Modules of which one needs the other. */
  const made = (): string => {
    const folder = tempFolder();
    writeFileSync(join(folder, "one.js"), 'exports.sum = () => require("./two.js").two() + 1;');
    writeFileSync(join(folder, "two.js"), "exports.two = () => 2;");
    return folder;
  };
  const sum = (modules: Modules): number => (modules.load("one.js") as { sum: () => number }).sum();

  it("are kept, and kept again only when there are more of them", () => {
    const folder = made();
    const first = new Modules(folder, "add", require);
    first.load("one.js");
    first.keep();
    const [path = ""] = keptFiles(folder);
    expect([...readKept(path).keys()]).toEqual(["one.js"]);
    const second = new Modules(folder, "add", require);
    expect(sum(second)).toBe(3);
    second.keep();
    const kept = readKept(path);
    expect([...kept.keys()]).toEqual(["one.js", "two.js"]);
    rmSync(path);
    const third = new Modules(folder, "add", require);
    third.keep();
    expect(keptFiles(folder)).toEqual([]);
  });

  it("are compiled anew where the source is another of the same length", () => {
    const folder = made();
    const first = new Modules(folder, "add", require);
    expect(sum(first)).toBe(3);
    first.keep();
    writeFileSync(join(folder, "two.js"), "exports.two = () => 7;");
    expect(sum(new Modules(folder, "add", require))).toBe(8);
  });

  it("that are gone are not kept any more, and nothing fails where nothing can be kept", () => {
    const folder = made();
    const first = new Modules(folder, "add", require);
    expect(sum(first)).toBe(3);
    first.keep();
    const [path = ""] = keptFiles(folder);
    writeFileSync(join(folder, "three.js"), "");
    rmSync(join(folder, "one.js"));
    const second = new Modules(folder, "add", require);
    second.load("three.js");
    second.keep();
    expect([...readKept(path).keys()]).toEqual(["two.js", "three.js"]);
    rmSync(join(folder, "compiled"), { recursive: true });
    writeFileSync(join(folder, "compiled"), "a file");
    const third = new Modules(folder, "add", require);
    third.load("three.js");
    third.keep();
  });
});

describe("the command", () => {
  /** A copy of the program, with nothing kept. */
  const copied = (): { bin: string; dmkit: (args: string[], uid?: number) => ReturnType<typeof run> } => {
    const folder = tempFolder();
    const bin = join(folder, "bin");
    cpSync(dirname(main), bin, { recursive: true });
    cpSync(join(dirname(main), "../package.json"), join(folder, "package.json"));
    rmSync(join(bin, "compiled"), { recursive: true, force: true });
    chmodSync(folder, 0o755);
    const dmkit = (args: string[], uid?: number): ReturnType<typeof run> =>
      run(process.execPath, [join(bin, "main.js"), ...args], uid === undefined ? {} : { uid });
    return { bin, dmkit };
  };

  it("keeps a file a command, none for what is no command, and none in the folder of somebody else", async () => {
    const { bin, dmkit } = copied();
    if (process.getuid?.() === 0) {
      // One that this user does not own, but could write to.
      chmodSync(bin, 0o777);
      expect(await dmkit(["--version"], 65_534)).toMatchObject({ code: 0 });
      expect(keptFiles(bin)).toEqual([]);
      chownSync(bin, 65_534, 65_534);
      expect(await dmkit(["--version"])).toMatchObject({ code: 0 });
      expect(keptFiles(bin)).toEqual([]);
      chownSync(bin, 0, 0);
      chmodSync(bin, 0o755);
    }
    for (const args of [
      ["--version"],
      ["sevre"],
      ["../../x"],
      ["serve", "--help"],
      ["status", "-C", "/none"],
    ])
      await dmkit(args);
    const names = keptFiles(bin).map((path) => path.slice(path.lastIndexOf("/") + 1));
    expect(names).toEqual(["none", "serve", "status"]);
  });

  it("does the same whatever is kept", async () => {
    const { bin, dmkit } = copied();
    const first = await dmkit(["targets"]);
    expect(first).toMatchObject({ code: 0, stderr: "" });
    const [path = ""] = keptFiles(bin);
    const whole = readFileSync(path);
    expect(await dmkit(["targets"])).toEqual(first);
    expect(readFileSync(path).equals(whole)).toBe(true);
    writeFileSync(path, whole.subarray(0, whole.length / 2));
    expect(await dmkit(["targets"])).toEqual(first);
    const kept = readKept(path);
    // What V8 refuses is replaced.
    const foreign = new Map([...kept].map(([name, { of }]) => [name, { of, code: Buffer.alloc(64, 1) }]));
    writeKept(bin, path, foreign);
    expect(await dmkit(["targets"])).toEqual(first);
    for (const { code: bytes } of readKept(path).values()) expect(bytes.length).toBeGreaterThan(64);
    rmSync(path);
    mkdirSync(path);
    expect(await dmkit(["targets"])).toEqual(first);
  });
});
