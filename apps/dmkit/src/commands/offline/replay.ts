/** `dmkit replay`: what a cache holds goes to its slow device, without a server. */
import {
  type ImageFormat,
  type ImageReplayed,
  type Overlay,
  SECTOR,
  type TargetRegistry,
  printable,
  quoteTableWord,
  shellQuote,
} from "@dmkit/block-io";
import type { Command } from "commander";
import { type ImageFlags, imageOptions, imageWords, undoOption } from "../../offline/cli.ts";
import { withImage } from "../../offline/image.ts";
import {
  overlayFiles,
  replayInPlace,
  replayOptions,
  replayToOverlay,
  replayable,
  requireReplayable,
  writtenBy,
} from "../../offline/replay.ts";
import { withImageUndo } from "../../offline/undo/session.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import type { Finish, Known } from "../command.ts";
import { usage } from "../../ui/usage.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

interface ReplayFlags extends ImageFlags {
  readonly overlay?: string;
  readonly undo?: string;
}

const examples = `
Examples:
  dmkit replay cache.img disk.img               all of the log, or all dirty blocks
  dmkit replay cache.img disk.img --plog plog.img
  dmkit replay cache.img disk.img --until 1000 --overlay try
                                                as it was at segment 1000, into try.map and try.img
  dmkit serve -t "0 2097152 cow disk.img 0 try.map try.img 0"

It can be interrupted: run it again to go on.
`;

export async function addReplay(program: Command, finish: Finish, known: Known): Promise<void> {
  const targets = await known();
  const formats = replayable(await targets.images());
  const over = await overlayOf(targets);
  const command = program
    .command("replay")
    .summary("write what a cache holds to its backing device")
    .description(
      "Writes what a cache holds, its log or its dirty blocks, to the device that is cached, and marks it clean.",
    )
    .argument("<cache>", "the cache device")
    .argument("<backing>", "the device that is cached");
  if (over !== undefined) command.option("--overlay <files>", helpOf(over));
  for (const [name, { type, help }] of Object.entries(replayOptions(formats)))
    command.option(type === "flag" ? `--${name}` : `--${name} <value>`, help);
  imageOptions(undoOption(command), formats)
    .addHelpText("after", examples)
    .action(async (cache: string, backing: string, flags: ReplayFlags) => {
      finish(await failing(() => replay([cache, backing], flags, targets)));
    });
}

function helpOf({ target, overlay }: Layer): string {
  const roles = Object.entries(overlay.files);
  const made = roles.map(([, ending]) => `NAME${ending}`).join(" and ");
  const words = roles.map(([role]) => role.toUpperCase()).join(",");
  return `write to a new layer (${target}) over it instead: ${words} or NAME (${made})`;
}

async function replay(
  given: readonly string[],
  flags: ReplayFlags,
  targets: TargetRegistry,
): Promise<number> {
  const formats = await targets.images();
  const over = flags.overlay === undefined ? undefined : await overOf(flags.overlay, targets);
  if (over !== undefined && flags.undo !== undefined) {
    throw usage("--undo and --overlay do not go together", "With --overlay nothing is overwritten.");
  }
  const words = imageWords(given, flags, replayable(formats));
  const said = wordsOf(flags, formats);
  const options = { formats, environment: commandEnvironment };
  // Read-only first: what cannot be replayed is not even opened for writing.
  const alone = { ...words, devices: given.slice(0, 1), roles: {} };
  await withImage(alone, { ...options, partial: true }, async (image) =>
    requireReplayable(image, said, formats),
  );
  const sectors = await withImage(
    words,
    options,
    async (image) => writtenBy(requireReplayable(image, said, formats), image).size / SECTOR,
  );
  const writing = over === undefined ? { ...options, writes: (): boolean => true } : options;
  const done = await withImage(words, writing, (image) =>
    interruptible("replay", flags.quiet || flags.json, (work) => {
      const how = requireReplayable(image, said, formats);
      if (over !== undefined) {
        return replayToOverlay({ ...image, overlay: over.overlay }, how, over.files, said, work);
      }
      const roles = Object.keys(image.devices);
      return withImageUndo(flags.undo, "replay", image, roles, commandEnvironment, (devices) =>
        replayInPlace(how, devices, said, work),
      );
    }),
  );
  if (done === "cancelled") return tellCancelled("replay");
  report(done.value, { backing: given[1] ?? "", sectors, over }, flags);
  return exitCodes.ok;
}

/** Those of the formats' options that were said. */
function wordsOf(flags: ReplayFlags, formats: readonly ImageFormat[]): Readonly<Record<string, unknown>> {
  const names = Object.keys(replayOptions(formats)).filter((name) => flags[name] !== undefined);
  return Object.fromEntries(names.map((name) => [name, flags[name]]));
}

/** The first target that can be laid over a device, by name, and how. */
async function overlayOf(targets: TargetRegistry): Promise<Layer | undefined> {
  const target = targets.list().find(({ overlay }) => overlay !== undefined);
  const overlay = await target?.overlay?.();
  return target && overlay && { target: target.name, overlay };
}

/** The files of `--overlay`, and the target that lays them over a device. */
async function overOf(text: string, targets: TargetRegistry): Promise<Over> {
  const layer = await overlayOf(targets);
  if (layer !== undefined) return { ...layer, files: overlayFiles(layer.overlay, text) };
  throw usage("no target can be laid over a device", "Leave --overlay out.");
}

interface Layer {
  readonly target: string;
  readonly overlay: Overlay;
}

interface Over extends Layer {
  readonly files: ReturnType<typeof overlayFiles>;
}

function report(
  { facts, text }: ImageReplayed,
  { backing, sectors, over }: { backing: string; sectors: number; over: Over | undefined },
  { json, quiet }: ReplayFlags,
): void {
  if (json) printJson({ ...facts, backing, ...(over === undefined ? {} : { overlay: over.files }) });
  else if (!quiet) {
    const to = over === undefined ? backing : Object.values(over.files).join(", ");
    print(`replayed ${text} to ${printable(to)}\n`);
    if (over === undefined) return;
    const words = [over.target, ...over.overlay.words(over.files, backing)].map(quoteTableWord);
    print(`  look at it: dmkit serve -r -t ${shellQuote(`0 ${sectors} ${words.join(" ")}`)}\n`);
  }
}
