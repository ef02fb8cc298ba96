/** `dmkit restore`: a disk from a backup, or the metadata of an image from a dump. What is given says which. */
import {
  type Detected,
  type ImageDevices,
  type ImageFormat,
  type OfflineWork,
  type RestoreWork,
  describeSize,
} from "@dmkit/block-io";
import type { Command } from "commander";
import { isDump, restoreBackup } from "../../backup/restore.ts";
import { requireNewFile } from "../../destination.ts";
import { type ImageFlags, imageOptions, imageWords, undoOption } from "../../offline/cli.ts";
import { type DumpFile, readDump, tryRestore } from "../../offline/dump.ts";
import { refuseContents, refuseOtherImages, refuseUsed } from "../../offline/protect.ts";
import { assignRoles, withRoles } from "../../offline/roles.ts";
import { withImageUndo } from "../../offline/undo/session.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { endedBySignal } from "../../ui/interrupt.ts";
import { exitCodes } from "../../ui/terminal.ts";
import { usage } from "../../ui/usage.ts";
import { isGiven } from "../../ui/useless-options.ts";
import type { Finish, Known } from "../command.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

const examples = `
SOURCE is a backup, which all of TARGET becomes: raw bytes in a file or on a device, an NBD URI, or an image in an object
store, s3://BUCKET[/PREFIX]/NAME[:TAG] or image:FOLDER/NAME[:TAG]. It is read back and compared. TARGET may be a new
file; what is there already and not blank is written over with --force only. Until all the rest is stable, its first
block says that it is no whole disk; what was cut short is begun again by the same command. An archive, a compressed file
or an image of another program is refused: unpack it, or say that its bytes are meant with ?raw behind its path.

Or SOURCE is a dump, which dmkit dump has made: the metadata of an image, and the data on its devices stays what it is.
All of it is tried out on a copy in memory before anything is written. An image that was used since the dump was made is
refused: what was written since would be lost. --force restores all the same.

Examples:
  dmkit restore tuesday.img vm.img
  dmkit restore s3://backups/vm:tuesday /dev/vg/vm --force
  dmkit restore cache.json cache.img
  dmkit restore --undo before.undo cache.json cache.img --backing disk.img
`;

interface RestoreFlags extends ImageFlags {
  readonly undo?: string;
  readonly force: boolean;
}

export async function addRestore(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const command = program
    .command("restore")
    .summary("put a backup back, or write metadata from a dump")
    .description(
      "Copies a backup to TARGET and compares, or writes the metadata of a dump to the devices of its image.",
    )
    .argument("<source>", "a backup, or what dmkit dump has made")
    .argument(
      "<target...>",
      "one device or file; of a dump its devices in the order of the roles, see the options",
    )
    .option("--force", "overwrite whatever is there", false);
  imageOptions(undoOption(command), formats)
    .addHelpText("after", examples)
    .action(async (path: string, devices: string[], flags: RestoreFlags) => {
      finish(
        await failing(() => {
          if (isDump(path)) return restore(path, devices, flags, formats);
          refuseDumpOptions(command);
          return restoreDisk(path, devices, flags);
        }),
      );
    });
}

/** Throws `EPARSE` for options that say something of metadata. */
function refuseDumpOptions(command: Command): void {
  for (const { long } of command.options) {
    const name = long?.slice(2) ?? "";
    if (["force", "json", "quiet"].includes(name) || !isGiven(command, name)) continue;
    throw usage(
      `--${name} is for metadata from a dump, and this is a backup`,
      "Leave it out, or give a file made by: dmkit dump",
    );
  }
}

async function restoreDisk(
  from: string,
  [to = "", another]: readonly string[],
  { force, json, quiet }: RestoreFlags,
): Promise<number> {
  if (another !== undefined)
    throw usage("a backup is put back on one device", "Give one target, or a file made by: dmkit dump");
  const done = await endedBySignal("restore", (signal) =>
    restoreBackup({ from, to, force, signal, isQuiet: quiet || json }),
  );
  if (done === "cancelled") return tellCancelled("restore");
  const { copied, zeroed, skipped } = done.value;
  if (json) printJson({ source: from, target: to, copied, zeroed, skipped, verified: true });
  else if (!quiet)
    process.stderr.write(
      `restored: copied ${describeSize(copied)}, zeroed ${describeSize(zeroed)}, left out ${describeSize(skipped)}; compared\n`,
    );
  return exitCodes.ok;
}

async function restore(
  path: string,
  devices: readonly string[],
  flags: RestoreFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  if (flags.undo !== undefined) requireNewFile(flags.undo);
  const file = await readDump(path, formats);
  const words = imageWords(devices, flags, formats);
  const references = assignRoles(file.format, words);
  const done = await interruptible("restore", flags.quiet || flags.json, async (work) => {
    const roles = await withRoles(
      references,
      () => false,
      commandEnvironment,
      (given) => tryOut(file, given, flags, work, formats),
    );
    await withRoles(
      references,
      (role) => roles.has(role),
      commandEnvironment,
      (given) =>
        withImageUndo(
          flags.undo,
          "restore",
          { devices: given, references },
          roles.keys(),
          commandEnvironment,
          (written) => write(file, written, { ...work, force: flags.force }),
        ),
    );
    return roles;
  });
  if (done === "cancelled") return tellCancelled("restore");
  const written = [...done.value.keys()].map((role) => references[role] ?? role);
  if (flags.json) printJson({ format: file.format.name, devices: references, written });
  else if (!flags.quiet) {
    print(
      written.length > 0
        ? `restored ${file.format.name} to ${written.join(", ")}\n`
        : `${file.format.name} is as the dump says already; nothing was written\n`,
    );
  }
  return exitCodes.ok;
}

/** See {@link tryRestore}; refuses a device that holds anything known but the image that the dump is of. */
async function tryOut(
  file: DumpFile,
  devices: ImageDevices,
  { force }: RestoreFlags,
  work: OfflineWork,
  formats: readonly ImageFormat[],
): Promise<ReadonlyMap<string, Detected | undefined>> {
  const after = await tryRestore(file, devices, { ...work, force });
  if (!force) {
    await refuseOtherImages(devices, after, file.format);
    await refuseUsed(file, devices, work);
    await refuseContents(devices, after.keys(), formats, { welcome: file.format, keepsData: true });
  }
  return after;
}

async function write({ format, dump }: DumpFile, devices: ImageDevices, work: RestoreWork): Promise<void> {
  await format.restore?.(devices, dump, work);
  for (const device of Object.values(devices)) await device.flush();
}
