/** `dmkit cow snapshot …`: snapshots of a stack that nobody serves. */
import { resolve } from "node:path";
import {
  SECTOR,
  describeSize,
  newPath,
  printable,
  printableJson,
  quoteTableWord,
  refuse,
} from "@dmkit/block-io";
import {
  type LayerFiles,
  type NewTopOptions,
  type StackDevices,
  deleteSnapshot,
  makeSnapshot,
  refuseOldFiles,
  revertToSnapshot,
  snapshotsOf,
  tableOf,
} from "@dmkit/cow";
import { print } from "../../../offline/work.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { withStack } from "./stack-words.ts";
import { type Flags, aliased, work } from "./verbs.ts";

/** A command that makes a layer. */
export interface NewTopFlags extends Flags {
  /** Sector of the data file where the layer starts. */
  readonly dataOffset?: number;
}

/** Makes the last layer a snapshot, and prints the table with the new layer. */
export function takeSnapshot(
  name: string,
  files: LayerFiles,
  words: string[],
  flags: NewTopFlags,
): Promise<number> {
  const writes = (layer: number, layers: number): boolean => layer === layers && layers > 0;
  return withNewTop(files, { words, size: flags.size, writes }, flags, async (stack, options) => {
    await makeSnapshot(stack, name, files, options);
    return stack;
  });
}

/** Makes a layer on a snapshot, and prints the table with it. */
export function revert(
  name: string,
  files: LayerFiles,
  words: string[],
  flags: NewTopFlags,
): Promise<number> {
  return withNewTop(files, { words, size: flags.size }, flags, (stack, options) =>
    revertToSnapshot(stack, name, files, options),
  );
}

/** Opens a stack, makes a layer, and prints the table of what that lies on with it on top. */
function withNewTop(
  files: LayerFiles,
  opened: Parameters<typeof withStack>[0],
  flags: NewTopFlags,
  make: (stack: StackDevices, options: NewTopOptions) => Promise<StackDevices>,
): Promise<number> {
  requireNewFiles(files);
  return withStack(opened, async (stack) => {
    const { dataOffset = 0 } = flags;
    const options = {
      ...aliased(flags),
      dataOffset: dataOffset * SECTOR,
      withBitmap: stack.withBitmap,
      environment: commandEnvironment,
    };
    print(`${tableLine(await make(stack, options), flags, files)}\n`);
    return exitCodes.ok;
  });
}

/** Lists snapshots, each with the table that shows it. */
export async function listSnapshots(words: string[], flags: Flags): Promise<number> {
  return withStack({ words, size: flags.size, looksAtBitmaps: true }, async (stack) => {
    const all = (await snapshotsOf(stack)).flatMap((snapshot, index) => {
      if (snapshot === undefined) return [];
      const table = tableLine({ ...stack, layers: stack.layers.slice(0, index + 1) }, flags);
      return [{ name: snapshot.name, made: new Date(snapshot.made).toISOString(), layer: index + 1, table }];
    });
    if (flags.json) print(`${printableJson(all, 2)}\n`);
    else
      for (const { name, made, layer, table } of all)
        print(`${printable(name)}\t${made}\tlayer ${layer}\t${printable(table)}\n`);
    return exitCodes.ok;
  });
}

/** Deletes a snapshot, and prints the table without its layer. */
export async function dropSnapshot(name: string, words: string[], flags: Flags): Promise<number> {
  const snapshots = await withStack({ words, size: flags.size, looksAtBitmaps: true }, snapshotsOf);
  const found = snapshots.findIndex((snapshot) => snapshot?.name === name);
  // Of a name there is not nothing is opened for writing.
  const above = found < 0 ? undefined : found + 2;
  return withStack({ words, size: flags.size, writes: (layer) => layer === above }, async (stack) => {
    let copied = 0;
    const code = await work("snapshot-delete", stack, flags, async (options) => {
      const { layer, bytes } = await deleteSnapshot(stack, name, { ...options, ...aliased(flags) });
      copied = bytes;
      const layers = stack.layers.filter((_, index) => index !== layer - 1);
      print(`${tableLine({ ...stack, layers }, flags)}\n`);
    });
    if (code === exitCodes.ok && flags.quiet !== true)
      process.stderr.write(`snapshot-delete: ${describeSize(copied)} copied up\n`);
    return code;
  });
}

function requireNewFiles(files: LayerFiles): void {
  if (resolve(newPath(files.bitmap).path) === resolve(newPath(files.data).path))
    throw refuse(files.data, "EINVAL", "cannot be both files of the layer", "Give two names.");
  refuseOldFiles(files);
}

/** With a new layer on top, if there is one. */
function tableLine(stack: StackDevices, flags: NewTopFlags, top?: LayerFiles): string {
  const { dataOffset = 0, aliasedBlockSize } = flags;
  const words = [...tableOf(stack), ...(top === undefined ? [] : [top.bitmap, top.data, `${dataOffset}`])];
  const named = aliasedBlockSize === undefined ? [] : ["2", "aliased_block_size", aliasedBlockSize];
  return ["0", stack.sectors, "cow", ...[...words, ...named].map(quoteTableWord)].join(" ");
}
