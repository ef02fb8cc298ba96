/** `dmkit cow …`: images made of a base and copy-on-write layers. */
import { SECTOR } from "@dmkit/block-io";
import { aliasedBlockSizes } from "@dmkit/cow";
import { type Command, InvalidArgumentError, Option } from "commander";
import { exitCodes } from "../../../ui/terminal.ts";
import { refuseUseless } from "../../../ui/useless-options.ts";
import { integer, size } from "../../values.ts";
import type { Finish } from "../../command.ts";
import { type CreateFlags, createFiles } from "./create.ts";
import { type NewTopFlags, dropSnapshot, listSnapshots, revert, takeSnapshot } from "./snapshots.ts";
import { type ResizeFlags, resizeStack } from "./resize.ts";
import {
  type CommitFlags,
  type DiffFlags,
  type Flags,
  type FlattenFlags,
  type Range,
  checkStack,
  commit,
  diffStack,
  flattenStack,
  info,
  pairStack,
  rebaseStack,
  squashStack,
} from "./verbs.ts";

const sector = integer(0, 17_592_186_044_415);
const layer = integer(1, 250);

const examples = `
A STACK is a base image, then a bitmap and a data file for each layer, bottom to top. Layers are counted from 1.
Behind the base and behind each data file may stand the sector where it starts, as in a table: BASE 40 MAP DATA 64.
Left out it is what the layer has recorded. A file whose name is a number is written ./7.

Examples:
  dmkit cow create w.map w.img --base base.img          a writable layer on a golden image
  dmkit serve --table "0 2097152 cow base.img 0 w.map w.img 0"
  dmkit cow info base.img w.map w.img
  dmkit cow create v.map v.img --on w.map               freeze w, and write to v from now on
  dmkit cow commit base.img w.map w.img v.map v.img     v into w
  dmkit cow commit --layer 1 base.img w.map w.img v.map v.img    w into the base; v lies on that then
  dmkit message vm commit 1                             the same, while vm is served
  dmkit cow snapshot monday v.map v.img base.img w.map w.img    w is the snapshot, and v is written
  dmkit message vm snapshot monday ./v.map ./v.img       the same, while vm is served
  dmkit cow snapshots base.img w.map w.img v.map v.img
  dmkit cow snapshot-revert monday u.map u.img base.img w.map w.img v.map v.img    u is written, on w; v stays
  dmkit cow snapshot-delete monday base.img w.map w.img v.map v.img    w into v, which lies on the base then
  dmkit cow squash 1..2 base.img w.map w.img v.map v.img
  dmkit cow flatten out.img base.img w.map w.img
  truncate -s 20G base.img; dmkit cow resize 20G base.img w.map w.img
  dmkit cow commit /dev/sdb 2048 w.map /dev/sdb 4196352   base and data on one disk
`;

