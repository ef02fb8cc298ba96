/** What a running stack can be told. */
import {
  type BlockIoError,
  type Controls,
  type LongWork,
  quoteTableWord,
  refuse,
  tunablesOf,
} from "@dmkit/block-io";
import type { Snapshots } from "../core/snapshots.ts";
import { cowOptions } from "../options.ts";
import type { Changes } from "./change/changes.ts";
import { snapshotList } from "./facts.ts";

/** A running stack, as its messages see it. */
export interface ControlledStack {
  readonly changes: Pick<Changes, "freezeTo">;
  deleteSnapshot(name: string, options: LongWork): Promise<void>;
  readonly snapshots: Snapshots;
  merge(layer: number, options: LongWork): Promise<void>;
  readonly name: string;
  count(options: LongWork): Promise<void>;
  status(): string;
  readonly tableWords: readonly string[];
}

export const cowControls: Controls<ControlledStack> = {
  tunables: tunablesOf(cowOptions, ["autocommit"]),
  messages: {
    freeze: {
      arguments: "<bitmap> <data> [<offset>]",
      help: "makes the top layer read-only and puts a new one on it; answers with the arguments of the table",
      async run(device, args) {
        await device.changes.freezeTo(args);
        return tableArguments(device);
      },
    },
    commit: {
      arguments: "<layer>",
      long: true,
      help: "moves a layer below the top, counted from 1 at the bottom, into what it lies on; answers with the arguments of the table",
      async run(device, [word = "", ...rest], { signal, progress }) {
        if (!/^\d+$/.test(word) || rest.length > 0) {
          const hint = "Send: commit <layer>, counted from 1 at the bottom";
          throw refuse(device.name, "EINVAL", "commit takes the number of a layer", hint, "message");
        }
        await device.merge(Number(word), { signal, progress });
        return tableArguments(device);
      },
    },
    snapshot: {
      arguments: "<name> <bitmap> <data> [<offset>]",
      help: "makes a snapshot: freezes the top layer, which is called so from then on; answers with the arguments of the table",
      async run(device, [name, ...words]) {
        const usage = "snapshot <name> <bitmap> <data> [<offset> [force]]";
        if (name === undefined || words.length < 2 || words.length > 4)
          throw misused(device, "the name of the snapshot and the devices of a new layer are needed", usage);
        await device.changes.freezeTo(words, name);
        return tableArguments(device);
      },
    },
    snapshots: {
      arguments: "",
      readOnly: true,
      help: "answers with a line for each snapshot: name, when it was made, layer, the arguments of a table that shows it",
      run: (device) => snapshotList(device.snapshots, device.tableWords),
    },
    "snapshot-delete": {
      arguments: "<name>",
      long: true,
      help: "deletes a snapshot, whose layer goes into the one above; answers with the arguments of the table",
      async run(device, [name, ...rest], { signal, progress }) {
        if (name === undefined || rest.length > 0)
          throw misused(device, "the name of a snapshot is needed", "snapshot-delete <name>");
        await device.deleteSnapshot(name, { signal, progress });
        return tableArguments(device);
      },
    },
    count: {
      arguments: "",
      readOnly: true,
      long: true,
      help: "reads all bitmaps, and answers with the status, of which the counts are exact then",
      async run(device, _args, { signal, progress }) {
        await device.count({ signal, progress });
        return device.status();
      },
    },
    table: {
      arguments: "",
      readOnly: true,
      help: "answers with the arguments of the table as they are now",
      run: tableArguments,
    },
  },
};

/** The arguments of the table as they are now, to be put into one. */
function tableArguments({ tableWords }: ControlledStack): string {
  return tableWords.map(quoteTableWord).join(" ");
}

function misused({ name }: ControlledStack, reason: string, usage: string): BlockIoError {
  return refuse(name, "EINVAL", reason, `Send: ${usage}`, "message");
}
