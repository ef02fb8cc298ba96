/** `dmkit archive …`: disks whose log is in an object store: what there is of them, and what becomes of it. */
import { describeSize, isoTime, printable } from "@dmkit/block-io";
import {
  archiveInfo,
  collectArchive,
  keepMoment,
  listDisks,
  makeCheckpoint,
  openArchive,
  parseArchiveReference,
  parseDiskReference,
  releaseMoment,
  withArchive,
} from "@dmkit/archive";
import type { Command } from "commander";
import { copyDevice } from "../../../copy.ts";
import { withDestination } from "../../../destination.ts";
import { print, printJson, tellCancelled } from "../../../offline/work.ts";
import { endedBySignal } from "../../../ui/interrupt.ts";
import { type Progress, startProgress, startRatio } from "../../../ui/progress.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { size } from "../../values.ts";
import { type StoreFlags, storeVerb, withStore } from "../store-verb.ts";
import { takeOver } from "./takeover.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

const examples = `
DISK is STORE/NAME; STORE is a folder, or s3://BUCKET[/PREFIX]. A moment is @ID of a segment, or @TIME.

Examples:
  dmkit archive info s3://disks/vm1
  dmkit archive takeover s3://disks/vm1 /var/lib/vm1      go on with a disk whose machine is gone
  dmkit archive restore s3://disks/vm1@2026-01-31T12:00:00Z vm1.img
  dmkit serve archive:s3://disks/vm1@1234                 look at it, read-only
  dmkit archive checkpoint s3://disks/vm1                 then gc frees the log before it
`;

/** @param finish is given the exit code. */
export function addArchive(program: Command, finish: (code: number) => void): void {
  const archive = program
    .command("archive")
    .summary("manage disks whose log is in an object store")
    .description(
      "Looks at, takes over, restores and collects disks that a writeboost with archive= has written.",
    )
    .addHelpText("after", examples);
  const add = (name: string, summary: string): Command => storeVerb(archive, name, summary);

  add("ls", "Lists the disks in a store.")
    .argument("<store>")
    .action(async (location: string, flags: StoreFlags) => finish(await list(location, flags)));

  add("info", "Tells who writes a disk, how new it is, and which moments can be read.")
    .argument("<disk>")
    .action(async (disk: string, flags: StoreFlags) => finish(await info(disk, flags)));

  add("checkpoint", "Publishes the disk as an image, so that the log up to there is not needed any more.")
    .argument("<disk>")
    .action(async (disk: string, flags: StoreFlags) => finish(await checkpoint(disk, flags)));

  add(
    "restore",
    "Copies a disk as of a moment, or as new as it is, to DESTINATION; a file that is not there is made.",
  )
    .argument("<disk>", "STORE/NAME[@ID|@TIME]")
    .argument("<destination>", "where to")
    .option("--force", "write over a destination that is there and not blank", false)
    .action(async (disk: string, to: string, flags: StoreFlags & { force: boolean }) =>
      finish(await restore(disk, to, flags)),
    );

  add("keep", "Gives a moment a name, and keeps it from collections.")
    .argument("<disk>", "STORE/NAME[@ID|@TIME]")
    .argument("<name>")
    .action(async (disk: string, name: string, flags: StoreFlags) => finish(await keep(disk, name, flags)));

  add("unkeep", "Takes the name of a moment away.")
    .argument("<disk>")
    .argument("<name>")
    .action(async (disk: string, name: string) => finish(await unkeep(disk, name)));

  add("gc", "Removes the log before the newest checkpoint, but for what kept moments need.")
    .argument("<disk>")
    .option("--dry-run", "only tell what would be removed", false)
    .action(async (disk: string, flags: StoreFlags & { dryRun: boolean }) =>
      finish(await collect(disk, flags)),
    );

  add(
    "takeover",
    "Goes on with a disk here: ends the writer it has, and makes FOLDER with all that serving it takes.",
  )
    .argument("<disk>")
    .argument("<folder>", "a folder that is empty, or is made")
    .option("--cache-size <size>", "of the new write cache", size(4 << 20, 4096), 2 ** 30)
    .action(async (disk: string, folder: string, flags: StoreFlags & { cacheSize: number }) =>
      finish(await takeOver(disk, folder, flags)),
    );
}

async function list(location: string, { json, quiet }: StoreFlags): Promise<number> {
  const disks = await withStore(location, listDisks);
  if (json) printJson(disks);
  else for (const disk of disks) print(`${disk}\n`);
  if (disks.length === 0 && !quiet) process.stderr.write("There are no disks in this store.\n");
  return exitCodes.ok;
}

