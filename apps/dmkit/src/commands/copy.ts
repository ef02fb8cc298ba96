/** `dmkit copy`: sparse-aware copy between any two devices. */
import { existsSync, rmSync } from "node:fs";
import { type BlockDevice, describeSize, openFile, realEnvironment, schemeOf } from "@dmkit/block-io";
import type { Command } from "commander";
import { type CopyResult, copyDevice } from "../copy.ts";
import { openReference } from "../devices.ts";
import { startProgress } from "../ui/progress.ts";
import { exitCodes } from "../ui/terminal.ts";
import { integer, size } from "./values.ts";

interface CopyFlags {
  readonly requests: number;
  readonly requestSize: number;
  readonly destinationIsZero: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

const CANCELLED = 130;

const examples = `
Examples:
  dmkit copy disk.img nbd://host/backup         to a server
  dmkit copy 'nbd+unix:///?socket=/tmp/s' new.img
  dmkit copy a.img /dev/sdb                     onto a block device

A destination file that does not exist is created with the size of the source. An interrupted copy can
simply be run again.
`;

export function addCopy(program: Command, finish: (code: number) => void): void {
  program
    .command("copy")
    .summary("copy a device or image, holes stay holes")
    .description("Copies all of SOURCE to the start of DESTINATION. Both are paths or URIs.")
    .argument("<source>", "what to copy; opened read-only")
    .argument("<destination>", "where to; created if it is a path that does not exist")
    .option("--requests <n>", "requests in flight", integer(1, 1024), 16)
    .option("--request-size <size>", "bytes of each request", size(4096, 4096), 256 * 1024)
    .option("--destination-is-zero", "trust that the destination reads as zeroes, and write no holes", false)
    .option("--json", "print the result as JSON", false)
    .option("-q, --quiet", "show no progress", false)
    .addHelpText("after", examples)
    .action(async (source: string, destination: string, flags: CopyFlags) => {
      finish(await copy(source, destination, flags));
    });
}

async function copy(from: string, to: string, flags: CopyFlags): Promise<number> {
  const abort = new AbortController();
  const interrupt = (): void => abort.abort();
  process.once("SIGINT", interrupt);
  const source = await openReference(from, "read", realEnvironment);
  let target: { device: BlockDevice; created: boolean } | undefined;
  try {
    target = await openDestination(to, source.size);
    const progress = startProgress("copy", source.size, flags.quiet || flags.json);
    const result = await copyDevice(source, target.device, {
      requestSize: flags.requestSize,
      requests: flags.requests,
      destinationIsZero: flags.destinationIsZero || target.created,
      progress: (bytes) => progress.update(bytes),
      signal: abort.signal,
    }).finally(() => progress.stop());
    report(result, flags);
    return exitCodes.ok;
  } catch (error) {
    if (!abort.signal.aborted) throw error;
    process.stderr.write("dmkit: copy interrupted; run it again to finish\n");
    return CANCELLED;
  } finally {
    process.off("SIGINT", interrupt);
    await target?.device.close();
    await source.close();
    // An incomplete new file would be taken for a whole one.
    if (abort.signal.aborted && target?.created) rmSync(to, { force: true });
  }
}

async function openDestination(to: string, size: number): Promise<{ device: BlockDevice; created: boolean }> {
  if (schemeOf(to) !== undefined)
    return { device: await openReference(to, "write", realEnvironment), created: false };
  const created = !existsSync(to);
  return { device: await openFile(to, { createSize: size, environment: realEnvironment }), created };
}

function report({ copied, zeroed, skipped }: CopyResult, flags: CopyFlags): void {
  if (flags.json) process.stdout.write(`${JSON.stringify({ copied, zeroed, skipped })}\n`);
  else if (!flags.quiet) {
    process.stderr.write(
      `copied ${describeSize(copied)}, zeroed ${describeSize(zeroed)}, left out ${describeSize(skipped)} of holes\n`,
    );
  }
}
