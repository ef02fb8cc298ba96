/** Exports of a running server: added, withdrawn and listed while it serves. */
import { type AccessOptions, MOST_CONNECTIONS } from "@dmkit/nbd";
import { BlockIoError, describeSize } from "@dmkit/block-io";
import { type Command, Option } from "commander";
import { removalModes } from "../../control/methods.ts";
import type { ExportSnapshot } from "../../manager/snapshot.ts";
import { type ControlFlags, columns, print, printJson, verb, withServer } from "./control.ts";
import { accessWords, listOption } from "../../serve/listen/access.ts";
import { accessOf } from "../../stack-file/access.ts";
import { examples } from "./dm.ts";
import { integer } from "../values.ts";

const { allow, identities, writers } = accessWords;

interface AddFlags extends ControlFlags, AccessOptions {
  readonly readOnly?: boolean;
  readonly strict?: boolean;
  readonly description?: string;
  readonly maxConnections?: number;
}

/** @param finish is given the exit code. */
export function addExport(program: Command, finish: (code: number) => void): void {
  const group = program
    .command("export")
    .summary("add, withdraw and list the exports of a running server")
    .description(
      "Offers devices of a running server to NBD clients, withdraws them, and tells who uses them.",
    );
  addAdd(group, finish);
  addRemove(group, finish);
  addList(group, finish);
}

function addAdd(group: Command, finish: (code: number) => void): void {
  verb(group, "add", "offer a device to clients")
    .argument("<name>", "what clients ask for")
    .argument("<device>", "name of a device; see dmkit ls")
    .option("-r, --read-only", "refuse writes")
    .option("--strict", "refuse requests that are not aligned to the device's blocks")
    .option("-D, --description <text>", "description clients are shown")
    .option("--max-connections <n>", "clients at a time", integer(1, MOST_CONNECTIONS))
    .option("--hidden", "do not list it: who knows its name can use it")
    .addOption(listOption({ ...allow, help: "addresses that may use it; unix: who comes by a unix socket" }))
    .addOption(listOption({ ...identities, help: `who may use it: ${identities.takes}` }))
    .addOption(listOption(writers))
    .addHelpText(
      "after",
      examples(
        ["dmkit export add backup disk --read-only", ""],
        ["dmkit export add shared disk --writers alice", "with TLS; the others read"],
      ),
    )
    .action(async (name: string, device: string, flags: AddFlags) => {
      const { readOnly, strict, description, maxConnections } = flags;
      const params = { name, device, readOnly, strict, description, maxConnections, ...accessOf(flags) };
      finish(await withServer(flags, ({ call }) => call("export.add", params)));
    });
}

const modeHelp =
  "safe: only if no client uses it; hide: new clients do not find it, the others go on as long as they like; soft: as hide, and their further requests are refused; hard: as hide, and they are disconnected";

function addRemove(group: Command, finish: (code: number) => void): void {
  verb(group, "rm", "withdraw an export")
    .argument("<name>", "name of the export")
    .addOption(new Option("--mode <mode>", modeHelp).choices([...removalModes]).default("safe"))
    .addHelpText(
      "after",
      examples(["dmkit export rm backup", ""], ["dmkit export rm backup --mode hard", ""]),
    )
    .action(async (name: string, flags: ControlFlags & { mode: string }) => {
      finish(
        await withServer(flags, async ({ call }) => {
          const { mode } = flags;
          const answer = await call<{ clients: number }>("export.remove", { name, mode }).catch(inUse);
          if (flags.json) printJson(answer);
          else if (answer.clients > 0 && flags.quiet !== true) {
            print(
              `${answer.clients} of its clients are still there; the device stays in use until they leave`,
            );
          }
        }),
      );
    });
}

/** What can be done here about clients that are in the way. */
function inUse(error: unknown): never {
  if (!(error instanceof BlockIoError) || error.code !== "EBUSY") throw error;
  const hint = "Disconnect them, or give --mode hide, soft or hard; see: dmkit export ls";
  throw new BlockIoError(error.reason, { code: error.code, device: error.device, op: error.op, hint });
}

function addList(group: Command, finish: (code: number) => void): void {
  verb(group, "ls", "list exports with their clients and what those did")
    .addHelpText("after", examples(["dmkit export ls", ""], ["dmkit export ls --json", "with latencies"]))
    .action(async (flags: ControlFlags) => {
      finish(
        await withServer(flags, async ({ call }) => {
          const exports = await call<readonly ExportSnapshot[]>("export.list");
          if (flags.json) printJson(exports);
          else if (exports.length > 0) print(columns([heading, ...exports.map(row)]));
          else if (flags.quiet !== true) print("No exports");
        }),
      );
    });
}

const heading = ["EXPORT", "DEVICE", "SIZE", "CLIENTS", "READ", "WRITTEN", ""];

function row(one: ExportSnapshot): string[] {
  const { name, device, size, connections, maxConnections, readOnly, leaving, statistics } = one;
  const notes = [readOnly ? "read-only" : "", leaving ? "leaving" : ""].filter((note) => note !== "");
  return [
    name === "" ? '""' : name,
    device,
    describeSize(size),
    maxConnections === undefined ? String(connections) : `${connections} of ${maxConnections}`,
    describeSize(statistics.read.bytes),
    describeSize(statistics.write.bytes),
    notes.join(", "),
  ];
}
