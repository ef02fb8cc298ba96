/** `dmkit image …`: what is in an object store, whether it is whole, and what becomes of it. */
import { describeSize, isoTime, toBlockIoError } from "@dmkit/block-io";
import {
  type BlobProblem,
  collect,
  isName,
  listImages,
  moveTag,
  noSuchTag,
  openImage,
  parseImageReference,
  parseTagReference,
  printImageReference,
  publish,
  readManifest,
  removeTag,
  resolveReference,
  verifyImage,
} from "@dmkit/image";
import { type Command, InvalidArgumentError } from "commander";
import { interruptible, print, printJson, tellCancelled } from "../../../offline/work.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { type ControlFlags, verb, withServer } from "../../server/control.ts";
import { type StoreFlags, storeVerb, withStore } from "../store-verb.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

const examples = `
IMAGE is STORE/NAME[@DIGEST|:TAG]; STORE is a folder, or s3://BUCKET[/PREFIX].

Examples:
  dmkit image ls s3://disks
  dmkit image verify s3://disks/golden:v2
  dmkit image tag s3://disks/golden:v2 stable
  dmkit image record golden s3://disks/golden       what device golden read first becomes the hot list
  dmkit image gc --dry-run s3://disks
`;

/** @param finish is given the exit code. */
export function addImage(program: Command, finish: (code: number) => void): void {
  const image = program
    .command("image")
    .summary("manage images in an object store")
    .description("Lists, verifies, tags and collects the images that dmkit publish has made.")
    .addHelpText("after", examples);
  const add = (name: string, summary: string): Command => storeVerb(image, name, summary);

  add("ls", "Lists the versions of the images in a store, oldest first.")
    .argument("<store>")
    .action(async (location: string, flags: StoreFlags) => finish(await list(location, flags)));

  add("info", "Tells what an image is, without its contents.")
    .argument("<image>")
    .action(async (reference: string, flags: StoreFlags) => finish(await info(reference, flags)));

  add("verify", "Fetches every blob of an image and compares it with its name. Exit code 1: problems.")
    .argument("<image>")
    .action(async (reference: string, flags: StoreFlags) => finish(await verify(reference, flags)));

  add("tag", "Makes a tag of an image say another version.")
    .argument("<image>", "the version")
    .argument("<tag>", "the tag to move, or to make", tagName)
    .action(async (reference: string, tag: string) => finish(await moveTagTo(reference, tag)));

  add("untag", "Takes a tag away; a version older than a day that no other tag names goes with the next gc.")
    .argument("<image>", "STORE/NAME:TAG")
    .action(async (reference: string) => finish(await untag(reference)));

  add("gc", "Removes versions that no tag has named for a day, also if devices use them, and their blobs.")
    .argument("<store>")
    .option("--dry-run", "only tell what would be removed", false)
    .action(async (location: string, flags: StoreFlags & { dryRun: boolean }) =>
      finish(await collectGarbage(location, flags)),
    );

  verb(image, "record", "publish what a running device has read first as the hot list of its image")
    .argument("<device>", "name of an image device of a running server")
    .argument("<image>", "STORE/NAME[:TAG]: the tag gets a version with the hot list")
    .action(async (device: string, reference: string, flags: ControlFlags) =>
      finish(await record(device, reference, flags)),
    );
}

function tagName(text: string): string {
  if (isName(text)) return text;
  throw new InvalidArgumentError("Tags have a-z, 0-9 and, between these, . _ -");
}

async function list(location: string, flags: StoreFlags): Promise<number> {
  let code: number = exitCodes.ok;
  const versions = await withStore(location, (store) =>
    listImages(store, ({ name, tag, error }) => {
      code = tellUnreadable(
        `${name}:${tag}`,
        error,
        "Publish to the tag again, make it say a version (dmkit image tag), or take it away (dmkit image untag).",
      );
    }),
  );
  if (flags.json) {
    printJson(versions.map(({ published, ...rest }) => ({ ...rest, published: isoTime(published) })));
    return code;
  }
  for (const { name, digest, tags, published } of versions) {
    const when = isoTime(published).slice(0, 16).replace("T", " ");
    print(`${name}@${digest}  ${when}  ${tags.join(" ")}\n`);
  }
  if (versions.length === 0 && !flags.quiet) process.stderr.write("There are no images in this store.\n");
  return code;
}

function tellUnreadable(what: string, error: unknown, hint: string): number {
  process.stderr.write(`dmkit: ${what}: ${toBlockIoError(error, {}).reason}\n  ${hint}\n`);
  return exitCodes.error;
}

