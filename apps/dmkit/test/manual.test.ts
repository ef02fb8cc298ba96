/** The manual, and what Tab completes: both come from the tables that parse. */
import { chmodSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { Command } from "commander";
import { beforeAll, describe, expect, it } from "vitest";
import { addCommands } from "../src/commands/all.ts";
import { type CompletionSources, argumentKinds, complete } from "../src/completion/candidates.ts";
import { completionScripts } from "../src/completion/scripts.ts";
import { targets } from "../src/targets.ts";
import { cli } from "./cli.ts";
import { describeWith, main, run, serve, succeed, tempFolder } from "./support.ts";

let program: Command;

beforeAll(async () => {
  program = new Command("dmkit").description("…");
  await addCommands(
    program,
    ["all"],
    () => {},
    async () => targets,
  );
});

const sources: CompletionSources = {
  targets: async () => targets,
  devices: async (server) => [
    { name: server === undefined ? "disk" : `disk-of-${server}`, targets: ["writeboost"] },
    { name: "other", targets: ["zero", "linear"] },
  ],
  exports: async () => ["first", "second"],
};

async function completed(...words: string[]): Promise<readonly string[] | "files"> {
  const found = await complete(program, words, sources);
  return "files" in found ? "files" : found.candidates.map(({ word }) => word);
}

describe("completion", () => {
  it("knows commands, subcommands and options, but not the hidden", async () => {
    expect(await completed("sta")).toEqual(["status", "stack"]);
    expect(await completed("com")).toEqual(["compare", "completion"]);
    expect(await completed("export", "")).toEqual(["add", "rm", "ls"]);
    expect(await completed("serve", "--print")).toEqual(["--print-uri"]);
    expect(await completed("status", "--js")).toEqual(["--json"]);
  });

  it("knows the choices of an option and of an argument", async () => {
    expect(await completed("serve", "--log", "")).toEqual(["debug", "info", "warn", "error"]);
    expect(await completed("completion", "f")).toEqual(["fish"]);
    expect(await completed("serve", "--name", "")).toEqual([]);
    expect(await completed("serve", "--pidfile", "")).toBe("files");
  });

  it("asks the server for devices and exports, the one that was typed", async () => {
    expect(await completed("status", "")).toEqual(["disk", "other"]);
    expect(await completed("status", "-C", "123", "")).toEqual(["disk-of-123", "other"]);
    expect(await completed("export", "rm", "s")).toEqual(["second"]);
    expect(await completed("export", "add", "name", "o")).toEqual(["other"]);
    const broken = { ...sources, devices: () => Promise.reject(new Error("no server")) };
    expect(await complete(program, ["status", ""], broken)).toEqual({ candidates: [] });
  });

  it("knows the tunables and messages of a device's targets", async () => {
    expect(await completed("message", "disk", "writeback_")).toContain("writeback_threshold");
    expect(await completed("message", "disk", "drop_c")).toEqual(["drop_caches"]);
    expect(await completed("message", "other", "")).toEqual([]);
    expect(await completed("message", "disk", "writeback_threshold", "")).toEqual([]);
    expect(await completed("targets", "z")).toEqual(["zero", "zram"]);
  });

  it("leaves files to the shell", async () => {
    expect(await completed("serve", "")).toBe("files");
    expect(await completed("fsck", "a.img", "")).toBe("files");
    expect(await completed("create", "")).toEqual([]);
  });

  it("has no kinds of arguments that no command has", () => {
    for (const path of Object.keys(argumentKinds)) {
      let command: Command | undefined = program;
      for (const name of path.split(" "))
        command = command?.commands.find((one) => one.name() === name || one.aliases().includes(name));
      expect(command?.registeredArguments.length, path).toBeGreaterThanOrEqual(path === "ls" ? 0 : 1);
    }
  });
});

/** What is bold on a terminal, a character, a backspace and the character again, is that character. */
function plainText(text: string): string {
  return text
    .split("\b")
    .map((part, index, parts) => (index < parts.length - 1 ? part.slice(0, -1) : part))
    .join("");
}

/** A folder with a `dmkit` for shells. */
function onPath(): string {
  const folder = tempFolder();
  writeFileSync(join(folder, "dmkit"), `#!/bin/sh\nexec ${process.execPath} ${main} "$@"\n`);
  chmodSync(join(folder, "dmkit"), 0o755);
  for (const shell of ["bash", "zsh", "fish"] as const)
    writeFileSync(join(folder, shell), completionScripts[shell]);
  return folder;
}

describeWith(["bash", "zsh", "fish"], "shells", () => {
  it("take the scripts, and complete with what runs", async () => {
    const folder = onPath();
    const server = await serve(["mem:1M", "--name", "vm1", "-C", join(folder, "control")]);
    const env = {
      ...process.env,
      PATH: `${folder}:${process.env["PATH"]}`,
      HOME: folder,
      DMKIT_CONTROL: join(folder, "control"),
    };
    expect(await succeed("dmkit", ["completion", "bash"], { env })).toBe(completionScripts.bash);
    const bash = `source ${folder}/bash; COMP_WORDS=(dmkit status vm); COMP_CWORD=2; _dmkit; echo "\${COMPREPLY[@]}"
      COMP_WORDS=(dmkit table ""); COMP_CWORD=2; _dmkit; echo "\${COMPREPLY[@]}"`;
    expect(await succeed("bash", ["--norc", "-c", bash], { env })).toBe("vm1\nvm1\n");
    const fish = `source ${folder}/fish; complete -C "dmkit status vm"`;
    expect(await succeed("fish", ["--no-config", "-c", fish], { env })).toMatch(/^vm1\t/);
    // Its completions need a terminal; that it is a program zsh takes can be seen.
    const zsh = `compdef() { print -r -- "$@"; }; source ${folder}/zsh; whence -w _dmkit`;
    expect(await succeed("zsh", ["-f", "-c", zsh], { env })).toBe("_dmkit dmkit\n_dmkit: function\n");
    await server.stop();
    // Nobody is there: nothing is said.
    expect(await run("dmkit", ["complete", "--", "status", ""], { env })).toEqual({
      code: 0,
      stdout: "",
      stderr: "",
    });
  });
});

describeWith(["mandoc", "groff"], "the manual", () => {
  it("has a page for every command and one for the targets, without an error", async () => {
    const folder = join(tempFolder(), "man");
    expect(await cli("man", "--into", folder)).toMatchObject({ code: 0, stderr: "" });
    const pages = readdirSync(folder);
    const visible = program.commands.filter((one) => !["complete"].includes(one.name()));
    expect(pages.toSorted()).toEqual(
      ["dmkit.1", "dmkit-targets.7", ...visible.map((one) => `dmkit-${one.name()}.1`)].toSorted(),
    );
    for (const page of pages) {
      const path = join(folder, page);
      const lint = await run("mandoc", ["-Tlint", "-Wwarning", path]);
      expect(lint.stdout.split("\n").filter((line) => line !== "" && !line.includes("missing date"))).toEqual(
        [],
      );
      expect(await run("groff", ["-man", "-ww", "-Tutf8", "-z", path])).toMatchObject({
        code: 0,
        stderr: "",
      });
    }
    const serving = await succeed("mandoc", ["-Tascii", join(folder, "dmkit-serve.1")]);
    const plain = plainText(serving);
    for (const word of ["--table <line>", "dmkit serve stack.yaml", "DESCRIPTION"])
      expect(plain).toContain(word);
    const all = plainText(await succeed("mandoc", ["-Tascii", join(folder, "dmkit-targets.7")]));
    for (const { name } of targets.list()) expect(all).toContain(name.toUpperCase());
    expect(all).toContain("writeback_threshold");
  });

  it("prints one page, and says which there are", async () => {
    expect((await cli("man", "targets")).stdout).toContain('.TH DMKIT-TARGETS 7 "" "dmkit ');
    expect(await cli("man", "nothing")).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/there is no page "nothing".*\n\s+Pages: serve, /),
    });
  });

  it("does not take a file for a folder", async () => {
    const folder = tempFolder();
    mkdirSync(join(folder, "x"));
    writeFileSync(join(folder, "file"), "");
    expect(await cli("man", "--into", join(folder, "file"))).toMatchObject({ code: 1 });
  });
});
