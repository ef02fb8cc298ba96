/** What a running stack can be told. */
import { type Controls, type LongWork, refuse, tunablesOf } from "@dmkit/block-io";
import { cowOptions } from "../options.ts";

/** A running stack, as its messages see it. */
export interface ControlledStack {
  freezeTo(words: readonly string[]): Promise<void>;
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
        await device.freezeTo(args);
        return device.tableWords.join(" ");
      },
    },
    commit: {
      arguments: "<layer>",
      long: true,
      help: "moves a layer below the top, counted from 1 at the bottom, into what it lies on; answers with the arguments of the table",
      async run(device, [word = "", ...rest], options) {
        if (!/^\d+$/.test(word) || rest.length > 0) {
          const hint = "Send: commit <layer>, counted from 1 at the bottom";
          throw refuse(device.name, "EINVAL", "commit takes the number of a layer", hint, "message");
        }
        await device.merge(Number(word), options);
        return device.tableWords.join(" ");
      },
    },
    count: {
      arguments: "",
      readOnly: true,
      long: true,
      help: "reads all bitmaps, and answers with the status, of which the counts are exact then",
      async run(device, _args, options) {
        await device.count(options);
        return device.status();
      },
    },
    table: {
      arguments: "",
      readOnly: true,
      help: "answers with the arguments of the table as they are now",
      run: (device) => device.tableWords.join(" "),
    },
  },
};