async function info(text: string, { json }: StoreFlags): Promise<number> {
  const reference = parseDiskReference(text);
  const {
    size: bytes,
    time,
    epoch,
    last,
    checkpoints,
    objects,
    bytes: log,
    kept,
  } = await withArchive(reference, archiveInfo);
  if (json) {
    printJson({
      disk: reference.disk,
      size: bytes,
      created: isoTime(time),
      epoch: epoch?.number ?? 0,
      host: epoch?.host ?? null,
      last_id: last.id,
      last_time: isoTime(last.time),
      log_objects: objects,
      log_bytes: log,
      checkpoints: checkpoints.map(({ id, time: at, digest }) => ({ id, time: isoTime(at), digest })),
      kept: [...kept].map(([name, { id, time: at }]) => ({ name, id, time: isoTime(at) })),
    });
    return exitCodes.ok;
  }
  print(`disk        ${reference.disk}, ${describeSize(bytes)}, since ${isoTime(time)}\n`);
  if (epoch !== undefined)
    print(`writer      ${epoch.host}, since ${isoTime(epoch.time)} (epoch ${epoch.number})\n`);
  print(`newest      segment ${last.id}, ${isoTime(last.time)}\n`);
  print(`log         ${objects} objects of ${describeSize(log)} behind the newest checkpoint\n`);
  for (const { id, time: at } of checkpoints) print(`checkpoint  segment ${id}, ${isoTime(at)}\n`);
  for (const [name, { id, time: at }] of kept) print(`kept        segment ${id}, ${isoTime(at)}: ${name}\n`);
  return exitCodes.ok;
}

async function checkpoint(text: string, { json, quiet }: StoreFlags): Promise<number> {
  const reference = parseDiskReference(text);
  const done = await endedBySignal("checkpoint", (signal) =>
    withArchive(
      reference,
      async (archive) => {
        const { size: total } = await archive.record();
        const log = fetching(quiet || json);
        let shown: Progress | undefined;
        const progress = ({ done: bytes }: { readonly done: number }): void => {
          log.stop();
          shown ??= startProgress("checkpoint", total, quiet || json);
          shown.update(bytes);
        };
        try {
          const options = { signal, progress, fetched: log.progress, environment: commandEnvironment };
          return await makeCheckpoint(archive, reference.store, options);
        } finally {
          log.stop();
          shown?.stop();
        }
      },
      { signal },
    ),
  );
  if (done === "cancelled") return tellCancelled("checkpoint");
  const { id, time, digest, uploaded } = done.value;
  if (json) printJson({ id, time: isoTime(time), digest, uploaded });
  else print(`segment ${id}, ${isoTime(time)}: ${describeSize(uploaded)} uploaded\n`);
  return exitCodes.ok;
}

/** The first part of what reads a disk as of a moment: its log is fetched. */
function fetching(quiet: boolean): {
  readonly progress: (progress: { readonly done: number; readonly total: number }) => void;
  readonly stop: () => void;
} {
  const shown = startRatio("log", quiet);
  let isOver = false;
  return {
    progress: ({ done, total }) => shown.update(done, total),
    stop() {
      if (!isOver) shown.stop();
      isOver = true;
    },
  };
}

async function restore(
  text: string,
  to: string,
  { force, json, quiet }: StoreFlags & { force: boolean },
): Promise<number> {
  const done = await endedBySignal("restore", async (signal) => {
    const log = fetching(quiet || json);
    const work = { signal, progress: log.progress };
    const source = await openArchive(text, commandEnvironment, text, work).finally(() => log.stop());
    try {
      const destination = { size: source.size, environment: commandEnvironment, overwrite: force };
      return await withDestination(to, destination, async ({ device, blank }) => {
        const shown = startProgress("restore", source.size, quiet || json);
        const progress = (bytes: number): void => shown.update(bytes);
        const options = {
          requestSize: source.limits.optimalTransfer,
          destinationIsZero: blank,
          progress,
          signal,
        };
        await copyDevice(source, device, options).finally(() => shown.stop());
        return source.id;
      });
    } finally {
      await source.close();
    }
  });
  if (done === "cancelled") return tellCancelled("restore");
  if (json) printJson({ id: done.value });
  else print(`segment ${done.value}\n`);
  return exitCodes.ok;
}

async function keep(text: string, name: string, { json }: StoreFlags): Promise<number> {
  const reference = parseArchiveReference(text);
  const { id, time } = await withArchive(reference, (archive) => keepMoment(archive, name, reference.when));
  if (json) printJson({ name, id, time: isoTime(time) });
  else print(`segment ${id}, ${isoTime(time)}\n`);
  return exitCodes.ok;
}

async function unkeep(text: string, name: string): Promise<number> {
  const reference = parseDiskReference(text);
  if (await withArchive(reference, (archive) => releaseMoment(archive, name))) return exitCodes.ok;
  process.stderr.write(`dmkit: no moment of ${reference.disk} is kept as ${printable(name)}\n`);
  return exitCodes.error;
}

async function collect(text: string, { json, dryRun }: StoreFlags & { dryRun: boolean }): Promise<number> {
  const done = await endedBySignal("gc", (signal) =>
    withArchive(parseDiskReference(text), (archive) => collectArchive(archive, { dryRun, signal }), {
      signal,
    }),
  );
  if (done === "cancelled") return tellCancelled("gc");
  const { objects, bytes, checkpoints } = done.value;
  if (json) printJson({ objects, bytes, checkpoints, dry_run: dryRun });
  else {
    const verb = dryRun ? "would remove" : "removed";
    print(`${verb} ${objects} log objects of ${describeSize(bytes)} and ${checkpoints} checkpoints\n`);
  }
  return exitCodes.ok;
}
