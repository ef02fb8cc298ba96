/** What the offline commands have in common on the command line. */
import type { ImageFormat } from "@dmkit/block-io";
import type { Command } from "commander";
import type { ImageWords } from "./image.ts";

/** Flags of every command that opens an image. */
export interface ImageFlags {
  readonly type?: string;
  readonly quiet: boolean;
  readonly json: boolean;
  /** Those of the roles are here, too: `--backing` is `backing`. */
  readonly [name: string]: unknown;
}

/** Adds `--type` and an option for each role of any format. */
export function imageOptions(command: Command, formats: readonly ImageFormat[]): Command {
  command.option(
    "--type <name>",
    `format of the image, if it cannot be told: ${formats.map(({ name }) => name).join(", ")}`,
  );
  for (const [name, help] of rolesOf(formats)) command.option(`--${name} <device>`, help);
  return outputOptions(command);
}

export function outputOptions(command: Command): Command {
  return command
    .option("--json", "print JSON", false)
    .option("-q, --quiet", "print no progress and no summary", false);
}

export function undoOption(command: Command): Command {
  return command.option("--undo <file>", "save what is overwritten to this new file; see: dmkit undo --help");
}

/** The image that words and flags name. */
export function imageWords(
  devices: readonly string[],
  flags: ImageFlags,
  formats: readonly ImageFormat[],
): ImageWords {
  const roles: Record<string, string> = {};
  for (const name of rolesOf(formats).keys()) {
    const value = flags[name];
    if (typeof value === "string") roles[name] = value;
  }
  return { devices, roles, type: flags.type };
}

/** All roles of all formats, with what they are for. */
function rolesOf(formats: readonly ImageFormat[]): Map<string, string> {
  const helps = new Map<string, string>();
  for (const { name: format, roles } of formats) {
    for (const { name, help } of roles) {
      const before = helps.get(name);
      helps.set(name, `${before === undefined ? "" : `${before}; `}${format}: ${help}`);
    }
  }
  return helps;
}