async function info(text: string, flags: StoreFlags): Promise<number> {
  const reference = parseImageReference(text);
  return await withStore(reference.store, async (store) => {
    const digest = await resolveReference(store, reference);
    const { size, chunkSize, parent, hotCount, pages } = await readManifest(store, reference.name, digest);
    const facts = {
      name: reference.name,
      digest,
      size,
      chunk_size: chunkSize,
      parent: parent ?? null,
      hot_chunks: hotCount,
      pages: pages.length,
    };
    if (flags.json) printJson(facts);
    else {
      print(`image       ${reference.name}@${digest}\n`);
      print(`size        ${describeSize(size)} (${size / 512} sectors)\n`);
      print(`chunks      ${Math.ceil(size / chunkSize)} of ${describeSize(chunkSize)}\n`);
      print(`hot list    ${hotCount} chunks\n`);
      if (parent !== undefined) print(`made from   ${reference.name}@${parent}\n`);
    }
    return exitCodes.ok;
  });
}

async function verify(text: string, flags: StoreFlags): Promise<number> {
  const reference = parseImageReference(text);
  const result = await interruptible("verify", flags.quiet || flags.json, ({ signal, progress }) =>
    withStore(reference.store, async (store) => {
      const digest = await resolveReference(store, reference);
      const problems: BlobProblem[] = [];
      const options = {
        signal,
        progress: ({ done, total }: { done: number; total: number }) => progress?.(done, total),
      };
      for await (const problem of verifyImage(store, reference.name, digest, options)) problems.push(problem);
      return problems;
    }),
  );
  if (result === "cancelled") return tellCancelled("verify");
  const problems = result.value;
  if (flags.json) printJson(problems);
  else {
    for (const { kind, blob, offset, length } of problems) {
      const where =
        offset === undefined ? "its hot list" : `bytes ${offset} to ${offset + (length ?? 0) - 1}`;
      print(`${kind}: blob ${blob}, ${where}\n`);
    }
    if (problems.length === 0 && !flags.quiet) print("The image is whole.\n");
    else if (problems.length > 0)
      print(
        "Publish the image again from its source with dmkit publish --verify: what is missing or damaged is uploaded.\n",
      );
  }
  return problems.length === 0 ? exitCodes.ok : exitCodes.error;
}

async function moveTagTo(text: string, tag: string): Promise<number> {
  const reference = parseImageReference(text);
  await withStore(reference.store, async (store) =>
    moveTag(store, reference.name, tag, await resolveReference(store, reference), commandEnvironment),
  );
  return exitCodes.ok;
}

async function untag(text: string): Promise<number> {
  // Nobody's latest goes because a word was forgotten.
  const { store: location, name, tag } = parseTagReference(text, { mustBeSaid: true });
  await withStore(location, async (store) => {
    if (!(await removeTag(store, name, tag))) throw await noSuchTag(store, name, tag);
  });
  return exitCodes.ok;
}

async function collectGarbage(location: string, flags: StoreFlags & { dryRun: boolean }): Promise<number> {
  const { dryRun } = flags;
  const result = await interruptible("gc", flags.quiet || flags.json, ({ signal, progress }) =>
    withStore(location, (store) =>
      collect(store, { dryRun, signal, progress: ({ done, total }) => progress?.(done, total) }),
    ),
  );
  if (result === "cancelled") return tellCancelled("gc");
  const { blobs, bytes, manifests, kept, unreadable } = result.value;
  const names = unreadable.map(({ what }) => what);
  if (flags.json) printJson({ blobs, bytes, manifests, kept, unreadable: names, dry_run: dryRun });
  else {
    const verbs = dryRun ? "would remove" : "removed";
    print(
      `${verbs} ${blobs} blobs of ${describeSize(bytes)} and ${manifests} versions; ${kept} blobs stay\n`,
    );
  }
  for (const { what, error } of unreadable) {
    tellUnreadable(
      what,
      error,
      "What it may need stays. Publish the image again to its tag, or take that away (dmkit image untag); a version without a tag goes a day later.",
    );
  }
  return unreadable.length === 0 ? exitCodes.ok : exitCodes.error;
}

async function record(device: string, text: string, flags: ControlFlags): Promise<number> {
  const reference = parseTagReference(text);
  return await withServer(flags, async ({ call }) => {
    const { answer } = await call<{ answer: string }>("message", { name: device, words: ["first_reads"] });
    const hotList = answer
      .split(" ")
      .filter((word) => /^\d+$/.test(word))
      .map(Number);
    await withStore(reference.store, async (store) => {
      const digest = await resolveReference(store, reference);
      const { chunkSize } = await readManifest(store, reference.name, digest);
      const options = {
        image: printImageReference(reference, digest),
        cache: "none",
        hot: false,
      } as const;
      const source = await openImage(options, { environment: commandEnvironment });
      try {
        // Nothing of the contents changes, so nothing of them is read.
        const changed = (async function* () {})();
        const published = await publish(source, store, {
          name: reference.name,
          tag: reference.tag,
          replaces: digest,
          chunkSize,
          changed,
          hotList,
          environment: commandEnvironment,
        });
        print(`${reference.name}@${published.digest}\n`);
        if (flags.quiet !== true)
          process.stderr.write(`${hotList.length} chunks are fetched first from now on\n`);
      } finally {
        await source.close();
      }
    });
  });
}
