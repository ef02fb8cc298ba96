/** `dmkit completion SHELL`, and what the scripts it prints call. */
import { printable } from "@dmkit/block-io";
import { Argument, type Command } from "commander";
import { type CompletionSources, complete } from "../completion/candidates.ts";
import { FILES, type Shell, completionScripts, shells } from "../completion/scripts.ts";
import { ControlClient } from "../control/client.ts";
import { findSocket } from "../control/sockets.ts";
import type { DeviceSnapshot, ExportSnapshot } from "../manager/snapshot.ts";
import { exitCodes } from "../ui/terminal.ts";
import type { Finish, Known, Whole } from "./command.ts";

// Milliseconds that somebody who has pressed Tab waits for a server.
const PATIENCE = 1000;

export function addCompletion(program: Command, finish: Finish, known: Known, whole: Whole): void {
  program
    .command("completion")
    .summary("print a script that completes commands in a shell")
    .description(
      "Prints a script for a shell. With it, Tab completes commands, options, targets, names of devices and exports of the server that runs, tunables and messages.",
    )
    .addArgument(new Argument("<shell>").choices(shells))
    .addHelpText(
      "after",
      "\nExamples:\n  source <(dmkit completion bash)\n  dmkit completion fish > ~/.config/fish/completions/dmkit.fish\n",
    )
    .action((shell: Shell) => {
      process.stdout.write(completionScripts[shell]);
      finish(exitCodes.ok);
    });
  program
    .command("complete", { hidden: true })
    .description("Prints what the last word may become, a line each; for shells.")
    .argument("[word...]", "what was typed after dmkit")
    .action(async (words: string[]) => {
      const found = await complete(await whole(), words, sourcesOf(known));
      const lines =
        "files" in found
          ? [FILES]
          : found.candidates.map(({ word, help }) => `${printable(word)}\t${printable(help)}`);
      process.stdout.write(lines.map((line) => `${line}\n`).join(""));
      finish(exitCodes.ok);
    });
}

function sourcesOf(targets: Known): CompletionSources {
  return {
    targets,
    devices: async (server) =>
      (await ask<readonly DeviceSnapshot[]>(server, "list")).map(({ name, segments }) => ({
        name,
        targets: [...new Set(segments.map(({ target }) => target))],
      })),
    exports: async (server) =>
      (await ask<readonly ExportSnapshot[]>(server, "export.list")).map(({ name }) => name),
  };
}

async function ask<Result>(server: string | undefined, method: string): Promise<Result> {
  const client = await ControlClient.connect(await findSocket(server));
  const timer = setTimeout(() => client.close(), PATIENCE);
  try {
    return await client.call<Result>(method, {});
  } finally {
    clearTimeout(timer);
    client.close();
  }
}
