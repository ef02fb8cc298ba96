/** dmsetup's verbs against a running server. */
import { isUtf8 } from "node:buffer";
import { resolve } from "node:path";
import { BlockIoError, type Health, describeSize } from "@dmkit/block-io";
import type { Command } from "commander";
import { healthLines } from "../../manager/health-watch.ts";
import type { DeviceSnapshot, SegmentStatus } from "../../manager/snapshot.ts";
import { startSteps } from "../../ui/steps.ts";
import { tooLong } from "../../control/client.ts";
import { LONGEST_REQUEST } from "../../control/protocol.ts";
import type { Finish, Known } from "../command.ts";
import { type ControlFlags, columns, print, printJson, verb, withServer } from "./control.ts";
import { integer, repeated } from "../values.ts";
import { BY_A_LINK } from "../../ui/foreign-words.ts";
import { usage } from "../../ui/usage.ts";
import { refuseUseless } from "../../ui/useless-options.ts";

interface TableFlags extends ControlFlags {
  readonly table: readonly string[];
  readonly readOnly?: boolean;
  readonly force?: boolean;
}

interface RemoveFlags extends ControlFlags {
  readonly force?: boolean;
  readonly timeout?: number;
}

interface TableAnswer {
  readonly name: string;
  readonly table: string;
  readonly inactiveTable?: string;
}

interface StatusAnswer {
  readonly name: string;
  readonly state: DeviceSnapshot["state"];
  readonly segments: readonly SegmentStatus[];
  readonly health: Health;
}

/** @param finish is given the exit code. */
export function addDeviceVerbs(program: Command, finish: Finish, known: Known): void {
  for (const add of [addCreate, addRemove, addList, addTable, addStatus, addMessage])
    add(program, finish, known);
  for (const add of [addSuspend, addResume, addReload, addRename]) add(program, finish);
}

function addCreate(program: Command, finish: Finish): void {
  verb(program, "create", "create a device from a table")
    .argument("<name>", "name of the device; other tables refer to it as dm:NAME")
    .option(
      "-t, --table <line>",
      "table line; repeat it for more lines. Without: read from stdin",
      repeated,
      [],
    )
    .option("-r, --read-only", "open everything below read-only")
    .addHelpText(
      "after",
      examples(
        ['dmkit create disk --table "0 2097152 linear disk.img 0"', ""],
        ["dmkit create fast < table.txt", ""],
        ['dmkit create cached --table "0 2097152 writeboost 0 dm:disk cache.img"', "on another device"],
      ),
    )
    .action(async (name: string, flags: TableFlags) => {
      const table = await tableText(flags);
      finish(
        await withServer(flags, async ({ call }) => {
          const params = { name, table, readOnly: flags.readOnly, folder: process.cwd() };
          const made = await call<{ name: string; size: number }>("create", params);
          if (flags.json) printJson(made);
        }),
      );
    });
}

const givenUp =
  "removed, but its storage does not answer: what was written and not flushed may be lost, and what it stands on stays open and locked until the storage answers or the server ends";

function addRemove(program: Command, finish: Finish): void {
  verb(program, "remove", "close a device that nothing uses")
    .argument("<name>", "name of the device")
    .option(
      "-f, --force",
      "withdraw its exports and disconnect their clients first; and free its name even if its storage does not answer",
    )
    .option("--timeout <s>", "seconds that --force waits for its storage (default: 10)", integer(0, 3600))
    .addHelpText("after", examples(["dmkit remove disk", ""], ["dmkit remove --force disk", ""]))
    .action(async (name: string, flags: RemoveFlags, command: Command) => {
      refuseUseless(command, [{ option: "timeout", without: "force" }]);
      const { force, timeout } = flags;
      finish(
        await withServer(flags, async ({ call }) => {
          const answer = await call<{ closed: boolean } | null>("remove", { name, force, timeout });
          if (flags.json) printJson(answer);
          // An answer of a server before this one is empty.
          else if (answer?.closed === false) process.stderr.write(`${name}: ${givenUp}\n`);
        }),
      );
    });
}

function addList(program: Command, finish: Finish, known: Known): void {
  verb(program, "ls", "list the devices of a server")
    .option("--tree", "show what stands on what", false)
    .addHelpText(
      "after",
      examples(["dmkit ls", ""], ["dmkit ls --tree", "with exports and files"], ["dmkit ls --json", ""]),
    )
    .action(async (flags: ControlFlags & { tree: boolean }) => {
      finish(
        await withServer(flags, async ({ call }) => {
          const devices = await call<readonly DeviceSnapshot[]>("list");
          if (flags.json) printJson(devices);
          // Knows all targets, and is loaded only by who needs it.
          else if (flags.tree) print((await import("./tree.ts")).deviceTree(devices, await known()));
          else if (devices.length > 0) {
            print(columns(devices.map(listRow)));
            if (flags.quiet !== true) for (const { name, health } of devices) tellHealth(name, health);
          } else if (flags.quiet !== true) print("No devices");
        }),
      );
    });
}

