/** `dmkit fsck`: is an image that nobody serves all right, and if not, can it be put right? */
import { type Command, Option } from "commander";
import { imageFormats } from "../formats.ts";
import { type ImageFlags, imageOptions, imageWords, undoOption } from "../offline/cli.ts";
import { type FsckFlags, fsck } from "../offline/fsck.ts";

const examples = `
Exit codes, added up: 0 clean, 1 errors corrected, 4 errors left, 8 operational error, 16 usage, 32 cancelled.
Notes (info) are what a crash leaves and the next opening deals with: they do not count.

Examples:
  dmkit fsck cache.img --backing disk.img                 writes nothing
  dmkit fsck cache.img --repair --undo before.undo        dmkit undo before.undo takes it back
  dmkit fsck image --repair --bad unreadable --undo u     gives up what is lost in a compressed image
  dmkit fsck --json image                                 for programs; the schema is in OFFLINE.md
`;

export function addFsck(program: Command, finish: (code: number) => void): void {
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
        "with --repair, compression: mark contents that are gone as lost, or make them zeroes, which nobody is told",
      ).choices(["unreadable", "zero"]),
    );
  imageOptions(undoOption(command), imageFormats)
    .addHelpText("after", examples)
    .action(async (devices: string[], flags: ImageFlags & FsckFlags) => {
      finish(await fsck(imageWords(devices, flags, imageFormats), flags, imageFormats));
    });
}
