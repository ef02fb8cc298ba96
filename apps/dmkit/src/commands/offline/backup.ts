/** `dmkit backup`: a device as it is now, all of it or what has changed, into a file, onto a device or as an image in a store. */
import {
  type Bitmap,
  type BlockDevice,
  type Kept,
  SECTOR,
  type VersionStore,
  describeSize,
  identityOf,
  refuse,
} from "@dmkit/block-io";
import type { Command } from "commander";
import {
  type Note,
  type Work,
  backUpAll,
  backUpChanges,
  changedPieces,
  refuseUnfinished,
  verify,
  wasCutShort,
} from "../../backup/backup.ts";
import { backUpVersion } from "../../backup/kept.ts";
import { epochsBeside, forgetBeside, noteBeside, requireSince } from "../../backup/origin.ts";
import { type CopyResult, copyDevice } from "../../copy.ts";
import { type Destination, isNewFile, requireOther, withDestination } from "../../destination.ts";
import { isRunning, withReading } from "../../devices.ts";
import { targets } from "../../targets.ts";
import { withMoment } from "../../moment/open-moment.ts";
import { tellCancelled } from "../../offline/work.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";
import { endedBySignal } from "../../ui/interrupt.ts";
import { startProgress } from "../../ui/progress.ts";
import { exitCodes } from "../../ui/terminal.ts";
import { usage } from "../../ui/usage.ts";
import { refuseUseless } from "../../ui/useless-options.ts";
import type { Finish } from "../command.ts";

interface BackupFlags {
  readonly since?: string;
  readonly from?: string;
  readonly begin?: string;
  readonly verify: boolean;
  readonly force: boolean;
  readonly json: boolean;
  readonly quiet: boolean;
}

const examples = `
SOURCE is dm:NAME, a device of the running server as it is when this begins, while its clients go on; or a path or URI,
which nobody should be writing to. TARGET is a file or device of raw bytes, which any program reads and dmkit restore
puts back. A new file has its name when all of it is there and stable. A target that was there before says in its first
block that it is not whole until all the rest of it is stable; one that was cut short is written again.

With --since NAME only what has changed since NAME began is read, of a device that records it (dmkit targets tracked).
--begin begins such a name at the right time, before the backup it is for. The new file is a copy of --from FILE with
the changes in it; without --from they go into TARGET itself. FILE.dmkit-backup beside a backup tells when it was made:
one from before NAME began is refused. Samples of what has not changed are compared as well.

TARGET may be an image in an object store, s3://BUCKET[/PREFIX]/NAME[:TAG] or image:FOLDER/NAME[:TAG]. It gets its tag
when all of it is there; with --verify, when it was read back and compared. With --since what has not changed is not
read: it is in the store, in the version of the same image that --from, or TARGET itself, says. A tag that says
something already is moved with --force, or with --since and without --from.

Examples:
  dmkit backup dm:vm monday.img --begin monday --verify
  dmkit backup dm:vm tuesday.img --since monday --from monday.img --begin tuesday
  dmkit backup dm:vm nbd://backups/vm --force
  dmkit backup dm:vm s3://backups/vm:monday --begin monday
  dmkit backup dm:vm s3://backups/vm:tuesday --since monday --from s3://backups/vm:monday --begin tuesday
  dmkit restore tuesday.img vm.img                  puts it back, and compares
`;

export function addBackup(program: Command, finish: Finish): void {
  program
    .command("backup")
    .summary("back up a device at one moment, all of it or what has changed")
    .description("Copies SOURCE to TARGET, as it was when that began.")
    .argument("<source>", "dm:NAME, a path or a URI")
    .argument("<target>", "where to, a device, an image in a store or a path; created if it does not exist")
    .option("--since <name>", "only what has changed since NAME began")
    .option("--from <backup>", "with --since: the backup before, which a new TARGET begins as")
    .option(
      "--begin <name>",
      "begin NAME before, for the next backup to be --since; it is dropped if this one fails",
    )
    .option("--verify", "read it back, and compare all of it with the source", false)
    .option("--force", "write over what is on TARGET", false)
    .option("--json", "print the result as JSON", false)
    .option("-q, --quiet", "show no progress", false)
    .addHelpText("after", examples)
    .action(async (source: string, target: string, flags: BackupFlags, command: Command) => {
      refuseUseless(command, [
        { option: "from", without: "since" },
        { option: "force", beside: "from" },
      ]);
      finish(await backup(source, target, flags));
    });
}

