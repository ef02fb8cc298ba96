/** `dmkit restore`: the metadata of an image from a dump. */
import { type Detected, type ImageDevices, type ImageFormat, type OfflineWork } from "@dmkit/block-io";
import type { Command } from "commander";
import { requireNewFile } from "../../destination.ts";
import { type ImageFlags, imageOptions, imageWords, undoOption } from "../../offline/cli.ts";
import { type DumpFile, readDump, tryRestore } from "../../offline/dump.ts";
import { refuseContents, refuseOtherImages } from "../../offline/protect.ts";
import { assignRoles, withRoles } from "../../offline/roles.ts";
import { withImageUndo } from "../../offline/undo/session.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import type { Finish, Known } from "../command.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

const examples = `
All of the dump is tried out on a copy in memory before anything is written.

Examples:
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
    .summary("write metadata from a dump")
    .description("Writes the metadata of DUMP to the devices of its image; the data stays what it is.")
    .argument("<dump>", "made by: dmkit dump")
    .argument("<device...>", "devices in the order of the roles; see also the options")
    .option("--force", "overwrite whatever is on the devices", false);
  imageOptions(undoOption(command), formats)
    .addHelpText("after", examples)
    .action(async (path: string, devices: string[], flags: RestoreFlags) => {
      finish(await failing(() => restore(path, devices, flags, formats)));
    });
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
          (written) => write(file, written, work),
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
  const after = await tryRestore(file, devices, work);
  if (!force) {
    await refuseOtherImages(devices, after, file.format);
    await refuseContents(devices, after.keys(), formats, { welcome: file.format, keepsData: true });
  }
  return after;
}

async function write({ format, dump }: DumpFile, devices: ImageDevices, work: OfflineWork): Promise<void> {
  await format.restore?.(devices, dump, work);
  for (const device of Object.values(devices)) await device.flush();
}
