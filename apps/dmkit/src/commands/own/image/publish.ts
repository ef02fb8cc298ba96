/** `dmkit publish` and `dmkit pull`: a device into an object store, and back into a file. */
import { type BlockDevice, describeSize, shellQuote } from "@dmkit/block-io";
import {
  type PublishProgress,
  blobCodecs,
  isDigest,
  openImage,
  parseTagReference,
  printImageReference,
  publish,
} from "@dmkit/image";
import { openStore } from "@dmkit/object-store";
import { type Command, InvalidArgumentError, Option } from "commander";
import { copyDevice } from "../../../copy.ts";
import { withDestination } from "../../../destination.ts";
import { refuseUnfinished } from "../../../backup/backup.ts";
import { withReading } from "../../../devices.ts";
import { CANCELLED, printJson, tellCancelled } from "../../../offline/work.ts";
import { endedBySignal } from "../../../ui/interrupt.ts";
import { startProgress } from "../../../ui/progress.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { integer, powerOfTwo } from "../../values.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

interface PublishFlags {
  readonly chunkSize?: number;
  readonly codec: (typeof blobCodecs)[number];
  readonly parent?: string;
  readonly requests: number;
  readonly verify: boolean;
  readonly quiet: boolean;
  readonly json: boolean;
}

interface PullFlags {
  readonly force: boolean;
  readonly quiet: boolean;
}

const publishExamples = `
IMAGE is STORE/NAME[:TAG]; STORE is a folder, or s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&ca=FILE]. Keys come
from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or from the AWS profile.

Examples:
  dmkit publish golden.img s3://disks/golden
  dmkit publish 'nbd+unix:///vm?socket=/run/vm.sock' /srv/images/vm:monday
  dmkit serve --read-only image:s3://disks/golden          anywhere, at once

Only what the store lacks is uploaded, and an interrupted publication is simply run again. What the store has lost is
uploaded again; with --verify, all that is there already is read, and replaced where it is damaged.
`;

const pullExamples = `
Examples:
  dmkit pull s3://disks/golden golden.img
  dmkit pull /srv/images/vm:monday /dev/vg/vm
`;

export function addPublish(program: Command, finish: (code: number) => void): void {
  program
    .command("publish")
    .summary("publish a device or image in an object store")
    .description(
      "Uploads SOURCE, which must not change meanwhile, as IMAGE, and moves the tag (latest unless given).",
    )
    .argument("<source>", "a path or URI; opened read-only")
    .argument("<image>", "STORE/NAME[:TAG]")
    .option(
      "--chunk-size <size>",
      "64K to 4M, a power of two (default: as before, or 512K)",
      powerOfTwo(2 ** 16, 2 ** 22),
    )
    .addOption(new Option("--codec <name>", "how chunks are compressed").choices(blobCodecs).default("zstd"))
    .option("--parent <digest>", "the version it is made from (default: what the tag says)", digest)
    .option("--requests <n>", "chunks on their way at a time", integer(1, 64), 8)
    .option("--verify", "read what is in the store already, and replace what is damaged", false)
    .option("--json", "print the result as JSON", false)
    .option("-q, --quiet", "show no progress", false)
    .addHelpText("after", publishExamples)
    .action(async (source: string, image: string, flags: PublishFlags) => {
      finish(await publishDevice(source, image, flags));
    });

  program
    .command("pull")
    .summary("fetch a whole image from an object store")
    .description("Copies IMAGE to DESTINATION, a path or URI; a file that does not exist is made.")
    .argument("<image>", "STORE/NAME[@DIGEST|:TAG]")
    .argument("<destination>", "where to")
    .option("--force", "write over a destination that is there and not blank", false)
    .option("-q, --quiet", "show no progress", false)
    .addHelpText("after", pullExamples)
    .action(async (image: string, destination: string, flags: PullFlags) => {
      finish(await pull(image, destination, flags));
    });
}

/** A digest on the command line. */
export function digest(text: string): string {
  if (isDigest(text)) return text;
  throw new InvalidArgumentError("Give 64 hexadecimal digits, as dmkit image ls prints them.");
}

async function publishDevice(from: string, image: string, flags: PublishFlags): Promise<number> {
  const reference = parseTagReference(image);
  const { store: location, name, tag } = reference;
  const done = await endedBySignal("publish", (signal) =>
    withReading(from, commandEnvironment, async (source) => {
      await refuseUnfinished(source);
      const store = await openStore(location);
      try {
        return await show(source, flags, (progress) =>
          publish(source, store, {
            name,
            tag,
            chunkSize: flags.chunkSize,
            codec: flags.codec,
            parent: flags.parent,
            parallel: flags.requests,
            verify: flags.verify,
            environment: commandEnvironment,
            signal,
            progress,
          }),
        );
      } finally {
        await store.close();
      }
    }),
  );
  if (done === "cancelled") return tellCancelled("publish");
  const { digest: published, read, deduplicated, uploaded, blobs, repaired, tagged } = done.value;
  if (flags.json) printJson({ digest: published, read, deduplicated, uploaded, blobs, repaired, tagged });
  else {
    process.stdout.write(`${name}@${published}\n`);
    if (!flags.quiet) {
      process.stderr.write(
        `read ${describeSize(read)}, of which ${describeSize(deduplicated)} were there; ` +
          `uploaded ${describeSize(uploaded)} in ${blobs} blobs\n`,
      );
      if (repaired > 0) process.stderr.write(`${repaired} of these were missing or damaged in the store\n`);
    }
  }
  if (tagged) return exitCodes.ok;
  process.stderr.write(
    `dmkit: somebody else has moved the tag ${tag} of ${name} meanwhile. The image is there, but not tagged.\n` +
      `  If it is to have the tag all the same: dmkit image tag ${shellQuote(printImageReference(reference, published))} ${tag}\n`,
  );
  return exitCodes.error;
}

async function show<T>(
  source: BlockDevice,
  flags: PublishFlags,
  work: (progress: (progress: PublishProgress) => void) => Promise<T>,
): Promise<T> {
  const shown = startProgress("publish", source.size, flags.quiet || flags.json);
  try {
    return await work(({ done, deduplicated, uploaded }) =>
      shown.update(done, `${describeSize(deduplicated)} were there, ${describeSize(uploaded)} uploaded`),
    );
  } finally {
    shown.stop();
  }
}

async function pull(image: string, to: string, { force, quiet }: PullFlags): Promise<number> {
  // Every chunk is read once: keeping it on this node would only push out what others need.
  const options = { image, cache: "none", hot: false } as const;
  const done = await endedBySignal("pull", async (signal) => {
    const source = await openImage(options, { name: image, environment: commandEnvironment });
    try {
      const destination = { size: source.size, environment: commandEnvironment, overwrite: force };
      return await withDestination(to, destination, async ({ device, blank }) => {
        const shown = startProgress("pull", source.size, quiet);
        const requestSize = source.limits.optimalTransfer;
        return copyDevice(source, device, {
          requestSize,
          destinationIsZero: blank,
          progress: (bytes) => shown.update(bytes),
          signal,
        }).finally(() => shown.stop());
      });
    } finally {
      await source.close();
    }
  });
  if (done !== "cancelled") return exitCodes.ok;
  process.stderr.write("dmkit: pull interrupted; run it again\n");
  return CANCELLED;
}
