/** Readers that go away and disks that are full: what becomes of what is printed, and of who prints it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { codeOf, realEnvironment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { requireNewFile } from "../src/destination.ts";
import { cli } from "./cli.ts";
import { main, run, serve, tempFolder } from "./support.ts";

const MIB = 2 ** 20;

function image(name: string): string {
  const path = join(tempFolder(), name);
  writeFileSync(path, "");
  truncateSync(path, MIB);
  return path;
}

/** Runs dmkit with pipes that nobody reads any more; its exit code, and what the other one has told. */
async function unread(
  closed: readonly ("stdout" | "stderr")[],
  ...args: string[]
): Promise<[number, string]> {
  const child = spawn(process.execPath, [main, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  for (const stream of closed) child[stream].destroy();
  let text = "";
  for (const stream of ["stdout", "stderr"] as const) {
    if (!closed.includes(stream)) child[stream].on("data", (chunk: Buffer) => (text += chunk.toString()));
  }
  const [code] = (await once(child, "close")) as [number];
  return [code, text];
}

describe("a command whose reader has gone", () => {
  it("ends quietly, as shells have it for SIGPIPE", async () => {
    const results = await Promise.all([
      unread(["stdout"], "info", image("a")),
      unread(["stdout", "stderr"], "targets"),
    ]);
    expect(results).toEqual([
      [141, ""],
      [141, ""],
    ]);
  });

  it("has done its work, and fails with its own status", async () => {
    const source = image("source");
    writeFileSync(source, Buffer.alloc(MIB, 3));
    const copied = join(tempFolder(), "copied");
    const results = await Promise.all([
      unread(["stdout", "stderr"], "copy", "--json", source, copied),
      unread(["stdout", "stderr"], "copy"),
    ]);
    expect(results.map(([code]) => code)).toEqual([141, 2]);
    expect(readFileSync(copied).equals(readFileSync(source))).toBe(true);
  });

  it("ends compare, which says by its status what it has printed", async () => {
    const [one, other] = [image("one"), image("other")];
    const differing = Buffer.alloc(MIB);
    for (let at = 0; at < MIB; at += 1024) differing[at] = 1;
    writeFileSync(other, differing);
    const results = await Promise.all([
      unread(["stdout"], "compare", "--all", "-q", one, other),
      unread(["stdout"], "compare", "--all", one, other),
      unread(["stdout"], "compare", "--json", one, other),
      unread(["stdout"], "compare", one, one),
    ]);
    expect(results.map(([code]) => code)).toEqual([1, 141, 141, 141]);
  });

  it("ends top, which has no end of its own", async () => {
    const control = join(tempFolder(), "control");
    await serve(["mem:1M", "--control", control]);
    expect(await unread(["stdout"], "top", "--json", "-C", control)).toEqual([141, ""]);
  });

  it("leaves fsck the status that says what it found", async () => {
    const folder = tempFolder();
    const map = join(folder, "map");
    await cli("cow", "create", map, join(folder, "img"), "--size", "1M");
    const results = await Promise.all([
      unread(["stdout"], "fsck", map),
      unread(["stdout", "stderr"], "fsck", image("unknown")),
    ]);
    expect(results.map(([code]) => code)).toEqual([0, 8]);
  });
});

describe("a file that a result goes to", () => {
  const picture = { replaces: (head: string): boolean => head.startsWith("PIC") };

  it("is looked at before the work is begun", async () => {
    const missing = join(tempFolder(), "missing", "out");
    // There is no such image either, which is found out later.
    const commands = [
      ["dump", "no-image", "-o", missing],
      ["map", "no-image", "--html", missing],
      ["restore", "no-dump", "no-image", "--undo", missing],
      ["format", "compression", "no-image", "--undo", missing],
    ];
    for (const words of commands) {
      const { code, stderr } = await cli(...words);
      expect(stderr).toContain(missing);
      expect(code).toBe(1);
    }
  });

  it("has a folder that can be written, and is not there, or of a kind that may be replaced", () => {
    const at = (name: string): string => join(folder, name);
    const folder = tempFolder();
    for (const [name, text] of Object.entries({ other: "text", picture: "PIC 1", empty: "" }))
      writeFileSync(at(name), text);
    mkdirSync(at("folder"));
    symlinkSync(at("nowhere"), at("link"));
    const code = (name: string, options?: typeof picture): unknown => {
      try {
        requireNewFile(at(name), options);
        return "";
      } catch (error) {
        return codeOf(error);
      }
    };
    for (const name of ["other", "picture", "empty", "folder", "link"]) expect(code(name)).toBe("EEXIST");
    for (const name of ["other", "folder"]) expect(code(name, picture)).toBe("EEXIST");
    for (const name of ["new", "picture", "empty"]) expect(code(name, picture)).toBe("");
    expect([code("new"), code("missing/new"), code("other/new")]).toEqual(["", "ENOENT", "ENOENT"]);
  });
});

describe("standard output that is full", () => {
  const shell = (command: string, ...args: string[]): ReturnType<typeof run> =>
    run("/bin/sh", ["-c", command, process.execPath, main, ...args]);

  it("is an error", async () => {
    const [info, fsck, help] = await Promise.all([
      shell(`exec "$0" "$@" > /dev/full`, "info", image("a")),
      shell(`exec "$0" "$@" > /dev/full`, "fsck", "--json", image("a")),
      shell(`exec "$0" "$@" > /dev/full`, "serve", "--help"),
    ]);
    expect([info.code, fsck.code, help.code]).toEqual([1, 8, 1]);
    expect(info.stderr).toMatch(/standard output.*ENOSPC/);
  });

  it("is an error also if there was room for some of it", async () => {
    const path = join(tempFolder(), "text");
    const { code } = await shell(`ulimit -f 1; exec "$0" "$@" > "${path}"`, "targets", "writeboost");
    expect(code).toBe(1);
    expect(statSync(path).size).toBeGreaterThan(0);
  });
});

describe("a server", () => {
  it("goes on when the readers of its log have gone", async () => {
    const server = await serve(["--log", "debug", "mem:1M"]);
    server.process.stdout?.destroy();
    server.process.stderr?.destroy();
    for (const value of [1, 2, 3]) {
      // Each connection is told to the log.
      const device = await openNbd(server.uri, { environment: realEnvironment });
      await device.write(0, Buffer.alloc(512, value));
      await device.close();
    }
    expect(await server.stop()).toBe(0);
  });
});