/** On the other channel: who parses what is printed does not want it. */
function tellHealth(name: string, health: Health): void {
  for (const line of healthLines(name, health)) process.stderr.write(`${line}\n`);
}

function listRow({ name, size, state, readOnly, segments, health }: DeviceSnapshot): string[] {
  const notes = [
    state === "live" ? "" : state.toUpperCase(),
    readOnly ? "read-only" : "",
    // A device without a table is failed, too.
    health.state === "ok" || state === "broken" ? "" : health.state.toUpperCase(),
  ].filter((note) => note !== "");
  const kinds = [...new Set(segments.map(({ target }) => target))].join(", ");
  return [name, describeSize(size), kinds, notes.join(", ")];
}

function addTable(program: Command, finish: Finish): void {
  verb(program, "table", "print tables as they are now")
    .argument("[name]", "name of a device; all without")
    .option("--inactive", "the table loaded by reload, if there is one", false)
    .addHelpText("after", examples(["dmkit table disk", ""], ["dmkit table disk > table.txt", "to keep it"]))
    .action(async (name: string | undefined, flags: ControlFlags & { inactive: boolean }) => {
      finish(
        await withServer(flags, async ({ call }) => {
          const tables = await call<readonly TableAnswer[]>("table", { name });
          if (flags.json) printJson(tables);
          else {
            for (const { name: device, table, inactiveTable = "" } of tables) {
              print(
                prefixed(flags.inactive ? inactiveTable : table, name === undefined ? device : undefined),
              );
            }
          }
        }),
      );
    });
}

function addStatus(program: Command, finish: Finish): void {
  verb(program, "status", "print status lines, or with --json their fields by name")
    .argument("[name]", "name of a device; all without")
    .addHelpText("after", examples(["dmkit status disk", ""], ["dmkit status --json disk", "fields by name"]))
    .action(async (name: string | undefined, flags: ControlFlags) => {
      finish(
        await withServer(flags, async ({ call }) => {
          const devices = await call<readonly StatusAnswer[]>("status", { name });
          if (flags.json) {
            printJson(devices);
            return;
          }
          for (const { name: device, state, segments, health } of devices) {
            const lines = segments.map(({ start, length, target, status }) =>
              `${start} ${length} ${target} ${status}`.trimEnd(),
            );
            print(prefixed(lines.join("\n"), name === undefined ? device : undefined));
            // On the other channel: who parses the lines does not want it.
            if (flags.quiet !== true && state !== "live") process.stderr.write(`${device} is ${state}\n`);
            tellHealth(device, health);
          }
        }),
      );
    });
}

function addMessage(program: Command, finish: Finish): void {
  verb(program, "message", "send a message to a device's target")
    .argument("<name>", "name of the device")
    .argument("<word...>", "the message; @SECTOR first names the segment of a table with several")
    // Words of the message that look like options are not ours.
    .allowUnknownOption()
    .addHelpText(
      "after",
      examples(
        ["dmkit message disk writeback_threshold 50", "change a tunable"],
        ["dmkit message disk drop_caches", "shows progress; Ctrl-C ends it"],
        ["dmkit message vm freeze ./new.bitmap ./new.data", "paths with ./ start here, others at the server"],
      ),
    )
    .action(async (name: string, words: readonly string[], flags: ControlFlags) => {
      finish(
        await withServer(flags, async ({ call, folder }) => {
          const steps = startSteps(words[0] ?? "message", flags.quiet === true);
          try {
            const { answer } = await call<{ answer: string }>(
              "message",
              { name, words: words.map(fromHere) },
              (progress) => steps.update(progress),
            );
            steps.stop();
            if (flags.json) printJson({ answer });
            else print(answer);
          } catch (error) {
            steps.stop();
            throw besideServer(error, words, folder);
          }
        }),
      );
    });
}

function addSuspend(program: Command, finish: Finish): void {
  verb(program, "suspend", "let requests wait, when those in flight are answered and all is flushed")
    .argument("<name>", "name of the device")
    .option("--noflush", "do not wait for requests in flight", false)
    .addHelpText("after", examples(["dmkit suspend disk && cp disk.img copy.img; dmkit resume disk", ""]))
    .action(async (name: string, flags: ControlFlags & { noflush: boolean }) => {
      finish(await withServer(flags, ({ call }) => call("suspend", { name, flush: !flags.noflush })));
    });
}

