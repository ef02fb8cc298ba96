/** `dmkit replay`: what a cache holds goes to its slow device, without a server. */
import { SECTOR, printable, quoteTableWord, realEnvironment, shellQuote } from "@dmkit/block-io";
import type { Command } from "commander";
import { imageFormats } from "../formats.ts";
import { type ImageFlags, outputOptions, undoOption } from "../offline/cli.ts";
import { type ImageWords, usage, withImage } from "../offline/image.ts";
import {
  type OverlayFiles,
  type Replayed,
  overlayFiles,
  replayInPlace,
  replayToOverlay,
  replayerOf,
  requireReplayable,
} from "../offline/replay.ts";
import { withImageUndo } from "../offline/undo/session.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../offline/work.ts";
import { exitCodes } from "../ui/terminal.ts";
import { integer } from "./values.ts";

interface ReplayFlags extends ImageFlags {
  readonly plog?: string;
  readonly until?: number;
  readonly overlay?: string;
  readonly force: boolean;
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

export function addReplay(program: Command, finish: (code: number) => void): void {
  const command = program
    .command("replay")
    .summary("write what a cache holds to its backing device")
    .description(
      "Applies the log of a writeboost cache, or the dirty blocks of an assoc-cache, to the backing device and marks them clean.",
    )
    .argument("<cache>", "the cache device")
    .argument("<backing>", "the device that is cached")
    .option("--type <name>", "format of the cache, if it cannot be told")
    .option("--plog <device>", "persistent log of a writeboost cache of type 1")
    .option("--until <id>", "writeboost: stop after this segment", integer(0, Number.MAX_SAFE_INTEGER))
    .option(
      "--overlay <files>",
      "write to a new cow layer instead: BITMAP,DATA or NAME (NAME.map and NAME.img)",
    )
    .option("--force", "cache: write although the device has changed since the cache was closed", false);
  outputOptions(undoOption(command))
    .addHelpText("after", examples)
    .action(async (cache: string, backing: string, flags: ReplayFlags) => {
      finish(await failing(() => replay(cache, backing, flags)));
    });
}

async function replay(cache: string, backing: string, flags: ReplayFlags): Promise<number> {
  const overlay = flags.overlay === undefined ? undefined : overlayFiles(flags.overlay);
  if (overlay !== undefined && flags.undo !== undefined) {
    throw usage("--undo and --overlay do not go together", "With --overlay nothing is overwritten.");
  }
  const words: ImageWords = {
    devices: [cache, backing],
    roles: flags.plog === undefined ? {} : { plog: flags.plog },
    type: flags.type,
  };
  const options = { formats: imageFormats, environment: realEnvironment };
  // Read-only first: what cannot be replayed is not even opened for writing.
  const alone = { devices: [cache], roles: {}, type: flags.type };
  await withImage(alone, { ...options, partial: true }, async (image) => requireReplayable(image));
  const sectors = await withImage(words, options, async (image) => {
    const { to } = replayerOf(image);
    return (image.devices[to]?.size ?? 0) / SECTOR;
  });
  const writes = overlay === undefined ? (): boolean => true : undefined;
  const done = await withImage(words, { ...options, ...(writes === undefined ? {} : { writes }) }, (image) =>
    interruptible("replay", flags.quiet || flags.json, (work) => {
      if (overlay !== undefined) return replayToOverlay(image, overlay, flags, work);
      const roles = Object.keys(image.devices);
      return withImageUndo(flags.undo, "replay", image, roles, realEnvironment, (devices) =>
        replayInPlace(image, devices, flags, work),
      );
    }),
  );
  if (done === "cancelled") return tellCancelled("replay");
  report(done.value, { backing, sectors, overlay }, flags);
  return exitCodes.ok;
}

function report(
  result: Replayed,
  { backing, sectors, overlay }: { backing: string; sectors: number; overlay: OverlayFiles | undefined },
  { json, quiet }: ReplayFlags,
): void {
  const to = overlay === undefined ? { backing } : { backing, overlay };
  if (json) printJson({ ...result, ...to });
  else if (!quiet) {
    const what = "segment" in result ? `up to segment ${result.segment}` : `${result.blocks} dirty blocks`;
    print(`replayed ${what} to ${printable(overlay === undefined ? backing : overlay.data)}\n`);
    if (overlay === undefined) return;
    const words = ["cow", backing, "0", overlay.bitmap, overlay.data, "0"].map(quoteTableWord);
    print(`  look at it: dmkit serve -r -t ${shellQuote(`0 ${sectors} ${words.join(" ")}`)}\n`);
  }
}