/** @param finish is given the exit code. */
export function addCow(program: Command, finish: Finish): void {
  const cow = program
    .command("cow")
    .summary("manage images made of copy-on-write layers")
    .description(
      "Creates, inspects and merges the layers of the cow target. Nobody may be serving what is written.",
    )
    .addHelpText("after", examples);
  const add = (name: string, summary: string): Command => cow.command(name).description(summary);

  add("create", "Makes a new, empty layer: two sparse files.")
    .argument("<bitmap>", "bitmap file; must not exist")
    .argument("<data>", "data file; must not exist")
    .option("--base <image>", "lie on this base")
    .option("--on <bitmap>", "lie on the layer of this bitmap, which is frozen")
    .option("--size <size>", "size of the target; needed without --base and --on", size(SECTOR, SECTOR))
    .option("--base-offset <sectors>", "sector of the base where the target starts", sector)
    .option("--data-offset <sectors>", "sector of the data file where the layer starts", sector)
    .option("--blank", "leave the identity to whoever puts the layer on top (message freeze)", false)
    .action(async (bitmap: string, data: string, flags: CreateFlags, command: Command) => {
      refuseUseless(command, [
        { option: "base", beside: "on" },
        { option: "base-offset", beside: "on" },
      ]);
      await createFiles({ bitmap, data }, flags);
      finish(exitCodes.ok);
    });

  stackCommand(add("info", "Tells what lies on what, and how much each layer holds."))
    .argument("<stack...>")
    .option("--json", "print JSON")
    .action(async (words: string[], flags: Flags) => finish(await info(words, flags)));

  stackCommand(
    add("check", "Looks for everything that is wrong with a stack; writes nothing. Exit code 1: problems."),
  )
    .argument("<stack...>")
    .option("--json", "print JSON")
    .action(async (words: string[], flags: Flags) => finish(await checkStack(words, flags)));

  stackCommand(
    add("commit", "Moves the top layer into the one below, or into the base. Run it again to finish."),
  )
    .argument("<stack...>")
    .option("--drop", "then make the layer below the top", false)
    .option(
      "--layer <n>",
      "this one below the top, counted from 1 at the bottom; leave it out afterwards",
      layer,
    )
    .action(async (words: string[], flags: CommitFlags, command: Command) => {
      refuseUseless(command, [{ option: "drop", beside: "layer" }]);
      finish(await commit(words, flags));
    });

  stackCommand(add("squash", "Makes one layer of A..B: it is B, on what A lay on. Run it again to finish."))
    .argument("<A..B>", "layers, counted from 1 at the bottom", severalLayers)
    .argument("<stack...>")
    .action(async (which: Range, words: string[], flags: Flags) =>
      finish(await squashStack(which, words, flags)),
    );

  add("resize", "Makes all layers of a stack longer, or shorter with --shrink. Run it again to finish.")
    .argument("<size>", "of the target, such as 20G", size(SECTOR, SECTOR))
    .argument("<stack...>")
    .option("--shrink", "may be shorter, where the layers hold nothing but zeroes behind the new end", false)
    .option("--force", "may be longer over what lies behind the data of the layers: that is lost", false)
    .option("--keep <file>", "keep the old bitmap of the top under this name")
    .option("-q, --quiet", "show no progress")
    .action(async (bytes: number, words: string[], flags: ResizeFlags) =>
      finish(await resizeStack(bytes, words, flags)),
    );

  stackCommand(add("rebase", "Puts the top layer on another stack; it shows the same as before."))
    .argument("<stack...>")
    .requiredOption("--onto <stack...>", "the new base, then its layers")
    .action(async (words: string[], flags: Flags & { onto: string[] }) =>
      finish(await rebaseStack(words, flags)),
    );

  stackCommand(
    add(
      "pair",
      "Records anew where the layers' data is and what is on it: after it was moved, copied or changed by hand.",
    ),
  )
    .argument("<stack...>")
    .option("--force", "take data devices whose label names another layer", false)
    .action(async (words: string[], flags: Flags & { force: boolean }) =>
      finish(await pairStack(words, flags)),
    );

  stackCommand(
    add("snapshot", "Makes the last layer a snapshot, and a new layer on it; prints the table with that."),
  )
    .argument("<name>", "what the snapshot is called: one word of up to 63 bytes without comma and @")
    .argument("<bitmap>", "bitmap file of the new layer; must not exist")
    .argument("<data>", "data file of the new layer; must not exist")
    .argument("<stack...>")
    .option("--data-offset <sectors>", "sector of the data file where the new layer starts", sector)
    .action(async (name: string, bitmap: string, data: string, words: string[], flags: NewTopFlags) =>
      finish(await takeSnapshot(name, { bitmap, data }, words, flags)),
    );

  stackCommand(add("snapshots", "Lists snapshots: name, when it was made, layer, the table that shows it."))
    .argument("<stack...>")
    .option("--json", "print JSON")
    .action(async (words: string[], flags: Flags) => finish(await listSnapshots(words, flags)));

  stackCommand(
    add("snapshot-revert", "Makes a new layer on a snapshot, which shows that; prints the table with it."),
  )
    .argument("<name>", "of the snapshot")
    .argument("<bitmap>", "bitmap file of the new layer; must not exist")
    .argument("<data>", "data file of the new layer; must not exist")
    .argument("<stack...>")
    .option("--data-offset <sectors>", "sector of the data file where the new layer starts", sector)
    .action(async (name: string, bitmap: string, data: string, words: string[], flags: NewTopFlags) =>
      finish(await revert(name, { bitmap, data }, words, flags)),
    );

  stackCommand(
    add(
      "snapshot-delete",
      "Copies what a snapshot holds up into the layer above; prints the table without it. Run it again to finish.",
    ),
  )
    .argument("<name>", "of the snapshot")
    .argument("<stack...>")
    .action(async (name: string, words: string[], flags: Flags) =>
      finish(await dropSnapshot(name, words, flags)),
    );

  stackCommand(add("flatten", "Writes what the stack shows to one raw image."))
    .argument("<image>", "created if it does not exist; called IMAGE.dmkit-part until it is complete")
    .argument("<stack...>")
    .option("--snapshot <name>", "what this snapshot shows, not the whole stack")
    .option("--from <size>", "go on after an interruption, from here", size(0, SECTOR), 0)
    .option("--force", "write over an image that is there and not blank", false)
    .addOption(
      new Option("--bad <what>", "what cannot be read is zero in the image, and named; exit code 1").choices([
        "zero",
      ]),
    )
    .action(async (image: string, words: string[], flags: FlattenFlags) =>
      finish(await flattenStack(image, words, flags)),
    );

  stackCommand(add("diff", "Lists what layers have changed, or copies it to a sparse file."))
    .argument("<A..B>", "layers, counted from 1 at the bottom", range)
    .argument("<stack...>")
    .option("--export <file>", "copy the changed ranges to this file, each to its place")
    .option("--force", "export over what is there and not blank: an older copy, say", false)
    .option("--json", "print JSON")
    .action(async (which: Range, words: string[], flags: DiffFlags, command: Command) => {
      refuseUseless(command, [{ option: "force", without: "export" }]);
      finish(await diffStack(which, words, flags));
    });
}

function stackCommand(command: Command): Command {
  return command
    .option("--size <size>", "size of the target, if no layer tells it", size(SECTOR, SECTOR))
    .addOption(
      new Option("--aliased-block-size <bytes>", "how the original wrote the layers without a UUID").choices(
        aliasedBlockSizes.map(String),
      ),
    )
    .option("-q, --quiet", "show no progress");
}

function range(text: string): Range {
  const match = /^(\d+)(?:\.\.(\d+))?$/.exec(text);
  const [from, to] = [Number(match?.[1]), Number(match?.[2] ?? match?.[1])];
  if (from >= 1 && to >= from) return { from, to };
  throw new InvalidArgumentError("Give layers as A..B, such as 1..3, counted from 1 at the bottom.");
}

function severalLayers(text: string): Range {
  const { from, to } = range(text);
  if (to > from) return { from, to };
  throw new InvalidArgumentError("Give at least two layers, such as 1..2.");
}
