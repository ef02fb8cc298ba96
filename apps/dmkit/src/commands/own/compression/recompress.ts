/** `dmkit recompress`: a compressed image in another format or algorithm, on another device. */
import {
  type BlockDevice,
  BlockIoError,
  type ImageFormat,
  type OfflineWork,
  describeSize,
  describeRange,
  parseOptions,
} from "@dmkit/block-io";
import { type RecompressOptions, type Recompressed, recompress, recompressOptions } from "@dmkit/compression";
import type { Command } from "commander";
import { isNewFile, withDestination } from "../../../destination.ts";
import { withReading } from "../../../devices.ts";
import { type ImageFlags, outputOptions, undoOption } from "../../../offline/cli.ts";
import { optionWords } from "../../../offline/format-image.ts";
import { type OpenImage, refuseTwice, withImage } from "../../../offline/image.ts";
import { refuseContents } from "../../../offline/protect.ts";
import { withUndo } from "../../../offline/undo/session.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../../offline/work.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { usage } from "../../../ui/usage.ts";
import type { Finish, Known } from "../../command.ts";
import { repeated } from "../../values.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

interface RecompressFlags extends ImageFlags {
  readonly option: readonly string[];
  readonly force: boolean;
  readonly undo?: string;
}

const examples = `
Options of --option:
${Object.entries(recompressOptions)
  .map(([name, spec]) => `  ${name.padEnd(12)} ${spec.help} (${describeRange(spec)})`)
  .join("\n")}

Examples:
  dmkit recompress old.img new.img -o algorithm=zstd
  dmkit recompress v1.img v2.img                from format 1 to format 2
`;

export async function addRecompress(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const command = program
    .command("recompress")
    .summary("write a compressed image anew, compressed otherwise")
    .description(
      "Reads a compressed image and writes what it holds to another device as a new compressed image.",
    )
    .argument("<device>", "the image; it is only read")
    .argument("<out>", "where to; a file that does not exist is made as large as the image")
    .option("--type <name>", "format of the image, if it cannot be told")
    .option("-o, --option <name=value>", "see below; can be repeated", repeated, [])
    .option("--force", "overwrite whatever is on OUT", false);
  outputOptions(undoOption(command))
    .addHelpText("after", examples)
    .action(async (device: string, out: string, flags: RecompressFlags) => {
      finish(await failing(() => run(device, out, flags, formats)));
    });
}

async function run(
  from: string,
  to: string,
  flags: RecompressFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const options = parseOptions(recompressOptions, optionWords(flags.option), "--option");
  refuseTwice([from, to]);
  const words = { devices: [from], roles: {}, type: flags.type };
  const done = await withImage(words, { formats, environment: commandEnvironment }, (image) =>
    interruptible("recompress", flags.quiet || flags.json, (work) =>
      convert(image, to, options, flags, work, formats),
    ),
  );
  if (done === "cancelled") return tellCancelled("recompress");
  if (flags.json) printJson({ from, to, ...done.value });
  else if (!flags.quiet) {
    const { contents, payload, lost } = done.value;
    const gone = lost > 0 ? `; ${lost} blocks were lost before, and are marked so` : "";
    print(`recompressed ${describeSize(contents)} to ${describeSize(payload)} on ${to}${gone}\n`);
  }
  return exitCodes.ok;
}

async function convert(
  { format, devices, references }: OpenImage,
  to: string,
  options: RecompressOptions,
  { force, undo }: RecompressFlags,
  work: OfflineWork,
  formats: readonly ImageFormat[],
): Promise<Recompressed> {
  const [source] = Object.values(devices);
  if (format.name !== "compression" || source === undefined) {
    throw new BlockIoError(`is ${format.name}, not a compressed image`, {
      code: "EFORMAT",
      device: Object.values(references)[0],
    });
  }
  const isNew = isNewFile(to);
  if (isNew && undo !== undefined)
    throw usage(`--undo: ${to} is made anew, and nothing is overwritten`, "Leave --undo out.");
  if (!isNew && !force) await refuseOverwrite(to, formats);
  // That was looked at just now.
  const destination = { size: source.size, environment: work.environment, overwrite: true };
  return withDestination(to, destination, async ({ device: out, blank }) => {
    const subject = { role: "out", reference: to, device: out };
    return withUndo(blank ? undefined : undo, "recompress", [subject], work.environment, ([given]) =>
      recompress(source, given as BlockDevice, options, work),
    );
  });
}

async function refuseOverwrite(to: string, formats: readonly ImageFormat[]): Promise<void> {
  await withReading(to, commandEnvironment, (out) => refuseContents({ out }, ["out"], formats));
}
