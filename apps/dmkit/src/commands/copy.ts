/** `dmkit copy`: sparse-aware copy between any two devices. */
import { BlockIoError, describeSize } from "@dmkit/block-io";
import type { Command } from "commander";
import { refuseUnfinished, verify } from "../backup/backup.ts";
import { type CopyResult, REQUEST_SIZE, copyDevice } from "../copy.ts";
import { isNewFile, requireOther, withDestination } from "../destination.ts";
import { withReading } from "../devices.ts";
import { tellCancelled } from "../offline/work.ts";
import { endedBySignal } from "../ui/interrupt.ts";
import { startProgress } from "../ui/progress.ts";
import { exitCodes } from "../ui/terminal.ts";
import { integer, size } from "./values.ts";
import { commandEnvironment } from "../ui/command-environment.ts";

interface CopyFlags {
  readonly requests: number;
  readonly requestSize: number;
  readonly destinationIsZero: boolean;
  readonly verify: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

const examples = `
Examples:
  dmkit copy disk.img nbd://host/backup         to a server
  dmkit copy 'nbd+unix:///?socket=/tmp/s' new.img
  dmkit copy a.img /dev/sdb                     onto a block device
  dmkit copy dm:vm vm.img                       a device of the running server, as it is now
  dmkit copy dm:vm@monday monday.img            a snapshot of it

A destination file that does not exist is created with the size of the source; until all of it is written it is
called NAME.dmkit-part, and it goes when the copy fails. An interrupted copy can simply be run again.
`;

export function addCopy(program: Command, finish: (code: number) => void): void {
  program
    .command("copy")
    .summary("copy a device or image, holes stay holes")
    .description("Copies all of SOURCE to the start of DESTINATION. Both are paths or URIs.")
    .argument("<source>", "what to copy; opened read-only")
    .argument("<destination>", "where to; created if it is a path that does not exist")
    .option("--requests <n>", "most requests in flight, if they take long", integer(1, 1024), 16)
    .option("--request-size <size>", "bytes of each request", size(4096, 4096, 32 * 2 ** 20), REQUEST_SIZE)
    .option("--destination-is-zero", "trust that the destination reads as zeroes, and write no holes", false)
    .option("--verify", "read it back, and compare all of it with the source", false)
    .option("--json", "print the result as JSON", false)
    .option("-q, --quiet", "show no progress", false)
    .addHelpText("after", examples)
    .action(async (source: string, destination: string, flags: CopyFlags) => {
      finish(await copy(source, destination, flags));
    });
}

async function copy(from: string, to: string, flags: CopyFlags): Promise<number> {
  requireOther(to, [from]);
  const done = await endedBySignal("copy", (signal) =>
    withReading(
      from,
      commandEnvironment,
      async (source) => {
        if (source.size === 0 && isNewFile(to)) throw nothingToCopy(from);
        await refuseUnfinished(source);
        // That is what it is for, as with any other program that copies.
        const options = { size: source.size, environment: commandEnvironment, overwrite: true };
        return await withDestination(to, options, async ({ device, blank }) => {
          const progress = startProgress("copy", source.size, flags.quiet || flags.json);
          try {
            const result = await copyDevice(source, device, {
              requestSize: flags.requestSize,
              requests: flags.requests,
              destinationIsZero: flags.destinationIsZero || blank,
              progress: (bytes) => progress.update(bytes),
              signal,
            });
            if (flags.verify) await verify(source, device, { signal });
            return result;
          } finally {
            progress.stop();
          }
        });
      },
      to,
    ),
  );
  if (done === "cancelled") return tellCancelled("copy");
  report(done.value, flags);
  return exitCodes.ok;
}

function nothingToCopy(from: string): BlockIoError {
  return new BlockIoError("is empty: there is nothing to copy", {
    code: "EINVAL",
    device: from,
    op: "read",
    hint: "A device has at least one sector of 512 bytes: check whether this is the right source.",
  });
}

function report({ copied, zeroed, skipped }: CopyResult, flags: CopyFlags): void {
  if (flags.json) process.stdout.write(`${JSON.stringify({ copied, zeroed, skipped })}\n`);
  else if (!flags.quiet) {
    process.stderr.write(
      `copied ${describeSize(copied)}, zeroed ${describeSize(zeroed)}, left out ${describeSize(skipped)} of holes\n`,
    );
  }
}