function addResume(program: Command, finish: Finish): void {
  verb(program, "resume", "let requests go on, under the table that reload has loaded if there is one")
    .argument("<name>", "name of the device")
    .addHelpText("after", examples(["dmkit resume disk", ""]))
    .action(async (name: string, flags: ControlFlags) => {
      finish(
        await withServer(flags, async ({ call }) => {
          // A table that is exchanged may have a cache to write back.
          const steps = startSteps("resume", flags.quiet === true);
          try {
            await call("resume", { name }, (progress) => steps.update(progress));
          } finally {
            steps.stop();
          }
        }),
      );
    });
}

function addReload(program: Command, finish: Finish): void {
  verb(program, "reload", "check and load a table that resume puts in place")
    .argument("<name>", "name of the device")
    .option(
      "-t, --table <line>",
      "table line; repeat it for more lines. Without: read from stdin",
      repeated,
      [],
    )
    .option("-r, --read-only", "open everything below read-only")
    .option(
      "-f, --force",
      "even if data are lost: what the present table keeps in memory, or in a cache that cannot be written back",
    )
    .option("--clear", "forget the table that was loaded", false)
    .addHelpText(
      "after",
      examples([
        'dmkit reload disk --table "0 4194304 linear larger.img 0" && dmkit resume disk',
        "clients see a new size when they reconnect",
      ]),
    )
    .action(async (name: string, flags: TableFlags & { clear: boolean }) => {
      if (flags.clear && (flags.table.length > 0 || flags.readOnly === true || flags.force === true)) {
        throw usage(
          "--clear loads no table, so --table, --read-only and --force do not go with it",
          "Reload without --clear to load another table in its place.",
        );
      }
      const table = flags.clear ? "" : await tableText(flags);
      finish(
        await withServer(flags, async ({ call }) => {
          if (flags.clear) return call("clear", { name });
          const { readOnly, force } = flags;
          return call("reload", { name, table, readOnly, force, folder: process.cwd() });
        }),
      );
    });
}

function addRename(program: Command, finish: Finish): void {
  verb(program, "rename", "give a device another name; its exports and the devices above follow")
    .argument("<name>", "name of the device")
    .argument("<new-name>", "the new one")
    .addHelpText("after", examples(["dmkit rename disk old-disk", ""]))
    .action(async (name: string, to: string, flags: ControlFlags) => {
      finish(await withServer(flags, ({ call }) => call("rename", { name, to })));
    });
}

async function tableText({ table }: TableFlags): Promise<string> {
  if (table.length > 0) return table.join("\n");
  if (process.stdin.isTTY) process.stderr.write("Type the table's lines, then Ctrl-D:\n");
  const chunks: Buffer[] = [];
  let length = 0;
  for await (const chunk of process.stdin as AsyncIterable<Buffer>) {
    length += chunk.length;
    if (length > LONGEST_REQUEST) throw tooLong();
    chunks.push(chunk);
  }
  const text = Buffer.concat(chunks);
  if (!isUtf8(text)) throw usage("the table is no UTF-8", BY_A_LINK);
  return text.toString();
}

/** `./x` and `../x` in a message are the caller's; everything else is for the server to read. */
function fromHere(word: string): string {
  return /^\.\.?\//.test(word) ? resolve(word) : word;
}

/** A file the server does not find, of those that were named, may be there where the caller is. */
export function besideServer(error: unknown, words: readonly string[], folder: string): unknown {
  if (!(error instanceof BlockIoError) || error.code !== "ENOENT" || folder === process.cwd()) return error;
  const { reason, code, device, op } = error;
  // What is missing else, such as the device or the message itself, has its own hint.
  if (!words.some((word) => device === word || device === resolve(folder, word))) return error;
  const hint = `Names without ./ start where the server runs: ${folder}`;
  return new BlockIoError(reason, { code, device, op, hint });
}

function prefixed(text: string, name: string | undefined): string {
  if (name === undefined || text === "") return text;
  return text.replaceAll(/^/gm, `${name}: `);
}

/** Help text of examples, with remarks beside them. */
export function examples(...lines: readonly (readonly [command: string, remark: string])[]): string {
  const width = Math.max(...lines.map(([command]) => command.length));
  const shown = lines.map(([command, remark]) => `  ${command.padEnd(width)}  ${remark}`.trimEnd());
  return `\nExamples:\n${shown.join("\n")}\n`;
}
