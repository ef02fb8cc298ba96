/** `dmkit fsck`: is an image that nobody serves all right, and if not, can it be put right? */
import { type Command, Option } from "commander";
import { type ImageFlags, imageOptions, imageWords, undoOption } from "../../offline/cli.ts";
import { type FsckFlags, fsck } from "../../offline/fsck.ts";
import type { Finish, Known } from "../command.ts";

const examples = `
Exit codes, added up: 0 clean, 1 errors corrected, 4 errors left, 8 operational error, 16 usage, 32 cancelled.
Notes (info) are what a crash leaves and the next opening deals with: they do not count.

Examples:
  dmkit fsck cache.img --backing disk.img                 writes nothing
  dmkit fsck cache.img --repair --undo before.undo        dmkit undo before.undo takes it back
  dmkit fsck image --repair --bad unreadable --undo u     gives up what is lost in a compressed image
  dmkit fsck --json image                                 for programs; the schema is in OFFLINE.md
`;

export async function addFsck(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const markers = formats.filter(({ marksBad }) => marksBad === true).map(({ name }) => name);
  const command = program
    .command("fsck")
    .summary("check an image that nobody serves, and repair it")
    .description(
      "Verifies everything that can be verified. Without --repair nothing is written; with it, only what needs no guess.",
    )
    .argument("<device...>", "devices of one image; the first says what it is")
    .option("--repair", "put right what needs no guess", false)
    .addOption(
      new Option(
        "--bad <what>",
        `with --repair, ${markers.join(", ")}: mark contents that are gone as lost, or make them zeroes, which nobody is told`,
      ).choices(["unreadable", "zero"]),
    );
  imageOptions(undoOption(command), formats)
    .addHelpText("after", examples)
    .action(async (devices: string[], flags: ImageFlags & FsckFlags) => {
      finish(await fsck(imageWords(devices, flags, formats), flags, formats));
    });
}