async function backup(from: string, to: string, flags: BackupFlags): Promise<number> {
  const store = await targets.versionsOf(to);
  checkWords(from, to, flags, store !== undefined);
  const done = await endedBySignal("backup", (signal) => {
    if (!isRunning(from))
      return withReading(from, commandEnvironment, async (source) => {
        await refuseUnfinished(source);
        return write(source, from, to, flags, { store, signal });
      });
    const { since, begin } = flags;
    return withMoment(
      from,
      commandEnvironment,
      async ({ device, epochs, changed }) => {
        const pieces = since === undefined ? undefined : await changedPieces(device.size, changed(since));
        return write(device, from, to, flags, {
          store,
          changed: pieces,
          epochs: new Map(Object.entries(epochs)),
          signal,
        });
      },
      { begin, onto: to },
    );
  });
  if (done === "cancelled") return tellCancelled("backup");
  report(done.value, flags);
  return exitCodes.ok;
}

/** Throws `EPARSE` for words that do not go together. */
function checkWords(
  from: string,
  to: string,
  { since, begin, from: before }: BackupFlags,
  isVersion: boolean,
): void {
  requireOther(to, [from, ...(before === undefined ? [] : [before])]);
  if (!isRunning(from) && (since !== undefined || begin !== undefined)) {
    const word = since === undefined ? "begin" : "since";
    throw usage(
      `--${word} is for a device of a running server`,
      `Write dm:NAME for it, or leave --${word} out.`,
    );
  }
  // What a name means in a store is asked there.
  if (since === undefined || isVersion) return;
  if (isNewFile(to) === (before !== undefined)) return;
  throw before === undefined
    ? usage(
        `${to} does not exist: there is nothing to put changes into`,
        "Give the backup before: --from FILE",
      )
    : usage(`${to} exists already`, "Leave --from out to put the changes into it, or give another name.");
}

/** How a backup is written. */
interface Writing {
  /** Where the target is a version; undefined: it is a device or a file. */
  readonly store: VersionStore | undefined;
  readonly changed?: Bitmap | undefined;
  /** What had begun by the moment of the source: ids by names. */
  readonly epochs?: ReadonlyMap<string, string>;
  readonly signal: AbortSignal;
}

async function write(
  source: BlockDevice,
  from: string,
  to: string,
  flags: BackupFlags,
  { store, changed, epochs = new Map(), signal }: Writing,
): Promise<CopyResult | Kept> {
  if (source.size < SECTOR)
    throw refuse(
      source.name,
      "EINVAL",
      "is empty: there is nothing to back up",
      "Check whether it is the right one.",
    );
  if (store !== undefined) return keep(source, store, to, flags, { changed, epochs, signal });
  const note = noteOf(from, flags, epochs);
  // Changes go into what holds the backup before; that it does is compared.
  const overwrite = flags.force || changed !== undefined || (await wasCutShort(to, note, commandEnvironment));
  await requireNotOlder(to, flags, epochs, note);
  const options = { size: source.size, environment: commandEnvironment, overwrite };
  const copied = await withDestination(to, options, async (destination) => {
    const progress = startProgress("backup", source.size, flags.quiet || flags.json);
    const work = {
      signal,
      progress: (bytes: number): void => progress.update(bytes),
      begins: (): void => forgetBeside(to),
    };
    try {
      const result = await fill(source, destination, flags, changed, note, work);
      if (flags.verify) await verify(source, destination.device, { signal });
      return result;
    } finally {
      progress.stop();
    }
  });
  const problem = await noteBeside(to, [...epochs.values()], commandEnvironment);
  if (problem !== undefined)
    process.stderr.write(`backup: when it was made could not be noted beside it: ${problem}\n`);
  return copied;
}

