/** `dmkit info`: what is behind a path or URI. */
import { type BlockDevice, type Extent, describeSize, realEnvironment } from "@dmkit/block-io";
import { isNbdUri, listNbdExports } from "@dmkit/nbd";
import type { Command } from "commander";
import { openReference } from "../devices.ts";
import { exitCodes } from "../ui/terminal.ts";

interface InfoFlags {
  readonly json: boolean;
  readonly map: boolean;
  readonly list: boolean;
}

const examples = `
Examples:
  dmkit info disk.img
  dmkit info --map nbd://localhost              data and holes
  dmkit info --list nbd://localhost             the exports of a server
`;

export function addInfo(program: Command, finish: (code: number) => void): void {
  program
    .command("info")
    .summary("tell what a device or server is")
    .description("Opens a path or URI read-only and prints its size, limits and abilities.")
    .argument("<device>", "path or URI")
    .option("--map", "list data and holes", false)
    .option("--list", "list the exports of an NBD server", false)
    .option("--json", "print JSON", false)
    .addHelpText("after", examples)
    .action(async (reference: string, flags: InfoFlags) => {
      finish(flags.list && isNbdUri(reference) ? await list(reference, flags) : await info(reference, flags));
    });
}

async function list(reference: string, { json }: InfoFlags): Promise<number> {
  const exports = await listNbdExports(reference, { environment: realEnvironment });
  if (json) print(exports);
  else for (const { name, description } of exports) process.stdout.write(`${name || '""'}\t${description}\n`);
  return exitCodes.ok;
}

async function info(reference: string, { json, map }: InfoFlags): Promise<number> {
  const device = await openReference(reference, "read", realEnvironment);
  try {
    const extents = map ? await collect(device) : undefined;
    const facts = { name: reference, size: device.size, ...device.limits };
    if (json) {
      print(extents === undefined ? facts : { ...facts, extents });
      return exitCodes.ok;
    }
    process.stdout.write(`${reference}: ${describeSize(device.size)} (${device.size} bytes)\n`);
    const { capabilities, ...limits } = device.limits;
    for (const [name, value] of Object.entries({ ...limits, ...capabilities })) {
      process.stdout.write(`  ${name}: ${String(value)}\n`);
    }
    for (const { offset, length, kind } of extents ?? []) {
      process.stdout.write(`${String(offset).padStart(16)} ${String(length).padStart(16)}  ${kind}\n`);
    }
    return exitCodes.ok;
  } finally {
    await device.close();
  }
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

function print(value: unknown): void {
  process.stdout.write(`${JSON.stringify(value, undefined, 2)}\n`);
}
