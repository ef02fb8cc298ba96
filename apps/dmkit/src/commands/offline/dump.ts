/** `dmkit dump`: the metadata of an image as JSON. */
import { type ImageFormat } from "@dmkit/block-io";
import type { Command } from "commander";
import { requireNewFile, writeWholeFile } from "../../destination.ts";
import { type ImageFlags, imageOptions, imageWords } from "../../offline/cli.ts";
import { dumpImage } from "../../offline/dump.ts";
import { withImage } from "../../offline/image.ts";
import { failing, interruptible, print, tellCancelled } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import type { Finish, Known } from "../command.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

interface DumpFlags extends ImageFlags {
  readonly output?: string;
}

const examples = `
Examples:
  dmkit dump cache.img --backing disk.img -o cache.json
  dmkit dump image | jq .dump
  dmkit restore cache.json cache.img            puts it back
`;

export async function addDump(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const command = program
    .command("dump")
    .summary("write the metadata of an image as JSON")
    .description("Writes the metadata of an image as JSON, without loss. Nothing is written to the image.")
    .argument("<device...>", "devices of one image; the first says what it is")
    .option("-o, --output <file>", "a new file instead of standard output");
  imageOptions(command, formats)
    .addHelpText("after", examples)
    .action(async (devices: string[], flags: DumpFlags) => {
      finish(await failing(() => dump(devices, flags, formats)));
    });
}

async function dump(
  devices: readonly string[],
  flags: DumpFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const { output, quiet } = flags;
  if (output !== undefined) requireNewFile(output);
  const words = imageWords(devices, flags, formats);
  const options = { formats, environment: commandEnvironment };
  const result = await withImage(words, options, (image) =>
    interruptible("dump", quiet || flags.json, (work) => dumpImage(image, work)),
  );
  if (result === "cancelled") return tellCancelled("dump");
  if (output === undefined) print(result.value);
  else writeWholeFile(output, result.value);
  return exitCodes.ok;
}