/** What is under way, for who finds it cut short. */
function noteOf(from: string, { since }: BackupFlags, epochs: ReadonlyMap<string, string>): Note {
  if (since === undefined) return { of: identityOf(from) };
  const epoch = epochs.get(since);
  return { of: identityOf(from), since, ...(epoch === undefined ? {} : { epoch }) };
}

/** Throws `EINVAL` where the backup that changes go on from is older than these; says so where nobody knows. */
async function requireNotOlder(
  to: string,
  flags: BackupFlags,
  epochs: ReadonlyMap<string, string>,
  note: Note,
): Promise<void> {
  const { since: name, from: backup = to } = flags;
  if (name === undefined) return;
  // It was asked when that was begun.
  if (flags.from === undefined && (await wasCutShort(to, note, commandEnvironment))) return;
  const known = await epochsBeside(backup, commandEnvironment);
  if (!requireSince({ backup, name, id: epochs.get(name) }, known)) tellUnshown(backup, flags);
}

function tellUnshown(backup: string, { since, quiet }: BackupFlags): void {
  if (quiet) return;
  process.stderr.write(
    `backup: nothing shows that ${backup} was made after ${JSON.stringify(since)} began: what has not changed is compared in 64 places only\n`,
  );
}

async function fill(
  source: BlockDevice,
  { device, blank }: Destination,
  { from, force }: BackupFlags,
  changed: Bitmap | undefined,
  note: Note,
  work: Work & { readonly signal: AbortSignal },
): Promise<CopyResult> {
  if (changed === undefined) return backUpAll(source, device, blank, work, note);
  if (from !== undefined)
    await withReading(from, commandEnvironment, async (before) => {
      if (before.size !== source.size)
        throw refuse(
          from,
          "EINVAL",
          `has ${before.size} bytes, the device ${source.size}`,
          "Back up all of it.",
        );
      await refuseUnfinished(before);
      await copyDevice(before, device, { signal: work.signal, destinationIsZero: true });
    });
  return backUpChanges(source, device, changed, note, blank, work, force);
}

async function keep(
  source: BlockDevice,
  store: VersionStore,
  to: string,
  flags: BackupFlags,
  {
    changed,
    epochs,
    signal,
  }: { readonly epochs: ReadonlyMap<string, string> } & Pick<Writing, "changed" | "signal">,
): Promise<Kept> {
  const isQuiet = flags.quiet || flags.json;
  let shown = startProgress("backup", source.size, isQuiet);
  let isComparing = false;
  try {
    return await backUpVersion(source, {
      store,
      to,
      environment: commandEnvironment,
      changed,
      epochs: [...epochs.values()],
      ...(flags.since === undefined ? {} : { since: { name: flags.since, id: epochs.get(flags.since) } }),
      unshown: (version) => tellUnshown(version, flags),
      from: flags.from,
      force: flags.force,
      verify: flags.verify,
      signal,
      progress: (done) => shown.update(done),
      comparing(done) {
        if (!isComparing) {
          shown.stop();
          shown = startProgress("compare", source.size, isQuiet);
          isComparing = true;
        }
        shown.update(done);
      },
    });
  } finally {
    shown.stop();
  }
}

function report(done: CopyResult | Kept, { json, quiet, verify: verified }: BackupFlags): void {
  if ("version" in done) {
    const { version, read, known, uploaded } = done;
    process.stdout.write(
      json ? `${JSON.stringify({ version, read, known, uploaded, verified })}\n` : `${version}\n`,
    );
    if (!json && !quiet)
      process.stderr.write(
        `backed up: read ${describeSize(read)}, of which ${describeSize(known)} were there; uploaded ${describeSize(uploaded)}${verified ? "; compared" : ""}\n`,
      );
    return;
  }
  const { copied, zeroed, skipped } = done;
  if (json) process.stdout.write(`${JSON.stringify({ copied, zeroed, skipped, verified })}\n`);
  else if (!quiet)
    process.stderr.write(
      `backed up: copied ${describeSize(copied)}, zeroed ${describeSize(zeroed)}, left out ${describeSize(skipped)}${verified ? "; compared" : ""}\n`,
    );
}
