/** `dmkit undo`: puts back what a command with `--undo FILE` has overwritten. */
import { type BlockDevice, describeSize, isoTime, printable } from "@dmkit/block-io";
import type { Command } from "commander";
import { openReference } from "../../devices.ts";
import { outputOptions } from "../../offline/cli.ts";
import { type UndoFile, readUndoFile } from "../../offline/undo/read.ts";
import { restore, verifyDevices } from "../../offline/undo/restore.ts";
import { openUndoFile } from "../../offline/undo/storage.ts";
import { failing, interruptible, print, printJson, tellCancelled } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import { usage } from "../../ui/usage.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

interface UndoFlags {
  readonly force: boolean;
  readonly json: boolean;
  readonly quiet: boolean;
}

const examples = `
The file is verified, and the devices are recognised, before anything is written. It works after a crash of the
command that made the file, and after a crash of undo itself: run it again. Several undo files are undone in the
reverse order of their making. Delete the file when it is not needed any more.

Examples:
  dmkit fsck --repair --undo before.undo cache.img
  dmkit undo before.undo                        the device that was repaired
  dmkit undo before.undo /dev/sdc               it has another name by now
`;

export function addUndo(program: Command, finish: (code: number) => void): void {
  const command = program
    .command("undo")
    .summary("take back what a command with --undo has written")
    .description("Puts back, byte for byte, what was overwritten while FILE was recorded.")
    .argument("<file>", "made by --undo")
    .argument("[device...]", "where the devices are now, in the order of the file, if not where they were")
    .option("--force", "restore even if a device has changed since, or may be another one", false);
  outputOptions(command)
    .addHelpText("after", examples)
    .action(async (file: string, devices: string[], flags: UndoFlags) => {
      finish(await failing(() => undo(file, devices, flags)));
    });
}

async function undo(path: string, words: readonly string[], flags: UndoFlags): Promise<number> {
  const storage = await openUndoFile(path);
  try {
    const file = await readUndoFile(storage, path);
    const references = referencesOf(file, words);
    const done = await interruptible("undo", flags.quiet || flags.json, async (work) => {
      const options = { ...work, force: flags.force };
      const verdict = await withDevices(references, "read", (devices) =>
        verifyDevices(file, devices, storage, options),
      );
      if (verdict === "restore") {
        await withDevices(references, "write", (devices) => restore(file, devices, storage, options));
      }
      return verdict;
    });
    if (done === "cancelled") return tellCancelled("undo");
    report(file, references, done.value, flags);
    return exitCodes.ok;
  } finally {
    await storage.close();
  }
}

function referencesOf({ header }: UndoFile, words: readonly string[]): readonly string[] {
  const { devices } = header;
  if (words.length === 0) return devices.map(({ path }) => path);
  if (words.length === devices.length) return words;
  const wanted = devices.map(({ role, path }) => `${role} (${path})`).join(", ");
  throw usage(
    `the file was made for ${devices.length} devices, ${words.length} are given`,
    `They are: ${wanted}.`,
  );
}

async function withDevices<T>(
  references: readonly string[],
  access: "read" | "write",
  work: (devices: readonly BlockDevice[]) => Promise<T>,
): Promise<T> {
  const devices: BlockDevice[] = [];
  try {
    for (const reference of references)
      devices.push(await openReference(reference, access, commandEnvironment));
    return await work(devices);
  } finally {
    for (const device of devices) await device.close();
  }
}

function report(
  { header, ranges, complete }: UndoFile,
  references: readonly string[],
  verdict: "restore" | "nothing",
  { json, quiet }: UndoFlags,
): void {
  const bytes = verdict === "restore" ? ranges.reduce((sum, { length }) => sum + length, 0) : 0;
  if (json) {
    printJson({ command: header.command, time: header.time, devices: references, complete, restored: bytes });
  } else if (!quiet) {
    const what = printable(`${header.command} of ${isoTime(header.time)}`);
    print(
      verdict === "restore"
        ? `took back ${what}: ${describeSize(bytes)} in ${ranges.length} places\n`
        : `${what}: nothing to take back\n`,
    );
  }
}
