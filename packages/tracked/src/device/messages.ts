/** What a running device can be told. */
import { type Controls, refuse, tunablesOf } from "@dmkit/block-io";
import { trackedOptions } from "../options.ts";

/** A running device, as its messages see it. */
export interface ControlledTracking {
  readonly name: string;
  begin(name: string): Promise<void>;
  merge(from: string, into: string): Promise<void>;
  drop(name: string): Promise<void>;
  list(): string;
}

export const trackedControls: Controls<ControlledTracking> = {
  tunables: tunablesOf(trackedOptions, ["ahead"]),
  messages: {
    begin: {
      arguments: "<epoch>",
      help: "begins an epoch: what is written from now on is marked in it",
      async run(device, args) {
        await device.begin(word(device, args, 1, "begin <epoch>")[0] as string);
        return "";
      },
    },
    list: {
      arguments: "",
      readOnly: true,
      help: "answers with a line for each epoch: name, when it began, bytes marked of all",
      run: (device) => device.list(),
    },
    merge: {
      arguments: "<from> <into>",
      help: "marks in the second epoch what is marked in the first, which ends",
      async run(device, args) {
        const [from, into] = word(device, args, 2, "merge <from> <into>");
        await device.merge(from as string, into as string);
        return "";
      },
    },
    drop: {
      arguments: "<epoch>",
      help: "ends an epoch, and forgets what has changed since it began",
      async run(device, args) {
        await device.drop(word(device, args, 1, "drop <epoch>")[0] as string);
        return "";
      },
    },
  },
};

function word(
  { name }: ControlledTracking,
  args: readonly string[],
  count: number,
  usage: string,
): readonly string[] {
  if (args.length === count) return args;
  throw refuse(name, "EINVAL", `${args.length} words were given, not ${count}`, `Send: ${usage}`, "message");
}
