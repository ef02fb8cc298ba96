/** `dmkit format`: makes a new image, on blank devices only unless somebody insists. */
import { type ImageFormat, defaultOf, describeRange } from "@dmkit/block-io";
import type { Command } from "commander";
import { type ImageFlags, imageOptions, imageWords, undoOption } from "../../offline/cli.ts";
import { formatNamed } from "../../offline/detect.ts";
import { formatImage, optionWords } from "../../offline/format-image.ts";
import { assignRoles } from "../../offline/roles.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import type { Finish, Known } from "../command.ts";
import { repeated } from "../values.ts";

interface FormatFlags extends ImageFlags {
  readonly option: readonly string[];
  readonly force: boolean;
  readonly undo?: string;
}

const examples = `
Devices come in the order of the roles; roles also have options. Without --force only a blank device is formatted: one
whose first MiB is zero, with nothing on it that is known: our own formats, file systems, partition tables, volumes,
swap space, images. A cache is not taken as the device below another one either.

Examples:
  truncate -s 1G cache.img
  dmkit format writeboost cache.img --backing disk.img
  dmkit format compression --option algorithm=zstd image.img
  dmkit format compression --help-options       what can be given with --option
`;

export async function addFormat(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const command = program
    .command("format")
    .summary("make a new image on devices")
    .description("Initialises the devices of a new image. Nothing is written if anything about it is wrong.")
    .argument(
      "<type>",
      `one of: ${formats
        .filter((one) => one.format !== undefined)
        .map(({ name }) => name)
        .join(", ")}`,
    )
    .argument("[device...]", "devices in the order of the roles")
    .option("-o, --option <name=value>", "option of the format; can be repeated", repeated, [])
    .option("--help-options", "list the options of the format", false)
    .option("--force", "overwrite whatever is there", false);
  imageOptions(undoOption(command), formats)
    .addHelpText("after", examples)
    .action(async (type: string, devices: string[], flags: FormatFlags & { helpOptions: boolean }) => {
      finish(
        await failing(async () => {
          const format = formatNamed(type, formats);
          return flags.helpOptions ? helpOptions(format) : run(format, devices, flags, formats);
        }),
      );
    });
}

function helpOptions({ name, roles, formatOptions = {} }: ImageFormat): number {
  print(`${name}: devices\n`);
  for (const role of roles)
    print(`  ${role.name.padEnd(14)} ${role.help}${role.required ? "" : " (optional)"}\n`);
  print("options\n");
  for (const [option, spec] of Object.entries(formatOptions)) {
    const fallback = defaultOf(spec) === undefined ? "" : `, default ${String(defaultOf(spec))}`;
    print(`  ${option.padEnd(14)} ${spec.help} (${describeRange(spec)}${fallback})\n`);
  }
  return exitCodes.ok;
}

async function run(
  format: ImageFormat,
  devices: readonly string[],
  flags: FormatFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const references = assignRoles(format, imageWords(devices, flags, formats));
  const request = {
    format,
    references,
    options: optionWords(flags.option),
    force: flags.force,
    undo: flags.undo,
  };
  const done = await interruptible("format", flags.quiet || flags.json, (work) =>
    formatImage(request, formats, work),
  );
  if (done === "cancelled") return tellCancelled("format");
  const written = [...done.value].map((role) => references[role] ?? role);
  if (flags.json) printJson({ format: format.name, devices: references, written });
  else if (!flags.quiet) {
    print(
      written.length === 0
        ? `nothing was written: it is ${format.name} already\n`
        : `formatted ${written.join(", ")} as ${format.name}\n`,
    );
  }
  return exitCodes.ok;
}
