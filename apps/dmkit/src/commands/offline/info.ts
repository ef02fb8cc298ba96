/** `dmkit info`: what is behind a path or URI, and what image it is. */
import {
  type BlockDevice,
  type Capabilities,
  type Extent,
  FileDevice,
  type ImageFormat,
  type Limits,
  describeSize,
  printable,
} from "@dmkit/block-io";
import { NbdDevice, isNbdUri, listNbdExports } from "@dmkit/nbd";
import type { Command } from "commander";
import { type ImageFlags, imageOptions, imageWords } from "../../offline/cli.ts";
import { OpenedDevices } from "../../offline/image.ts";
import { type Contents, contentsOf } from "../../offline/info.ts";
import { failing, print, printJson } from "../../offline/work.ts";
import { exitCodes } from "../../ui/terminal.ts";
import type { Finish, Known } from "../command.ts";
import { usage } from "../../ui/usage.ts";
import { commandEnvironment } from "../../ui/command-environment.ts";

interface InfoFlags extends ImageFlags {
  readonly map: boolean;
  readonly list: boolean;
}

const examples = `
Examples:
  dmkit info disk.img
  dmkit info cache.img --backing disk.img       an image of several devices
  dmkit info --map nbd://localhost              data and holes
  dmkit info --list nbd://localhost             the exports of a server
`;

export async function addInfo(program: Command, finish: Finish, known: Known): Promise<void> {
  const formats = await (await known()).images();
  const command = program
    .command("info")
    .summary("tell what a device, image or server is")
    .description(
      "Opens a path or URI read-only and prints its size, limits and abilities; for an image also its format, geometry and state.",
    )
    .argument("<device...>", "path or URI; several are the devices of one image")
    .option("--map", "list data and holes", false)
    .option("--list", "list the exports of an NBD server", false);
  imageOptions(command, formats)
    .addHelpText("after", examples)
    .action(async (devices: string[], flags: InfoFlags) => {
      finish(
        await failing(() => (flags.list ? list(devices, flags, formats) : info(devices, flags, formats))),
      );
    });
}

async function list(
  references: readonly string[],
  flags: InfoFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const { json, map } = flags;
  const [reference = ""] = references;
  const { roles, type } = imageWords(references, flags, formats);
  const [useless] = [...(map ? ["map"] : []), ...(type === undefined ? [] : ["type"]), ...Object.keys(roles)];
  if (!isNbdUri(reference) || references.length > 1 || useless !== undefined) {
    const what =
      useless !== undefined
        ? `--list does not go with --${useless}`
        : `--list is for one NBD server: ${references.join(" ")}`;
    throw usage(what, "Give the URI of a server, such as nbd://localhost, and nothing else.");
  }
  const exports = await listNbdExports(reference, { environment: commandEnvironment });
  if (json) printJson(exports);
  else {
    for (const { name, description, exact } of exports) {
      const note = exact === false ? "\t(a name that is no UTF-8 and cannot be asked for)" : "";
      print(`${printable(name) || '""'}\t${printable(description)}${note}\n`);
    }
  }
  if (!exports.complete) {
    process.stderr.write(`dmkit: the server has more exports; the first ${exports.length} are listed\n`);
  }
  return exitCodes.ok;
}

async function info(
  references: readonly string[],
  flags: InfoFlags,
  formats: readonly ImageFormat[],
): Promise<number> {
  const [reference = ""] = references;
  const { facts, extents, contents } = await lookAt(references, flags, formats);
  if (flags.json) {
    printJson({ ...facts, contents, ...(extents === undefined ? {} : { extents }) });
    return exitCodes.ok;
  }
  print(`${printable(reference)}: ${describeSize(facts.size)} (${facts.size} bytes)\n`);
  if (contents.kind === "image") printImage(contents);
  else {
    const { capabilities, name: _name, size: _size, ...limits } = facts;
    if (contents.text !== undefined) print(`  contents: ${printable(contents.text)}\n`);
    printFacts({ ...limits, ...capabilities });
  }
  for (const { offset, length, kind } of extents ?? []) {
    print(`${String(offset).padStart(16)} ${String(length).padStart(16)}  ${kind}\n`);
  }
  return exitCodes.ok;
}

function printImage({
  format,
  certainty,
  role,
  text,
  facts,
  missing,
  devices,
}: Contents & { kind: "image" }): void {
  print(`  format: ${format}${certainty === "magic" ? "" : ` (${certainty})`}\n`);
  print(`  contents: ${printable(text)}\n`);
  for (const [name, reference] of Object.entries(devices)) {
    if (name !== role) print(`  ${name}: ${printable(reference)}\n`);
  }
  printFacts(facts ?? {});
  for (const name of missing) print(`  give --${name} DEVICE to see more\n`);
}

function printFacts(facts: Readonly<Record<string, unknown>>): void {
  for (const [name, value] of Object.entries(facts)) print(`  ${words(name)}: ${printable(String(value))}\n`);
}

/** The name of a fact for people: `dirty_blocks` and `dirtyBlocks` are `dirty blocks`. */
function words(name: string): string {
  return name.replaceAll(/_|(?<=[a-z])(?=[A-Z])/g, " ").toLowerCase();
}

async function lookAt(
  references: readonly string[],
  flags: InfoFlags,
  formats: readonly ImageFormat[],
): Promise<{
  facts: { name: string; size: number; extendedHeaders?: boolean } & Told;
  extents: Extent[] | undefined;
  contents: Contents;
}> {
  const [reference = ""] = references;
  const opened = new OpenedDevices(commandEnvironment);
  try {
    const device = await opened.read(reference);
    const link = device instanceof NbdDevice ? { extendedHeaders: device.extendedHeaders } : {};
    const capabilities = capabilitiesOf(device);
    const facts = { name: reference, size: device.size, ...device.limits, capabilities, ...link };
    const extents = flags.map ? await collect(device) : undefined;
    const words = imageWords(references, flags, formats);
    return { facts, extents, contents: await contentsOf(words, formats, opened) };
  } finally {
    await opened.close();
  }
}

type Told = Omit<Limits, "capabilities"> & { readonly capabilities: Partial<Capabilities> };

/** What the device can do, not what it can do opened as it is here, to be read. Of a file nobody knows before it is written. */
function capabilitiesOf(device: BlockDevice): Partial<Capabilities> {
  const { capabilities } = device.limits;
  if (device instanceof NbdDevice) return { ...capabilities, readOnly: device.isReadOnlyExport };
  if (!(device instanceof FileDevice)) return capabilities;
  const { fua, extents } = capabilities;
  return { fua, extents };
}

/** Neighbours of one kind in one extent. */
async function collect(device: BlockDevice): Promise<Extent[]> {
  const extents: Extent[] = [];
  for await (const extent of device.extents(0, device.size)) {
    const last = extents.at(-1);
    if (last?.kind === extent.kind)
      extents[extents.length - 1] = { ...last, length: last.length + extent.length };
    else extents.push(extent);
  }
  return extents;
}
